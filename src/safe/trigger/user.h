/* User signals that dump the stacks: register() and unregister(). */
#ifndef FP_USER_H
#define FP_USER_H

#include <signal.h>
#include <stdatomic.h>

#include "trigger/dump.h"

struct fp_user_config {
    const struct fp_target *target;
    struct fp_dump_options dump;
    bool chain; /* call the previous handler after the dump */
};

/* One user signal; shared by the handler and its control. */
struct fp_user {
    _Atomic(struct fp_user_config *) published; /* NULL: not registered */
    struct fp_user_config configs[2];           /* the one that isn't published is free for writing */
    struct sigaction previous;
};
FP_HIDDEN extern struct fp_user fp_users[NSIG];
FP_HIDDEN void fp_user_handler(int signo, siginfo_t *info, void *context);

/* Normal context.  Handles a signal, or replaces its configuration.  0, or an errno value; EINVAL: no such signal. */
FP_HIDDEN int fp_user_register(int signo, const struct fp_user_config *config);
/* Gives the signal back to who had it before.  Was it registered? */
FP_HIDDEN bool fp_user_unregister(int signo);

#endif
