/* User signals that dump the stacks: register() and unregister(). */
#ifndef FP_USER_H
#define FP_USER_H

#include <signal.h>

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
    struct sigaction previous;
};
FP_HIDDEN extern struct fp_published fp_users[NSIG]; /* each of a struct fp_user */
FP_HIDDEN void fp_user_handler(int signo, siginfo_t *info, void *context);

/* Normal context.  Handles a signal, or replaces its configuration.  0, or an errno value; EINVAL: no such signal. */
FP_HIDDEN int fp_user_register(int signo, const struct fp_user_config *config);
/* Gives the signal back to who had it before.  Was it registered? */
FP_HIDDEN bool fp_user_unregister(int signo);

#endif
