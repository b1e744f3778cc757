/* The compact collector: code object, instruction and kind of each frame, nothing decoded.  Any context.
 *
 * The loop for a thread that stands still is compiled for each kind of frame with guarded loads, and once for the other
 * readers; it needs no memory but the caller's array.
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

/* Loads of the loop below: inline and guarded, or by the reader. */
struct loads {
    struct fp_reader *reader;
    bool guarded;
};

static inline __attribute__((always_inline)) uint64_t get64(struct loads in, fp_addr address)
{
    return in.guarded ? fp_guard_load64(&in.reader->fault, address) : fp_load64(in.reader, address);
}

static inline __attribute__((always_inline)) uint32_t get32(struct loads in, fp_addr address)
{
    return in.guarded ? fp_guard_load32(&in.reader->fault, address) : fp_load32(in.reader, address);
}

static inline __attribute__((always_inline)) uint8_t get8(struct loads in, fp_addr address)
{
    return in.guarded ? fp_guard_load8(&in.reader->fault, address) : fp_load8(in.reader, address);
}

/* What a chain has to be besides linked; looked at once, at its end. */
struct signs {
    fp_addr all;   /* addresses, or-ed: all are multiples of 8 */
    uint8_t owner; /* the greatest */
    bool entered;  /* the last frame is one by which the interpreter was entered */
    bool cframes;  /* 3.11, 3.12: each entry frame has its _PyCFrame (see snapshot.c) */
    bool unhashed; /* the check of some frame is of a name that has no hash yet */
};

typedef uint64_t __attribute__((may_alias)) word;

/* Offsets as the loop uses them, in locals: what it writes can't change those. */
struct chain_layout {
    fp_addr previous, code, instr, owner, is_entry, gen, start, version, name, line, hash, tag, cframe_previous,
        cframe_current;
    uint32_t scale; /* of the instruction, where it is a number */
    uint8_t entry;
    bool versions, copies;
};

static struct chain_layout chain_layout_of(const struct fp_layout *l)
{
    return (struct chain_layout){
        .previous = (fp_addr)l->frame_previous,
        .code = (fp_addr)l->frame_code,
        .instr = (fp_addr)l->frame_instr,
        .owner = (fp_addr)l->frame_owner,
        .is_entry = (fp_addr)l->frame_is_entry,
        .gen = (fp_addr)l->frame_gen,
        .start = (fp_addr)l->code_adaptive,
        .version = (fp_addr)l->code_version,
        .name = (fp_addr)l->code_name,
        .line = (fp_addr)l->code_firstlineno,
        .hash = (fp_addr)FP_STR_HASH(l),
        .tag = (fp_addr)l->frame_code_tag,
        .cframe_previous = (fp_addr)l->cframe_previous,
        .cframe_current = (fp_addr)l->cframe_current,
        .scale = l->instr_kind == FP_INSTR_UNITS ? 2 : 1,
        .entry = l->owner_entry >= 0 ? (uint8_t)l->owner_entry : 0xff,
        .versions = l->code_version >= 0,
        .copies = l->code_tlbc >= 0,
    };
}

/* The chain of a thread that stands still, in which whatever is wrong shows at the end: bad memory reads as 0, which
   ends the chain.  Inlined with constants: the way of loading, the kind of frame, and whether entry frames are marked
   and shown (3.11) or known by their owner and hidden. */
static inline __attribute__((always_inline)) int chain(struct loads in, const struct fp_layout *l, int kind, bool marks,
                                                       bool dense, fp_addr frame, fp_addr cframe, faultproof_frame *out,
                                                       int max, struct signs *signs)
{
    const struct chain_layout at = chain_layout_of(l);
    const faultproof_frame *const end = out + max;
    faultproof_frame *f = out;
    fp_addr all = 0;
    uint8_t greatest = 0;
    bool entered = true, cframes = true, unhashed = false;
    uint32_t hidden = 0;

    while (frame != 0 && f < end && hidden < FP_DEPTH_MAX) {
        const fp_addr here = frame, at_code = dense && kind == FP_FRAME_HEAP ? at.previous + 8 : at.code;
        const fp_addr code = get64(in, here + at_code) & ~(kind == FP_FRAME_DIRECT ? at.tag : 0);
        uint32_t check = 0, generator;
        int32_t offset;

        frame = get64(in, here + at.previous);
        all |= here | code;
        if (kind == FP_FRAME_HEAP) {
            offset = (int32_t)(get32(in, here + at.instr) * at.scale);
            offset = offset < 0 ? -1 : offset;
            generator = get64(in, here + (dense ? at.instr - 8 : at.gen)) != 0;
        }
        else {
            const bool pair = dense && marks;
            const uint32_t two = pair ? get32(in, here + at.is_entry) : 0;
            const uint64_t instr = get64(in, here + (pair ? at.previous + 8 : at.instr)),
                           distance = instr - (code + at.start);
            const uint8_t owner = pair ? (uint8_t)(two >> 8) : get8(in, here + at.owner);
            offset = distance < OFFSET_MAX ? (int32_t)distance : -1;
            generator = owner & OWNED_BY_GENERATOR;
            greatest = owner > greatest ? owner : greatest;
            entered = pair ? (two & 0xff) != 0 : marks ? get8(in, here + at.is_entry) != 0 : owner >= at.entry;
            if (kind == FP_FRAME_CFRAME && FP_UNLIKELY(entered)) {
                cframe = get64(in, cframe + at.cframe_previous);
                cframes &= get64(in, cframe + at.cframe_current) == frame;
            }
            if (!marks && FP_UNLIKELY(entered)) {
                hidden++;
                continue;
            }
            if (kind == FP_FRAME_DIRECT && FP_UNLIKELY(at.copies))
                offset = offset_of(in.reader, l, &(struct fp_raw){.frame = here, .code = code, .instr = instr});
            if (!marks && at.versions)
                check = get32(in, code + at.version);
        }
        if (FP_UNLIKELY(check == 0)) {
            fp_addr name = get64(in, code + at.name);
            uint32_t hash = get32(in, name + at.hash);
            check = fp_code_mix(hash, get32(in, code + at.line));
            unhashed |= hash == FP_NOT_HASHED;
        }
        word *words = (word *)f++; /* {code, offset, check, kind, 0} in three stores instead of five */
        words[0] = code;
        words[1] = (uint64_t)check << 32 | (uint32_t)offset;
        words[2] = generator;
    }
    *signs = (struct signs){all | frame, greatest, entered || frame != 0 || kind == FP_FRAME_HEAP, cframes, unhashed};
    return (int)(f - out);
}

