/* str objects as escaped ASCII.  Any context. */
#include <string.h>

#include "walk/walk.h"

enum { STAGE = 256, ESCAPED_MAX = 10 }; /* bytes copied at a time; length of \Uhhhhhhhh */

/* Are all 8 characters printable ASCII (0x20 to 0x7e)? */
static bool printable8(uint64_t word)
{
    const uint64_t ones = 0x0101010101010101, high = ones * 0x80;
    uint64_t below = (word - ones * 0x20) & ~word; /* sets the high bit where a byte is below 0x20 */
    uint64_t del = word ^ ones * 0x7f;
    return ((word | below | ((del - ones) & ~del)) & high) == 0;
}

static char *escape(char *out, uint32_t c)
{
    static const char digits[] = "0123456789abcdef";
    int width = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
    if (c >= ' ' && c < 0x7f) {
        *out++ = (char)c;
        return out;
    }
    *out++ = '\\';
    *out++ = width == 2 ? 'x' : width == 4 ? 'u' : 'U';
    for (int shift = 4 * (width - 1); shift >= 0; shift -= 4)
        *out++ = digits[c >> shift & 15];
    return out;
}

static uint32_t character(const unsigned char *data, size_t index, unsigned width)
{
    uint16_t two;
    uint32_t four;
    if (width == 1)
        return data[index];
    if (width == 2) {
        memcpy(&two, data + 2 * index, 2);
        return two;
    }
    memcpy(&four, data + 4 * index, 4);
    return four;
}

/* Escapes n characters of `width` bytes; returns the end of what it wrote (at most ESCAPED_MAX * n bytes). */
static char *escape_all(char *out, const unsigned char *data, size_t n, unsigned width)
{
    size_t i = 0;
    for (; width == 1 && i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        if (!printable8(word))
            break;
        memcpy(out, &word, 8);
        out += 8;
    }
    for (; i < n; i++)
        out = escape(out, character(data, i, width));
    return out;
}

struct header {
    uint64_t length;
    uint64_t width; /* bytes a character: 1, 2, 4 */
    fp_addr data;
};

static enum fp_status header_read(struct fp_walk *w, fp_addr str, struct header *out)
{
    const struct fp_layout *l = &w->target->layout;
    uint32_t kind_mask = (uint32_t)l->str_state_kind;

    if (!fp_type_is(w, str, w->target->str_type)) {
        w->bad_address = str;
        return FP_UNREADABLE;
    }
    uint32_t state = fp_load32(w->reader, str + (fp_addr)l->str_state);
    out->length = fp_load64(w->reader, str + (fp_addr)l->str_length);
    bool ascii = (state & (uint32_t)l->str_state_ascii) != 0;
    out->width = (state & kind_mask) / (kind_mask & -kind_mask);
    out->data = str + (fp_addr)(ascii ? l->str_ascii_data : l->str_compact_data);
    bool sane = (state & (uint32_t)l->str_state_compact) != 0 && out->length <= INT64_MAX / 4 &&
                (out->width == 1 || out->width == 2 || out->width == 4);
    if (fp_reader_faulted(w->reader) || !sane) {
        w->bad_address = str;
        return FP_UNREADABLE;
    }
    return FP_OK;
}

uint64_t fp_text_evidence(struct fp_walk *w, fp_addr str, uint64_t hash)
{
    unsigned char stage[STAGE];
    struct header h;
    if (header_read(w, str, &h) != FP_OK)
        return 0;
    hash = fp_mix(hash, &h, sizeof(h));
    uint64_t left = (h.length < w->max_chars ? h.length : w->max_chars) * h.width;
    while (left > 0) {
        size_t n = left < STAGE ? (size_t)left : STAGE;
        if (!fp_read(w->reader, stage, h.data, n)) {
            (void)fp_reader_faulted(w->reader);
            return 0;
        }
        hash = fp_mix(hash, stage, n);
        h.data += n;
        left -= n;
    }
    return hash;
}

