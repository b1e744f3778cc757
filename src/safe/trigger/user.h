/* User signals that dump the stacks: register() and unregister(). */
#ifndef FP_USER_H
#define FP_USER_H

#include <signal.h>

#include "reader/arrival.h"
#include "trigger/dump.h"
#include "trigger/published.h"

struct fp_user_config {
    const struct fp_target *target;
    struct fp_dump_options dump;
    bool chain; /* call the previous handler after the dump */
};

/* What the handler of one user signal goes by; shared with its control. */
struct fp_user {
    struct fp_user_config config;
    bool registered; /* else our handler may still be called by who took the signal from us, and passes it on */
    bool given_back; /* `previous` has been put in its place again */
    struct sigaction previous; /* what was there when we last took the signal */
    struct sigaction first;    /* what was there before we were, and before who took the signal from us */
};
FP_HIDDEN extern struct fp_published fp_users[NSIG]; /* each of a struct fp_user */
FP_HIDDEN extern atomic_bool fp_user_spent[NSIG];    /* `previous` was for one call (SA_RESETHAND), and has had it */
FP_HIDDEN void fp_user_handler(int signo, siginfo_t *info, void *context);
/* Where the signal goes after us. */
FP_HIDDEN const struct sigaction *fp_user_next(const struct fp_user *user, int signo);

/* Normal context.  Handles a signal, or replaces its configuration; when registered already it leaves the signal to a
   function that somebody has put over ours since.  0, or an errno value; EINVAL: no such signal. */
FP_HIDDEN int fp_user_register(int signo, const struct fp_user_config *config);
/* Gives the signal back to who had it before.  Was it registered? */
FP_HIDDEN bool fp_user_unregister(int signo);

#endif
