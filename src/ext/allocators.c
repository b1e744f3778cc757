/* Wrappers around CPython's allocators that stay whatever else wraps them.  Normal context, any thread.
 *
 * A tracer (tracemalloc, memray) that is stopped puts back what it found when it was started: a wrapper that was laid
 * on top of it later goes with it.  Such a tracer's context is the address of that very struct PyMemAllocatorEx, so
 * that ours can be laid below it, into the struct.  Ours has the context of what it wraps: a thread that allocates
 * meanwhile may see the old function with the new context, or the other way round.
 */
#include "ext.h" /* pyconfig.h defines _GNU_SOURCE */

#include <link.h>

#include "allocators.h"
#include "reader/reader.h"

enum { WRAPPERS_MAX = 16 };

const struct fp_hook *fp_hook_probed;
uint64_t fp_hook_prober;
bool fp_hook_seen;

/* What the loader says of an address. */
struct place {
    fp_addr address;
    bool code, constant;
};

static bool holds(const struct dl_phdr_info *object, const ElfW(Phdr) * p, fp_addr address)
{
    return address - (object->dlpi_addr + p->p_vaddr) < p->p_memsz;
}

static int look_into(struct dl_phdr_info *object, size_t size, void *context)
{
    struct place *place = context;
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &object->dlpi_phdr[i];
        if ((p->p_type != PT_LOAD && p->p_type != PT_GNU_RELRO) || !holds(object, p, place->address))
            continue;
        place->code |= p->p_type == PT_LOAD && (p->p_flags & PF_X) != 0;
        place->constant |= p->p_type == PT_GNU_RELRO || !(p->p_flags & PF_W);
    }
    return 0;
}

static struct place look_up(fp_addr address)
{
    struct place place = {.address = address};
    dl_iterate_phdr(look_into, &place);
    return place;
}

static bool is_code(const void *function)
{
    return look_up((fp_addr)(uintptr_t)function).code;
}

/* The allocator that a wrapper's context points to, if it does: in memory that may be written, four functions of loaded
   objects, none of them the wrapper's own. */
static PyMemAllocatorEx *wrapped(struct fp_reader *reader, const PyMemAllocatorEx *wrapper)
{
    PyMemAllocatorEx seen;
    fp_addr at = (fp_addr)(uintptr_t)wrapper->ctx;
    if (at == 0 || at % _Alignof(PyMemAllocatorEx) != 0 || !fp_read(reader, &seen, at, sizeof(seen)))
        return NULL;
    bool good = is_code((void *)seen.malloc) && is_code((void *)seen.calloc) && is_code((void *)seen.realloc) &&
                is_code((void *)seen.free) && seen.malloc != wrapper->malloc && !look_up(at).constant;
    return good ? wrapper->ctx : NULL;
}

/* The innermost struct that says what is called in a domain, or, with `function`, the one that has this function; NULL:
   that is the domain's own, which only PyMem_SetAllocator() sets, or there is none. */
static PyMemAllocatorEx *find_slot(PyMemAllocatorDomain domain, void *(*function)(void *, size_t))
{
    struct fp_reader reader;
    PyMemAllocatorEx now, *slot = NULL, *next;
    PyMem_GetAllocator(domain, &now);
    if (now.ctx == NULL || fp_reader_open(&reader, FP_READER_MASK) != FP_OK)
        return NULL;
    for (int i = 0; i < WRAPPERS_MAX && (next = wrapped(&reader, &now)) != NULL; i++) {
        slot = next;
        now = *slot;
        if (now.malloc == function)
            break;
    }
    fp_reader_close(&reader);
    return function == NULL || (slot != NULL && slot->malloc == function) ? slot : NULL;
}

/* One field at a time, each whole; the context stays as it is. */
static void replace(PyMemAllocatorEx *slot, const PyMemAllocatorEx *by)
{
    __atomic_store_n(&slot->malloc, by->malloc, __ATOMIC_RELEASE);
    __atomic_store_n(&slot->calloc, by->calloc, __ATOMIC_RELEASE);
    __atomic_store_n(&slot->realloc, by->realloc, __ATOMIC_RELEASE);
    __atomic_store_n(&slot->free, by->free, __ATOMIC_RELEASE);
}

/* A block that an allocator has at hand, and one that it hasn't. */
static void use_domain(PyMemAllocatorDomain domain)
{
    static const size_t sizes[] = {1, 1 << 17};
    for (size_t i = 0; i < FP_COUNT(sizes); i++) {
        if (domain == PYMEM_DOMAIN_RAW)
            PyMem_RawFree(PyMem_RawMalloc(sizes[i]));
        else if (domain == PYMEM_DOMAIN_MEM)
            PyMem_Free(PyMem_Malloc(sizes[i]));
        else
            PyObject_Free(PyObject_Malloc(sizes[i]));
    }
}

void fp_hook_probe(const struct fp_hook *hook)
{
    fp_hook_seen = false;
    __atomic_store_n(&fp_hook_prober, (uint64_t)PyThread_get_thread_ident(), __ATOMIC_RELAXED);
    __atomic_store_n(&fp_hook_probed, hook, __ATOMIC_RELEASE);
}

bool fp_hook_probe_end(void)
{
    __atomic_store_n(&fp_hook_probed, NULL, __ATOMIC_RELEASE);
    return fp_hook_seen;
}

/* Another allocator may stand over ours and call it (a tracer that was started later), or may have taken ours out. */
static bool in_chain(const struct fp_hook *hook)
{
    fp_hook_probe(hook);
    use_domain(hook->domain);
    return fp_hook_probe_end();
}

/* What ours calls is only written while nobody calls ours. */
static PyMemAllocatorEx around(struct fp_hook *hook, const PyMemAllocatorEx *next)
{
    PyMemAllocatorEx ours = hook->ours;
    hook->next = *next;
    ours.ctx = next->ctx;
    return ours;
}

void fp_hook_insert(struct fp_hook *hook)
{
    PyMemAllocatorEx now, ours;
    if (in_chain(hook))
        return;
    PyMemAllocatorEx *slot = find_slot(hook->domain, NULL);
    if (slot != NULL && slot->malloc != hook->ours.malloc) {
        ours = around(hook, slot);
        replace(slot, &ours);
        if (in_chain(hook))
            return;
        replace(slot, &hook->next); /* nobody calls what stands there */
    }
    PyMem_GetAllocator(hook->domain, &now);
    if (now.malloc == hook->ours.malloc)
        return;
    ours = around(hook, &now);
    PyMem_SetAllocator(hook->domain, &ours);
}

bool fp_hook_remove_top(const struct fp_hook *hook)
{
    PyMemAllocatorEx now;
    PyMem_GetAllocator(hook->domain, &now);
    if (now.malloc != hook->ours.malloc)
        return false;
    PyMem_SetAllocator(hook->domain, (PyMemAllocatorEx *)&hook->next);
    return true;
}

void fp_hook_remove(const struct fp_hook *hook)
{
    if (fp_hook_remove_top(hook))
        return;
    PyMemAllocatorEx *slot = find_slot(hook->domain, hook->ours.malloc);
    if (slot != NULL)
        replace(slot, &hook->next);
}
