/* User signals: the handler runs on the signal path, register and unregister in normal context under a lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger/signals.h"
#include "trigger/user.h"

static struct user {
    _Atomic(struct fp_user_config *) published; /* NULL: not registered */
    struct fp_user_config configs[2];           /* the one that isn't published is free for writing */
    struct sigaction previous;
} users[NSIG];

static pthread_mutex_t control = PTHREAD_MUTEX_INITIALIZER;

/* SIG_DFL has no function to call: the signal is sent again with the default action in place. */
static void chain_default(int signo, const struct sigaction *previous)
{
    struct sigaction ours;
    sigset_t set;

    if (sigaction(signo, previous, &ours) != 0)
        return;
    sigemptyset(&set);
    sigaddset(&set, signo);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), signo);
    if (atomic_load(&users[signo].published) != NULL)
        sigaction(signo, &ours, NULL);
}

static void chain(int signo, siginfo_t *info, void *context)
{
    const struct sigaction *p = &users[signo].previous;
    sigset_t mask = p->sa_mask, before;

    if (p->sa_handler == SIG_IGN)
        return;
    if (p->sa_handler == SIG_DFL) {
        chain_default(signo, p);
        return;
    }
    if (!(p->sa_flags & SA_NODEFER))
        sigaddset(&mask, signo);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    if (p->sa_flags & SA_SIGINFO)
        p->sa_sigaction(signo, info, context);
    else
        p->sa_handler(signo);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_user(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    struct fp_user_config *config = atomic_load(&users[signo].published);
    if (config != NULL) {
        const struct fp_user_config copy = *config;
        const struct fp_dump_caller caller = {.thread_id = (uint64_t)pthread_self(), .is_this_thread = true};
        (void)fp_dump(copy.target, &copy.dump, &caller, "", 0, false);
        errno = saved;
        if (copy.chain)
            chain(signo, info, context);
    }
    errno = saved;
}

static bool is_ours(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_user;
}

int fp_user_register(int signo, const struct fp_user_config *config)
{
    struct user *u = &users[signo];
    struct sigaction before, action = {.sa_sigaction = on_user, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    int error = 0;

    if (signo < 1 || signo >= NSIG)
        return EINVAL;
    fp_guard_require();
    if (config->chain)
        action.sa_flags |= SA_NODEFER; /* the previous handler may send the signal again */
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&control);
    struct fp_user_config *free_one = atomic_load(&u->published) == &u->configs[0] ? &u->configs[1] : &u->configs[0];
    *free_one = *config;
    bool again = is_ours(signo);
    if (!again && sigaction(signo, NULL, &before) == 0)
        u->previous = before;
    struct fp_user_config *old = atomic_exchange(&u->published, free_one);
    if (sigaction(signo, &action, NULL) != 0) {
        error = errno;
        atomic_store(&u->published, old);
    }
    pthread_mutex_unlock(&control);
    return error;
}

bool fp_user_unregister(int signo)
{
    if (signo < 1 || signo >= NSIG)
        return false;
    pthread_mutex_lock(&control);
    bool was = atomic_exchange(&users[signo].published, NULL) != NULL;
    if (was && is_ours(signo))
        sigaction(signo, &users[signo].previous, NULL);
    pthread_mutex_unlock(&control);
    return was;
}
