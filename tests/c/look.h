/* What the tests on real frames share: looking at the stack, and comparing the functions found with those expected. */
#ifndef FP_LOOK_H
#define FP_LOOK_H

#include "check.h"
#include "trigger/signals.h"
#include "unwind/unwind.h"

#define OWN   __attribute__((noinline, noclone, noipa))
#define MAYBE __attribute__((unused)) /* not every test needs it */
enum { CHAIN = 64 };

static struct fp_unwind unwind;
static struct fp_reader reader;

/* What the last look saw: the starts of the functions, innermost first, 0 where there is no frame information. */
static fp_addr chain[CHAIN], pcs[CHAIN];
static uint32_t n_chain;
static bool guessed; /* some frame of the last look was a guess */

static MAYBE void look_with(enum fp_reader_kind kind, const struct fp_registers *start)
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

static MAYBE void look(const struct fp_registers *start)
{
    fp_guard_require();
    look_with(FP_READER_GUARD, start);
}

static OWN MAYBE void look_here(void)
{
    struct fp_registers start;
    fp_registers_here(&start);
    look(&start);
}

#define AT(function) ((fp_addr)(uintptr_t)(function))

static MAYBE void check_chain(uint32_t from, const fp_addr *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_EQUAL(chain[from + i], expected[i]);
    CHECK(unwind.end == FP_UNWIND_ROOT);
}
#define CHECK_CHAIN(from, ...)                                                                                         \
    do {                                                                                                               \
        const fp_addr expected[] = {__VA_ARGS__};                                                                      \
        check_chain(from, expected, sizeof(expected) / sizeof(expected[0]));                                           \
    } while (0)

/* A call that isn't the function's last action, so that it leaves a frame. */
static MAYBE volatile int after;

static OWN MAYBE void on_signal_look_here(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    look_here();
    after = 1;
}

static MAYBE void handle(int signo, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signo, &action, NULL) == 0);
}

static OWN MAYBE void raises(void)
{
    raise(SIGUSR1);
    after = 1;
}

static MAYBE void check_raised(void (*from)(void))
{
    uint32_t i = 0;
    while (i < n_chain && chain[i] != AT(raises))
        i++;
    CHECK(i > 0 && i < n_chain);
    CHECK_CHAIN(i, AT(raises), AT(from));
}

#endif
