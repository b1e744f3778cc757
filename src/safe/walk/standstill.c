/* The frame chain of a thread that may run, read by system calls.
 *
 * These are so slow that the thread may go round a loop between any two of them, and stand anywhere again: two readings
 * that agree prove nothing (snapshot.c needs readings as quick as calls).  What is certain here:
 *
 *   - A chain that was read while another thread had the GIL and nobody took it: its thread stood still.
 *   - What READINGS of them, at irregular distances, all show.  If it never was so at any one moment, then each of them
 *     has mixed two moments in the same way; none of them is more likely to do that than not.
 *
 * Any context; spins for a microsecond between two readings.
 */
#include "walk/walk.h"

/* READINGS that are compared, among READINGS_MAX; after so many STRANGERS in a row they start anew. */
enum { READINGS = 32, READINGS_MAX = 6 * READINGS, STRANGERS = 4, SPIN_CYCLES = 8192, HOLDS_TRIES = 4 };

/* Who had the GIL last, and how many times it has gone to another thread state. */
struct turn {
    fp_addr holder;
    uint64_t switches;
};

/* False: the GIL doesn't tell who runs.  Up to 3.11 a thread may exchange its thread state for one of another
   interpreter without the GIL's knowledge. */
static bool whose_turn(struct fp_walk *w, fp_addr interp, struct turn *out)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr gil = fp_gil_of(w, interp);
    if (gil == 0)
        return false;
    out->holder = fp_load64(w->reader, gil + (fp_addr)l->gil_last_holder);
    out->switches = fp_load64(w->reader, gil + (fp_addr)l->gil_switches);
    if (l->runtime_tstate_current >= 0) {
        fp_addr current = fp_load64(w->reader, w->target->runtime + (fp_addr)l->runtime_tstate_current);
        if ((current != 0 && current != out->holder) || fp_interp_next(w, fp_interp_first(w)) != 0)
            return false;
    }
    return !fp_reader_faulted(w->reader) && out->holder != 0;
}

enum reading { WITHOUT_FRAME, TORN, READ, EXACT };

/* Reads the chain once, from the top. */
static enum reading read_once(struct fp_walk *w, fp_addr tstate)
{
    struct turn before, after;
    fp_addr cframe, cframe_again;
    fp_addr interp = fp_load64(w->reader, tstate + (fp_addr)w->target->layout.tstate_interp);
    bool tells = whose_turn(w, interp, &before) && before.holder != tstate;
    fp_addr top = fp_chain_top(w, tstate, &cframe);

    w->n_raw = 0;
    if (fp_reader_faulted(w->reader))
        return TORN;
    if (top == 0)
        return fp_has_no_frame(tstate, top, cframe) ? WITHOUT_FRAME : TORN;
    enum fp_status status = fp_chain_read(w, tstate, top, FP_CHAIN_MAX);
    if (status != FP_OK || w->n_raw == 0 || !fp_chain_fits(w, cframe))
        return TORN;
    if (fp_chain_top(w, tstate, &cframe_again) != top || cframe != cframe_again || fp_reader_faulted(w->reader))
        return READ;
    tells = tells && whose_turn(w, interp, &after);
    return tells && before.holder == after.holder && before.switches == after.switches ? EXACT : READ;
}

/* walk->known keeps the reading that the next ones are compared with, most recent first as in walk->raw. */
static void keep(struct fp_walk *w)
{
    memcpy(w->known, w->raw, w->n_raw * sizeof(w->raw[0]));
    w->n_known = w->n_raw;
}

/* How many frames, from the root up, are the same in walk->raw and in walk->known. */
static uint32_t alike(const struct fp_walk *w)
{
    uint32_t n = 0;
    while (n < w->n_raw && n < w->n_known &&
           fp_raw_same(&w->raw[w->n_raw - 1 - n], &w->known[w->n_known - 1 - n], false))
        n++;
    return n;
}

