/* What a handler is called with: by the kernel on either stack, and by another handler in every form.  Normal context,
 * but for the handlers. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "check.h"
#include "reader/arrival.h"

static struct fp_arrival seen;
static siginfo_t *its_info;
static void *its_context;
static int calls;

static __attribute__((noinline)) void ours(int signo, siginfo_t *info, void *context)
{
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    fp_arrival_check(&a);
    fp_arrival_begin(&a);
    seen = a;
    calls++;
    its_info = info;
    its_context = context;
    fp_arrival_end(&a);
}

static void install(void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

/* raise() is declared as one that calls nothing here. */
static void send_it(void)
{
    raise(SIGUSR1);
    __asm__ volatile("" ::: "memory");
}

static void is_from_the_kernel(void)
{
    CHECK(calls == 1 && seen.by_kernel);
    CHECK(seen.info == its_info && seen.context == its_context);
    CHECK(seen.info->si_signo == SIGUSR1 && fp_was_sent(&seen));
}

static void by_the_kernel(void)
{
    install(ours, 0);
    send_it();
    is_from_the_kernel();
}

static void by_the_kernel_on_an_alternate_stack(void)
{
    static char memory[64 << 10];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof(memory)};
    CHECK(sigaltstack(&stack, NULL) == 0);
    install(ours, SA_ONSTACK);
    send_it();
    is_from_the_kernel();
}

static void with_all(int signo, siginfo_t *info, void *context)
{
    ours(signo, info, context);
    CHECK(!seen.by_kernel && seen.info == info && seen.context == context);
}

static void with_info_alone(int signo, siginfo_t *info, void *context)
{
    ours(signo, info, NULL);
    CHECK(!seen.by_kernel && seen.info == info && seen.context == context);
    ours(signo, info,
         (void *)"words that are no context, but can be read, all of them, up to the end of what is read: "
                 "it takes some three hundred bytes, and so there is more of this text than anyone would "
                 "like to read, and still more, until there is enough of it: now, with these words, there is");
    CHECK(!seen.by_kernel && seen.info == info && seen.context == context);
}

/* On a page's very end, so that one byte more can't be read, and one word over it. */
static void at_the_end_of_memory(int signo, siginfo_t *info, void *context)
{
    enum { CONTEXT = 304 };
    char *page = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page + 8192, 4096) == 0);
    char *info_at = page + 8192 - sizeof(siginfo_t), *context_at = page + 4096 - CONTEXT;
    memcpy(info_at, info, sizeof(*info));
    memcpy(context_at, context, CONTEXT);
    ours(signo, (siginfo_t *)info_at, context_at);
    CHECK((char *)seen.info == info_at && (char *)seen.context == context_at);
    memcpy(info_at + 8, info, sizeof(*info) - 8);
    ours(signo, (siginfo_t *)(info_at + 8), context_at);
    CHECK(seen.info == NULL && seen.context == NULL);
    CHECK(munmap(page + 4096, 4096) == 0);
    ours(signo, info, page + 4096 - CONTEXT + 8);
    CHECK(seen.info == info && seen.context == context);
}

static void with_what_is_none(int signo, siginfo_t *info, void *context)
{
    static siginfo_t other;
    const uintptr_t bad[] = {0, 1, 8, (uintptr_t)info + 4, 1ul << 62, UINTPTR_MAX, (uintptr_t)&other};
    (void)context;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ours(signo, (siginfo_t *)bad[i], (void *)bad[i]);
        CHECK(!seen.by_kernel && seen.info == NULL && seen.context == NULL);
    }
}

static void called_with(void (*handler)(int, siginfo_t *, void *))
{
    install(handler, 0);
    send_it();
    CHECK(calls > 0);
}

static void by_a_handler_with_all(void)
{
    called_with(with_all);
}
static void by_a_handler_with_info_alone(void)
{
    called_with(with_info_alone);
}
static void by_a_handler_with_copies(void)
{
    called_with(at_the_end_of_memory);
}
static void by_a_handler_with_nothing(void)
{
    called_with(with_what_is_none);
}

/* Calls the handler below it, as often as it is deep. */
static int depth;
static void circle(int signo, siginfo_t *info, void *context)
{
    static const struct sigaction again = {.sa_sigaction = circle, .sa_flags = SA_SIGINFO};
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    fp_arrival_check(&a);
    fp_arrival_begin(&a);
    CHECK_EQUAL(a.circles, depth);
    CHECK(!a.nested);
    if (++depth < 4)
        fp_arrival_call(&a, &again);
    fp_arrival_end(&a);
}

static void circles_are_counted(void)
{
    called_with(ours);
    for (int i = 0; i < 3; i++) {
        depth = 0;
        install(circle, 0);
        send_it();
        CHECK_EQUAL(depth, 4);
    }
}

static sigjmp_buf back;
static void jump(int signo)
{
    siglongjmp(back, signo);
}
static void calls_one_that_jumps(int signo, siginfo_t *info, void *context)
{
    static const struct sigaction jumps = {.sa_handler = jump};
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    fp_arrival_begin(&a);
    CHECK(a.circles == 0 && !a.nested && a.mark >= 0);
    fp_arrival_call(&a, &jumps);
}

/* More often than there are marks: one that is left behind is neither a circle nor in the way. */
static void handlers_that_jump(void)
{
    volatile int n = 0;
    install(calls_one_that_jumps, 0);
    while (n < 1000)
        if (sigsetjmp(back, 1) == 0) {
            n++;
            send_it();
            CHECK(0);
        }
    called_with(with_all);
    CHECK(seen.circles == 0);
}

static void interrupted(int signo, siginfo_t *info, void *context)
{
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    fp_arrival_begin(&a);
    install(ours, 0);
    send_it();
    CHECK(seen.nested && seen.nested_in == SIGUSR1);
    fp_arrival_end(&a);
}

static void our_own_code_is_interrupted(void)
{
    install(interrupted, SA_NODEFER);
    send_it();
    CHECK(calls == 1);
    send_it();
    CHECK(!seen.nested);
}

static void the_end_of_a_process(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        signal(SIGFPE, SIG_IGN);
        fp_die_of(SIGFPE);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGFPE);
}

static const struct check_case cases[] = {
    {"by the kernel", by_the_kernel},
    {"by the kernel, on an alternate stack", by_the_kernel_on_an_alternate_stack},
    {"by a handler, with all", by_a_handler_with_all},
    {"by a handler, with info alone", by_a_handler_with_info_alone},
    {"by a handler, with copies at the end of memory", by_a_handler_with_copies},
    {"by a handler, with nothing", by_a_handler_with_nothing},
    {"circles are counted", circles_are_counted},
    {"handlers that jump", handlers_that_jump},
    {"our own code is interrupted", our_own_code_is_interrupted},
    {"the end of a process", the_end_of_a_process},
};
CHECK_MAIN(cases)
