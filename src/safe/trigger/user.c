/* The handler of user signals.  Signal handler. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "trigger/user.h"

struct fp_published fp_users[NSIG];
atomic_bool fp_user_spent[NSIG];

const struct sigaction *fp_user_next(const struct fp_user *user, int signo)
{
    static const struct sigaction default_action = {.sa_flags = 0}; /* SIG_DFL */
    return atomic_load(&fp_user_spent[signo]) ? &default_action : &user->previous;
}

/* Without a function to call, or without what it has to be called with: the signal is sent again with that action in
   place. */
static void send_to(const struct fp_arrival *a, const struct sigaction *next)
{
    struct sigaction before;
    struct fp_user now;
    sigset_t set;

    if (sigaction(a->signo, next, &before) != 0)
        return;
    sigemptyset(&set);
    sigaddset(&set, a->signo);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    fp_arrival_resend(a, true);
    if (fp_published_read(&fp_users[a->signo], &now, sizeof(now)) && now.registered)
        sigaction(a->signo, &before, NULL);
}

/* In a circle, what was there before us and before who calls us comes next.  Nobody has asked for more than functions
   there, nor of a handler that isn't registered any more, unless the signal is ours alone. */
static void chain(const struct fp_arrival *a, const struct fp_user *user)
{
    const struct sigaction *next = a->circles == 0 ? fp_user_next(user, a->signo) : &user->first;
    bool function = fp_is_function(next), whole = a->circles == 0 && (user->registered || a->by_kernel);

    if (a->circles > 1 || next->sa_handler == SIG_IGN || !(function || whole))
        return;
    if (next->sa_flags & (int)SA_RESETHAND)
        atomic_store(&fp_user_spent[a->signo], true);
    if (function && fp_arrival_serves(a, next))
        fp_arrival_call(a, next);
    else
        send_to(a, next);
}

static void answer(const struct fp_arrival *a)
{
    struct fp_user user;
    int saved = errno;
    if (!fp_published_read(&fp_users[a->signo], &user, sizeof(user)))
        return;
    if (user.registered && a->circles == 0) {
        const struct fp_dump_caller caller = {.thread_id = (uint64_t)pthread_self(), .is_this_thread = true};
        (void)fp_dump(user.config.target, &user.config.dump, &caller, "", 0);
        errno = saved;
    }
    if (user.config.chain || !user.registered || a->circles != 0)
        chain(a, &user);
    errno = saved;
}

static __attribute__((noinline)) void arrive(struct fp_arrival *a)
{
    fp_arrival_check(a);
    fp_arrival_begin(a);
    answer(a);
    fp_arrival_end(a);
}

void fp_user_handler(int signo, siginfo_t *info, void *context)
{
    fp_flags_clear();
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    arrive(&a);
}
