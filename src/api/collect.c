/* The compact collector: code object, instruction and kind of each frame, nothing decoded.  Any context.
 *
 * The loop for a thread that stands still is compiled for each layout with guarded loads, and once for the other
 * readers and for layouts that aren't in the table; it needs no memory but the caller's array.
 */
#include "api/api.h"

enum { OFFSET_MAX = 1 << 30, ROUNDS = 8, OWNED_BY_GENERATOR = 1 /* FRAME_OWNED_BY_GENERATOR, 3.11 and later */ };

/* What an instruction is in bytes from the start of the code; -1: not started, or it can't be told. */
static inline int32_t offset_of(struct fp_reader *r, const struct fp_layout *l, const struct fp_raw *raw)
{
    if (l->instr_kind != FP_INSTR_POINTER) {
        int32_t lasti = (int32_t)raw->instr * (l->instr_kind == FP_INSTR_UNITS ? 2 : 1);
        return lasti < 0 ? -1 : lasti;
    }
    fp_addr start = raw->code + (fp_addr)l->code_adaptive;
    if (FP_UNLIKELY(l->code_tlbc >= 0)) {
        fp_addr array = fp_load64(r, raw->code + (fp_addr)l->code_tlbc);
        uint32_t index = fp_load32(r, raw->frame + (fp_addr)l->frame_tlbc_index);
        if (index != 0 && index < fp_load64(r, array))
            start = fp_load64(r, array + 8 + 8 * (fp_addr)index);
    }
    uint64_t offset = raw->instr - start;
    return offset < OFFSET_MAX ? (int32_t)offset : -1;
}

static inline uint32_t kind_of(struct fp_reader *r, const struct fp_layout *l, const struct fp_raw *raw)
{
    if (l->frame_gen >= 0)
        return fp_load64(r, raw->frame + (fp_addr)l->frame_gen) ? FAULTPROOF_KIND_GENERATOR : FAULTPROOF_KIND_FUNCTION;
    return raw->owner == OWNED_BY_GENERATOR ? FAULTPROOF_KIND_GENERATOR : FAULTPROOF_KIND_FUNCTION;
}

static inline void record(struct fp_reader *r, const struct fp_layout *l, const struct fp_raw *raw, uint32_t check,
                          faultproof_frame *out)
{
    out->code = raw->code;
    out->offset = offset_of(r, l, raw);
    out->check = check;
    out->kind = kind_of(r, l, raw);
    out->unused = 0;
}

/* What a chain has to be besides linked; looked at once, at its end. */
struct signs {
    fp_addr all;   /* addresses, or-ed: all are multiples of 8 */
    uint8_t owner; /* the greatest */
    bool entered;  /* the last frame is one by which the interpreter was entered */
    bool unlinked; /* it is an ordinary frame without a link: see has_root in snapshot.c */
    bool cframes;  /* no more entry frames than can be; 3.11, 3.12: each has its _PyCFrame (see snapshot.c) */
    bool unhashed; /* the check of some frame is of a name that has no hash yet */
};

/* Loads of the loop below: inline and guarded, or by the reader. */
struct loads {
    struct fp_reader *reader;
    bool guarded;
};

static inline __attribute__((always_inline)) uint64_t get64(struct loads in, fp_addr base, int32_t offset)
{
    fp_addr address = base + (fp_addr)offset;
    return in.guarded ? fp_guard_load64(&in.reader->fault, address) : fp_load64(in.reader, address);
}

static inline __attribute__((always_inline)) uint32_t get32(struct loads in, fp_addr base, int32_t offset)
{
    fp_addr address = base + (fp_addr)offset;
    return in.guarded ? fp_guard_load32(&in.reader->fault, address) : fp_load32(in.reader, address);
}

static inline __attribute__((always_inline)) uint8_t get8(struct loads in, fp_addr base, int32_t offset)
{
    fp_addr address = base + (fp_addr)offset;
    return in.guarded ? fp_guard_load8(&in.reader->fault, address) : fp_load8(in.reader, address);
}

typedef uint64_t __attribute__((may_alias)) word;

