/* A cursor over bytes that are read through a reader, some at a time, and the encodings of DWARF.  Any context.
 * A read past the end or of bad memory yields 0 and sets `bad`, which stays set: it is checked once, at the end. */
#ifndef FP_BYTES_H
#define FP_BYTES_H

#include "reader/reader.h"

enum { FP_BYTES_WINDOW = 128 };

struct fp_bytes {
    struct fp_reader *reader;
    fp_addr at, end;
    bool bad;
    fp_addr window; /* address of data[0] */
    uint32_t n;     /* bytes in data */
    uint8_t data[FP_BYTES_WINDOW];
};

/* How pointers are written in frame information: the form in the low half, what to add in the high half. */
enum {
    FP_PE_ABSPTR = 0x00,
    FP_PE_ULEB128 = 0x01,
    FP_PE_UDATA2 = 0x02,
    FP_PE_UDATA4 = 0x03,
    FP_PE_UDATA8 = 0x04,
    FP_PE_SLEB128 = 0x09,
    FP_PE_SDATA2 = 0x0a,
    FP_PE_SDATA4 = 0x0b,
    FP_PE_SDATA8 = 0x0c,
    FP_PE_PCREL = 0x10,
    FP_PE_DATAREL = 0x30,
    FP_PE_INDIRECT = 0x80,
    FP_PE_OMIT = 0xff,
};

FP_HIDDEN void fp_bytes_open(struct fp_bytes *bytes, struct fp_reader *reader, fp_addr at, fp_addr end);
FP_HIDDEN uint8_t fp_bytes_u8(struct fp_bytes *bytes);
/* Little-endian, of 1 to 8 bytes. */
FP_HIDDEN uint64_t fp_bytes_unsigned(struct fp_bytes *bytes, uint32_t size);
FP_HIDDEN int64_t fp_bytes_signed(struct fp_bytes *bytes, uint32_t size);
FP_HIDDEN uint64_t fp_bytes_uleb(struct fp_bytes *bytes);
FP_HIDDEN int64_t fp_bytes_sleb(struct fp_bytes *bytes);
FP_HIDDEN void fp_bytes_skip(struct fp_bytes *bytes, uint64_t n);
/* A pointer; `data` is what a data-relative one is relative to.  An unknown encoding is bad. */
FP_HIDDEN uint64_t fp_bytes_pointer(struct fp_bytes *bytes, uint8_t encoding, fp_addr data);

#endif
