/* Interpreters and thread states: the lists, and whether a thread state is still in one.  Any context. */
#include <string.h>
#include <time.h>

#include "walk/walk.h"

/* How often a list that changes is read again, after QUICK_TRIES with a pause, since the thread that changes it may
   wait for a processor; the last time whatever is there counts. */
enum { LIST_TRIES = 16, QUICK_TRIES = 8, PAUSE_NS = 100000 };

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
    return link_load(w, tstate, w->target->layout.tstate_next);
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
static bool is_head_without_link(struct fp_walk *w, fp_addr tstate)
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
    if (next == 0 && (!linked(w, tstate, interp) || is_head_without_link(w, tstate) || fp_thread_next(w, tstate) != 0))
        *whole = false;
    return next;
}

/* Notices that a damaged list leads round in a circle: one of the states passed is remembered, after 1, 2, 4, ... links
   another one. */
struct passed {
    fp_addr remembered;
    uint32_t links;
};

static bool goes_round(struct passed *p, fp_addr tstate)
{
    if (tstate == p->remembered || p->links == FP_THREADS_MAX)
        return true;
    if ((p->links & (p->links + 1)) == 0)
        p->remembered = tstate;
    p->links++;
    return false;
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
        struct passed passed = {0, 0};
        for (n = 0, *whole = true; t != 0 && n < max; t = next_or_end(w, t, interp, whole)) {
            bool circle = goes_round(&passed, t);
            if (circle || !linked(w, t, interp))
                *whole = false;
            if (circle || (!*whole && !last))
                break;
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

fp_addr fp_gil_of(struct fp_walk *w, fp_addr interp)
{
    const struct fp_layout *l = &w->target->layout;
    if (w->target->free_threaded)
        return 0;
    if (l->runtime_gil >= 0)
        return w->target->runtime + (fp_addr)l->runtime_gil;
    fp_addr gil = fp_load64(w->reader, interp + (fp_addr)l->interp_gil);
    return fp_reader_faulted(w->reader) ? 0 : gil;
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
        fp_addr gil = fp_gil_of(w, interp);
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

/* A search for the state of an OS thread. */
struct search {
    uint64_t thread_id;
    bool strict; /* only a state that is linked counts */
    bool whole;  /* no list changed under it, so that what wasn't found isn't there */
};

/* Its state in one interpreter: attached, or with a thread that has started; else the oldest, as the others are those
   that this thread has made. */
static fp_addr search_list(struct fp_walk *w, fp_addr interp, struct search *s)
{
    struct passed passed = {0, 0};
    fp_addr oldest = 0;
    for (fp_addr t = fp_thread_first(w, interp); t != 0; t = next_or_end(w, t, interp, &s->whole)) {
        bool circle = goes_round(&passed, t), in_list = !circle && linked(w, t, interp);
        s->whole = s->whole && in_list;
        if (circle || (s->strict && !in_list))
            break; /* what it points at may be anything */
        uint64_t id = fp_load64(w->reader, t + (fp_addr)w->target->layout.tstate_thread_id);
        if (fp_reader_faulted(w->reader) || id != s->thread_id)
            continue;
        if (attached(w, interp, t) || fp_thread_started(w, t))
            return t;
        oldest = t;
    }
    return oldest;
}

/* How likely a state of another interpreter than the others' is the one that the thread is in. */
enum likeliness { IDLE_ELSEWHERE, IDLE, WITH_FRAMES, ATTACHED_SOMEWHERE, ATTACHED };

static enum likeliness likeliness_of(struct fp_walk *w, fp_addr interp, fp_addr tstate)
{
    bool tells = fp_thread_id_tells(w, interp);
    if (attached(w, interp, tstate))
        return tells ? ATTACHED : ATTACHED_SOMEWHERE;
    return has_frame(w, tstate) ? WITH_FRAMES : tells ? IDLE : IDLE_ELSEWHERE;
}

/* One pass over the lists of all interpreters. */
static fp_addr search_all(struct fp_walk *w, struct search *s)
{
    fp_addr best = 0;
    enum likeliness how = IDLE_ELSEWHERE;
    int interps = 0;

    s->whole = true;
    for (fp_addr i = fp_interp_first(w); i != 0 && interps++ < FP_INTERPS_MAX; i = fp_interp_next(w, i)) {
        fp_addr here = search_list(w, i, s);
        enum likeliness now = here ? likeliness_of(w, i, here) : IDLE_ELSEWHERE;
        if (here != 0 && (best == 0 || now > how)) {
            best = here;
            how = now;
        }
        if (how == ATTACHED) {
            s->whole = true; /* certain, whatever changed */
            break;
        }
    }
    return best;
}

fp_addr fp_thread_of(struct fp_walk *w, uint64_t thread_id)
{
    struct search s = {.thread_id = thread_id};
    fp_addr found = 0;
    for (int try = 0; try < LIST_TRIES && !s.whole; try++) {
        before_try(try);
        s.strict = try + 1 < LIST_TRIES;
        found = search_all(w, &s);
    }
    return found;
}
