/* The cursor over bytes of another place, and DWARF's encodings of numbers and pointers.  Any context. */
#include "unwind/bytes.h"

void fp_bytes_open(struct fp_bytes *b, struct fp_reader *reader, fp_addr at, fp_addr end)
{
    b->reader = reader;
    b->at = at;
    b->end = end;
    b->bad = at > end;
    b->window = at;
    b->n = 0;
}

static bool fill(struct fp_bytes *b)
{
    uint64_t left = b->end - b->at;
    uint32_t n = left < FP_BYTES_WINDOW ? (uint32_t)left : FP_BYTES_WINDOW;
    if (b->at >= b->end || !fp_read(b->reader, b->data, b->at, n)) {
        b->bad = true;
        return false;
    }
    b->window = b->at;
    b->n = n;
    return true;
}

uint8_t fp_bytes_u8(struct fp_bytes *b)
{
    if (b->bad || b->at >= b->end) {
        b->bad = true;
        return 0;
    }
    if (b->at - b->window >= b->n && !fill(b))
        return 0;
    return b->data[b->at++ - b->window];
}

uint64_t fp_bytes_unsigned(struct fp_bytes *b, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)fp_bytes_u8(b) << (8 * i);
    return value;
}

int64_t fp_bytes_signed(struct fp_bytes *b, uint32_t size)
{
    uint32_t unused = 64 - 8 * size;
    return (int64_t)(fp_bytes_unsigned(b, size) << unused) >> unused;
}

/* Bits past the 64th are dropped; a number of more than 16 bytes is bad. */
static uint64_t leb(struct fp_bytes *b, uint32_t *bits, uint8_t *last)
{
    uint64_t value = 0;
    uint32_t shift = 0;
    uint8_t byte;
    do {
        byte = fp_bytes_u8(b);
        if (shift < 64)
            value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
        if (shift > 7 * 16)
            b->bad = true;
    } while ((byte & 0x80) && !b->bad);
    *bits = shift;
    *last = byte;
    return value;
}

uint64_t fp_bytes_uleb(struct fp_bytes *b)
{
    uint32_t bits;
    uint8_t last;
    return leb(b, &bits, &last);
}

int64_t fp_bytes_sleb(struct fp_bytes *b)
{
    uint32_t bits;
    uint8_t last;
    uint64_t value = leb(b, &bits, &last);
    if ((last & 0x40) && bits < 64)
        value |= UINT64_MAX << bits;
    return (int64_t)value;
}

void fp_bytes_skip(struct fp_bytes *b, uint64_t n)
{
    if (b->bad || n > b->end - b->at)
        b->bad = true;
    else
        b->at += n;
}

static uint64_t number(struct fp_bytes *b, uint8_t form)
{
    switch (form) {
    case FP_PE_ABSPTR:
    case FP_PE_UDATA8:
    case FP_PE_SDATA8:
        return fp_bytes_unsigned(b, 8);
    case FP_PE_UDATA2:
        return fp_bytes_unsigned(b, 2);
    case FP_PE_UDATA4:
        return fp_bytes_unsigned(b, 4);
    case FP_PE_SDATA2:
        return (uint64_t)fp_bytes_signed(b, 2);
    case FP_PE_SDATA4:
        return (uint64_t)fp_bytes_signed(b, 4);
    case FP_PE_ULEB128:
        return fp_bytes_uleb(b);
    case FP_PE_SLEB128:
        return (uint64_t)fp_bytes_sleb(b);
    default:
        b->bad = true;
        return 0;
    }
}

uint64_t fp_bytes_pointer(struct fp_bytes *b, uint8_t encoding, fp_addr data)
{
    fp_addr place = b->at;
    uint64_t value = number(b, encoding & 0x0f);

    switch (encoding & 0x70) {
    case 0:
        break;
    case FP_PE_PCREL:
        value += place;
        break;
    case FP_PE_DATAREL:
        value += data;
        break;
    default:
        b->bad = true;
    }
    if ((encoding & FP_PE_INDIRECT) && !b->bad)
        value = fp_load64(b->reader, value);
    return value;
}
