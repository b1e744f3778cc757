/* Line and columns of an instruction, from the location table of 3.11 and later.  Any context.
 *
 * An entry begins with a byte with bit 7 set: 4 bits code, 3 bits length in code units - 1.  Codes 0 to 9: same line,
 * columns in one more byte; 10 to 12: line + 0 to 2, two column bytes; 13: no columns; 14: all as varints; 15: nothing
 * (Objects/locations.md, PEP 657).
 */
#include "api/api.h"

enum { POSITION_PIECE = 64 };

struct table {
    struct fp_reader *reader;
    fp_addr next;
    uint64_t left;
    uint32_t at, used;
    unsigned char buffer[POSITION_PIECE];
};

static int table_peek(struct table *t)
{
    if (t->at < t->used)
        return t->buffer[t->at];
    uint32_t n = t->left < POSITION_PIECE ? (uint32_t)t->left : POSITION_PIECE;
    if (n == 0)
        return -1;
    if (!fp_read(t->reader, t->buffer, t->next, n)) {
        (void)fp_reader_faulted(t->reader);
        t->left = 0;
        return -1;
    }
    t->next += n;
    t->left -= n;
    t->at = 0;
    t->used = n;
    return t->buffer[0];
}

static int table_take(struct table *t)
{
    int byte = table_peek(t);
    if (byte >= 0)
        t->at++;
    return byte;
}

static uint32_t table_varint(struct table *t)
{
    uint32_t value = 0;
    unsigned shift = 0;
    int byte;
    do {
        byte = table_take(t);
        if (byte < 0)
            return 0;
        value |= (uint32_t)(byte & 63) << shift;
        shift += 6;
    } while (byte & 64 && shift < 30);
    return value;
}

static int32_t table_signed(struct table *t)
{
    uint32_t value = table_varint(t);
    return value & 1 ? -(int32_t)(value >> 1) : (int32_t)(value >> 1);
}

/* One entry after its first byte; *line goes on. */
static void table_entry(struct table *t, unsigned code, int32_t *line, struct fp_position *p)
{
    p->column = p->end_column = -1;
    if (code < 10) {
        int byte = table_take(t);
        p->column = (int32_t)code * 8 + (byte >> 4 & 7);
        p->end_column = p->column + (byte & 15);
    }
    else if (code < 13) {
        *line += (int32_t)code - 10;
        p->column = table_take(t);
        p->end_column = table_take(t);
    }
    else if (code < 15) {
        *line += table_signed(t);
    }
    p->line = p->end_line = *line;
    if (code == 14) {
        p->end_line += (int32_t)table_varint(t);
        p->column = (int32_t)table_varint(t) - 1;
        p->end_column = (int32_t)table_varint(t) - 1;
    }
    if (code == 15)
        p->line = p->end_line = -1;
}

void fp_position_find(struct fp_reader *r, fp_addr table, uint64_t size, int32_t first_line, int32_t offset,
                      struct fp_position *out)
{
    struct table t = {.reader = r, .next = table, .left = size};
    int32_t line = first_line, end = 0;

    for (int head = table_take(&t); head >= 0; head = table_take(&t)) {
        struct fp_position p;
        table_entry(&t, (unsigned)head >> 3 & 15, &line, &p);
        end += 2 * ((head & 7) + 1);
        if (end > offset) {
            *out = p;
            return;
        }
        while (table_peek(&t) >= 0 && !(table_peek(&t) & 0x80))
            t.at++;
    }
    *out = (struct fp_position){-1, -1, -1, -1};
}
