/* faultproof_collect_call_stack() and faultproof_print_call_stack().  Any context. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"

static void unavailable(faultproof_frame_info *out)
{
    out->lineno = -1;
    out->filename_truncated = out->name_truncated = 0;
    out->filename[0] = out->name[0] = '\0';
}

/* Fills the record of a frame; false if something of it can't be read. */
static bool frame_info(struct fp_walk *w, const struct fp_raw *raw, faultproof_frame_info *out)
{
    const struct fp_layout *l = &w->target->layout;
    bool cut = false, name_cut = false;
    int32_t lasti;

    unavailable(out);
    if (!fp_type_is(w, raw->code, w->target->code_type))
        return false;
    bool whole = fp_frame_offset(w, raw, &lasti);
    fp_addr file = fp_load64(w->reader, raw->code + (fp_addr)l->code_filename);
    fp_addr name = fp_load64(w->reader, raw->code + (fp_addr)l->code_name);
    if (fp_reader_faulted(w->reader))
        return false;
    if (whole)
        out->lineno = fp_frame_line(w, raw, lasti);
    if (out->lineno <= 0)
        out->lineno = -1;
    whole &= fp_text_copy(w, file, out->filename, sizeof(out->filename), &cut) == FP_OK;
    whole &= fp_text_copy(w, name, out->name, sizeof(out->name), &name_cut) == FP_OK;
    out->filename_truncated = cut;
    out->name_truncated = name_cut;
    return whole;
}

/* A frame of the code object that the record before is of: only the line may differ. */
static void frame_info_again(struct fp_walk *w, const struct fp_raw *raw, const faultproof_frame_info *before,
                             bool same_line, faultproof_frame_info *out)
{
    int32_t lasti, line = before->lineno;
    if (!same_line)
        line = fp_frame_offset(w, raw, &lasti) ? fp_frame_line(w, raw, lasti) : -1;
    out->lineno = line > 0 ? line : -1;
    out->filename_truncated = before->filename_truncated;
    out->name_truncated = before->name_truncated;
    memcpy(out->filename, before->filename, strlen(before->filename) + 1);
    memcpy(out->name, before->name, strlen(before->name) + 1);
}

/* 3.11, 3.12: whether frames are linked otherwise than between two instructions of Python code (elsewhere they never
   are: such a chain is a damaged one).  The numbers that tell it are written into the caller's array, which has room
   for more of them than max, but the alignment of int. */
static bool is_in_the_making(struct fp_walk *w, fp_addr tstate, faultproof_frame_info *frames, int max)
{
    _Static_assert(sizeof(faultproof_frame_info) >= sizeof(faultproof_frame) + 8, "room to align");
    if (w->target->layout.frame_kind != FP_FRAME_CFRAME)
        return false;
    uintptr_t start = ((uintptr_t)frames + 7) & ~(uintptr_t)7;
    int n = fp_collect_still(w, tstate, (faultproof_frame *)start, max);
    __asm__ volatile("" ::: "memory"); /* what is written there next is of another type: it must not come first */
    return n == FAULTPROOF_TORN;
}

/* A thread that stands still: frame by frame, as far as there are frames.  Whether they are linked as frames are is
   found out first; if not, there is one frame, not available.
   Where frames lead to memory that can't be read, such a frame is the last. */
static int info_still(struct fp_walk *w, fp_addr tstate, faultproof_frame_info *frames, int max)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr cframe, frame = fp_chain_top(w, tstate, &cframe);
    struct fp_raw raw, last = {0};
    int64_t bad_since = 0;
    int n = 0;

    if (is_in_the_making(w, tstate, frames, max)) {
        unavailable(&frames[0]);
        return 1;
    }
    for (uint32_t hidden = 0; frame != 0 && n < max && !fp_hidden_too_many(hidden, (uint32_t)n);) {
        fp_raw_read(w, frame, &raw);
        if (fp_reader_faulted(w->reader) || ((frame | raw.previous) & 7) != 0 ||
            (l->owner_max >= 0 && raw.owner > l->owner_max)) {
            unavailable(&frames[n++]);
            break;
        }
        frame = raw.previous;
        if (fp_raw_hidden(w, &raw)) {
            hidden++;
            continue;
        }
        if (n > 0 && raw.code == last.code)
            frame_info_again(w, &raw, &frames[n - 1], l->instr_kind == FP_INSTR_POINTER && raw.instr == last.instr,
                             &frames[n]);
        else if (!frame_info(w, &raw, &frames[n])) {
            /* each load that fails costs a signal: a chain that leads through other memory ends in time */
            int64_t now = fp_now_ns();
            bad_since = bad_since != 0 ? bad_since : now;
            if (now - bad_since > FP_API_BUDGET_NS)
                break;
        }
        last = raw;
        n++;
    }
    (void)fp_reader_faulted(w->reader);
    return n;
}

static bool equal_info(const faultproof_frame_info *a, const faultproof_frame_info *b)
{
    return a->lineno == b->lineno && strcmp(a->filename, b->filename) == 0 && strcmp(a->name, b->name) == 0;
}

/* Decodes the chain that was read, and then once more; a slow reader looks between the two whether it still is that
   chain.  True if all is the same; what isn't becomes unavailable, and so does one record for the frames on top that
   were never read alike.  *n is -1 where nothing is certain. */
