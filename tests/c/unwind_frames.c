/* The unwinder on real frames: each case knows the functions that it has called.  Built with several sets of flags. */
#define _GNU_SOURCE
#include <alloca.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "check.h"
#include "trigger/signals.h"
#include "unwind/unwind.h"

#define OWN __attribute__((noinline, noclone, noipa))
enum { CHAIN = 64 };

static struct fp_unwind unwind;
static struct fp_reader reader;

/* What the last look saw: the starts of the functions, innermost first, 0 where there is no frame information. */
static fp_addr chain[CHAIN], pcs[CHAIN];
static uint32_t n_chain;
static bool guessed; /* some frame of the last look was a guess */

static void look_with(enum fp_reader_kind kind, const struct fp_registers *start)
{
    CHECK(fp_reader_open(&reader, kind) == FP_OK);
    fp_unwind_open(&unwind, &reader);
    fp_unwind_start(&unwind, start);
    bool more = true;
    guessed = false;
    for (n_chain = 0; more && n_chain < CHAIN; n_chain++) {
        pcs[n_chain] = unwind.now.r[FP_REG_PC];
        more = fp_unwind_step(&unwind);
        guessed |= unwind.guessed;
        chain[n_chain] = unwind.function;
    }
}

static void look(const struct fp_registers *start)
{
    fp_guard_require();
    look_with(FP_READER_GUARD, start);
}

static OWN void look_here(void)
{
    struct fp_registers start;
    fp_registers_here(&start);
    look(&start);
}

#define AT(function) ((fp_addr)(uintptr_t)(function))

static void check_chain(uint32_t from, const fp_addr *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_EQUAL(chain[from + i], expected[i]);
    CHECK(unwind.end == FP_UNWIND_ROOT);
}
#define CHECK_CHAIN(from, ...)                                                      \
    do {                                                                            \
        const fp_addr expected[] = {__VA_ARGS__};                                   \
        check_chain(from, expected, sizeof(expected) / sizeof(expected[0]));        \
    } while (0)

/* A call that isn't the function's last action, so that it leaves a frame. */
static volatile int after;

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

static void on_signal(int signo, siginfo_t *info, void *context)
{
    struct fp_registers start;
    (void)signo, (void)info;
    fp_registers_of_context(&start, context);
    look(&start);
}

static OWN void on_signal_look_here(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    look_here();
    after = 1;
}

static void handle(int signo, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signo, &action, NULL) == 0);
}

/* Hand-written, so that the interrupted instruction is known: it uses no stack and raises SIGILL. */
void leaf_that_traps(void);
__asm__(".pushsection .text\n"
        ".type leaf_that_traps, @function\n"
        "leaf_that_traps:\n"
        ".cfi_startproc\n"
        "ud2\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size leaf_that_traps, . - leaf_that_traps\n"
        ".popsection\n");

static OWN void calls_leaf(void)
{
    leaf_that_traps();
    after = 1;
}

static void step_over(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    on_signal(signo, info, context);
    uc->uc_mcontext.gregs[REG_RIP] += 2;
}

static void interrupted_leaf(void)
{
    handle(SIGILL, step_over, 0);
    calls_leaf();
    CHECK_EQUAL(pcs[0], AT(leaf_that_traps));
    CHECK_CHAIN(0, AT(leaf_that_traps), AT(calls_leaf), AT(interrupted_leaf));
}

/* The first instruction has been interrupted: one byte before it is another function. */
static void look_and_step_over(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    on_signal_look_here(signo, info, context);
    uc->uc_mcontext.gregs[REG_RIP] += 2;
}

static void interrupted_first_instruction(void)
{
    handle(SIGILL, look_and_step_over, 0);
    calls_leaf();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here), AT(look_and_step_over));
    CHECK_CHAIN(4, AT(leaf_that_traps), AT(calls_leaf), AT(interrupted_first_instruction));
}

/* Interrupted exactly where a new row begins. */
void pushes_and_traps(void);
__asm__(".pushsection .text\n"
        ".type pushes_and_traps, @function\n"
        "pushes_and_traps:\n"
        ".cfi_startproc\n"
        "subq $24, %rsp\n"
        ".cfi_def_cfa_offset 32\n"
        "ud2\n"
        "addq $24, %rsp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size pushes_and_traps, . - pushes_and_traps\n"
        ".popsection\n");

static OWN void calls_pushes(void)
{
    pushes_and_traps();
    after = 1;
}

static void interrupted_at_a_new_row(void)
{
    handle(SIGILL, step_over, 0);
    calls_pushes();
    CHECK_CHAIN(0, AT(pushes_and_traps), AT(calls_pushes), AT(interrupted_at_a_new_row));
}

/* Hand-written code without frame information, in an object that has it. */
void without_information(void (*)(void));
__asm__(".pushsection .text\n"
        ".type without_information, @function\n"
        "without_information:\n"
        "pushq %rbp\n"
        "movq %rsp, %rbp\n"
        "call *%rdi\n"
        "popq %rbp\n"
        "ret\n"
        ".size without_information, . - without_information\n"
        ".popsection\n");

static OWN void calls_without_information(void)
{
    without_information(look_here);
    after = 1;
}

static void gap_in_the_information(void)
{
    calls_without_information();
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_without_information), AT(gap_in_the_information));
    CHECK(!guessed);
}

static OWN void raises(void)
{
    raise(SIGUSR1);
    after = 1;
}

static void check_raised(void (*from)(void))
{
    uint32_t i = 0;
    while (i < n_chain && chain[i] != AT(raises))
        i++;
    CHECK(i > 0 && i < n_chain);
    CHECK_CHAIN(i, AT(raises), AT(from));
}

