/* The unwinder on real frames: each case knows the functions that it has called.  Built with several sets of flags. */
#define _GNU_SOURCE
#include <alloca.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "look.h"

static OWN int plain_inner(int n)
{
    look_here();
    after = n;
    return n;
}

static OWN int plain_outer(int n)
{
    after = plain_inner(n + 1);
    return after;
}

static void plain_calls(void)
{
    plain_outer(1);
    CHECK_CHAIN(0, AT(look_here), AT(plain_inner), AT(plain_outer), AT(plain_calls));
}

static OWN void dynamic_stack(size_t n)
{
    volatile char *p = alloca(n);
    p[0] = 1;
    plain_inner(p[0]);
    after = p[0];
}

static void with_alloca(void)
{
    dynamic_stack((size_t)getpid() % 1000 + 77);
    CHECK_CHAIN(0, AT(look_here), AT(plain_inner), AT(dynamic_stack), AT(with_alloca));
}

static OWN void aligned_stack(int n)
{
    volatile char buffer[256] __attribute__((aligned(128)));
    buffer[n] = 1;
    dynamic_stack((size_t)n + 33);
    after = buffer[n];
}

static void with_realigned_stack(void)
{
    aligned_stack(5);
    CHECK_CHAIN(0, AT(look_here), AT(plain_inner), AT(dynamic_stack), AT(aligned_stack), AT(with_realigned_stack));
}

static OWN int compare(const void *a, const void *b)
{
    if (n_chain == 0)
        look_here();
    after = 1;
    return *(const int *)a - *(const int *)b;
}

static OWN void sorts(void)
{
    int numbers[] = {3, 1, 2, 5, 4};
    qsort(numbers, 5, sizeof(int), compare);
    after = numbers[0];
}

static void with_callback(void)
{
    sorts();
    CHECK_CHAIN(0, AT(look_here), AT(compare));
    uint32_t i = 2;
    while (i < n_chain && chain[i] != AT(sorts))
        i++;
    CHECK(i > 2 && i < n_chain); /* some frames of the C library are between */
    CHECK_CHAIN(i, AT(sorts), AT(with_callback));
}

/* The stack as glibc's own unwinder sees it. */
static OWN void both_ways(int depth)
{
    if (depth > 0) {
        both_ways(depth - 1);
        after = depth;
        return;
    }
    void *theirs[CHAIN];
    look_here();
    int n = backtrace(theirs, CHAIN);
    CHECK_EQUAL(n_chain, n + 1); /* ours begins with look_here */
    for (int i = 1; i < n; i++)
        CHECK_EQUAL(pcs[i + 1], (uintptr_t)theirs[i]);
}

static void as_backtrace(void)
{
    both_ways(17);
    after = 1;
}

static void ends_with_call(void) __attribute__((noreturn));
static void noreturn_at_the_end(void);

/* Its call is its last instruction: the return address is in whatever comes next. */
static OWN __attribute__((noreturn)) void never_returns(int n)
{
    look_here();
    exit(n);
}

static void check_end(void)
{
    CHECK_CHAIN(0, AT(look_here), AT(never_returns), AT(ends_with_call), AT(noreturn_at_the_end));
}

static OWN __attribute__((noreturn)) void ends_with_call(void)
{
    never_returns(0);
}

static void noreturn_at_the_end(void)
{
    atexit(check_end);
    ends_with_call();
}

/* Without a descriptor to spare the map can't be opened. */
static void without_descriptors(void)
{
    const struct rlimit none = {0, 0};
    size_t size;
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK(open("/proc/self/maps", O_RDONLY) < 0);
    plain_outer(1);
    CHECK_CHAIN(0, AT(look_here), AT(plain_inner), AT(plain_outer), AT(without_descriptors));
    CHECK(fp_maps_name(&unwind.maps, AT(without_descriptors), &size) != NULL && size > 0);
    const char *name = fp_maps_name(&unwind.maps, AT(qsort), &size);
    CHECK(memmem(name, size, "libc.so.6", 9) != NULL);
    handle(SIGUSR1, on_signal_look_here, 0);
    raises();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here));
    check_raised(without_descriptors);
}

static OWN void in_function_inner(bool *yes, bool *no)
{
    struct fp_registers start;
    fp_addr callers[] = {0, AT(plain_outer), AT(in_function_inner)}, others[] = {0, AT(plain_outer), AT(plain_inner)};
    fp_registers_here(&start);
    CHECK(fp_reader_open(&reader, FP_READER_VM) == FP_OK);
    fp_unwind_open(&unwind, &reader);
    *yes = fp_unwind_in_function(&unwind, &start, callers, 3);
    *no = fp_unwind_in_function(&unwind, &start, others, 3);
    after = 1;
}

static void in_function(void)
{
    bool yes = false, no = true;
    in_function_inner(&yes, &no);
    CHECK(yes);
    CHECK(!no);
}

static const struct check_case cases[] = {
    {"plain calls", plain_calls},
    {"alloca", with_alloca},
    {"realigned stack", with_realigned_stack},
    {"callback of qsort", with_callback},
    {"as backtrace()", as_backtrace},
    {"noreturn call at the end", noreturn_at_the_end},
    {"without descriptors", without_descriptors},
    {"in function", in_function},
};
CHECK_MAIN(cases)
