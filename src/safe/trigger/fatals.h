/* What the handler of the fatal signals and its control share.  Included by these two files only. */
#ifndef FP_FATALS_H
#define FP_FATALS_H

#include <signal.h>
#include <stdatomic.h>

#include "trigger/published.h"
#include "trigger/signals.h"

enum { FP_FATALS = 5 };

/* One fatal signal. */
struct fp_fatal {
    int signo;
    const char *name; /* as faulthandler prints it */
    bool guard;       /* also the guard's */
    atomic_bool installed;
    atomic_bool known;         /* `first` is set */
    struct sigaction first;    /* what was there before we first were */
    struct sigaction previous; /* what was there when we last took the signal; written before `installed` is set */
    atomic_bool spent;         /* that was a handler for one call (SA_RESETHAND), and has had it */
};
FP_HIDDEN extern struct fp_fatal fp_fatals[FP_FATALS];

/* What a report shows, a struct fp_fatal_config; nothing: not enabled. */
FP_HIDDEN extern struct fp_published fp_fatal_published;

/* Puts our handler in place if it isn't there now; 0 or an errno value. */
FP_HIDDEN int fp_fatal_install(struct fp_fatal *fatal);
/* Puts back what was there before us, unless somebody has taken the signal since.  Any context. */
FP_HIDDEN void fp_fatal_restore(struct fp_fatal *fatal);

#endif
