/* Alternate stacks for threads that don't come for one, on request (altstacks="all"): a directed real-time signal,
 * whose handler gives the stack.  Normal context, but for on_give.
 *
 * sigaltstack() inside a handler is undone when the handler returns; what counts is uc_stack in the saved context,
 * which sigreturn installs (Linux, arch/x86/kernel/signal_64.c: restore_altstack).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "trigger/stacks.h"
#include "walk/walk.h"

enum { WAIT_NS = 50000000, STATUS_SIZE = 4096 };

static int give_signo; /* 0: none could be had */

static void on_give(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)signo;
    if (info->si_code != SI_QUEUE || info->si_pid != getpid())
        return;
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next) {
        if (s != info->si_value.sival_ptr || atomic_load(&s->state) != FP_STACK_PENDING)
            continue;
        bool none = (uc->uc_stack.ss_flags & SS_DISABLE) != 0;
        if (none)
            uc->uc_stack = fp_stack_descriptor(s);
        atomic_store(&s->thread, (uint64_t)pthread_self());
        atomic_store(&s->state, none ? FP_STACK_INSTALLED : FP_STACK_REFUSED);
    }
}

/* A real-time signal that nobody handles.  It stays ours: a thread that blocks it may unblock it at any later time. */
static int take_signal(void)
{
    struct sigaction now, action = {.sa_sigaction = on_give, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (int signo = SIGRTMAX; signo >= SIGRTMIN; signo--)
        if (sigaction(signo, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL &&
            sigaction(signo, &action, NULL) == 0)
            return signo;
    return 0;
}

static bool handles(int signo)
{
    struct sigaction now;
    return signo != 0 && sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
           now.sa_sigaction == on_give;
}

/* Does the thread block the signal?  Then it would keep it, past exec() even, and the new program would die of it. */
static bool blocks(const char *tid, int signo)
{
    char path[64], text[STATUS_SIZE];
    int n = snprintf(path, sizeof(path), "/proc/self/task/%s/status", tid);
    int fd = n < (int)sizeof(path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[size > 0 ? size : 0] = 0;
    const char *line = strstr(text, "\nSigBlk:");
    return line == NULL || (strtoull(line + strlen("\nSigBlk:"), NULL, 16) >> (signo - 1) & 1) != 0;
}

/* Has the thread a node: a stack, or one that is on its way? */
static bool served(pid_t tid)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next) {
        enum fp_stack_state state = atomic_load(&s->state);
        if (s->tid == tid && (state == FP_STACK_INSTALLED || state == FP_STACK_FOREIGN || state == FP_STACK_PENDING))
            return true;
    }
    return false;
}

static void send_stack(const char *name)
{
    pid_t pid = getpid(), tid = (pid_t)atoi(name);
    if (tid <= 0 || served(tid) || blocks(name, give_signo))
        return;
    struct fp_stack *s = fp_stack_claim();
    if (s == NULL)
        return;
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = pid;
    info.si_uid = getuid();
    info.si_value.sival_ptr = s;
    s->tid = tid;
    atomic_store(&s->given, true);
    bool ready = fp_stack_map(s);
    atomic_store(&s->state, FP_STACK_PENDING);
    if (!ready || syscall(SYS_rt_tgsigqueueinfo, pid, tid, give_signo, &info) != 0)
        fp_stack_free(s);
}

static void send_to_all(void)
{
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        send_stack(entry->d_name);
    closedir(tasks);
}

/* What was given to threads that only C code knows has nobody who frees it at their end.  A thread that comes to
   ensure() frees its own: `given` is looked at again once the thread is known to have ended. */
static void free_of_ended(void)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next) {
        bool refused = atomic_load(&s->state) == FP_STACK_REFUSED;
        if (atomic_load(&s->given) && (refused || syscall(SYS_tgkill, getpid(), s->tid, 0) != 0) &&
            atomic_load(&s->given))
            fp_stack_free(s);
    }
}

/* Waits for those on their way; a thread that had a stack already doesn't need ours. */
static void collect(void)
{
    const struct timespec pause = {0, 100000};
    int64_t end = fp_now_ns() + WAIT_NS;
    unsigned pending;
    do {
        pending = 0;
        for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next)
            pending += atomic_load(&s->state) == FP_STACK_PENDING;
        if (pending != 0)
            nanosleep(&pause, NULL);
    } while (pending != 0 && fp_now_ns() < end);
}

void fp_altstack_give_all(void)
{
    pthread_mutex_lock(&fp_stacks_lock);
    if (!handles(give_signo)) /* a program may have reset all signals to their defaults, which end the process */
        give_signo = take_signal();
    if (give_signo != 0) {
        free_of_ended();
        send_to_all();
        collect();
        free_of_ended();
    }
    pthread_mutex_unlock(&fp_stacks_lock);
}