static void through_a_signal_frame(void)
{
    handle(SIGUSR1, on_signal_look_here, 0);
    raises();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here));
    check_raised(through_a_signal_frame);
}

static void from_an_alternate_stack(void)
{
    static char memory[1 << 16];
    stack_t alternate = {.ss_sp = memory, .ss_size = sizeof(memory)};
    CHECK(sigaltstack(&alternate, NULL) == 0);
    handle(SIGUSR1, on_signal_look_here, SA_ONSTACK);
    raises();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here));
    check_raised(from_an_alternate_stack);
}

static void (*volatile target)(void);

static OWN void calls_target(void)
{
    target();
    after = 1;
}

/* These cases take SIGSEGV from the guard, so the reads go by system calls.  Goes on as if the call had returned. */
static void on_bad_call(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *gregs = uc->uc_mcontext.gregs;
    struct fp_registers start;
    (void)signo, (void)info;
    fp_registers_of_context(&start, context);
    look_with(FP_READER_VM, &start);
    gregs[REG_RIP] = *(greg_t *)gregs[REG_RSP];
    gregs[REG_RSP] += 8;
}

static void call_of_null(void)
{
    handle(SIGSEGV, on_bad_call, 0);
    target = NULL;
    calls_target();
    CHECK_EQUAL(pcs[0], 0);
    CHECK_CHAIN(1, AT(calls_target), AT(call_of_null));
    CHECK(!guessed);
}

static void call_of_data(void)
{
    static char data[64];
    handle(SIGSEGV, on_bad_call, 0);
    target = (void (*)(void))(uintptr_t)data;
    calls_target();
    CHECK_EQUAL(pcs[0], (uintptr_t)data);
    CHECK_CHAIN(1, AT(calls_target), AT(call_of_data));
    CHECK(!guessed);
}

/* Machine code made at run time, without frame information.  call *%rdi in a frame of its own. */
static const unsigned char with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
static const unsigned char without_frame_pointer[] = {0x48, 0x83, 0xec, 0x28, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x28, 0xc3};

static void *make_code(const void *code, size_t size)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page, code, size);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    return page;
}

static OWN void calls_made_code(const void *code, size_t size)
{
    void *page = make_code(code, size);
    ((void (*)(void (*)(void)))(uintptr_t)page)(look_here);
    after = 1;
}

static void made_code_with_frame_pointer(void)
{
    calls_made_code(with_frame_pointer, sizeof(with_frame_pointer));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_made_code), AT(made_code_with_frame_pointer));
    CHECK(!guessed);
}

static void made_code_without_frame_pointer(void)
{
    calls_made_code(without_frame_pointer, sizeof(without_frame_pointer));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_made_code), AT(made_code_without_frame_pointer));
}

/* The same, and each word of its frame looks like a return address: of a function that would lead on to the next word. */
static const unsigned char with_decoys[] = {0x48, 0x83, 0xec, 0x48, 0x48, 0x89, 0x34, 0x24, 0x48, 0x89, 0x74, 0x24, 0x08,
                                            0x48, 0x89, 0x74, 0x24, 0x10, 0x48, 0x89, 0x74, 0x24, 0x18, 0x48, 0x89, 0x74,
                                            0x24, 0x20, 0x48, 0x89, 0x74, 0x24, 0x28, 0x48, 0x89, 0x74, 0x24, 0x30, 0x48,
                                            0x89, 0x74, 0x24, 0x38, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x48, 0xc3};

void decoy(void);
__asm__(".pushsection .text\n"
        ".type decoy, @function\n"
        "decoy:\n"
        ".cfi_startproc\n"
        "call *%rdi\n"
        "1: ret\n"
        ".cfi_endproc\n"
        ".size decoy, . - decoy\n"
        ".popsection\n");

/* Its caller has a frame pointer, so that the end of the frame is known. */
static OWN __attribute__((optimize("no-omit-frame-pointer"))) void calls_with_decoys(void *page)
{
    ((void (*)(void (*)(void), uintptr_t))(uintptr_t)page)(look_here, (uintptr_t)decoy + 2);
    after = 1;
}

static void made_code_with_decoys(void)
{
    calls_with_decoys(make_code(with_decoys, sizeof(with_decoys)));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_with_decoys), AT(made_code_with_decoys));
    CHECK(!guessed);
}

/* A signal trampoline of its own making, as other languages' runtimes have: mov $15, %rax; syscall. */
static void made_trampoline(void)
{
    static const unsigned char code[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action = {on_signal_look_here, SA_SIGINFO | 0x04000000 /* SA_RESTORER */, make_code(code, sizeof(code)), 0};
    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, sizeof(action.mask)) == 0);
    raises();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here), 0);
    check_raised(made_trampoline);
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
    {"interrupted leaf", interrupted_leaf},
    {"interrupted first instruction", interrupted_first_instruction},
    {"interrupted at a new row", interrupted_at_a_new_row},
    {"gap in the information", gap_in_the_information},
    {"signal frame", through_a_signal_frame},
    {"alternate stack", from_an_alternate_stack},
    {"call of NULL", call_of_null},
    {"call of data", call_of_data},
    {"made code with a frame pointer", made_code_with_frame_pointer},
    {"made code without a frame pointer", made_code_without_frame_pointer},
    {"made code with decoys", made_code_with_decoys},
    {"made trampoline", made_trampoline},
    {"without descriptors", without_descriptors},
    {"in function", in_function},
};
CHECK_MAIN(cases)
