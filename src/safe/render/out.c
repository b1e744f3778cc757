/* The buffered writer.  Any context: its system calls are write, send, open, close, poll, lseek and fstat, with
   pthread_sigmask and sigtimedwait around the write for SIGPIPE (all in man 7 signal-safety, but sigtimedwait, a bare
   system call in glibc). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "render/kept.h"
#include "render/out.h"
#include "walk/walk.h"

enum { PIPE_ROOM = 4096 };

/* Regular files and /dev/null take everything at once; whatever can't seek (pipe, socket, terminal) may be full. */
static bool may_block(int fd)
{
    return lseek(fd, 0, SEEK_CUR) < 0;
}

/* A pipe or terminal that is full would keep a blocking write() for ever, whatever poll() has said: a description of
   our own doesn't block, and leaves the flags of the one that others use. */
static int open_again(int fd)
{
    char path[32] = "/proc/self/fd/";
    size_t at = strlen(path);
    int digits = 1;
    for (int n = fd; n >= 10; n /= 10)
        digits++;
    for (int i = digits; i-- > 0; fd /= 10)
        path[at + (size_t)i] = (char)('0' + fd % 10);
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

void fp_out_init(struct fp_out *o, int fd, int64_t deadline_ns)
{
    int saved = errno;
    o->fd = fd = fp_kept_resolve(fd);
    o->own_fd = -1;
    o->error = 0;
    o->patient = may_block(fd);
    o->socket = false;
    if (o->patient && fd >= 0) {
        o->own_fd = open_again(fd);
        o->socket = o->own_fd < 0 && errno == ENXIO;
    }
    o->deadline_ns = deadline_ns;
    o->used = 0;
    o->flushed = 0;
    errno = saved;
}

void fp_out_close(struct fp_out *o)
{
    int saved = errno;
    fp_out_flush(o);
    if (o->own_fd >= 0)
        close(o->own_fd);
    o->own_fd = -1;
    errno = saved;
}

static ssize_t put(const struct fp_out *o, const char *data, size_t size)
{
    if (o->socket)
        return send(o->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (o->own_fd >= 0)
        return write(o->own_fd, data, size);
    return write(o->fd, data, o->patient && size > PIPE_ROOM ? PIPE_ROOM : size);
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
    bool blocks = o->patient && o->own_fd < 0 && !o->socket;

    while (left > 0 && o->error == 0) {
        if (blocks && !wait_for_room(o)) {
            o->error = ETIMEDOUT;
            break;
        }
        ssize_t n = put(o, data, left);
        if (n >= 0) {
            data += n;
            left -= (size_t)n;
        }
        else if (errno == EAGAIN) {
            o->patient = true;
            if (fp_now_ns() >= o->deadline_ns || !wait_for_room(o))
                o->error = ETIMEDOUT;
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
