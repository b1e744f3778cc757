/* What the parts of the handler of the fatal signals, and its control, share.  Included by these files only. */
#ifndef FP_FATALS_H
#define FP_FATALS_H

#include <signal.h>
#include <stdatomic.h>

#include "reader/arrival.h"
#include "trigger/published.h"
#include "trigger/signals.h"

enum { FP_FATALS = 5 };

/* One fatal signal. */
struct fp_fatal {
    int signo;
    const char *name; /* as faulthandler prints it */
    bool guard;       /* also the guard's */
    atomic_bool installed;
    atomic_bool known;         /* `first` is what was there before all that is in place now */
    struct sigaction first;    /* what was there before we were, and before who took the signal from us */
    struct sigaction previous; /* what was there when we last took the signal; written before `installed` is set */
    atomic_bool spent;         /* that was a handler for one call (SA_RESETHAND), and has had it */
    atomic_int handed_back_by; /* the thread that has reported this signal and given it back; 0: none */
};
FP_HIDDEN extern struct fp_fatal fp_fatals[FP_FATALS];

/* What a report shows, a struct fp_fatal_config; nothing: not enabled. */
FP_HIDDEN extern struct fp_published fp_fatal_published;

/* signals.c.  Puts our handler in place if it isn't there now; 0 or an errno value.  front: also if somebody has put a
   function over ours. */
FP_HIDDEN int fp_fatal_install(struct fp_fatal *fatal, bool front);
/* Puts back what was there before us, unless somebody has taken the signal since.  Any context. */
FP_HIDDEN void fp_fatal_restore(struct fp_fatal *fatal);
/* NULL: none of the fatal signals. */
FP_HIDDEN struct fp_fatal *fp_fatal_find(int signo);
/* Where the signal goes after us. */
FP_HIDDEN const struct sigaction *fp_fatal_next(const struct fp_fatal *fatal, const struct fp_arrival *arrival);
/* Calls it there; it is a function. */
FP_HIDDEN void fp_fatal_call_next(struct fp_fatal *fatal, const struct fp_arrival *arrival);

/* resolve.c.  Offers a fault to the handler that was there before us, if that may be its own kind of fault; true: that
   is all. */
FP_HIDDEN bool fp_fatal_resolved(const struct fp_fatal_config *config, struct fp_fatal *fatal,
                                 const struct fp_arrival *arrival);

/* turn.c.  One thread at a time reports. */
enum fp_turn {
    FP_TURN_MINE,
    FP_TURN_MINE_ALREADY, /* this thread is about to report, or its process should have died */
    FP_TURN_NEVER,        /* the other report hangs: this thread's own fate goes on */
};
FP_HIDDEN enum fp_turn fp_turn_take(int thread, int signo, int64_t budget_ns);
FP_HIDDEN bool fp_turn_is(int thread);
FP_HIDDEN void fp_turn_give(void);
/* Names those who waited meanwhile: "Thread 0x... crashed too: Aborted". */
FP_HIDDEN void fp_turn_name_waiters(const struct fp_fatal_config *config);
/* In the child of a fork. */
FP_HIDDEN void fp_turn_after_fork(void);

/* signals.c.  The name of a signal as this version of the standard module has it. */
FP_HIDDEN const char *fp_fatal_name(const struct fp_fatal *fatal, const struct fp_style *style);

#endif
