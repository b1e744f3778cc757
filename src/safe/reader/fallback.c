/* The readers that need no signal handler: system calls that report a bad address.  Any context.
 *
 * Slower by a factor of 100 or more, so they serve only where the guard can't: SIGSEGV or SIGBUS blocked in this
 * thread, or handled by somebody else.  process_vm_readv(), open(), pread(), pipe(), write(), read() and close() are
 * system calls without state in libc (man 7 signal-safety lists all but process_vm_readv and pread64, which are bare
 * calls in glibc). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <unistd.h>

#include "reader/reader.h"

/* No memory protection is finer. */
enum { PAGE = 4096 };

static atomic_bool filter_expected;

static int copy_mask(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    bool good = from + n >= from;
    (void)r;
    for (fp_addr at = from; good && at < from + n; at = (at | (PAGE - 1)) + 1)
        good = fp_word_readable(at & ~(fp_addr)7);
    return good ? fp_guard_copy(to, (const void *)(uintptr_t)from, n) : -1;
}

/* An emulator may take any address for good. */
static bool mask_tells(void)
{
    return !fp_word_readable((fp_addr)-PAGE);
}

static int copy_vm(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    (void)r;
    struct iovec local = {to, n};
    struct iovec remote = {(void *)(uintptr_t)from, n};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)n ? 0 : -1;
}

static int copy_mem(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    if (from > INT64_MAX)
        return -1;
    return pread(r->fds[0], to, n, (off_t)from) == (ssize_t)n ? 0 : -1;
}

/* A pipe takes at least PIPE_BUF bytes without blocking. */
static int copy_pipe(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    char *out = to;
    while (n > 0) {
        size_t part = n < 4096 ? n : 4096;
        ssize_t put = write(r->fds[1], (const void *)(uintptr_t)from, part);
        if (put <= 0)
            return -1;
        if (read(r->fds[0], out, (size_t)put) != put)
            return -1;
        out += put;
        from += (fp_addr)put;
        n -= (size_t)put;
    }
    return 0;
}

static int copy_none(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    (void)r, (void)to, (void)from, (void)n;
    return -1;
}

static int copy_guard(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    (void)r;
    return fp_guard_copy(to, (const void *)(uintptr_t)from, n);
}

enum fp_status fp_reader_open(struct fp_reader *r, enum fp_reader_kind kind)
{
    static int (*const copies[])(struct fp_reader *, void *, fp_addr, size_t) = {
        [FP_READER_NONE] = copy_none, [FP_READER_GUARD] = copy_guard, [FP_READER_MASK] = copy_mask,
        [FP_READER_VM] = copy_vm,     [FP_READER_MEM] = copy_mem,     [FP_READER_PIPE] = copy_pipe,
    };
    static const uint64_t probe = 0x66615570726f6f66;
    uint64_t seen = 0;

    *r = (struct fp_reader){.kind = kind, .guarded = kind == FP_READER_GUARD, .fds = {-1, -1}, .copy = copies[kind]};
    if (kind == FP_READER_MEM)
        r->fds[0] = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (kind == FP_READER_PIPE && pipe2(r->fds, O_CLOEXEC | O_NONBLOCK) != 0)
        r->fds[0] = r->fds[1] = -1;
    if (kind == FP_READER_MASK && !mask_tells())
        return FP_NO_READER;
    if (fp_read(r, &seen, (fp_addr)(uintptr_t)&probe, sizeof(seen)) && seen == probe)
        return FP_OK;
    fp_reader_close(r);
    return FP_NO_READER;
}

enum fp_status fp_reader_open_fallback(struct fp_reader *r)
{
    static const enum fp_reader_kind plain[] = {FP_READER_VM, FP_READER_MEM, FP_READER_PIPE},
                                     filtered[] = {FP_READER_PIPE, FP_READER_VM, FP_READER_MEM};
    const enum fp_reader_kind *order = atomic_load(&filter_expected) ? filtered : plain;
    int saved = errno;
    enum fp_status status = FP_NO_READER;
    for (size_t i = 0; status != FP_OK && i < FP_COUNT(plain); i++)
        status = fp_reader_open(r, order[i]);
    errno = saved;
    return status;
}

void fp_reader_expect_filter(void)
{
    atomic_store(&filter_expected, true);
}

void fp_reader_close(struct fp_reader *r)
{
    int saved = errno;
    for (int i = 0; i < 2; i++)
        if (r->fds[i] >= 0)
            close(r->fds[i]);
    *r = (struct fp_reader){.kind = FP_READER_NONE, .fds = {-1, -1}, .copy = copy_none};
    errno = saved;
}
