/* The frame chain of a thread that runs, read so that the result is a stack that the thread really had.
 *
 * A "sandwich": read the known frames root first, up to where the top is (U), then the top pointer (T), then all frames
 * top first (D), then the top pointer again.  Each frame's two readings straddle T, and what lies between them is only
 * the reading of the frames above it: to leave a frame and come back to the same instruction unseen the thread would
 * need as many returns and calls as there are frames above, within that time.  Needs loads in program order, which x86
 * gives.
 * docs/coherent-stacks.md has the argument, the races met and the measurements.
 * Any context; sleeps for a microsecond when a thread stands still in the middle of a call.
 */
#include <time.h>

#include "walk/walk.h"

enum { BUDGET_NS = 200000, MALFORMED_NS = 30000, LAST_TRIES = 16, TOP_FRAMES = 2, TURNS = 16 };

/* walk->known holds the frames known so far, root first: index 0 is the root. */

/* Looks around `near` first: it is wanted at once, and the top doesn't get far meanwhile. */
static uint32_t find_known(const struct fp_walk *w, fp_addr frame, uint32_t near)
{
    for (uint32_t d = 0; d < w->n_known; d++) {
        if (d <= near && near - d < w->n_known && w->known[near - d].frame == frame)
            return near - d;
        if (near + d < w->n_known && w->known[near + d].frame == frame)
            return near + d;
    }
    return UINT32_MAX;
}

/* The top is a frame not known: follow the links to one that is, and put what lies above in place of what was known
   there.  walk->raw serves as room for the new addresses.  *kept: how many of the known frames stay. */
static enum fp_status learn(struct fp_walk *w, fp_addr top, uint32_t *kept)
{
    uint32_t n = 0, join = UINT32_MAX;
    fp_addr frame = top;

    while (frame != 0 && n < FP_CHAIN_MAX && (join = find_known(w, frame, w->n_known)) == UINT32_MAX) {
        w->raw[n++].frame = frame;
        frame = fp_load64(w->reader, frame + (fp_addr)w->target->layout.frame_previous);
        if (fp_reader_faulted(w->reader) || frame % 8 != 0)
            return FP_UNREADABLE;
    }
    *kept = join == UINT32_MAX ? 0 : join + 1;
    if (*kept + n > FP_CHAIN_MAX) {
        w->n_known = 0;
        return FP_CHANGED;
    }
    if (*kept == 0)
        w->raw_complete = frame == 0;
    for (uint32_t i = 0; i < n; i++)
        w->known[*kept + i].frame = w->raw[n - 1 - i].frame;
    w->n_known = *kept + n;
    return FP_OK;
}

/* Has it run an instruction, so that its link is written?  A generator has, but is linked anew when it goes on. */
static bool has_begun(const struct fp_layout *l, const struct fp_raw *top)
{
    return top->owner == 0 && top->instr >= top->code + (fp_addr)l->code_adaptive;
}

/* 3.12: a frame is the top some instructions before its link is written; until then the link is what another call has
   left there.  That looks right if it was a call by the frame that now waits for a generator, whose frame is missing
   then: such a frame calls nothing else directly. */