/* The chain of a thread that stands still, in which whatever is wrong shows at the end: bad memory reads as 0, which
   ends the chain.  Inlined into a copy for each layout, so that offsets and questions of version are constants. */
static inline __attribute__((always_inline)) int chain(struct loads in, const struct fp_layout *l, fp_addr frame,
                                                       fp_addr cframe, faultproof_frame *out, int max,
                                                       struct signs *signs)
{
    const bool marks = l->frame_is_entry >= 0; /* 3.11: entry frames are marked and shown; later known by their owner */
    const uint8_t entry = l->owner_entry >= 0 ? (uint8_t)l->owner_entry : 0xff;
    const faultproof_frame *const end = out + max;
    faultproof_frame *f = out;
    fp_addr all = frame;
    uint8_t greatest = 0, owner = 0;
    bool entered = true, cframes = true, unhashed = false;
    uint32_t hidden = 0;

    while (frame != 0 && f < end) {
        const fp_addr here = frame, code = get64(in, here, l->frame_code) & ~(fp_addr)l->frame_code_tag;
        uint32_t generator, version = 0;
        int32_t offset;

        frame = get64(in, here, l->frame_previous);
        all |= frame | code;
        if (l->frame_kind == FP_FRAME_HEAP) {
            offset = (int32_t)get32(in, here, l->frame_instr);
            if (l->instr_kind == FP_INSTR_UNITS)
                offset = offset * 2 | offset >> 31; /* -1 stays -1 */
            generator = get64(in, here, l->frame_gen) != 0;
        }
        else {
            const uint64_t instr = get64(in, here, l->frame_instr), distance = instr - code - (fp_addr)l->code_adaptive;
            owner = get8(in, here, l->frame_owner);
            offset = distance < OFFSET_MAX ? (int32_t)distance : -1;
            generator = owner & OWNED_BY_GENERATOR;
            greatest = owner > greatest ? owner : greatest;
            entered = marks ? get8(in, here, l->frame_is_entry) != 0 : owner >= entry;
            if (l->frame_kind == FP_FRAME_CFRAME && FP_UNLIKELY(entered)) {
                cframe = get64(in, cframe, l->cframe_previous);
                cframes &= get64(in, cframe, l->cframe_current) == frame;
            }
            if (!marks && FP_UNLIKELY(entered)) {
                /* what follows can't be the chain, and bad memory costs a signal a load */
                cframes &= !fp_hidden_too_many(++hidden, (uint32_t)(f - out));
                if (!cframes)
                    break;
                continue;
            }
            if (l->code_tlbc >= 0)
                offset = offset_of(in.reader, l, &(struct fp_raw){.frame = here, .code = code, .instr = instr});
            if (l->code_version >= 0)
                version = get32(in, code, l->code_version);
        }
        const uint32_t hash = get32(in, get64(in, code, l->code_name), FP_STR_HASH(l));
        if (FP_UNLIKELY(hash + 1 <= 1)) { /* no hash yet, or memory that can't be read, which is 0 */
            if (in.reader->fault)
                break; /* each further one would cost a signal */
            unhashed |= hash == FP_NOT_HASHED;
        }
        const uint32_t check = fp_code_mix(hash, get32(in, code, l->code_firstlineno), version);
        word *words = (word *)f++; /* {code, offset, check, kind, 0} in three stores instead of five */
        words[0] = code;
        words[1] = (uint64_t)check << 32 | (uint32_t)offset;
        words[2] = generator;
    }
    *signs = (struct signs){.all = all,
                            .owner = greatest,
                            .entered = entered || frame != 0 || l->frame_kind == FP_FRAME_HEAP,
                            .unlinked = owner == 0,
                            .cframes = cframes,
                            .unhashed = unhashed};
    return (int)(f - out);
}

/* One copy of the loop: a function of its own, so that what it needs stays in registers. */
#define CHAIN_COPY(name, guarded, layout)                                                                              \
    static __attribute__((noinline, aligned(64))) int name(struct fp_reader *r, const struct fp_layout *l,             \
                                                           fp_addr frame, fp_addr cframe, faultproof_frame *out,       \
                                                           int max, struct signs *s)                                   \
    {                                                                                                                  \
        (void)l;                                                                                                       \
        return chain((struct loads){r, guarded}, layout, frame, cframe, out, max, s);                                  \
    }
