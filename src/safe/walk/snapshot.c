/* The frame chain of a thread that runs, read so that the result is a stack that the thread really had.
 *
 * A "sandwich": read all known frames root first (U), then the top pointer (T), then all frames top first (D), then the
 * top pointer again.  Each frame's two readings straddle T, and what lies between them is only the reading of the frames
 * above it: to leave a frame and come back to the same instruction unseen the thread would need as many returns and
 * calls as there are frames above, within that time.  Needs loads in program order, which x86 gives.
 * Any context; sleeps for a microsecond when a thread stands still in the middle of a call.
 */
#include <time.h>

#include "walk/walk.h"

enum { BUDGET_NS = 200000, MALFORMED_NS = 30000 };

/* Walks once and notes the addresses.  What is known already stays if the new chain is its lower part: the frames
   above will be used again by the next calls. */
static enum fp_status discover(struct fp_walk *w, fp_addr tstate)
{
    enum fp_status status = fp_chain_read(w, tstate, 0, FP_CHAIN_MAX);
    if (status != FP_OK)
        return status;
    if (w->n_raw == 0)
        return FP_NO_FRAME;
    uint32_t above = w->n_known - w->n_raw;
    bool part = w->n_known >= w->n_raw;
    for (uint32_t i = 0; part && i < w->n_raw; i++)
        part = w->known[above + i].frame == w->raw[i].frame;
    if (part)
        return FP_OK;
    for (uint32_t i = 0; i < w->n_raw; i++)
        w->known[i].frame = w->raw[i].frame;
    w->n_known = w->n_raw;
    return FP_OK;
}

static bool same(const struct fp_raw *a, const struct fp_raw *b, bool but_instr)
{
    return a->previous == b->previous && a->code == b->code && a->owner == b->owner && a->is_entry == b->is_entry &&
           (but_instr || a->instr == b->instr);
}

/* 3.11, 3.12: each entry frame has a _PyCFrame, and the one before that holds the frame below.  A call in the making
   has the one without the other. */
static bool cframes_fit(struct fp_walk *w, fp_addr cframe)
{
    const struct fp_layout *l = &w->target->layout;
    for (uint32_t i = 0; i < w->n_raw; i++) {
        const struct fp_raw *raw = &w->raw[i];
        if (!(l->owner_entry >= 0 ? fp_raw_hidden(w, raw) : raw->is_entry))
            continue;
        cframe = fp_load64(w->reader, cframe + (fp_addr)l->cframe_previous);
        fp_addr below = fp_load64(w->reader, cframe + (fp_addr)l->cframe_current);
        if (fp_reader_faulted(w->reader) || below != raw->previous)
            return false;
    }
    return true;
}

static bool root_fits(struct fp_walk *w)
{
    const struct fp_layout *l = &w->target->layout;
    const struct fp_raw *root = &w->raw[w->n_raw - 1];
    if (!w->raw_complete || l->frame_kind == FP_FRAME_HEAP)
        return true;
    return l->owner_entry >= 0 ? fp_raw_hidden(w, root) : root->is_entry != 0;
}

enum outcome { CONFIRMED, DIFFERENT, UNKNOWN_TOP, MALFORMED };

/* Steps U, T, D and the checks, once, over the known addresses. */
static enum outcome sandwich(struct fp_walk *w, fp_addr tstate)
{
    fp_addr cframe, cframe_again;
    uint32_t first = 0, n = w->n_known;

    for (uint32_t i = n; i-- > 0;)
        fp_raw_read(w, w->known[i].frame, &w->known[i]);
    fp_addr top = fp_chain_top(w, tstate, &cframe);
    while (first < n && w->known[first].frame != top)
        first++;
    w->n_raw = n - first;
    for (uint32_t i = first; i < n; i++)
        fp_raw_read(w, w->known[i].frame, &w->raw[i - first]);
    fp_addr top_again = fp_chain_top(w, tstate, &cframe_again);
    bool faulted = fp_reader_faulted(w->reader);
    if (first == n)
        return UNKNOWN_TOP;
    if (faulted || top != top_again || cframe != cframe_again)
        return DIFFERENT;
    for (uint32_t i = first; i < n; i++) {
        const struct fp_raw *raw = &w->raw[i - first];
        if (!same(raw, &w->known[i], i == first))
            return DIFFERENT;
        if (i + 1 < n ? raw->previous != w->known[i + 1].frame : w->raw_complete && raw->previous != 0)
            return UNKNOWN_TOP;
    }
    if (!root_fits(w))
        return MALFORMED;
    return w->target->layout.frame_kind != FP_FRAME_CFRAME || cframes_fit(w, cframe) ? CONFIRMED : MALFORMED;
}

/* What two readings agree on, from the root up: the frames that have not moved. */
static void keep_agreed(struct fp_walk *w)
{
    uint32_t n = w->n_known, first = n;
    for (uint32_t i = n; i-- > 0;)
        fp_raw_read(w, w->known[i].frame, &w->known[i]);
    for (uint32_t i = n; i-- > 0;) {
        struct fp_raw raw;
        fp_raw_read(w, w->known[i].frame, &raw);
        bool linked = i + 1 < n ? raw.previous == w->known[i + 1].frame : !w->raw_complete || raw.previous == 0;
        if (fp_reader_faulted(w->reader) || !linked || !same(&raw, &w->known[i], false))
            break;
        first = i;
    }
    w->n_raw = n - first;
    for (uint32_t i = first; i < n; i++)
        w->raw[i - first] = w->known[i];
}

static void pause_1us(void)
{
    const struct timespec t = {0, 1000};
    nanosleep(&t, NULL);
}

enum fp_status fp_snapshot_read(struct fp_walk *w, fp_addr tstate)
{
    int64_t start = fp_now_ns(), malformed_since = 0;
    enum fp_status status = FP_CHANGED;
    bool discovered = false;

    w->n_known = 0;
    for (unsigned round = 0;; round++) {
        int64_t now = fp_now_ns();
        if (now - start > BUDGET_NS && round > 8)
            break;
        if (!discovered) {
            status = discover(w, tstate);
            discovered = status == FP_OK;
            if (status == FP_NO_FRAME)
                return status;
            if (!discovered)
                continue;
        }
        enum outcome outcome = sandwich(w, tstate);
        if (outcome == CONFIRMED)
            return FP_OK;
        discovered = outcome == DIFFERENT;
        if (outcome != MALFORMED)
            malformed_since = 0;
        else if (malformed_since == 0)
            malformed_since = now;
        else if (now - malformed_since > MALFORMED_NS)
            pause_1us();
    }
    if (w->n_known == 0)
        return status;
    keep_agreed(w);
    return FP_CHANGED;
}