bool fp_link_is_stale(struct fp_walk *w, const struct fp_raw *top)
{
    const struct fp_layout *l = &w->target->layout;
    if (l->frame_return_offset < 0 || top->owner != 0 || has_begun(l, top))
        return false;
    uint32_t offset = fp_load32(w->reader, top->previous + (fp_addr)l->frame_return_offset) & 0xffff;
    return fp_reader_faulted(w->reader) || offset != 0;
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

/* Only an entry frame is a root: a generator between link and unlink is a top frame with no frame below.  Or greenlet
   has taken the entry frames, which lie on the C stack that it is about to exchange, out of the links: then the root is
   an ordinary frame without a link, as no frame is otherwise while it runs (3.12: once it has begun). */
static bool has_root(const struct fp_walk *w)
{
    const struct fp_layout *l = &w->target->layout;
    const struct fp_raw *root = &w->raw[w->n_raw - 1];
    if (l->owner_entry < 0)
        return root->is_entry;
    return fp_raw_hidden(w, root) ||
           (root->owner == 0 && root->previous == 0 && (l->frame_kind == FP_FRAME_DIRECT || has_begun(l, &w->raw[0])));
}

bool fp_chain_fits(struct fp_walk *w, fp_addr cframe)
{
    const struct fp_layout *l = &w->target->layout;
    for (uint32_t i = 0; l->owner_max >= 0 && i < w->n_raw; i++)
        if (w->raw[i].owner > l->owner_max)
            return false;
    if (w->raw_complete && l->frame_kind != FP_FRAME_HEAP && !has_root(w))
        return false;
    return l->frame_kind != FP_FRAME_CFRAME || (cframes_fit(w, cframe) && !fp_link_is_stale(w, &w->raw[0]));
}

/* A reader that was stopped in the middle (preempted, its virtual machine paused) gave the thread time to go round a
   loop and stand there again.  In cycles of the time stamp counter; a reading takes a fraction of it. */
static bool too_slow(const struct fp_walk *w, uint64_t start, uint32_t frames)
{
    enum { CYCLES = 1000, CYCLES_PER_FRAME = 25 };
    return w->reader->guarded && __builtin_ia32_rdtsc() - start > CYCLES + (uint64_t)CYCLES_PER_FRAME * frames;
}

enum outcome { CONFIRMED, DIFFERENT, MALFORMED, NO_FRAME };

/* Compares U with D from the root up: how many frames agree.  Links that don't fit make all that is known worthless. */
static uint32_t agreeing(struct fp_walk *w, uint32_t n)
{
    uint32_t agreed = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct fp_raw *raw = &w->raw[n - 1 - i];
        fp_addr below = i > 0 ? w->known[i - 1].frame : w->raw_complete ? 0 : raw->previous;
        if (raw->previous != below) {
            w->n_known = 0;
            return 0;
        }
        if (agreed == i && fp_raw_same(raw, &w->known[i], i + 1 == n))
            agreed++;
    }
    return agreed;
}

/* Reads the n top frames, which have just been read, once more; false if they are others by now.  In a loop of calls
   that take tens of nanoseconds both readings of a caller and of what it calls may be half of one round and half of the
   next, and agree: one of 20,000 stacks of such a program.  But right after such a pair was read its callee is another.
 */
static bool top_stands(struct fp_walk *w, uint32_t n)
{
    struct fp_raw again;
    for (uint32_t i = 0; i < n; i++) {
        fp_raw_read(w, w->raw[i].frame, &again);
        if (!fp_raw_same(&again, &w->raw[i], false))
            return false;
    }
    return true;
}

/* Steps U and T: reads up to the top, and goes on for as long as that has meanwhile moved up, so that little is read
   between the last frame and the top.  *at: the top's index; else why there is none.  *frames: goes up by the readings.
 */
static enum outcome read_up(struct fp_walk *w, fp_addr tstate, fp_addr *cframe, uint32_t *at, uint32_t *frames)
{
    uint32_t read = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        fp_addr top = fp_chain_top(w, tstate, cframe);
        if (fp_reader_faulted(w->reader)) {
            w->n_known = 0;
            return DIFFERENT;
        }
        if (top == 0)
            return fp_has_no_frame(tstate, top, *cframe) ? NO_FRAME : DIFFERENT;
        *at = find_known(w, top, read > 0 ? read - 1 : w->n_known);
        if (*at < read)
            return CONFIRMED;
        if (*at == UINT32_MAX) {
            uint32_t kept;
            if (learn(w, top, &kept) != FP_OK)
                return DIFFERENT;
            read = read < kept ? read : kept;
            *at = w->n_known - 1;
        }
        *frames += *at + 1 - read;
        for (; read <= *at; read++)
            fp_raw_read(w, w->known[read].frame, &w->known[read]);
    }
    return DIFFERENT;
}

