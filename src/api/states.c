/* Thread states: which is freed, which is the caller's, and what is known of a thread.  Any context.
 *
 * Freed or not is decided by the neighbours: the list is doubly linked, and somebody in it, or its head, must point at
 * a thread state that is alive.  One of the two sides is enough: while a neighbour is put in or taken out, the other
 * side is still whole.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"

enum { HINTS = 512, LINK_TRIES = 4 };

/* Where a thread's state was found last time; a hint is checked before it is believed. */
static _Atomic(fp_addr) hints[HINTS];

static uint64_t own_id(void)
{
    return (uint64_t)pthread_self();
}

static bool interp_lives(struct fp_walk *w, fp_addr interp)
{
    fp_addr i = fp_interp_first(w);
    for (int n = 0; i != 0 && n < FP_INTERPS_MAX; n++) {
        if (i == interp)
            return true;
        i = fp_interp_next(w, i);
    }
    return false;
}

/* Is a thread state with this id the calling thread's for certain? */
static bool is_callers(struct fp_walk *w, uint64_t thread_id, fp_addr interp)
{
    return thread_id == own_id() && fp_thread_id_tells(w, interp);
}

/* Does a neighbour, or the head, point at the thread state? */
static bool linked_in(struct fp_walk *w, fp_addr tstate, fp_addr interp)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    fp_addr prev = fp_load64(r, tstate + (fp_addr)l->tstate_prev);
    fp_addr back =
        prev ? fp_load64(r, prev + (fp_addr)l->tstate_next) : fp_load64(r, interp + (fp_addr)l->interp_threads_head);
    fp_addr owner = prev ? fp_load64(r, prev + (fp_addr)l->tstate_interp) : interp;
    if (!fp_reader_faulted(r) && back == tstate && owner == interp)
        return true;
    fp_addr next = fp_load64(r, tstate + (fp_addr)l->tstate_next);
    if (fp_reader_faulted(r) || next == 0)
        return false;
    back = fp_load64(r, next + (fp_addr)l->tstate_prev);
    owner = fp_load64(r, next + (fp_addr)l->tstate_interp);
    return !fp_reader_faulted(r) && back == tstate && owner == interp;
}

enum fp_status fp_state_find(struct fp_walk *w, fp_addr tstate, struct fp_state *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    if (tstate == 0 || tstate % 8 != 0)
        return FP_ENDED;
    out->tstate = tstate;
    out->interp = fp_load64(r, tstate + (fp_addr)l->tstate_interp);
    out->thread_id = fp_load64(r, tstate + (fp_addr)l->tstate_thread_id);
    if (fp_reader_faulted(r) || !interp_lives(w, out->interp))
        return FP_ENDED;
    int tries = 0;
    while (!linked_in(w, tstate, out->interp))
        if (++tries == LINK_TRIES)
            return FP_ENDED;
    /* Once more: what was freed keeps its numbers until its memory is a new state's, which is then linked too. */
    fp_addr interp = fp_load64(r, tstate + (fp_addr)l->tstate_interp);
    uint64_t thread_id = fp_load64(r, tstate + (fp_addr)l->tstate_thread_id);
    if (fp_reader_faulted(r) || interp != out->interp || thread_id != out->thread_id)
        return FP_ENDED;
    out->still = is_callers(w, out->thread_id, out->interp);
    if (!out->still) {
        fp_addr holder = fp_gil_holder(w, out->interp);
        uint64_t holder_id = holder ? fp_load64(r, holder + (fp_addr)l->tstate_thread_id) : 0;
        fp_addr of = holder ? fp_load64(r, holder + (fp_addr)l->tstate_interp) : 0;
        out->still = holder != 0 && is_callers(w, holder_id, of) && !fp_reader_faulted(r);
    }
    (void)fp_reader_faulted(r);
    return FP_OK;
}

bool fp_state_alive(struct fp_walk *w, const struct fp_state *state)
{
    struct fp_state now;
    return fp_state_find(w, state->tstate, &now) == FP_OK && now.interp == state->interp &&
           now.thread_id == state->thread_id;
}

