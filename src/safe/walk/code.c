/* From a frame to its file, line and name.  Any context. */
#include "walk/walk.h"

/* TABLE_SEEN: bytes of a line table that evidence looks at. */
enum { TABLE_PIECE = 256, TABLE_SEEN = 4096 };

bool fp_frame_offset(struct fp_walk *w, const struct fp_raw *raw, int32_t *lasti)
{
    const struct fp_layout *l = &w->target->layout;
    uint64_t size;

    if (l->instr_kind != FP_INSTR_POINTER) {
        int32_t scale = l->instr_kind == FP_INSTR_UNITS ? 2 : 1;
        fp_addr code = fp_load64(w->reader, raw->code + (fp_addr)l->code_bytes);
        size = fp_load64(w->reader, code + (fp_addr)l->var_size);
        int64_t offset = (int64_t)(int32_t)raw->instr * scale;
        *lasti = (int32_t)offset;
        return offset >= -2 && size < INT32_MAX && offset < (int64_t)size;
    }
    size = 2 * fp_load64(w->reader, raw->code + (fp_addr)l->code_size);
    int64_t offset = (int64_t)(raw->instr - (raw->code + (fp_addr)l->code_adaptive));
    if (l->code_tlbc >= 0) {
        fp_addr array = fp_load64(w->reader, raw->code + (fp_addr)l->code_tlbc);
        uint32_t index = fp_load32(w->reader, raw->frame + (fp_addr)l->frame_tlbc_index);
        if (index != 0 && index < fp_load64(w->reader, array))
            offset = (int64_t)(raw->instr - fp_load64(w->reader, array + 8 + 8 * (fp_addr)index));
    }
    *lasti = (int32_t)offset;
    return offset >= -2 && offset < (int64_t)size && size < INT32_MAX;
}

/* 3.9: f_lineno while the frame is traced; 3.10: f_lineno unless 0.  0: look into the line table. */
static int32_t line_of_frame(struct fp_walk *w, const struct fp_raw *raw)
{
    const struct fp_layout *l = &w->target->layout;
    if (l->frame_lineno < 0)
        return 0;
    if (l->instr_kind == FP_INSTR_BYTES && fp_load64(w->reader, raw->frame + (fp_addr)l->frame_trace) == 0)
        return 0;
    return (int32_t)fp_load32(w->reader, raw->frame + (fp_addr)l->frame_lineno);
}

int32_t fp_frame_line(struct fp_walk *w, const struct fp_raw *raw, int32_t lasti)
{
    const struct fp_layout *l = &w->target->layout;
    int32_t line = line_of_frame(w, raw);
    if (line > 0)
        return line;
    int32_t first = (int32_t)fp_load32(w->reader, raw->code + (fp_addr)l->code_firstlineno);
    fp_addr table = fp_load64(w->reader, raw->code + (fp_addr)l->code_linetable);
    if (!fp_type_is(w, table, w->target->bytes_type))
        return -1;
    uint64_t size = fp_load64(w->reader, table + (fp_addr)l->var_size);
    if (fp_reader_faulted(w->reader) || size > INT32_MAX)
        return -1;
    return fp_line_find(w, table + (fp_addr)l->bytes_data, size, first, lasti);
}

uint64_t fp_frame_key(struct fp_walk *w, const struct fp_raw *raw)
{
    if (w->target->layout.instr_kind == FP_INSTR_POINTER)
        return raw->instr;
    uint64_t line = (uint32_t)line_of_frame(w, raw);
    return raw->instr | line << 32;
}

/* Room for the next frame's texts: what was remembered goes when the arena is full, or when it may have changed. */
static void make_room(struct fp_walk *w)
{
    uint32_t most = w->max_chars < FP_TEXT_ARENA / 20 ? 20 * w->max_chars : FP_TEXT_ARENA; /* two texts, escaped */
    if (w->exact && w->arena_used + most <= FP_TEXT_ARENA)
        return;
    w->arena_used = 0;
    w->generation++;
}

void fp_frame_decode(struct fp_walk *w, const struct fp_raw *raw, struct fp_frame *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    *out = (struct fp_frame){.code = raw->code, .lasti = -1, .line = -1};
    make_room(w);
    if (!fp_type_is(w, raw->code, w->target->code_type)) {
        w->bad_address = raw->code;
        out->status = FP_NOT_A_CODE;
        return;
    }
    bool inside = fp_frame_offset(w, raw, &out->lasti);
    fp_addr file = fp_load64(r, raw->code + (fp_addr)l->code_filename);
    fp_addr name = fp_load64(r, raw->code + (fp_addr)l->code_name);
    if (fp_reader_faulted(r)) {
        w->bad_address = raw->code;
        out->status = FP_UNREADABLE;
        return;
    }
    out->status = inside ? FP_OK : FP_NOT_A_FRAME;
    if (inside)
        out->line = fp_frame_line(w, raw, out->lasti);
    enum fp_status got = fp_text_read(w, file, &out->file);
    enum fp_status got_name = fp_text_read(w, name, &out->name);
    if (out->status == FP_OK)
        out->status = got != FP_OK ? got : got_name;
}

static uint64_t table_evidence(struct fp_walk *w, fp_addr table, uint64_t hash)
{
    const struct fp_layout *l = &w->target->layout;
    unsigned char piece[TABLE_PIECE];
    if (!fp_type_is(w, table, w->target->bytes_type))
        return 0;
    uint64_t size = fp_load64(w->reader, table + (fp_addr)l->var_size);
    hash = fp_mix(hash, &size, sizeof(size));
    size = size < TABLE_SEEN ? size : TABLE_SEEN;
    for (fp_addr at = table + (fp_addr)l->bytes_data; size > 0;) {
        size_t n = size < TABLE_PIECE ? (size_t)size : TABLE_PIECE;
        if (!fp_read(w->reader, piece, at, n))
            break;
        hash = fp_mix(hash, piece, n);
        at += n;
        size -= n;
    }
    return fp_reader_faulted(w->reader) ? 0 : hash;
}

uint64_t fp_frame_evidence(struct fp_walk *w, const struct fp_raw *raw)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;
    int32_t lasti;

    if (!fp_type_is(w, raw->code, w->target->code_type) || !fp_frame_offset(w, raw, &lasti))
        return 0;
    const uint64_t head[] = {
        raw->code,
        fp_frame_key(w, raw),
        (uint32_t)lasti,
        fp_load64(r, raw->code + (fp_addr)l->code_filename),
        fp_load64(r, raw->code + (fp_addr)l->code_name),
        fp_load32(r, raw->code + (fp_addr)l->code_firstlineno),
        fp_load64(r, raw->code + (fp_addr)l->code_linetable),
    };
    if (fp_reader_faulted(r))
        return 0;
    uint64_t hash = fp_mix(0, head, sizeof(head));
    hash = fp_text_evidence(w, head[3], hash);
    hash = hash ? fp_text_evidence(w, head[4], hash) : 0;
    return hash ? table_evidence(w, head[6], hash) : 0;
}
