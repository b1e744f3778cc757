/* The buffered writer.  Any context: its system calls are write, poll and lseek, with pthread_sigmask and sigtimedwait
   around the write for SIGPIPE (all in man 7 signal-safety, but sigtimedwait, a bare system call in glibc). */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "render/out.h"
#include "walk/walk.h"

enum { PIPE_ROOM = 4096 };

/* Regular files and /dev/null take everything at once; whatever can't seek (pipe, socket, terminal) may be full. */
static bool may_block(int fd)
{
    return lseek(fd, 0, SEEK_CUR) < 0;
}

void fp_out_init(struct fp_out *o, int fd, int64_t deadline_ns)
{
    o->fd = fd;
    o->error = 0;
    int saved = errno;
    o->patient = may_block(fd);
    errno = saved;
    o->deadline_ns = deadline_ns;
    o->used = 0;
    o->flushed = 0;
}

/* Waits until poll() says that a pipe has room for PIPE_BUF bytes; false when time is up. */
static bool wait_for_room(struct fp_out *o)
{
    for (;;) {
        int64_t left = (o->deadline_ns - fp_now_ns()) / 1000000;
        struct pollfd p = {.fd = o->fd, .events = POLLOUT};
        int n = poll(&p, 1, left < 0 ? 0 : left > 60000 ? 60000 : (int)left);
        if (n > 0)
            return true;
        if ((n == 0 && left <= 60000) || (n < 0 && errno != EINTR))
            return false;
    }
}

static void write_all(struct fp_out *o)
{
    const char *data = o->buffer;
    size_t left = o->used;

    while (left > 0 && o->error == 0) {
        size_t part = o->patient && left > PIPE_ROOM ? PIPE_ROOM : left;
        if (o->patient && !wait_for_room(o)) {
            o->error = ETIMEDOUT;
            break;
        }
        ssize_t n = write(o->fd, data, part);
        if (n >= 0) {
            data += n;
            left -= (size_t)n;
        }
        else if (errno == EAGAIN) {
            o->patient = true;
        }
        else if (errno != EINTR) {
            o->error = errno;
        }
    }
}

/* A pipe without a reader raises SIGPIPE: it must not take the place of the signal that is reported on. */
void fp_out_flush(struct fp_out *o)
{
    int saved = errno;
    sigset_t sigpipe, before, pending;
    bool was_pending = false;

    if (o->patient) {
        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        sigpending(&pending);
        was_pending = sigismember(&pending, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    }
    write_all(o);
    if (o->patient) {
        const struct timespec zero = {0, 0};
        if (o->error == EPIPE && !was_pending)
            sigtimedwait(&sigpipe, NULL, &zero);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    o->flushed += o->used;
    o->used = 0;
    errno = saved;
}

char *fp_out_room(struct fp_out *o, size_t size)
{
    if (size > FP_OUT_SIZE)
        return NULL;
    if (size > FP_OUT_SIZE - o->used)
        fp_out_flush(o);
    return o->buffer + o->used;
}

void fp_out_bytes(struct fp_out *o, const char *data, size_t size)
{
    while (size > FP_OUT_SIZE - o->used) {
        size_t part = FP_OUT_SIZE - o->used;
        memcpy(o->buffer + o->used, data, part);
        o->used += (uint32_t)part;
        data += part;
        size -= part;
        fp_out_flush(o);
    }
    memcpy(o->buffer + o->used, data, size);
    o->used += (uint32_t)size;
}

void fp_out_decimal(struct fp_out *o, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    fp_out_bytes(o, digits + at, sizeof(digits) - at);
}

void fp_out_hex(struct fp_out *o, uint64_t value, int digits)
{
    char text[18];
    size_t at = sizeof(text);
    do {
        text[--at] = "0123456789abcdef"[value & 15];
        value >>= 4;
        digits--;
    } while (value != 0 || digits > 0);
    text[--at] = 'x';
    text[--at] = '0';
    fp_out_bytes(o, text + at, sizeof(text) - at);
}
