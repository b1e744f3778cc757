/* A buffered writer on a file descriptor: few write() calls, never a hang, never a signal of its own.  Any context. */
#ifndef FP_OUT_H
#define FP_OUT_H

#include "base/base.h"

enum { FP_OUT_SIZE = 64 << 10 };

struct fp_out {
    int fd;
    int own_fd;          /* the same file, opened by us without blocking for the dump's time; -1: it isn't */
    bool known;          /* what kind of file it is has been found out; till then it may be any */
    bool like_file;      /* not known yet, but ready for reading too, as files always are */
    bool socket;         /* send() doesn't block if asked */
    bool patient;        /* a pipe, socket or terminal: wait for room, but not for ever */
    int error;           /* errno of the first write that failed; later text is dropped */
    int64_t deadline_ns; /* CLOCK_MONOTONIC: when to stop waiting for room */
    uint32_t used;
    uint32_t first;   /* bytes written before the kind was known */
    uint64_t flushed; /* bytes written so far */
    char buffer[FP_OUT_SIZE];
};

/* Normal context, when a descriptor is given to us: remembers whether it is a device, as terminals are.  A terminal
   that nobody reads keeps a write() for ever, whatever poll() has said, so one is looked at before the first byte. */
FP_HIDDEN void fp_out_expect(int fd);

/* No system call is made before there is something to write, but for the kept descriptor (kept.h) and devices. */
FP_HIDDEN void fp_out_init(struct fp_out *out, int fd, int64_t deadline_ns);
/* Writes what is in the buffer.  EINTR is retried; EAGAIN and a full pipe are waited for until the deadline. */
FP_HIDDEN void fp_out_flush(struct fp_out *out);
/* Flushes and lets go of what init opened. */
FP_HIDDEN void fp_out_close(struct fp_out *out);
FP_HIDDEN void fp_out_bytes(struct fp_out *out, const char *data, size_t size);
FP_HIDDEN void fp_out_decimal(struct fp_out *out, uint64_t value);
/* Lower-case hexadecimal with "0x", at least `digits` of them. */
FP_HIDDEN void fp_out_hex(struct fp_out *out, uint64_t value, int digits);

/* Room for `size` bytes in one piece, to be filled by the caller and then counted with fp_out_filled; NULL if the
   buffer can't hold so much. */
FP_HIDDEN char *fp_out_room(struct fp_out *out, size_t size);
static inline void fp_out_filled(struct fp_out *out, const char *end)
{
    out->used = (uint32_t)(end - out->buffer);
}

#define FP_OUT_LITERAL(out, literal) fp_out_bytes(out, literal, sizeof(literal) - 1)

/* Where the text stands, to take it back to: only what hasn't been written can be. */
struct fp_out_mark {
    uint32_t used;
    uint64_t flushed;
};
static inline struct fp_out_mark fp_out_mark(const struct fp_out *out)
{
    return (struct fp_out_mark){out->used, out->flushed};
}
static inline bool fp_out_rewind(struct fp_out *out, struct fp_out_mark mark)
{
    if (out->flushed != mark.flushed)
        return false;
    out->used = mark.used;
    return true;
}

#endif
