/* The watchdog: a thread of its own that dumps all stacks when time is up.  Normal context; it never takes the GIL. */
#ifndef FP_WATCHDOG_H
#define FP_WATCHDOG_H

#include "trigger/dump.h"

enum { FP_WATCHDOG_HEADER = 64 };

struct fp_watchdog_config {
    const struct fp_target *target;
    struct fp_dump_options dump;
    int64_t timeout_ns; /* CLOCK_MONOTONIC, greater than 0 */
    bool repeat;
    bool exit;                       /* _exit(1) after the dump */
    fp_addr interp;                  /* whose threads come first */
    char header[FP_WATCHDOG_HEADER]; /* terminated */
};

/* Arms the watchdog; an armed one is replaced.  0, or the errno value of the thread's creation. */
FP_HIDDEN int fp_watchdog_arm(const struct fp_watchdog_config *config);
/* Disarms it.  When it returns true no dump of an earlier arming is under way; false: one is, and has been told to
   stop, but did not within a second. */
FP_HIDDEN bool fp_watchdog_cancel(void);
/* Disarms it, and waits until its thread is gone, unless that hangs in a dump. */
FP_HIDDEN void fp_watchdog_end(void);
/* The kernel's id of its thread; 0: there is none, or it is about to begin. */
FP_HIDDEN int fp_watchdog_thread(void);
/* Is a dump under way, so that cancel() may wait? */
FP_HIDDEN bool fp_watchdog_busy(void);

#endif