/* Copies of the loop: each a function of its own, so that its offsets stay in registers. */
#define CHAIN_COPY(name, guarded, kind, marks, dense)                                                                  \
    static __attribute__((noinline, aligned(64))) int name(struct fp_reader *r, const struct fp_layout *l,             \
                                                           fp_addr frame, fp_addr cframe, faultproof_frame *out,       \
                                                           int max, struct signs *s)                                   \
    {                                                                                                                  \
        return chain((struct loads){r, guarded}, l, kind, marks, dense, frame, cframe, out, max, s);                   \
    }
CHAIN_COPY(chain_heap, true, FP_FRAME_HEAP, false, true)
CHAIN_COPY(chain_marks, true, FP_FRAME_CFRAME, true, true)
CHAIN_COPY(chain_cframe, true, FP_FRAME_CFRAME, false, false)
CHAIN_COPY(chain_direct, true, FP_FRAME_DIRECT, false, false)
CHAIN_COPY(chain_any, r->guarded, l->frame_kind, l->frame_is_entry >= 0, false)

static bool heap_is_dense(const struct fp_layout *l)
{
    return l->frame_code == l->frame_previous + 8 && l->frame_instr == l->frame_gen + 8;
}

static bool marks_are_dense(const struct fp_layout *l)
{
    return l->frame_instr == l->frame_previous + 8 && l->frame_owner == l->frame_is_entry + 1;
}

static int chain_of(struct fp_walk *w, fp_addr frame, fp_addr cframe, faultproof_frame *out, int max,
                    struct signs *signs)
{
    const struct fp_layout *l = &w->target->layout;
    if (w->reader->guarded && l->frame_kind == FP_FRAME_DIRECT)
        return chain_direct(w->reader, l, frame, cframe, out, max, signs);
    if (w->reader->guarded && l->frame_kind == FP_FRAME_CFRAME && l->frame_is_entry < 0)
        return chain_cframe(w->reader, l, frame, cframe, out, max, signs);
    if (w->reader->guarded && l->frame_kind == FP_FRAME_CFRAME && marks_are_dense(l))
        return chain_marks(w->reader, l, frame, cframe, out, max, signs);
    if (w->reader->guarded && l->frame_kind == FP_FRAME_HEAP && heap_is_dense(l))
        return chain_heap(w->reader, l, frame, cframe, out, max, signs);
    return chain_any(w->reader, l, frame, cframe, out, max, signs);
}

/* The number of frames, or FAULTPROOF_TORN. */
static int collect_still(struct fp_walk *w, fp_addr tstate, faultproof_frame *frames, int max)
{
    int32_t owner_max = w->target->layout.owner_max;
    struct signs signs;
    fp_addr cframe, top = fp_chain_top(w, tstate, &cframe);

    int n = chain_of(w, top, cframe, frames, max, &signs);
    bool fits = signs.all % 8 == 0 && signs.entered && signs.cframes && (owner_max < 0 || signs.owner <= owner_max);
    if (fp_reader_faulted(w->reader) || (top != 0 && !fits))
        return FAULTPROOF_TORN;
    if (n > 0 && !fp_type_is(w, frames[0].code, w->target->code_type))
        return FAULTPROOF_TORN;
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

/* A thread that runs.  Frames whose code object can't be told for certain have check 0. */
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
        bool same = record_chain(w, s, &known, frames, &n, max);
        if ((status == FP_OK && same) || fp_now_ns() - start > FP_API_BUDGET_NS)
            break;
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
    int n = state.still ? collect_still(w, tstate, frames, max) : collect_running(w, &state, frames, max);
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
