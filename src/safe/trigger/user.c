/* The handler of user signals.  Signal handler. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger/signals.h"
#include "trigger/user.h"

struct fp_published fp_users[NSIG];

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
    if (fp_is_published(&fp_users[signo]))
        sigaction(signo, &ours, NULL);
}

static void chain(const struct sigaction *previous, int signo, siginfo_t *info, void *context)
{
    if (previous->sa_handler == SIG_DFL)
        chain_default(signo, previous);
    else if (previous->sa_handler != SIG_IGN)
        fp_handler_call(previous, signo, info, context);
}

void fp_user_handler(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    struct fp_user user;
    if (fp_published_read(&fp_users[signo], &user, sizeof(user))) {
        const struct fp_dump_caller caller = {.thread_id = (uint64_t)pthread_self(), .is_this_thread = true};
        (void)fp_dump(user.config.target, &user.config.dump, &caller, "", 0);
        errno = saved;
        if (user.config.chain)
            chain(&user.previous, signo, info, context);
    }
    errno = saved;
}