static bool is_own(struct fp_walk *w, fp_addr tstate)
{
    struct fp_state state;
    return fp_state_find(w, tstate, &state) == FP_OK && state.thread_id == own_id();
}

/* The calling thread's state as the holder of a GIL, rather one that is its own for certain; 0: it holds none. */
static fp_addr own_by_gil(struct fp_walk *w, bool *several)
{
    int n = 0;
    bool certain = false;
    fp_addr i = fp_interp_first(w), found = 0;
    for (; i != 0 && n < FP_INTERPS_MAX; n++) {
        fp_addr holder = certain ? 0 : fp_gil_holder(w, i);
        struct fp_state state;
        if (holder != 0 && fp_state_find(w, holder, &state) == FP_OK && state.thread_id == own_id()) {
            certain = fp_thread_id_tells(w, state.interp);
            found = certain || found == 0 ? holder : found;
        }
        i = fp_interp_next(w, i);
    }
    *several = n > 1;
    return found;
}

fp_addr fp_state_own(struct fp_walk *w)
{
    _Atomic(fp_addr) *hint = &hints[(own_id() >> 12 ^ own_id() >> 20) % HINTS];
    bool several;

    fp_addr found = own_by_gil(w, &several);
    if (found != 0)
        return found;
    /* With several interpreters one thread may have several states, and the hint might not be of the attached one. */
    fp_addr last = several ? 0 : atomic_load_explicit(hint, memory_order_relaxed);
    if (last != 0 && is_own(w, last) && fp_thread_started(w, last))
        return last;
    found = fp_thread_of(w, own_id());
    (void)fp_reader_faulted(w->reader);
    atomic_store_explicit(hint, found, memory_order_relaxed);
    return found;
}

struct _ts *faultproof_current_tstate(void)
{
    struct fp_call c;
    if (fp_call_begin(&c, NULL) != FP_OK)
        return NULL;
    fp_addr own = fp_state_own(&c.walk);
    fp_call_end(&c);
    return (struct _ts *)(uintptr_t)own;
}

static uint64_t native_id_of(struct fp_walk *w, const struct fp_state *state)
{
    int32_t at = w->target->layout.tstate_native_id;
    uint64_t id = 0;
    if (at >= 0)
        id = fp_load64(w->reader, state->tstate + (fp_addr)at);
    else if (fp_api_tid_offset() >= 0 && state->thread_id != 0)
        id = fp_load32(w->reader, state->thread_id + (fp_addr)fp_api_tid_offset());
    return fp_reader_faulted(w->reader) ? 0 : id;
}

/* The path of the file with a thread's name. */
static void comm_path(uint64_t native_id, char path[64])
{
    static const char before[] = "/proc/self/task/", after[] = "/comm";
    char digits[20];
    size_t n = sizeof(digits);

    do {
        digits[--n] = (char)('0' + native_id % 10);
        native_id /= 10;
    } while (native_id != 0);
    memcpy(path, before, sizeof(before) - 1);
    memcpy(path + sizeof(before) - 1, digits + n, sizeof(digits) - n);
    memcpy(path + sizeof(before) - 1 + sizeof(digits) - n, after, sizeof(after));
}

/* open, read and close: man 7 signal-safety. */
int faultproof_thread_name(uint64_t native_id, char *name, size_t size)
{
    char path[64], comm[FAULTPROOF_THREAD_NAMESIZE]; /* the kernel's 15 characters and a newline */
    int saved = errno;

    if (name == NULL || size == 0)
        return -1;
    name[0] = '\0';
    if (native_id == 0 || fp_api_target() == NULL)
        return -1;
    comm_path(native_id, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, comm, sizeof(comm)) : -1;
    if (fd >= 0)
        close(fd);
    errno = saved;
    if (got < 1)
        return -1;
    size_t length = (size_t)got - 1 < size - 1 ? (size_t)got - 1 : size - 1;
    memcpy(name, comm, length);
    name[length] = '\0';
    return (int)length;
}

