/* Interpreters and thread states: the lists, and whether a thread state is still in one.  Any context. */
#include <string.h>
#include <time.h>

#include "walk/walk.h"

/* How often a list that changes is read again, after QUICK_TRIES with a pause, since the thread that changes it may
   wait for a processor; the last time whatever is there counts. */
enum { LIST_TRIES = 16, QUICK_TRIES = 8, PAUSE_NS = 100000 };

/* For a search, which a damaged list may lead round and round; 100,000 threads take less where reading is fast. */
enum { SEARCH_NS = 100000000 };

int64_t fp_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void fp_walk_init(struct fp_walk *w, struct fp_reader *reader, const struct fp_target *target, bool exact)
{
    w->reader = reader;
    w->target = target;
    w->exact = exact;
    w->max_chars = 500;
    w->deadline_ns = INT64_MAX;
    w->bad_address = 0;
    w->n_raw = w->n_known = 0;
    w->arena_used = 0;
    w->generation++;
}

static fp_addr link_load(struct fp_walk *w, fp_addr object, int32_t offset)
{
    if (object == 0)
        return 0;
    fp_addr value = fp_load64(w->reader, object + (fp_addr)offset);
    return fp_reader_faulted(w->reader) || value % 8 != 0 ? 0 : value;
}

fp_addr fp_interp_first(struct fp_walk *w)
{
    return link_load(w, w->target->runtime, w->target->layout.runtime_interpreters_head);
}

fp_addr fp_interp_next(struct fp_walk *w, fp_addr interp)
{
    return link_load(w, interp, w->target->layout.interp_next);
}

fp_addr fp_thread_first(struct fp_walk *w, fp_addr interp)
{
    return link_load(w, interp, w->target->layout.interp_threads_head);
}

fp_addr fp_thread_next(struct fp_walk *w, fp_addr tstate)
{
    fp_addr next = link_load(w, tstate, w->target->layout.tstate_next);
    return next != tstate ? next : 0;
}

/* The list is doubly linked: the thread state before this one, or the list's head, must point at it. */
static bool linked(struct fp_walk *w, fp_addr tstate, fp_addr interp)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr prev = fp_load64(w->reader, tstate + (fp_addr)l->tstate_prev);
    fp_addr back = prev ? fp_load64(w->reader, prev + (fp_addr)l->tstate_next)
                        : fp_load64(w->reader, interp + (fp_addr)l->interp_threads_head);
    return !fp_reader_faulted(w->reader) && back == tstate;
}

/* Only 3.11 makes a new thread state the head before it gives it its link to the others, and then its thread. */
static bool is_in_the_making(struct fp_walk *w, fp_addr tstate)
{
    const struct fp_layout *l = &w->target->layout;
    bool head_first = l->frame_is_entry >= 0;
    bool has_thread = !head_first || fp_load64(w->reader, tstate + (fp_addr)l->tstate_thread_id) != 0;
    return !fp_reader_faulted(w->reader) && !has_thread;
}

/* The thread state after this one.  At the end *whole becomes false unless this one still is in the list, and still its
   end: the memory of one that left leads anywhere, and may become the list's new head a moment later. */
static fp_addr next_or_end(struct fp_walk *w, fp_addr tstate, fp_addr interp, bool *whole)
{
    fp_addr next = fp_thread_next(w, tstate);
    if (next == 0 && (!linked(w, tstate, interp) || is_in_the_making(w, tstate) || fp_thread_next(w, tstate) != 0))
        *whole = false;
    return next;
}

static void before_try(int try)
{
    const struct timespec pause = {0, PAUSE_NS};
    if (try > QUICK_TRIES)
        nanosleep(&pause, NULL);
}

uint32_t fp_threads_list(struct fp_walk *w, fp_addr interp, fp_addr *list, uint32_t max, bool *whole)
{
    uint32_t n = 0;
    *whole = false;
    for (int try = 0; try < LIST_TRIES && !*whole; try++) {
        bool last = try + 1 == LIST_TRIES; /* then whatever there is: a damaged list has readable threads too */
        before_try(try);
        fp_addr t = fp_thread_first(w, interp);
        for (n = 0, *whole = true; t != 0 && n < max; t = next_or_end(w, t, interp, whole)) {
            if (!linked(w, t, interp)) {
                *whole = false;
                if (!last)
                    break;
            }
            list[n++] = t;
        }
        *whole = *whole && t == 0;
        if (t != 0 && n == max)
            break; /* more than fit */
    }
    return n;
}

/* The links first: a freed state keeps its numbers until its memory is a new one's, which is then linked too. */
bool fp_thread_alive(struct fp_walk *w, const struct fp_thread *t)
{
    const struct fp_layout *l = &w->target->layout;
    if (!linked(w, t->tstate, t->interp))
        return false;
    fp_addr interp = fp_load64(w->reader, t->tstate + (fp_addr)l->tstate_interp);
    fp_addr id = fp_load64(w->reader, t->tstate + (fp_addr)l->tstate_thread_id);
    return !fp_reader_faulted(w->reader) && interp == t->interp && id == t->thread_id;
}

