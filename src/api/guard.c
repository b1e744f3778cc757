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

#include "api/api.h"
#include "reader/arrival.h"

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

/* Where the signal goes after us; in a circle (a handler that we have called calls us) the circle ends. */
static const struct sigaction *next_action(const struct guarded_signal *g, unsigned circles)
{
    static const struct sigaction default_action = {.sa_flags = 0}; /* SIG_DFL */
    return atomic_load(&g->spent) || circles != 0 ? &default_action : &g->previous;
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
            sigaction(guarded_signals[i].signo, next_action(&guarded_signals[i], 0), NULL);
    pthread_mutex_unlock(&guard_control);
    errno = saved;
    return all ? 0 : -1;
}

/* As if we weren't there: the action is put in place, so that the instruction faults again, and a signal that was sent,
   or of which only the number is known, is sent again.  Also if another handler is in front of ours and has called us:
   the process dies of this signal, and with that handler in place it would come back for ever. */
static void put_back(struct guarded_signal *g, const struct fp_arrival *a, const struct sigaction *next)
{
    atomic_store(&g->installed, false);
    sigaction(g->signo, next, NULL);
    if (fp_was_sent(a) || a->info == NULL)
        fp_arrival_resend(a, true);
}

/* A handler that was there before is called as the kernel would have, and ours stays installed. */
static void pass_on(struct guarded_signal *g, const struct fp_arrival *a)
{
    const struct sigaction *next = next_action(g, a->circles);
    if (fp_is_function(next) && fp_arrival_serves(a, next)) {
        if (next->sa_flags & (int)SA_RESETHAND)
            atomic_store(&g->spent, true);
        fp_arrival_call(a, next);
    }
    else if (next->sa_handler != SIG_IGN || !fp_was_sent(a)) {
        put_back(g, a, next);
    }
}

/* Not a fault that was recovered.  One of our own code ends in the signal that it was about. */
static __attribute__((noinline)) void arrive(struct fp_arrival *a)
{
    fp_arrival_begin(a);
    if (a->nested && !fp_was_sent(a))
        fp_die_of(a->nested_in);
    int saved = errno;
    pass_on(&guarded_signals[a->signo == SIGSEGV ? 0 : 1], a);
    errno = saved;
    fp_arrival_end(a);
}

static void on_fault(int signo, siginfo_t *info, void *context)
{
    fp_flags_clear();
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    if (!fp_arrival_recovers(&a))
        arrive(&a);
}
