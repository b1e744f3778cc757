/* The three formats of line tables.  Any context.
 *
 * A table is read in pieces and scanned once, up to the entry that covers the instruction; a table of any size costs no
 * memory.  Formats: Objects/lnotab_notes.txt (3.9, 3.10), Objects/locations.md and PEP 657 (3.11 and later).
 */
#include <emmintrin.h>
#include <string.h>

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

/* The sum of two numbers of a table; one that is damaged may run over. */
static int32_t sum(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

/* 3.9: pairs (bytecode delta, signed line delta); the line holds from where its pair's address is reached. */
static int32_t find_lnotab(struct bytes *b, int32_t line, int32_t lasti)
{
    int32_t address = 0;
    for (;;) {
        int delta = take(b), change = take(b);
        if (change < 0 || (address = sum(address, delta)) > lasti)
            return line;
        line = sum(line, (int8_t)change);
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
        line = sum(line, none ? 0 : (int8_t)change);
        end = sum(end, delta);
        if (end > lasti)
            return none ? -1 : line;
    }
}

/* The zigzag varint at `at`, 6 bits a byte, least first, bit 6: more follows. */
static int32_t signed_varint(const unsigned char *at)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 30; shift += 6) {
        unsigned byte = *at++;
        value |= (uint32_t)(byte & 63) << shift;
        if (!(byte & 64))
            break;
    }
    return value & 1 ? -(int32_t)(value >> 1) : (int32_t)(value >> 1);
}

struct location {
    int32_t line, end; /* of the last entry: its line, the byte offset where it ends */
    bool none;         /* it has no line */
};

/* Takes the entries that start where `starts` has a bit set; true when one reaches beyond lasti. */
static bool take_entries(struct location *l, const unsigned char *p, uint32_t starts, int32_t lasti)
{
    for (; starts != 0; starts &= starts - 1) {
        const unsigned char *head = p + __builtin_ctz(starts);
        unsigned code = *head >> 3 & 15;
        if (code >= 10 && code != 15)
            l->line = sum(l->line, code <= 12 ? (int32_t)code - 10 : signed_varint(head + 1));
        l->end = sum(l->end, 2 * ((*head & 7) + 1));
        l->none = code == 15;
        if (l->end > lasti)
            return true;
    }
    return false;
}

/* The entries that start in p[0 .. n - 1]; 16 bytes at a time, and at once where no line changes among them. */
static bool scan(struct location *l, const unsigned char *p, uint32_t n, int32_t lasti)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(p + i));
        uint32_t starts = (uint32_t)_mm_movemask_epi8(bytes);
        if (n - i < 16)
            starts &= ((uint32_t)1 << (n - i)) - 1;
        __m128i is_start = _mm_cmpgt_epi8(_mm_setzero_si128(), bytes);
        __m128i code = _mm_and_si128(bytes, _mm_set1_epi8(0x78));
        uint32_t moves = (uint32_t)_mm_movemask_epi8(_mm_cmpgt_epi8(code, _mm_set1_epi8(0x4f)));
        __m128i units = _mm_add_epi8(_mm_and_si128(bytes, _mm_set1_epi8(7)), _mm_set1_epi8(1));
        __m128i sums = _mm_sad_epu8(_mm_and_si128(units, is_start), _mm_setzero_si128());
        int32_t bytes_covered = 2 * (_mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4));
        if ((moves & starts) == 0 && n - i >= 16 && sum(l->end, bytes_covered) <= lasti)
            l->end = sum(l->end, bytes_covered);
        else if (take_entries(l, p + i, starts, lasti))
            return true;
    }
    return false;
}

/* 3.11 and later: entries that start with a byte with bit 7 set: 4 bits code, 3 bits length in code units - 1.
   Codes 0 to 9: same line; 10 to 12: line + 0 to 2; 13 and 14: signed varint; 15: no line. */
static int32_t find_location(struct fp_walk *w, fp_addr table, uint64_t size, int32_t line, int32_t lasti)
{
    enum { MARGIN = 8 }; /* at least the bytes of a varint: an entry is taken with what follows it in the buffer */
    unsigned char buffer[PIECE + 16] = {0};
    struct location l = {line, 0, true};

    while (size > 0) {
        uint32_t n = size < PIECE ? (uint32_t)size : PIECE;
        uint32_t usable = n == size ? n : n - MARGIN;
        if (!fp_read(w->reader, buffer, table, n)) {
            (void)fp_reader_faulted(w->reader);
            return -1;
        }
        memset(buffer + n, 0, 16);
        if (scan(&l, buffer, usable, lasti))
            return l.none ? -1 : l.line;
        table += usable;
        size -= usable;
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
        return find_location(w, table, size, first_line, lasti);
    }
}
