/* The handler of user signals.  Signal handler. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger/signals.h"
#include "trigger/user.h"

struct fp_user fp_users[NSIG];

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
    if (atomic_load(&fp_users[signo].published) != NULL)
        sigaction(signo, &ours, NULL);
}

static void chain(int signo, siginfo_t *info, void *context)
{
    const struct sigaction *previous = &fp_users[signo].previous;
    if (previous->sa_handler == SIG_DFL)
        chain_default(signo, previous);
    else if (previous->sa_handler != SIG_IGN)
        fp_handler_call(previous, signo, info, context);
}

void fp_user_handler(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    struct fp_user_config *config = atomic_load(&fp_users[signo].published);
    if (config != NULL) {
        const struct fp_user_config copy = *config;
        const struct fp_dump_caller caller = {.thread_id = (uint64_t)pthread_self(), .is_this_thread = true};
        (void)fp_dump(copy.target, &copy.dump, &caller, "", 0);
        errno = saved;
        if (copy.chain)
            chain(signo, info, context);
    }
    errno = saved;
}