static void spin(void)
{
    uint64_t start = __builtin_ia32_rdtsc(), cycles = (start * 0x9e3779b97f4a7c15 >> 32) % SPIN_CYCLES;
    while (__builtin_ia32_rdtsc() - start < cycles)
        __builtin_ia32_pause();
}

/* Leaves in walk->raw the n frames from the root up of the reading that was kept. */
static void take_alike(struct fp_walk *w, uint32_t n)
{
    memcpy(w->raw, &w->known[w->n_known - n], n * sizeof(w->raw[0]));
    w->n_raw = n;
}

/* What the readings so far have in common. */
struct common {
    uint32_t counted, agreed; /* readings, and the frames from the root up that all of them have shown */
    uint32_t alike;           /* of these readings the last ones, which are alike as a whole */
    uint32_t strangers;       /* the last ones, which have nothing in common with these */
    bool complete;            /* walk->known reaches the root */
};

/* One more reading.  A thread may come to rest after some of them. */
static void compare(struct fp_walk *w, struct common *c)
{
    uint32_t n = alike(w);
    bool whole = n > 0 && n == w->n_known && n == w->n_raw;
    if (n == 0 && c->counted > 0 && ++c->strangers < STRANGERS)
        return;   /* it went astray, where frames were left under it */
    if (n == 0) { /* of another chain: nothing before counts */
        c->counted = 0;
        c->agreed = w->n_raw;
    }
    c->strangers = 0;
    c->counted++;
    c->alike = whole ? c->alike + 1 : 1;
    c->agreed = n > 0 && n < c->agreed ? n : c->agreed;
    if (!whole) {
        keep(w);
        c->complete = w->raw_complete;
    }
}

/* Has the thread moved in so many of the readings that it will go on? */
static bool keeps_moving(const struct common *c)
{
    return c->counted >= READINGS && c->alike < READINGS / 4;
}

enum fp_status fp_standstill_read(struct fp_walk *w, fp_addr tstate)
{
    struct common c = {0};

    w->n_known = 0;
    for (int round = 0; round < READINGS_MAX && c.alike < READINGS && fp_now_ns() <= w->deadline_ns; round++) {
        enum reading reading = read_once(w, tstate);
        if (reading == EXACT)
            return FP_OK;
        if (reading == WITHOUT_FRAME)
            return FP_NO_FRAME;
        if (reading == READ)
            compare(w, &c);
        if (keeps_moving(&c))
            break;
        spin();
    }
    w->raw_complete = c.complete;
    if (c.alike == READINGS) {
        take_alike(w, w->n_known);
        return FP_OK;
    }
    take_alike(w, c.counted >= READINGS ? c.agreed : 0);
    return FP_CHANGED;
}

static uint64_t chain_hash(const struct fp_walk *w)
{
    uint64_t hash = 0;
    for (uint32_t i = 0; i < w->n_raw; i++) {
        const struct fp_raw *raw = &w->raw[i];
        const uint64_t words[] = {raw->frame, raw->previous, raw->code, raw->instr};
        hash = fp_mix(hash, words, sizeof(words));
    }
    return hash;
}

/* A whole stack may be one moment's, and has to be proven again; frames that many readings have shown need only be
   there. */
bool fp_standstill_holds(struct fp_walk *w, fp_addr tstate, enum fp_status status)
{
    if (status == FP_OK) {
        uint64_t before = chain_hash(w);
        return fp_standstill_read(w, tstate) == FP_OK && chain_hash(w) == before;
    }
    uint32_t n = w->n_raw;
    enum reading reading = TORN;
    bool complete = w->raw_complete;
    keep(w);
    for (int round = 0; round < HOLDS_TRIES && reading == TORN; round++)
        reading = read_once(w, tstate);
    bool still = (reading == READ || reading == EXACT) && alike(w) == n;
    w->raw_complete = complete;
    take_alike(w, still ? n : 0);
    return still;
}
