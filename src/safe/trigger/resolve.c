/* Faults that a runtime resolves as part of normal work (JVM, Go, WebAssembly).  Signal handler.
 *
 * Such a fault is one of code of the runtime's own kind: made at run time (in memory of no file), or in the object that
 * holds the handler which was there before us.  Which mapping is of this kind is read from the kernel's map once, and
 * remembered while the loader's list is the same: what can take the place of a mapping that goes is an object that is
 * loaded, and a runtime faults too often for reading the map each time.
 */
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <ucontext.h>

#include "trigger/fatals.h"

enum { KNOWN = 16, OBJECTS_MAX = 4096 };

/* Mappings of the previous handler's kind. */
static struct {
    atomic_flag busy;   /* a thread reads or writes this; others do without */
    uint64_t loaded;    /* the loader's list for which this holds */
    uintptr_t handler;  /* and the handler */
    unsigned n, oldest; /* the place to use next when all are used */
    struct {
        fp_addr start, end;
    } at[KNOWN];
} known = {.busy = ATOMIC_FLAG_INIT};

/* The last fault that a previous handler was asked to resolve and came back from without moving on. */
static struct {
    atomic_int thread;
    _Atomic(uintptr_t) pc, address;
} unresolved;

/* A number for what is loaded, and where.  Reads without the loader's lock: a list that is in the middle of a change
   has another number before and after. */
static uint64_t what_is_loaded(struct fp_reader *r)
{
    fp_addr at = (fp_addr)(uintptr_t)_r_debug.r_map;
    uint64_t hash = 1;
    for (int i = 0; at != 0 && i < OBJECTS_MAX; i++) {
        struct link_map map;
        if (!fp_read(r, &map, at, offsetof(struct link_map, l_prev)))
            break;
        const uint64_t object[] = {at, map.l_addr, (uint64_t)(uintptr_t)map.l_ld};
        hash = fp_mix(hash, object, sizeof(object));
        at = (fp_addr)(uintptr_t)map.l_next;
    }
    (void)fp_reader_faulted(r);
    return hash;
}

static bool is_known(uint64_t loaded, uintptr_t handler, fp_addr pc)
{
    bool found = false;
    if (atomic_flag_test_and_set(&known.busy))
        return false;
    if (known.loaded == loaded && known.handler == handler)
        for (unsigned i = 0; i < known.n && !found; i++)
            found = pc >= known.at[i].start && pc < known.at[i].end;
    atomic_flag_clear(&known.busy);
    return found;
}

static void remember(uint64_t loaded, uintptr_t handler, const struct fp_mapping *mapping)
{
    if (atomic_flag_test_and_set(&known.busy))
        return;
    if (known.loaded != loaded || known.handler != handler) {
        known.loaded = loaded;
        known.handler = handler;
        known.n = known.oldest = 0;
    }
    unsigned i = known.n < KNOWN ? known.n++ : known.oldest++ % KNOWN;
    known.at[i].start = mapping->start;
    known.at[i].end = mapping->end;
    atomic_flag_clear(&known.busy);
}

/* Is this code that no file holds: private memory has no name, shared memory the name of a file that isn't one. */
static bool made_at_run_time(struct fp_maps *maps, fp_addr pc)
{
    static const char *const pseudo[] = {"/dev/zero", "/memfd:", "/dev/shm/", "[anon"};
    size_t size;
    const char *name = fp_maps_name(maps, pc, &size);
    for (size_t i = 0; i < FP_COUNT(pseudo); i++)
        if (size >= strlen(pseudo[i]) && memcmp(name, pseudo[i], strlen(pseudo[i])) == 0)
            return true;
    return size == 0;
}

/* By the kernel's map; *mapping is where the pc is. */
static bool is_theirs(const struct fp_fatal_config *config, uintptr_t handler, fp_addr pc, struct fp_mapping *mapping)
{
    struct fp_session *s = fp_session_acquire(config->target, true, config->dump.budget_ns);
    if (s == NULL)
        return false;
    fp_unwind_open(&s->unwind, &s->reader);
    struct fp_maps *maps = &s->unwind.maps;
    const struct fp_mapping *of_handler = fp_maps_find(maps, handler);
    fp_addr base = of_handler ? of_handler->base : 0; /* the next look-up may use the same place */
    const struct fp_mapping *code = fp_maps_find(maps, pc);
    bool theirs = code != NULL;
    if (theirs) {
        *mapping = *code;
        theirs = (base != 0 && code->base == base) || made_at_run_time(maps, pc);
    }
    fp_session_release(s);
    return theirs;
}

static bool code_of_previous(const struct fp_fatal_config *config, uintptr_t handler, fp_addr pc)
{
    struct fp_reader r;
    struct fp_mapping mapping;
    if (fp_reader_open_best(&r) != FP_OK)
        return false;
    uint64_t loaded = what_is_loaded(&r);
    fp_reader_close(&r);
    if (is_known(loaded, handler, pc))
        return true;
    if (!is_theirs(config, handler, pc, &mapping))
        return false;
    remember(loaded, handler, &mapping);
    return true;
}

/* It has resolved the fault if it changes where the code goes on, or if the same instruction doesn't fault again on the
   same address at once. */
bool fp_fatal_resolved(const struct fp_fatal_config *config, struct fp_fatal *f, const struct fp_arrival *a)
{
    const struct sigaction *next = fp_fatal_next(f, a);
    if (a->context == NULL || a->circles != 0 || fp_was_sent(a) || !fp_is_function(next) ||
        next->sa_handler == config->only_notes)
        return false;
    const greg_t *pc = &a->context->uc_mcontext.gregs[REG_RIP];
    uintptr_t at = (uintptr_t)*pc, address = (uintptr_t)a->info->si_addr;
    bool again = atomic_load(&unresolved.thread) == a->thread && atomic_load(&unresolved.pc) == at &&
                 atomic_load(&unresolved.address) == address;
    atomic_store(&unresolved.thread, 0);
    if (again || !code_of_previous(config, (uintptr_t)next->sa_handler, at))
        return false;
    fp_fatal_call_next(f, a);
    if ((uintptr_t)*pc == at) {
        atomic_store(&unresolved.pc, at);
        atomic_store(&unresolved.address, address);
        atomic_store(&unresolved.thread, a->thread);
    }
    return true;
}
