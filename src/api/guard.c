/* The guard of the linked-in API: handlers of SIGSEGV and SIGBUS that recover faultproof's own reads and pass all else
 * on.
 *
 * The package doesn't have this file: there trigger/signals.c is the guard.  The handler runs on the signal path;
 * install and remove run in normal context under one lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "api/api.h"

static void on_fault(int signo, siginfo_t *info, void *context);

static struct guarded_signal {
    int signo;
    atomic_bool installed;
    atomic_bool spent;         /* `previous` was a handler for one call (SA_RESETHAND), and has had it */
    struct sigaction previous; /* written before `installed` is set */
} guarded_signals[] = {{.signo = SIGSEGV}, {.signo = SIGBUS}};

static pthread_mutex_t guard_control = PTHREAD_MUTEX_INITIALIZER; /* normal context only */

static bool handler_is_ours(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault;
}

bool fp_guard_ready(void)
{
    sigset_t blocked;
    if (!atomic_load(&guarded_signals[0].installed)) /* never asked for: saves the system calls */
        return false;
    if (!handler_is_ours(SIGSEGV) || !handler_is_ours(SIGBUS) || pthread_sigmask(SIG_BLOCK, NULL, &blocked) != 0)
        return false;
    return !sigismember(&blocked, SIGSEGV) && !sigismember(&blocked, SIGBUS);
}

static bool put_in(struct guarded_signal *g)
{
    /* SA_NODEFER: a guarded read in another handler may fault during this one.  SA_ONSTACK: the stack may be used up.
     */
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK}, before;

    if (handler_is_ours(g->signo))
        return true;
    /* Somebody's handler in front of ours may call ours, and we would call it: leave it so, reads go on without us. */
    if (atomic_load(&g->installed))
        return true;
    sigemptyset(&action.sa_mask);
    if (sigaction(g->signo, NULL, &before) != 0)
        return false;
    g->previous = before;
    atomic_store(&g->spent, false);
    if (sigaction(g->signo, &action, NULL) != 0)
        return false;
    atomic_store(&g->installed, true);
    return true;
}

/* Where the signal goes after us. */
static const struct sigaction *next_action(const struct guarded_signal *g)
{
    static const struct sigaction default_action = {.sa_flags = 0}; /* SIG_DFL */
    return atomic_load(&g->spent) ? &default_action : &g->previous;
}

int faultproof_install_guard(void)
{
    int saved = errno;
    bool all = fp_api_target() != NULL;
    pthread_mutex_lock(&guard_control);
    for (size_t i = 0; all && i < FP_COUNT(guarded_signals); i++)
        all = put_in(&guarded_signals[i]);
    pthread_mutex_unlock(&guard_control);
    errno = saved;
    return all ? 0 : -1;
}

int faultproof_remove_guard(void)
{
    int saved = errno;
    bool all = fp_api_target() != NULL;
    pthread_mutex_lock(&guard_control);
    for (size_t i = 0; all && i < FP_COUNT(guarded_signals); i++)
        all = !atomic_load(&guarded_signals[i].installed) || handler_is_ours(guarded_signals[i].signo);
    for (size_t i = 0; all && i < FP_COUNT(guarded_signals); i++)
        if (atomic_exchange(&guarded_signals[i].installed, false))
            sigaction(guarded_signals[i].signo, next_action(&guarded_signals[i]), NULL);
    pthread_mutex_unlock(&guard_control);
    errno = saved;
    return all ? 0 : -1;
}

/* As if we weren't there: the default action is put in place, so that the instruction faults again, and a signal that
   was sent (si_code, man 2 sigaction) is sent again.  Also if another handler is in front of ours and has called us:
   the process dies of this signal, and with that handler in place it would come back for ever. */
static void pass_to_default(struct guarded_signal *g, siginfo_t *info)
{
    bool sent = info->si_code <= 0;
    if (next_action(g)->sa_handler == SIG_IGN && sent)
        return;
    atomic_store(&g->installed, false);
    sigaction(g->signo, next_action(g), NULL);
    if (sent)
        syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), g->signo, info);
}

/* A handler that was there before is called as the kernel would have: with its mask, and ours stays installed. */
static void pass_to_previous(struct guarded_signal *g, siginfo_t *info, void *context)
{
    const struct sigaction *p = &g->previous;
    sigset_t mask = p->sa_mask, before;

    if (p->sa_flags & (int)SA_RESETHAND)
        atomic_store(&g->spent, true);
    if (!(p->sa_flags & SA_NODEFER))
        sigaddset(&mask, g->signo);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    if (p->sa_flags & SA_SIGINFO)
        p->sa_sigaction(g->signo, info, context);
    else
        p->sa_handler(g->signo);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_fault(int signo, siginfo_t *info, void *context)
{
    greg_t *pc = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    struct guarded_signal *g = &guarded_signals[signo == SIGSEGV ? 0 : 1];
    int saved = errno;

    uintptr_t fixup = info->si_code > 0 ? fp_guard_fixup((uintptr_t)*pc) : 0;
    if (fixup != 0) {
        *pc = (greg_t)fixup;
        return;
    }
    if (next_action(g)->sa_handler == SIG_DFL || next_action(g)->sa_handler == SIG_IGN)
        pass_to_default(g, info);
    else
        pass_to_previous(g, info, context);
    errno = saved;
}
