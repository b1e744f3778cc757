/* The three formats of line tables.  Any context.
 *
 * A table is read in pieces and scanned once, up to the entry that covers the instruction; a table of any size costs no
 * memory.  Formats: Objects/lnotab_notes.txt (3.9, 3.10), Objects/locations.md and PEP 657 (3.11 and later).
 */
#include "walk/walk.h"

enum { PIECE = 128 };

struct bytes {
    struct fp_walk *walk;
    fp_addr next;  /* address of the byte after the buffer */
    uint64_t left; /* bytes of the table after the buffer */
    uint32_t at, used;
    unsigned char buffer[PIECE];
};

static void bytes_init(struct bytes *b, struct fp_walk *w, fp_addr table, uint64_t size)
{
    b->walk = w;
    b->next = table;
    b->left = size;
    b->at = b->used = 0;
}

/* Makes sure that a byte is there; false at the end of the table or where it can't be read. */
static bool more(struct bytes *b)
{
    if (FP_LIKELY(b->at < b->used))
        return true;
    uint32_t n = b->left < PIECE ? (uint32_t)b->left : PIECE;
    if (n == 0)
        return false;
    if (!fp_read(b->walk->reader, b->buffer, b->next, n)) {
        (void)fp_reader_faulted(b->walk->reader);
        b->left = 0;
        return false;
    }
    b->next += n;
    b->left -= n;
    b->at = 0;
    b->used = n;
    return true;
}

static int take(struct bytes *b)
{
    return more(b) ? b->buffer[b->at++] : -1;
}

/* 3.9: pairs (bytecode delta, signed line delta); the line holds from where its pair's address is reached. */
static int32_t find_lnotab(struct bytes *b, int32_t line, int32_t lasti)
{
    int32_t address = 0;
    for (;;) {
        int delta = take(b), change = take(b);
        if (change < 0 || (address += delta) > lasti)
            return line;
        line += (int8_t)change;
    }
}

/* 3.10: pairs (bytecode delta, signed line delta) of ranges; a line delta of -128: no line. */
static int32_t find_310(struct bytes *b, int32_t line, int32_t lasti)
{
    int32_t end = 0;
    for (;;) {
        int delta = take(b), change = take(b);
        if (change < 0)
            return -1;
        bool none = (int8_t)change == -128;
        line += none ? 0 : (int8_t)change;
        end += delta;
        if (end > lasti)
            return none ? -1 : line;
    }
}

static int32_t take_signed_varint(struct bytes *b)
{
    uint32_t value = 0;
    unsigned shift = 0;
    int byte;
    do {
        byte = take(b);
        if (byte < 0)
            return 0;
        value |= (uint32_t)(byte & 63) << shift;
        shift += 6;
    } while (byte & 64 && shift < 30);
    return value & 1 ? -(int32_t)(value >> 1) : (int32_t)(value >> 1);
}

/* 3.11 and later: entries that start with a byte with bit 7 set: 4 bits code, 3 bits length in code units - 1.
   Codes 0 to 9: same line; 10 to 12: line + 0 to 2; 13 and 14: signed varint; 15: no line. */
static int32_t find_location(struct bytes *b, int32_t line, int32_t lasti)
{
    int32_t end = 0;
    while (more(b)) {
        unsigned head = b->buffer[b->at++], code = head >> 3 & 15;
        if (code >= 10 && code != 15)
            line += code <= 12 ? (int32_t)code - 10 : take_signed_varint(b);
        end += 2 * ((int32_t)(head & 7) + 1);
        if (end > lasti)
            return code == 15 ? -1 : line;
        while (more(b) && !(b->buffer[b->at] & 0x80))
            b->at++;
    }
    return -1;
}

int32_t fp_line_find(struct fp_walk *w, fp_addr table, uint64_t size, int32_t first_line, int32_t lasti)
{
    struct bytes b;
    if (lasti < 0)
        return first_line;
    bytes_init(&b, w, table, size);
    switch (w->target->layout.line_format) {
    case FP_LINES_LNOTAB:
        return find_lnotab(&b, first_line, lasti);
    case FP_LINES_310:
        return find_310(&b, first_line, lasti);
    default:
        return find_location(&b, first_line, lasti);
    }
}