static bool decode_twice(struct fp_walk *w, fp_addr tstate, enum fp_status status, faultproof_frame_info *frames,
                         int max, int *n)
{
    bool topless = status == FP_CHANGED, whole = !topless;
    *n = topless;
    if (topless)
        unavailable(&frames[0]);
    for (uint32_t i = 0; i < w->n_raw && *n < max; i++)
        if (!fp_raw_hidden(w, &w->raw[i]))
            whole &= frame_info(w, &w->raw[i], &frames[(*n)++]);
    if (fp_reader_is_slow(w->reader) && !fp_standstill_holds(w, tstate, status)) {
        *n = -1;
        return false;
    }
    for (uint32_t i = 0, at = topless; i < w->n_raw && at < (uint32_t)*n; i++) {
        faultproof_frame_info again;
        if (fp_raw_hidden(w, &w->raw[i]))
            continue;
        if (!frame_info(w, &w->raw[i], &again) || !equal_info(&again, &frames[at])) {
            whole = false;
            unavailable(&frames[at]);
        }
        at++;
    }
    return whole;
}

static int info_moving(struct fp_walk *w, const struct fp_state *state, faultproof_frame_info *frames, int max)
{
    struct fp_scratch *s = fp_scratch_take();
    int64_t start = fp_now_ns();
    enum fp_status status;
    bool whole = false;
    int n = -1;

    if (s == NULL)
        return -1;
    w->raw = s->raw;
    w->known = s->known;
    w->exact = false;
    do {
        status = fp_snapshot_read(w, state->tstate);
        if (status == FP_OK || status == FP_CHANGED)
            whole = decode_twice(w, state->tstate, status, frames, max, &n);
    } while (!whole && status != FP_NO_FRAME && fp_now_ns() - start < FP_API_BUDGET_NS);
    fp_scratch_give(s);
    (void)fp_reader_faulted(w->reader);
    if (status == FP_NO_FRAME || !fp_state_alive(w, state))
        return -1;
    if (n < 0) { /* there are frames, but no reading was whole */
        unavailable(&frames[0]);
        n = 1;
    }
    return n > 0 ? n : -1;
}

int faultproof_collect_call_stack(struct _ts *tstate, faultproof_frame_info *frames, int max_frames)
{
    struct fp_call c;
    struct fp_state state;
    faultproof_frame_info one;
    int n = -1;

    if (frames == NULL || tstate == NULL || max_frames < 0 || fp_call_begin(&c, NULL) != FP_OK)
        return -1;
    faultproof_frame_info *to = max_frames > 0 ? frames : &one;
    int max = max_frames > 0 ? max_frames : 1;
    if (fp_state_find(&c.walk, (fp_addr)(uintptr_t)tstate, &state) == FP_OK)
        n = state.still ? info_still(&c.walk, state.tstate, to, max) : info_moving(&c.walk, &state, to, max);
    fp_call_end(&c);
    return n <= 0 ? -1 : max_frames == 0 ? 0 : n;
}

/* A line buffer on the stack, so that a line is one write(). */
struct line_buffer {
    int fd;
    bool failed;
    size_t used;
    char data[1280]; /* two strings of 500, and what is around them */
};

static void line_flush(struct line_buffer *b)
{
    for (size_t at = 0; at < b->used && !b->failed;) {
        ssize_t n = write(b->fd, b->data + at, b->used - at);
        if (n > 0)
            at += (size_t)n;
        else if (n == 0 || errno != EINTR)
            b->failed = true;
    }
    b->used = 0;
}

static void line_add(struct line_buffer *b, const char *text, size_t size)
{
    if (size > sizeof(b->data) - b->used)
        line_flush(b);
    memcpy(b->data + b->used, text, size);
    b->used += size;
}

#define LINE_LITERAL(buffer, literal) line_add(buffer, literal, sizeof(literal) - 1)

static void line_number(struct line_buffer *b, int number)
{
    char digits[12];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    line_add(b, digits + at, sizeof(digits) - at);
}

/* A string field: in quotes if asked for, ... if it was cut, ??? if it is empty. */
static void line_field(struct line_buffer *b, const char field[FAULTPROOF_STRSIZE], bool cut, bool quoted)
{
    if (field[0] == '\0') {
        LINE_LITERAL(b, "???");
        return;
    }
    if (quoted)
        LINE_LITERAL(b, "\"");
    line_add(b, field, strnlen(field, FAULTPROOF_STRSIZE));
    if (cut)
        LINE_LITERAL(b, "...");
    if (quoted)
        LINE_LITERAL(b, "\"");
}

static void print_frame(struct line_buffer *b, const faultproof_frame_info *f)
{
    LINE_LITERAL(b, "  File ");
    line_field(b, f->filename, f->filename_truncated, true);
    LINE_LITERAL(b, ", line ");
    if (f->lineno >= 0)
        line_number(b, f->lineno);
    else
        LINE_LITERAL(b, "???");
    LINE_LITERAL(b, " in ");
    line_field(b, f->name, f->name_truncated, false);
    LINE_LITERAL(b, "\n");
    line_flush(b);
}

void faultproof_print_call_stack(int fd, const faultproof_frame_info *frames, int n_frames, int write_header)
{
    struct line_buffer b = {.fd = fd, .failed = false, .used = 0};
    int saved = errno;
    if (write_header) {
        LINE_LITERAL(&b, "Stack (most recent call first):\n");
        line_flush(&b);
    }
    for (int i = 0; frames != NULL && i < n_frames && !b.failed; i++)
        print_frame(&b, &frames[i]);
    errno = saved;
}