/* Steps U, T, D and the checks, once.  walk->raw gets the frames, most recent first; *agreed: how many of them, from
   the root up, are certain even if the whole is not. */
static enum outcome sandwich(struct fp_walk *w, fp_addr tstate, uint32_t *agreed)
{
    fp_addr cframe, cframe_again;
    uint32_t at, frames = 0;

    *agreed = 0;
    uint64_t start = __builtin_ia32_rdtsc();
    enum outcome outcome = read_up(w, tstate, &cframe, &at, &frames);
    if (outcome != CONFIRMED) {
        w->n_raw = 0;
        return outcome;
    }
    uint32_t n = at + 1;
    uint32_t upper = n < TOP_FRAMES ? n : TOP_FRAMES;
    for (uint32_t i = 0; i < upper; i++)
        fp_raw_read(w, w->known[at - i].frame, &w->raw[i]);
    bool stands = top_stands(w, upper);
    for (uint32_t i = upper; i < n; i++)
        fp_raw_read(w, w->known[at - i].frame, &w->raw[i]);
    fp_addr top_again = fp_chain_top(w, tstate, &cframe_again);
    w->n_raw = n;
    if (too_slow(w, start, frames + n))
        return DIFFERENT;
    if (fp_reader_faulted(w->reader)) {
        w->n_known = 0;
        return DIFFERENT;
    }
    *agreed = agreeing(w, n);
    if (*agreed < n || w->raw[0].frame != top_again || cframe != cframe_again || !stands) {
        /* the top frames' instructions belong to a moment that is over */
        uint32_t below = n > TOP_FRAMES ? n - TOP_FRAMES : 0;
        *agreed = *agreed < below ? *agreed : below;
        return DIFFERENT;
    }
    return fp_chain_fits(w, cframe) ? CONFIRMED : MALFORMED;
}

/* What is certain when the whole could not be confirmed in time: the lower frames that stood still around a reading of
   the top.  A chain whose root is not a root is not certain at all. */
static void keep_agreed(struct fp_walk *w, fp_addr tstate)
{
    const struct fp_layout *l = &w->target->layout;
    uint32_t agreed = 0;
    for (int i = 0; i < LAST_TRIES && agreed == 0; i++)
        if (sandwich(w, tstate, &agreed) != DIFFERENT)
            agreed = 0;
    if (agreed > 0 && w->raw_complete && l->owner_entry >= 0 && !has_root(w))
        agreed = 0;
    for (uint32_t i = 0; i < agreed; i++)
        w->raw[i] = w->raw[w->n_raw - agreed + i];
    w->n_raw = agreed;
}

static void pause_1us(void)
{
    const struct timespec t = {0, 1000};
    nanosleep(&t, NULL);
}

enum fp_status fp_snapshot_read(struct fp_walk *w, fp_addr tstate)
{
    int64_t start = fp_now_ns(), now = start, malformed_since = 0;
    uint32_t agreed;

    if (fp_reader_is_slow(w->reader))
        return fp_standstill_read(w, tstate);
    w->n_known = 0;
    w->raw_complete = true;
    for (unsigned round = 0; round < 8 || now - start < BUDGET_NS; round++) {
        enum outcome outcome = sandwich(w, tstate, &agreed);
        if (outcome == CONFIRMED)
            return FP_OK;
        if (outcome == NO_FRAME)
            return FP_NO_FRAME;
        now = fp_now_ns();
        if (outcome != MALFORMED)
            malformed_since = 0;
        else if (malformed_since == 0)
            malformed_since = now;
        else if (now - malformed_since > MALFORMED_NS)
            pause_1us();
    }
    keep_agreed(w, tstate);
    return FP_CHANGED;
}
