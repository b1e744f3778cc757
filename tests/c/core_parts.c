/* The readers, the writer and the session pool.  Normal context. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"
#include "trigger/signals.h"

static char *pages; /* one readable page, one that isn't there, one without access */

static void map_pages(void)
{
    pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    for (int i = 0; i < 4096; i++)
        pages[i] = (char)(i * 7);
    CHECK(munmap(pages + 4096, 4096) == 0 && mprotect(pages + 8192, 4096, PROT_NONE) == 0);
}

static void try_reader(enum fp_reader_kind kind)
{
    struct fp_reader r;
    char to[4096];
    map_pages();
    if (kind == FP_READER_GUARD)
        fp_guard_require();
    CHECK_EQUAL(fp_reader_open(&r, kind), FP_OK);
    for (size_t n = 0; n <= 600; n++) {
        memset(to, 0x55, sizeof(to));
        CHECK(fp_read(&r, to, (fp_addr)(uintptr_t)pages + n % 9, n));
        CHECK(memcmp(to, pages + n % 9, n) == 0 && to[n] == 0x55);
    }
    const fp_addr bad[] = {0,
                           1,
                           (fp_addr)(uintptr_t)pages + 4096,
                           (fp_addr)(uintptr_t)pages + 8192,
                           0x4141414141414141,
                           (fp_addr)1 << 63,
                           UINT64_MAX,
                           UINT64_MAX - 7};
    const size_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100, 4096};
    for (size_t i = 0; i < FP_COUNT(bad); i++) {
        if (kind == FP_READER_MEM && i == 3)
            continue; /* the kernel shows a page without access there: safe to read */
        for (size_t j = 0; j < FP_COUNT(sizes); j++)
            CHECK(!fp_read(&r, to, bad[i], sizes[j]) && fp_reader_faulted(&r));
        CHECK_EQUAL(fp_load64(&r, bad[i]), 0);
        CHECK(fp_reader_faulted(&r));
        CHECK_EQUAL(fp_load32(&r, bad[i]), 0);
        CHECK(fp_reader_faulted(&r));
        CHECK_EQUAL(fp_load8(&r, bad[i]), 0);
        CHECK(fp_reader_faulted(&r) && !fp_reader_faulted(&r));
    }
    for (size_t j = 0; j < FP_COUNT(sizes); j++) /* into the hole, from each size before it */
        if (sizes[j] > 1)
            CHECK(!fp_read(&r, to, (fp_addr)(uintptr_t)pages + 4097 - sizes[j], sizes[j]));
    fp_reader_close(&r);
    CHECK(!fp_read(&r, to, (fp_addr)(uintptr_t)pages, 8));
}

static void guard(void)
{
    try_reader(FP_READER_GUARD);
}

static void mask(void)
{
    try_reader(FP_READER_MASK);
}

static void vm(void)
{
    try_reader(FP_READER_VM);
}

static void mem(void)
{
    try_reader(FP_READER_MEM);
}

static void pipes(void)
{
    try_reader(FP_READER_PIPE);
}

static void no_descriptor_is_left(void)
{
    struct fp_reader r;
    int lowest = dup(0);
    close(lowest);
    for (int kind = FP_READER_MASK; kind <= FP_READER_PIPE; kind++) {
        CHECK_EQUAL(fp_reader_open(&r, (enum fp_reader_kind)kind), FP_OK);
        fp_reader_close(&r);
    }
    int again = dup(0);
    CHECK_EQUAL(again, lowest);
}

static struct fp_out out;

static void contents(int fd, const char *expected)
{
    char seen[256] = {0};
    CHECK(pread(fd, seen, sizeof(seen) - 1, 0) >= 0);
    if (strcmp(seen, expected) != 0) {
        fprintf(stderr, "written: %s\n", seen);
        _exit(1);
    }
}