enum fp_status fp_thread_read(struct fp_walk *w, fp_addr tstate, struct fp_thread *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    memset(out, 0, sizeof(*out));
    out->tstate = tstate;
    out->interp = fp_load64(r, tstate + (fp_addr)l->tstate_interp);
    out->thread_id = fp_load64(r, tstate + (fp_addr)l->tstate_thread_id);
    if (l->tstate_native_id >= 0)
        out->native_id = fp_load64(r, tstate + (fp_addr)l->tstate_native_id);
    if (fp_reader_faulted(r))
        return FP_UNREADABLE;
    out->interp_id = (int64_t)fp_load64(r, out->interp + (fp_addr)l->interp_id);
    out->collecting = fp_load32(r, out->interp + (fp_addr)l->interp_gc_collecting) != 0;
    if (fp_reader_faulted(r))
        return FP_UNREADABLE;
    return fp_thread_alive(w, out) ? FP_OK : FP_ENDED;
}

fp_addr fp_gil_holder(struct fp_walk *w, fp_addr interp)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;
    fp_addr holder = 0;

    if (w->target->free_threaded)
        return 0;
    if (l->runtime_tstate_current >= 0) {
        holder = fp_load64(r, w->target->runtime + (fp_addr)l->runtime_tstate_current);
    }
    else {
        fp_addr gil = fp_load64(r, interp + (fp_addr)l->interp_gil);
        if (fp_load32(r, gil + (fp_addr)l->gil_locked) == 1)
            holder = fp_load64(r, gil + (fp_addr)l->gil_last_holder);
    }
    return fp_reader_faulted(r) ? 0 : holder;
}

static bool attached(struct fp_walk *w, fp_addr interp, fp_addr tstate)
{
    const struct fp_layout *l = &w->target->layout;
    if (l->tstate_status < 0)
        return fp_gil_holder(w, interp) == tstate;
    uint32_t status = fp_load32(w->reader, tstate + (fp_addr)l->tstate_status);
    return !fp_reader_faulted(w->reader) && (status & (uint32_t)l->tstate_status_active) != 0;
}

static bool has_frame(struct fp_walk *w, fp_addr tstate)
{
    fp_addr cframe, top = fp_chain_top(w, tstate, &cframe);
    return !fp_reader_faulted(w->reader) && top != 0;
}

/* Up to 3.11 a state has its maker's id, and no frame, until its thread starts. */
bool fp_thread_started(struct fp_walk *w, fp_addr tstate)
{
    bool has_makers_id = w->target->layout.runtime_tstate_current >= 0;
    return !has_makers_id || has_frame(w, tstate);
}

bool fp_thread_id_tells(struct fp_walk *w, fp_addr interp)
{
    const struct fp_layout *l = &w->target->layout;
    bool ids_stay = l->frame_kind != FP_FRAME_DIRECT;
    return !ids_stay || (fp_load64(w->reader, interp + (fp_addr)l->interp_id) == 0 && !fp_reader_faulted(w->reader));
}

/* One pass over all lists for the states of an OS thread: of several interpreters the attached one, or the first that
   has frames.  *whole: no list changed under it, so that what wasn't found isn't there.  `strict`: only a state that is
   linked counts. */
static fp_addr search_thread(struct fp_walk *w, uint64_t thread_id, bool strict, int64_t deadline_ns, bool *whole)
{
    fp_addr found = 0, likely = 0;
    int interps = 0, threads = 0;

    *whole = true;
    for (fp_addr i = fp_interp_first(w); i != 0 && interps++ < FP_INTERPS_MAX; i = fp_interp_next(w, i)) {
        fp_addr here = 0; /* if none has started the oldest: the others are those that this thread has made */
        for (fp_addr t = fp_thread_first(w, i); t != 0 && threads++ < FP_THREADS_MAX; t = next_or_end(w, t, i, whole)) {
            if (threads % 256 == 0 && fp_now_ns() > deadline_ns)
                return likely ? likely : found;
            bool in_list = linked(w, t, i);
            *whole = *whole && in_list;
            if (strict && !in_list)
                break; /* what it points at may be anything */
            uint64_t id = fp_load64(w->reader, t + (fp_addr)w->target->layout.tstate_thread_id);
            if (fp_reader_faulted(w->reader) || id != thread_id)
                continue;
            if (attached(w, i, t)) {
                likely = t;
                if (fp_thread_id_tells(w, i))
                    return t;
            }
            here = t;
            if (fp_thread_started(w, t))
                break;
        }
        if (found == 0 || (here != 0 && !has_frame(w, found)))
            found = here ? here : found;
    }
    return likely ? likely : found;
}

fp_addr fp_thread_of(struct fp_walk *w, uint64_t thread_id)
{
    fp_addr found = 0;
    bool whole = false;
    int64_t deadline_ns = fp_now_ns() + SEARCH_NS;
    for (int try = 0; try < LIST_TRIES && !whole; try++) {
        before_try(try);
        found = search_thread(w, thread_id, try + 1 < LIST_TRIES, deadline_ns, &whole);
        if (fp_now_ns() > deadline_ns)
            break;
    }
    return found;
}
