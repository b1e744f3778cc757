/* The unwinder from and through signal frames.  Built with several sets of flags. */
#define _GNU_SOURCE
#include <ucontext.h>

#include "look.h"

static void on_signal(int signo, siginfo_t *info, void *context)
{
    struct fp_registers start;
    (void)signo, (void)info;
    fp_registers_of_context(&start, context);
    look(&start);
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

static const struct check_case cases[] = {
    {"interrupted leaf", interrupted_leaf},
    {"interrupted first instruction", interrupted_first_instruction},
    {"interrupted at a new row", interrupted_at_a_new_row},
    {"signal frame", through_a_signal_frame},
    {"alternate stack", from_an_alternate_stack},
    {"call of NULL", call_of_null},
    {"call of data", call_of_data},
};
CHECK_MAIN(cases)