static enum fp_status describe_thread(struct fp_walk *w, fp_addr tstate, faultproof_thread *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_state state;
    faultproof_thread t;

    enum fp_status status = fp_state_find(w, tstate, &state);
    if (status != FP_OK)
        return status;
    memset(&t, 0, sizeof(t));
    t.struct_size = out->struct_size;
    t.tstate = (struct _ts *)(uintptr_t)tstate;
    t.thread_id = state.thread_id;
    t.native_id = native_id_of(w, &state);
    t.interpreter_id = (int64_t)fp_load64(w->reader, state.interp + (fp_addr)l->interp_id);
    if (fp_gil_holder(w, state.interp) == tstate)
        t.flags |= FAULTPROOF_THREAD_HOLDS_GIL;
    if (state.thread_id == own_id())
        t.flags |= FAULTPROOF_THREAD_OWN;
    if (fp_load32(w->reader, state.interp + (fp_addr)l->interp_gc_collecting) != 0)
        t.flags |= FAULTPROOF_THREAD_COLLECTS;
    if (fp_reader_faulted(w->reader) || !fp_state_alive(w, &state))
        return FP_ENDED;
    *out = t;
    return FP_OK;
}

int faultproof_thread_info(struct _ts *tstate, faultproof_thread *thread)
{
    struct fp_call c;
    if (tstate == NULL || thread == NULL || thread->struct_size < sizeof(*thread) || fp_call_begin(&c, NULL) != FP_OK)
        return -1;
    enum fp_status status = describe_thread(&c.walk, (fp_addr)(uintptr_t)tstate, thread);
    fp_call_end(&c);
    return status == FP_OK ? 0 : -1;
}

/* Visits the listed threads that are still there; false when the visitor has seen enough. */
static bool visit_list(struct fp_walk *w, const fp_addr *list, uint32_t n,
                       int (*visit)(const faultproof_thread *, void *), void *context, int *visits)
{
    for (uint32_t i = 0; i < n; i++) {
        faultproof_thread thread = {.struct_size = sizeof(thread)};
        if (describe_thread(w, list[i], &thread) != FP_OK)
            continue;
        ++*visits;
        if (visit(&thread, context) != 0)
            return false;
    }
    return true;
}

int faultproof_each_thread(int (*visit)(const faultproof_thread *thread, void *context), void *context)
{
    struct fp_call c;
    int visits = 0, interps = 0;

    if (visit == NULL || fp_call_begin(&c, NULL) != FP_OK)
        return -1;
    struct fp_scratch *scratch = fp_scratch_take();
    fp_addr i = scratch ? fp_interp_first(&c.walk) : 0, next;
    for (; i != 0 && interps++ < FP_INTERPS_MAX; i = next) {
        next = fp_interp_next(&c.walk, i);
        bool whole; /* what has ended since is left out below */
        uint32_t n = fp_threads_list(&c.walk, i, scratch->list, FP_LIST_MAX, &whole);
        if (!visit_list(&c.walk, scratch->list, n, visit, context, &visits))
            break;
    }
    if (scratch != NULL)
        fp_scratch_give(scratch);
    fp_call_end(&c);
    return scratch != NULL ? visits : -1;
}

struct _ts *faultproof_gil_holder(int64_t interpreter_id)
{
    struct fp_call c;
    struct fp_state state;
    fp_addr holder = 0;

    if (fp_call_begin(&c, NULL) != FP_OK)
        return NULL;
    fp_addr i = fp_interp_first(&c.walk);
    for (int n = 0; i != 0 && n < FP_INTERPS_MAX; n++) {
        int64_t id = (int64_t)fp_load64(&c.reader, i + (fp_addr)c.walk.target->layout.interp_id);
        if (!fp_reader_faulted(&c.reader) && id == interpreter_id) {
            holder = fp_gil_holder(&c.walk, i);
            break;
        }
        i = fp_interp_next(&c.walk, i);
    }
    if (holder != 0 && fp_state_find(&c.walk, holder, &state) != FP_OK)
        holder = 0;
    fp_call_end(&c);
    return (struct _ts *)(uintptr_t)holder;
}
