/* The compact collector: code object, instruction and kind of each frame, nothing decoded.  Any context.
 *
 * The loop for a thread that stands still is compiled twice, for guarded loads and for all other readers; it needs no
 * memory but the caller's array.
 */
#include "api/api.h"

enum { OFFSET_MAX = 1 << 30, ROUNDS = 8 };

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
    enum { OWNED_BY_GENERATOR = 1 };
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

/* 3.11, 3.12: each entry frame has a _PyCFrame, and the one before that holds the frame below (see snapshot.c). */
static bool cframe_fits(struct fp_reader *r, const struct fp_layout *l, const struct fp_raw *raw, fp_addr *cframe)
{
    *cframe = fp_load64(r, *cframe + (fp_addr)l->cframe_previous);
    return fp_load64(r, *cframe + (fp_addr)l->cframe_current) == raw->previous;
}

/* The chain of a thread that stands still: the number of frames, or FAULTPROOF_TORN. */
static inline __attribute__((always_inline)) int
collect_chain(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames, int max_frames, const bool guarded)
{
    const struct fp_target *target = w->target;
    const struct fp_layout *l = &target->layout;
    struct fp_reader *r = w->reader;
    const bool cframes = l->frame_kind == FP_FRAME_CFRAME, rooted = l->frame_kind != FP_FRAME_HEAP;
    const int entry = l->owner_entry >= 0 ? l->owner_entry : 0x100, owner_max = l->owner_max >= 0 ? l->owner_max : 0xff;
    fp_addr cframe, frame;
    bool entered = true;
    uint64_t odd = 0;
    int n = 0;

    r->guarded = guarded;
    frame = fp_chain_top(w, tstate, &cframe);
    for (uint32_t links = 0; frame != 0 && n < max_frames && links < FP_DEPTH_MAX; links++) {
        struct fp_raw raw;
        fp_raw_read(w, frame, &raw);
        odd |= frame | raw.previous | raw.code;
        if (FP_UNLIKELY((odd & 7) != 0 || raw.owner > owner_max || r->fault != 0))
            return FAULTPROOF_TORN;
        entered = raw.owner >= entry || raw.is_entry != 0;
        if (cframes && entered && !cframe_fits(r, l, &raw, &cframe))
            return FAULTPROOF_TORN;
        if (FP_LIKELY(raw.owner < entry)) {
            if (FP_UNLIKELY(n == 0) && !fp_type_is(w, raw.code, target->code_type))
                return FAULTPROOF_TORN;
            record(r, l, &raw, fp_code_mix(r, l, raw.code), &frames[n++]);
        }
        frame = raw.previous;
    }
    if (fp_reader_faulted(r) || (frame == 0 && rooted && !entered))
        return FAULTPROOF_TORN;
    return n;
}

static __attribute__((noinline)) int collect_guarded(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames,
                                                     int max)
{
    return collect_chain(w, tstate, frames, max, true);
}

static __attribute__((noinline)) int collect_otherwise(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames,
                                                       int max)
{
    return collect_chain(w, tstate, frames, max, false);
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

/* A thread that runs.  Frames whose code object can't be told for certain have check 0. */
static int collect_running(struct fp_walk *w, const struct fp_state *state, faultproof_frame *frames, int max)
{
    struct fp_scratch *s = fp_scratch_take();
    int64_t start = fp_now_ns();
    uint32_t known = 0;
    int n = -1;
    enum fp_status status;

    if (s == NULL)
        return -1;
    w->raw = s->raw;
    w->known = s->known;
    w->exact = false;
    for (int round = 0; round < ROUNDS; round++) {
        status = fp_snapshot_read(w, state->tstate);
        if (status != FP_OK && status != FP_CHANGED)
            break;
        bool same = record_chain(w, s, &known, frames, &n, max);
        if ((status == FP_OK && same) || fp_now_ns() - start > FP_API_BUDGET_NS)
            break;
    }
    fp_scratch_give(s);
    (void)fp_reader_faulted(w->reader);
    return n > 0 && fp_state_alive(w, state) ? n : -1;
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
    int n = !state.still         ? collect_running(w, &state, frames, max)
            : w->reader->guarded ? collect_guarded(w, tstate, frames, max)
                                 : collect_otherwise(w, tstate, frames, max);
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
