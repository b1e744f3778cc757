/* The buffered writer.  Any context: its system calls are write, send, open, close, poll, fstat and lseek, with
 * sigaction, pthread_sigmask, sigpending and sigtimedwait around the write for SIGPIPE (all in man 7 signal-safety, but
 * sigtimedwait, a bare system call in glibc).
 *
 * A filter may end the process for a system call that it doesn't list.  So the first FIRST bytes, which are the whole
 * of most reports, take none but poll() beside write(); behind them fstat() tells what it is that is written to.  Only
 * what was a device when it was given to us is looked at before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "render/kept.h"
#include "render/out.h"
#include "walk/walk.h"

/* PIPE_ROOM: what a pipe takes at once when poll() says that there is room (PIPE_BUF), if nobody else writes to it.
   PIECE: what anything takes, but a terminal that is full to the last few bytes; a report of one PIPE_ROOM stays whole.
 */
enum { PIPE_ROOM = 4096, FIRST = 16 << 10, PIECE = 1024 };

/* A terminal that is full would keep a blocking write() for ever, whatever poll() has said: a description of our own
   doesn't block, and leaves the flags of the one that others use. */
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

/* A bit for each descriptor that was a device when it was given to us. */
enum { DEVICES_MAX = 1024 };
static _Atomic(uint64_t) devices[DEVICES_MAX / 64];

void fp_out_expect(int fd)
{
    struct stat st;
    uint64_t bit = (uint64_t)1 << (fd & 63);
    if (fd < 0 || fd >= DEVICES_MAX)
        return;
    if (fstat(fd, &st) == 0 && S_ISCHR(st.st_mode))
        atomic_fetch_or(&devices[fd / 64], bit);
    else
        atomic_fetch_and(&devices[fd / 64], ~bit);
}

static bool was_device(int fd)
{
    return fd >= 0 && fd < DEVICES_MAX && (atomic_load(&devices[fd / 64]) >> (fd & 63) & 1) != 0;
}

static void find_kind(struct fp_out *o);

void fp_out_init(struct fp_out *o, int fd, int64_t deadline_ns)
{
    o->fd = fp_kept_resolve(fd);
    o->own_fd = -1;
    o->known = o->like_file = o->socket = o->patient = false;
    o->error = 0;
    o->deadline_ns = deadline_ns;
    o->used = o->first = 0;
    o->flushed = 0;
    if (was_device(o->fd) || was_device(fd))
        find_kind(o);
}

/* Regular files and /dev/null take everything at once. */
static void find_kind(struct fp_out *o)
{
    struct stat st;
    o->known = true;
    bool found = fstat(o->fd, &st) == 0;
    o->socket = found && S_ISSOCK(st.st_mode);
    o->patient = found && (o->socket || S_ISFIFO(st.st_mode));
    if (found && S_ISCHR(st.st_mode) && lseek(o->fd, 0, SEEK_CUR) < 0) {
        o->patient = true;
        o->own_fd = open_again(o->fd);
    }
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

/* May a write of this size block, so that poll() has to be asked before? */
static bool may_block(const struct fp_out *o)
{
    return !o->known || (o->patient && o->own_fd < 0 && !o->socket);
}

static ssize_t put(const struct fp_out *o, const char *data, size_t size)
{
    if (o->socket)
        return send(o->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (o->own_fd >= 0)
        return write(o->own_fd, data, size);
    return write(o->fd, data, size);
}

/* Waits until poll() says that a pipe has room for PIPE_BUF bytes; false when time is up.  Where poll() can't be used
   (no descriptors allowed, a filter) write() is all that is left. */
static bool wait_for_room(struct fp_out *o)
{
    for (;;) {
        int64_t left = (o->deadline_ns - fp_now_ns()) / 1000000;
        struct pollfd p = {.fd = o->fd, .events = POLLOUT};
        int n = poll(&p, 1, left < 0 ? 0 : left > 60000 ? 60000 : (int)left);
        if (n > 0 || (n < 0 && errno != EINTR))
            return true;
        if (n == 0 && left <= 60000)
            return false;
    }
}

/* Is there room at once?  What is ready for reading as well is a file, or may be. */
static bool has_room(struct fp_out *o)
{
    struct pollfd p = {.fd = o->fd, .events = POLLOUT | POLLIN};
    if (poll(&p, 1, 0) <= 0 || (p.revents & ~POLLIN) == 0)
        return false;
    o->like_file = (p.revents & POLLIN) && (p.revents & POLLOUT);
    return true;
}

/* How much goes into one write. */
static size_t portion(const struct fp_out *o, size_t left)
{
    size_t most = left;
    if (!o->known && (o->like_file || FIRST - o->first < PIECE))
        most = FIRST - o->first;
    else if (!o->known)
        most = o->first < PIPE_ROOM ? PIPE_ROOM - o->first : PIECE;
    else if (may_block(o))
        most = PIPE_ROOM;
    return left < most ? left : most;
}

/* Writes a portion of what is left, and counts it; false when time is up. */
static bool write_some(struct fp_out *o, const char **data, size_t *left)
{
    ssize_t n = put(o, *data, portion(o, *left));
    if (n >= 0) {
        *data += n;
        *left -= (size_t)n;
        o->first += o->known ? 0 : (uint32_t)n;
    }
    else if (errno == EAGAIN) {
        o->patient = true;
        return fp_now_ns() < o->deadline_ns && wait_for_room(o);
    }
    else if (errno != EINTR) {
        o->error = errno;
    }
    return true;
}

static void write_all(struct fp_out *o, bool room)
{
    const char *data = o->buffer;
    size_t left = o->used;

    while (left > 0 && o->error == 0) {
        if (!o->known && o->first == FIRST)
            find_kind(o);
        if ((may_block(o) && !room && !wait_for_room(o)) || !write_some(o, &data, &left))
            o->error = ETIMEDOUT;
        room = false;
    }
}

/* Does SIGPIPE do anything?  The interpreter ignores it, unless told otherwise. */
static bool sigpipe_acts(void)
{
    struct sigaction now;
    return sigaction(SIGPIPE, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_IGN;
}

/* A pipe without a reader raises SIGPIPE: it must not take the place of the signal that is reported on. */
static void write_without_sigpipe(struct fp_out *o, bool room)
{
    const struct timespec zero = {0, 0};
    sigset_t sigpipe, before, pending;

    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    bool was_pending = sigismember(&before, SIGPIPE) && sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE);
    write_all(o, room);
    if (o->error == EPIPE && !was_pending)
        sigtimedwait(&sigpipe, NULL, &zero);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void fp_out_flush(struct fp_out *o)
{
    int saved = errno;
    bool room = o->used != 0 && !o->known && o->error == 0 && has_room(o);

    if (o->used != 0 && (o->known ? o->patient : !o->like_file) && sigpipe_acts())
        write_without_sigpipe(o, room);
    else
        write_all(o, room);
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
