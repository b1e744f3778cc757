/* What a signal handler of ours was called with, and the marks of the threads that are in one.  Signal handler.
 *
 * What may go on here before a mark is set can't fault: registers, the frame that the kernel has just written, system
 * calls.  errno is thread-local and may be what is broken: none of this touches it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "reader/reader.h"
#include "reader/arrival.h"

/* The kernel's frame (arch/x86/include/asm/sigframe.h, struct rt_sigframe): the return address, its ucontext, which is
   shorter than libc's, and the siginfo.  A system call reads a signal set of 8 bytes.  A mark says something about what
   lies in reach of it on the stack. */
enum { KERNEL_UCONTEXT = 304, WORD = 8, MARKS = 64, REACH = 256 << 10 };

static long bare(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

struct fp_arrival fp_arrival_of(int signo, siginfo_t *info, void *context, const void *frame)
{
    struct fp_arrival a = {.signo = signo, .info = info, .context = context, .frame = (uintptr_t)frame, .mark = -1};
    /* the saved frame pointer, then what the kernel pushed */
    a.by_kernel = (uintptr_t)context == a.frame + 2 * WORD && (uintptr_t)info == (uintptr_t)context + KERNEL_UCONTEXT &&
                  info->si_signo == signo;
    return a;
}

/* No such operation exists: nothing happens, but the set is read first (kernel/signal.c, rt_sigprocmask). */
bool fp_word_readable(fp_addr address)
{
    return address != 0 && bare(SYS_rt_sigprocmask, -1, (long)address, 0, WORD) == -EINVAL;
}

static bool readable(const void *start, size_t size)
{
    uintptr_t address = (uintptr_t)start; /* less than a page: its ends tell */
    return address % WORD == 0 && fp_word_readable(address) && fp_word_readable(address + size - WORD);
}

/* The segments of a 64-bit program, as Linux and Xen have them; older kernels leave SS out. */
static bool is_context(const ucontext_t *uc)
{
    if (!readable(uc, KERNEL_UCONTEXT) || uc->uc_flags > 0xff)
        return false;
    uint64_t segments = (uint64_t)uc->uc_mcontext.gregs[REG_CSGSFS];
    uint64_t cs = segments & 0xffff, ss = segments >> 48;
    return (cs & 0xfff) == 0x33 && (segments & 0xffffffff0000) == 0 && (ss == 0 || (ss & 0xfff) == 0x2b);
}

/* Who gives the siginfo alone may have it from the kernel, which puts it behind the context. */
void fp_arrival_check(struct fp_arrival *a)
{
    if (a->by_kernel)
        return;
    if (!readable(a->info, sizeof(*a->info)) || a->info->si_signo != a->signo)
        a->info = NULL;
    if (a->info != NULL && !is_context(a->context))
        a->context = (ucontext_t *)((uintptr_t)a->info - KERNEL_UCONTEXT);
    if (a->info == NULL || !is_context(a->context))
        a->context = NULL;
}

bool fp_arrival_recovers(struct fp_arrival *a)
{
    fp_arrival_check(a);
    if (a->context == NULL || fp_was_sent(a) || (a->signo != SIGSEGV && a->signo != SIGBUS))
        return false;
    greg_t *pc = &a->context->uc_mcontext.gregs[REG_RIP];
    uintptr_t fixup = fp_guard_fixup((uintptr_t)*pc);
    if (fixup != 0)
        *pc = (greg_t)fixup;
    return fixup != 0;
}

/* A thread that is in a handler of ours. */
static struct {
    atomic_int thread; /* the kernel's id; 0: nobody */
    atomic_int signo;
    atomic_bool foreign; /* it has called somebody's handler, which may have left by siglongjmp */
    _Atomic(uintptr_t) frame;
    _Atomic(const struct fp_arrival *) arrival; /* on the thread's stack, below the frame */
    _Atomic(uint64_t) seal;
} marks[MARKS];

/* Is the call at `frame`, which was interrupted or calls us, older than what is at `at` on the same stack? */
static bool reaches(uintptr_t frame, uintptr_t at)
{
    return at < frame && frame - at < REACH;
}

/* Has the call of a mark been left without coming back from it?  The kernel interrupts what runs, on whatever stack.  A
   call from a handler may come from another stack, and then says nothing; on this one the memory between is in use,
   and holds the arrival unless something else has taken its place. */
static bool left_behind(const struct fp_arrival *a, int i, uintptr_t at)
{
    uintptr_t frame = atomic_load(&marks[i].frame);
    const struct fp_arrival *arrival = atomic_load(&marks[i].arrival);
    if (a->by_kernel)
        return !reaches(frame, at);
    if (!reaches(frame, at))
        return at >= frame && at - frame < REACH;
    return (uintptr_t)arrival < at || arrival->seal != atomic_load(&marks[i].seal);
}

/* Who is called may raise the signal in place of calling us, as the standard module does. */
static bool is_called_or_raised(const struct fp_arrival *a)
{
    return !a->by_kernel ||
           (fp_was_sent(a) && a->info->si_code >= SI_TKILL && a->info->si_pid == (pid_t)bare(SYS_getpid, 0, 0, 0, 0));
}

static void look_at(struct fp_arrival *a, int i)
{
    bool foreign = atomic_load(&marks[i].foreign);
    int signo = atomic_load(&marks[i].signo);
    uintptr_t frame = atomic_load(&marks[i].frame);
    /* An alternate stack that is used up starts again at its top: there only the interrupted code tells. */
    uintptr_t at = a->by_kernel ? (uintptr_t)a->context->uc_mcontext.gregs[REG_RSP] : a->frame;

    if (left_behind(a, i, at)) {
        atomic_store(&marks[i].thread, 0);
    }
    else if (reaches(frame, at) && foreign) {
        a->circles += signo == a->signo && is_called_or_raised(a);
    }
    else if (reaches(frame, at)) {
        a->nested = true;
        a->nested_in = signo;
    }
}

/* The first free place; if there is none, one that a siglongjmp may have left behind. */
static int take_place(int thread)
{
    for (int i = 0; i < MARKS; i++) {
        int nobody = 0;
        if (atomic_compare_exchange_strong(&marks[i].thread, &nobody, thread))
            return i;
    }
    for (int i = 0; i < MARKS; i++) {
        int other = atomic_load(&marks[i].thread);
        if (atomic_load(&marks[i].foreign) && atomic_compare_exchange_strong(&marks[i].thread, &other, thread))
            return i;
    }
    return -1;
}

void fp_arrival_begin(struct fp_arrival *a)
{
    static atomic_uint serial;
    a->thread = (int)bare(SYS_gettid, 0, 0, 0, 0);
    for (int i = 0; i < MARKS; i++)
        if (atomic_load(&marks[i].thread) == a->thread)
            look_at(a, i);
    a->mark = take_place(a->thread);
    if (a->mark < 0)
        return;
    atomic_store(&marks[a->mark].signo, a->signo);
    atomic_store(&marks[a->mark].frame, a->frame);
    atomic_store(&marks[a->mark].foreign, false);
    a->seal = (uint64_t)atomic_fetch_add(&serial, 1) << 32 ^ (uintptr_t)a ^ 0x66615570726f6f66;
    atomic_store(&marks[a->mark].arrival, a);
    atomic_store(&marks[a->mark].seal, a->seal);
}

void fp_arrival_end(const struct fp_arrival *a)
{
    int self = a->thread;
    if (a->mark >= 0)
        atomic_compare_exchange_strong(&marks[a->mark].thread, &self, 0);
}

bool fp_arrival_any(void)
{
    for (int i = 0; i < MARKS; i++)
        if (atomic_load(&marks[i].thread) != 0 && !atomic_load(&marks[i].foreign))
            return true;
    return false;
}

void fp_arrival_call(const struct fp_arrival *a, const struct sigaction *handler)
{
    sigset_t mask = handler->sa_mask, before;
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, a->signo);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    pthread_sigmask(handler->sa_flags & SA_NODEFER ? SIG_UNBLOCK : SIG_BLOCK, &own, NULL);
    if (a->mark >= 0)
        atomic_store(&marks[a->mark].foreign, true);
    if (handler->sa_flags & SA_SIGINFO)
        handler->sa_sigaction(a->signo, a->info, a->context);
    else
        handler->sa_handler(a->signo);
    if (a->mark >= 0 && atomic_load(&marks[a->mark].thread) == a->thread)
        atomic_store(&marks[a->mark].foreign, false);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* What a thread sent itself (raise, abort) tgkill() sends again just so, and a sandbox is likelier to know it. */
void fp_arrival_resend(const struct fp_arrival *a, bool with_info)
{
    long pid = bare(SYS_getpid, 0, 0, 0, 0);
    bool plain = !with_info || a->info == NULL || (a->info->si_code == SI_TKILL && a->info->si_pid == (pid_t)pid);
    if (plain || bare(SYS_rt_tgsigqueueinfo, pid, a->thread, a->signo, (long)a->info) != 0)
        bare(SYS_tgkill, pid, a->thread, a->signo, 0);
}

void fp_die_of(int signo)
{
    const struct {
        uint64_t handler, flags, restorer, mask;
    } default_action = {0, 0, 0, 0}; /* the kernel's struct sigaction */
    const uint64_t own = UINT64_C(1) << (signo - 1);
    bare(SYS_rt_sigaction, signo, (long)&default_action, 0, WORD);
    bare(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&own, 0, WORD);
    bare(SYS_tgkill, bare(SYS_getpid, 0, 0, 0, 0), bare(SYS_gettid, 0, 0, 0, 0), signo, 0);
    for (;;) /* the first process of a container doesn't die of a signal that is sent */
        bare(SYS_exit_group, 128 + signo, 0, 0, 0);
}

/* What came to the thread that takes nothing.  As in the kernel one of each signal is kept, the first. */
static struct {
    atomic_int thread;
    atomic_bool came[NSIG];
    siginfo_t info[NSIG]; /* written by that thread alone */
} put_off;

void fp_sent_put_off(void)
{
    atomic_store(&put_off.thread, (int)bare(SYS_gettid, 0, 0, 0, 0));
}

/* Only the main thread may queue to the process what kill() sends (kernel/signal.c, do_rt_sigqueueinfo): from another
   process it comes as if by sigqueue(), with its sender. */
static void requeue(int signo, siginfo_t *info)
{
    long pid = bare(SYS_getpid, 0, 0, 0, 0);
    bool by_kill = info->si_code == SI_USER || info->si_code == SI_TKILL;
    if (by_kill && info->si_pid == (pid_t)pid) {
        bare(SYS_kill, pid, signo, 0, 0);
        return;
    }
    if (by_kill) {
        info->si_code = SI_QUEUE;
        info->si_value.sival_ptr = NULL;
    }
    bare(SYS_rt_sigqueueinfo, pid, signo, (long)info, 0);
}

void fp_sent_requeue(void)
{
    atomic_store(&put_off.thread, 0);
    for (int signo = 1; signo < NSIG; signo++)
        if (atomic_exchange(&put_off.came[signo], false))
            requeue(signo, &put_off.info[signo]);
}

bool fp_sent_is_put_off(const struct fp_arrival *a)
{
    if (atomic_load(&put_off.thread) != a->thread || !fp_was_sent(a) || a->info == NULL)
        return false;
    if (!atomic_load(&put_off.came[a->signo])) {
        put_off.info[a->signo] = *a->info;
        atomic_store(&put_off.came[a->signo], true);
    }
    return true;
}

void fp_arrival_after_fork(void)
{
    for (int i = 0; i < MARKS; i++)
        atomic_store(&marks[i].thread, 0);
    atomic_store(&put_off.thread, 0);
    for (int signo = 1; signo < NSIG; signo++)
        atomic_store(&put_off.came[signo], false);
}