static enum fp_status text_read(struct fp_walk *w, fp_addr str, struct fp_text *out)
{
    unsigned char stage[STAGE];
    struct header h;
    enum fp_status status = header_read(w, str, &h);
    if (status != FP_OK)
        return status;
    uint64_t left = h.length < w->max_chars ? h.length : w->max_chars;
    char *start = w->arena + w->arena_used, *end = start;
    while (left > 0) {
        size_t n = left < STAGE / h.width ? (size_t)left : STAGE / h.width;
        size_t room = (size_t)(w->arena + FP_TEXT_ARENA - end) / ESCAPED_MAX;
        n = n < room ? n : room;
        if (n == 0)
            break;
        if (!fp_read(w->reader, stage, h.data, n * h.width)) {
            (void)fp_reader_faulted(w->reader);
            w->bad_address = h.data;
            return FP_UNREADABLE;
        }
        end = escape_all(end, stage, n, (unsigned)h.width);
        h.data += n * h.width;
        left -= n;
    }
    *out = (struct fp_text){start, (uint32_t)(end - start), h.length > w->max_chars || left > 0};
    w->arena_used = (uint32_t)(end - w->arena);
    return FP_OK;
}

enum fp_status fp_text_read(struct fp_walk *w, fp_addr str, struct fp_text *out)
{
    struct fp_text_slot *slot = &w->slots[(str >> 4 ^ str >> 11) % FP_TEXT_SLOTS];
    if (w->exact && slot->object == str && slot->generation == w->generation) {
        *out = slot->text;
        return FP_OK;
    }
    *out = (struct fp_text){NULL, 0, false};
    enum fp_status status = text_read(w, str, out);
    if (status == FP_OK && w->exact)
        *slot = (struct fp_text_slot){str, w->generation, *out};
    return status;
}

/* A string that is being written into a buffer of limited size. */
struct bounded {
    char *end;
    size_t room; /* bytes, without the terminator */
    bool cut;
};

static void bounded_put(struct bounded *b, uint32_t c)
{
    size_t need = c >= ' ' && c < 0x7f ? 1 : c < 0x100 ? 4 : c < 0x10000 ? 6 : ESCAPED_MAX;
    b->cut = need > b->room;
    if (b->cut)
        return;
    b->end = escape(b->end, c);
    b->room -= need;
}

/* Escapes n characters of `width` bytes, until the buffer is full. */
static void bounded_put_all(struct bounded *b, const unsigned char *data, size_t n, unsigned width)
{
    for (size_t i = 0; i < n && !b->cut;) {
        uint64_t word = 0;
        if (width == 1 && i + 8 <= n && b->room >= 8)
            memcpy(&word, data + i, 8);
        if (word != 0 && printable8(word)) {
            memcpy(b->end, &word, 8);
            b->end += 8;
            b->room -= 8;
            i += 8;
        }
        else {
            bounded_put(b, character(data, i++, width));
        }
    }
}

enum fp_status fp_text_copy(struct fp_walk *w, fp_addr str, char *out, size_t size, bool *cut)
{
    unsigned char stage[STAGE];
    struct bounded b = {out, size - 1, false};
    struct header h;

    *out = '\0';
    *cut = false;
    enum fp_status status = header_read(w, str, &h);
    if (status != FP_OK)
        return status;
    for (uint64_t left = h.length; left > 0 && !b.cut;) {
        size_t n = left < STAGE / h.width ? (size_t)left : STAGE / h.width;
        if (!fp_read(w->reader, stage, h.data, n * h.width)) {
            (void)fp_reader_faulted(w->reader);
            w->bad_address = h.data;
            *out = '\0';
            return FP_UNREADABLE;
        }
        bounded_put_all(&b, stage, n, (unsigned)h.width);
        h.data += n * h.width;
        left -= n;
    }
    *b.end = '\0';
    *cut = b.cut;
    return FP_OK;
}