static void writer(void)
{
    int fd = memfd_create("out", 0);
    fp_out_init(&out, fd, INT64_MAX);
    fp_out_decimal(&out, 0);
    FP_OUT_LITERAL(&out, " ");
    fp_out_decimal(&out, UINT64_MAX);
    FP_OUT_LITERAL(&out, " ");
    fp_out_hex(&out, 0, 1);
    FP_OUT_LITERAL(&out, " ");
    fp_out_hex(&out, 0xabc, 16);
    struct fp_out_mark mark = fp_out_mark(&out);
    FP_OUT_LITERAL(&out, "not to be seen");
    CHECK(fp_out_rewind(&out, mark));
    fp_out_flush(&out);
    contents(fd, "0 18446744073709551615 0x0 0x0000000000000abc");
    CHECK(!fp_out_rewind(&out, mark));
}

static void much_text(void)
{
    static char text[300001];
    int fd = memfd_create("out", 0);
    memset(text, 'x', sizeof(text));
    fp_out_init(&out, fd, INT64_MAX);
    fp_out_bytes(&out, text, sizeof(text));
    CHECK(fp_out_room(&out, FP_OUT_SIZE + 1) == NULL);
    CHECK(fp_out_room(&out, FP_OUT_SIZE) == out.buffer);
    fp_out_flush(&out);
    CHECK_EQUAL(lseek(fd, 0, SEEK_END), sizeof(text));
}

static void output_that_fails(void)
{
    int fds[2];
    errno = 77;
    fp_out_init(&out, 999, 0);
    FP_OUT_LITERAL(&out, "x");
    fp_out_flush(&out);
    CHECK_EQUAL(out.error, EBADF);
    CHECK(pipe(fds) == 0 && close(fds[0]) == 0);
    signal(SIGPIPE, SIG_DFL); /* it would end this process */
    fp_out_init(&out, fds[1], INT64_MAX);
    FP_OUT_LITERAL(&out, "x");
    fp_out_flush(&out);
    CHECK_EQUAL(out.error, EPIPE);
    CHECK(pipe(fds) == 0 && fcntl(fds[1], F_SETPIPE_SZ, 4096) == 4096);
    fp_out_init(&out, fds[1], fp_now_ns() + 20000000);
    for (int i = 0; i < 9000; i++)
        FP_OUT_LITERAL(&out, "x");
    fp_out_flush(&out);
    CHECK_EQUAL(out.error, ETIMEDOUT);
    CHECK_EQUAL(errno, 77);
}

static void sessions(void)
{
    static const struct fp_target target = {.version = 0x030b0000};
    struct fp_session *s[64];
    int n = 0;
    while (n < 64 && (s[n] = fp_session_acquire(&target, true, n < 8 ? 1000000000 : 3000000)) != NULL)
        n++;
    CHECK_EQUAL(n, 8);
    fp_session_release(s[3]);
    CHECK(fp_session_acquire(&target, true, 0) == s[3]);
    for (int i = 0; i < n; i++)
        fp_session_release(s[i]);
}

static void guard_is_ready_where_it_works(void)
{
    sigset_t set;
    CHECK(!fp_guard_ready());
    fp_guard_require();
    CHECK(fp_guard_ready() && !fp_fatal_is_enabled());
    CHECK_EQUAL(fp_reader_available(), FP_READER_GUARD);
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    CHECK(!fp_guard_ready());
    CHECK_EQUAL(fp_reader_available(), FP_READER_VM);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(fp_guard_ready());
    signal(SIGSEGV, SIG_DFL);
    CHECK(!fp_guard_ready());
}

static const struct check_case cases[] = {
    {"guarded reader", guard},
    {"rt_sigprocmask", mask},
    {"process_vm_readv", vm},
    {"/proc/self/mem", mem},
    {"pipe", pipes},
    {"no descriptor is left", no_descriptor_is_left},
    {"writer", writer},
    {"much text", much_text},
    {"output that fails", output_that_fails},
    {"sessions", sessions},
    {"the guard is ready where it works", guard_is_ready_where_it_works},
};
CHECK_MAIN(cases)
