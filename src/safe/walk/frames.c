/* The frame chain of a thread that stands still.  Any context. */
#include "walk/walk.h"

bool fp_raw_hidden(const struct fp_walk *w, const struct fp_raw *raw)
{
    int32_t entry = w->target->layout.owner_entry;
    return entry >= 0 && raw->owner >= entry;
}

enum { SPAN_MAX = 128 };

/* All that a record needs of a frame lies in its first `size` bytes. */
static size_t span_size(const struct fp_layout *l)
{
    const int32_t ends[] = {l->frame_previous + 8, l->frame_code + 8, l->frame_instr + 8, l->frame_owner + 1,
                            l->frame_is_entry + 1};
    int32_t size = 0;
    for (size_t i = 0; i < FP_COUNT(ends); i++)
        size = ends[i] > size ? ends[i] : size;
    return (size_t)size;
}

void fp_raw_read_slowly(struct fp_walk *w, fp_addr frame, struct fp_raw *out)
{
    const struct fp_layout *l = &w->target->layout;
    unsigned char span[SPAN_MAX];
    size_t size = span_size(l);
    uint32_t lasti;

    *out = (struct fp_raw){.frame = frame};
    if (size > sizeof(span) || !fp_read(w->reader, span, frame, size)) {
        w->reader->fault = 1;
        return;
    }
    memcpy(&out->previous, span + l->frame_previous, 8);
    memcpy(&out->code, span + l->frame_code, 8);
    out->code &= ~(fp_addr)l->frame_code_tag;
    if (l->instr_kind == FP_INSTR_POINTER) {
        memcpy(&out->instr, span + l->frame_instr, 8);
        out->owner = span[l->frame_owner];
        out->is_entry = l->frame_is_entry >= 0 ? span[l->frame_is_entry] : 0;
    }
    else {
        memcpy(&lasti, span + l->frame_instr, 4);
        out->instr = lasti;
    }
}

fp_addr fp_chain_top(struct fp_walk *w, fp_addr tstate, fp_addr *cframe)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr top = fp_load64(w->reader, tstate + (fp_addr)l->tstate_frame);
    *cframe = 0;
    if (l->frame_kind == FP_FRAME_CFRAME && top != 0) {
        *cframe = top;
        top = fp_load64(w->reader, top + (fp_addr)l->cframe_current);
    }
    return top;
}

bool fp_has_no_frame(fp_addr tstate, fp_addr top, fp_addr cframe)
{
    enum { TSTATE_SIZE_MAX = 4096 };
    return top == 0 && (cframe == 0 || cframe - tstate < TSTATE_SIZE_MAX);
}

/* Why a record can't be a frame; FP_OK if it can. */
static enum fp_status check(struct fp_walk *w, const struct fp_raw *raw)
{
    int32_t owner_max = w->target->layout.owner_max;
    if (fp_reader_faulted(w->reader)) {
        w->bad_address = raw->frame;
        return FP_UNREADABLE;
    }
    if (raw->frame % 8 != 0 || raw->previous % 8 != 0 || (owner_max >= 0 && raw->owner > owner_max)) {
        w->bad_address = raw->frame;
        return FP_NOT_A_FRAME;
    }
    return raw->previous == raw->frame ? FP_CYCLE : FP_OK;
}

enum fp_status fp_chain_read(struct fp_walk *w, fp_addr tstate, fp_addr from, uint32_t max)
{
    fp_addr cframe, frame = from ? from : fp_chain_top(w, tstate, &cframe);
    enum fp_status status = FP_OK;

    w->n_raw = 0;
    w->raw_complete = true;
    if (fp_reader_faulted(w->reader)) {
        w->bad_address = tstate;
        return FP_UNREADABLE;
    }
    max = max < FP_CHAIN_MAX ? max : FP_CHAIN_MAX;
    while (frame != 0) {
        if (w->n_raw == max) {
            w->raw_complete = false;
            break;
        }
        struct fp_raw *raw = &w->raw[w->n_raw];
        fp_raw_read(w, frame, raw);
        status = check(w, raw);
        if (status != FP_OK)
            break;
        w->n_raw++;
        frame = raw->previous;
    }
    return status;
}