CHAIN_COPY(chain_any, r->guarded, l)

/* A copy for each row of the table, and the list of them as fp_target.row counts them. */
#define FP_DEBUG(minor, field, entry, plus)
#define FP_ROW(first, last, free_threaded, ...)                                                                        \
    static const struct fp_layout layout_##first##_##free_threaded = {__VA_ARGS__};                                    \
    CHAIN_COPY(chain_##first##_##free_threaded, true, &layout_##first##_##free_threaded)
#include "layout/tables.inc"
#undef FP_ROW
#define FP_ROW(first, last, free_threaded, ...) chain_##first##_##free_threaded,
static int (*const chain_of_row[])(struct fp_reader *, const struct fp_layout *, fp_addr, fp_addr, faultproof_frame *,
                                   int, struct signs *) = {
    chain_any,
#include "layout/tables.inc"
};
#undef FP_ROW
#undef FP_DEBUG

static int chain_of(struct fp_walk *w, fp_addr frame, fp_addr cframe, faultproof_frame *out, int max,
                    struct signs *signs)
{
    const struct fp_target *t = w->target;
    unsigned row = w->reader->guarded ? t->row : 0;
    return chain_of_row[row](w->reader, &t->layout, frame, cframe, out, max, signs);
}

/* 3.11, 3.12: nothing is there to show although there is a top or was one, or the top hasn't its link (snapshot.c). */
static bool is_in_the_making(struct fp_walk *w, fp_addr tstate, const faultproof_frame *frames, int n)
{
    struct fp_raw raw;
    fp_addr cframe, top;
    if (w->target->layout.frame_kind != FP_FRAME_CFRAME || (n > 0 && frames[0].offset >= 0))
        return false;
    top = fp_chain_top(w, tstate, &cframe);
    if (n == 0)
        return !fp_has_no_frame(tstate, top, cframe);
    fp_raw_read(w, top, &raw);
    return fp_link_is_stale(w, &raw);
}

/* Is the chain's last frame a root, as has_root in snapshot.c says it? */
static bool ends_in_root(const struct fp_layout *l, const struct signs *signs, const faultproof_frame *frames, int n)
{
    bool begun = n > 0 && frames[0].offset >= 0 && frames[0].kind == FAULTPROOF_KIND_FUNCTION;
    return signs->entered || (signs->unlinked && l->owner_entry >= 0 && (l->frame_kind == FP_FRAME_DIRECT || begun));
}

int fp_collect_still(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames, int max)
{
    const struct fp_layout *l = &w->target->layout;
    int32_t owner_max = l->owner_max;
    struct signs signs;
    fp_addr cframe, top = fp_chain_top(w, tstate, &cframe);

    int n = chain_of(w, top, cframe, frames, max, &signs);
    bool frames_only = signs.all % 8 == 0 && (owner_max < 0 || signs.owner <= owner_max);
    if (fp_reader_faulted(w->reader) || (top != 0 && !frames_only))
        return FP_CHAIN_BROKEN;
    if ((top != 0 && !(ends_in_root(l, &signs, frames, n) && signs.cframes)) || is_in_the_making(w, tstate, frames, n))
        return FAULTPROOF_TORN;
    /* a link that isn't written yet may lead round in a circle that is no chain, and max ends it */
    if (n > 0 && !(fp_type_is(w, frames[0].code, w->target->code_type) &&
                   fp_type_is(w, frames[n - 1].code, w->target->code_type)))
        return FP_CHAIN_BROKEN;
    for (int i = 0; FP_UNLIKELY(signs.unhashed) && i < n; i++)
        frames[i].check = fp_code_check(w, frames[i].code);
    return n;
}

/* What told a code object apart before the chain was read; 0: it was not looked at. */
static uint32_t check_before(const struct fp_scratch *s, uint32_t n, uint32_t from_root, fp_addr code)
{
    uint32_t likely = n - from_root;
    if (from_root <= n && s->codes[likely] == code)
        return s->checks[likely];
    for (uint32_t i = 0; i < n; i++)
        if (s->codes[i] == code)
            return s->checks[i];
    return 0;
}

/* Writes the chain that was read, and remembers its code objects.  True if each was the same one before and after. */
static bool record_chain(struct fp_walk *w, struct fp_scratch *s, uint32_t *known, faultproof_frame *frames, int *n,
                         int max)
{
    uint32_t before = *known;
    bool same = true;

    *n = 0;
    for (uint32_t i = 0; i < w->n_raw && *n < max; i++) {
        const struct fp_raw *raw = &w->raw[i];
        if (fp_raw_hidden(w, raw))
            continue;
        uint32_t check = fp_code_check(w, raw->code);
        if (check == 0 || check_before(s, before, w->n_raw - i, raw->code) != check) {
            same = false;
            check = 0;
        }
        record(w->reader, &w->target->layout, raw, check, &frames[(*n)++]);
    }
    for (uint32_t i = 0; i < w->n_raw; i++) {
        s->codes[i] = w->raw[i].code;
        s->checks[i] = fp_code_check(w, w->raw[i].code);
    }
    *known = w->n_raw;
    return same;
}

/* A thread that runs.  Frames whose code object can't be told for certain have check 0.  However long it takes, there
   are two readings: in the first no code object has been seen before. */
static int collect_running(struct fp_walk *w, const struct fp_state *state, faultproof_frame *frames, int max)
{
    struct fp_scratch *s = fp_scratch_take();
    int64_t start = fp_now_ns();
    uint32_t known = 0;
    int n = -1;
    enum fp_status status = FP_CHANGED;

    if (s == NULL)
        return -1;
    w->raw = s->raw;
    w->known = s->known;
    w->exact = false;
    for (int round = 0; round < ROUNDS; round++) {
        status = fp_snapshot_read(w, state->tstate);
        if (status != FP_OK && status != FP_CHANGED)
            break;
        bool same = record_chain(w, s, &known, frames, &n, max), slow = fp_reader_is_slow(w->reader);
        if ((status == FP_OK && same) || (round > 0 && fp_now_ns() - start > FP_API_BUDGET_NS))
            break;
        if (slow && status == FP_CHANGED)
            break; /* that was many readings already */
    }
    fp_scratch_give(s);
    (void)fp_reader_faulted(w->reader);
    if (status == FP_NO_FRAME || !fp_state_alive(w, state) || (status == FP_OK && n <= 0))
        return -1;
    return status == FP_OK ? n : FAULTPROOF_TORN;
}

static int collect_state(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames, int max)
{
    struct fp_state state;
    faultproof_frame one;
    const bool none = max == 0;

    if (fp_state_find(w, tstate, &state) != FP_OK)
        return -1;
    if (none) {
        frames = &one;
        max = 1;
    }
    int n = state.still ? fp_collect_still(w, tstate, frames, max) : collect_running(w, &state, frames, max);
    if (n == FP_CHAIN_BROKEN)
        n = FAULTPROOF_TORN;
    return n == 0 ? -1 : none && n > 0 ? 0 : n;
}

int faultproof_collect(const faultproof_session *session, struct _ts *tstate, faultproof_frame *frames, int max_frames)
{
    struct fp_call c;
    if (frames == NULL || tstate == NULL || max_frames < 0 || fp_call_begin(&c, session) != FP_OK)
        return -1;
    int n = collect_state(&c.walk, (fp_addr)(uintptr_t)tstate, frames, max_frames);
    fp_call_end(&c);
    return n;
}

int faultproof_collect_own(const faultproof_session *session, faultproof_frame *frames, int max_frames)
{
    struct fp_call c;
    if (frames == NULL || max_frames < 0 || fp_call_begin(&c, session) != FP_OK)
        return -1;
    fp_addr own = fp_state_own(&c.walk);
    int n = own != 0 ? collect_state(&c.walk, own, frames, max_frames) : -1;
    fp_call_end(&c);
    return n;
}
