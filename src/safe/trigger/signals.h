/* The fatal signals and the guard: who owns the handlers, and what happens after a report. */
#ifndef FP_SIGNALS_H
#define FP_SIGNALS_H

#include <signal.h>

#include "trigger/dump.h"

/* What the handler of a fatal signal does; copied when enabled. */
struct fp_fatal_config {
    const struct fp_target *target;
    struct fp_dump_options dump;
    void (*only_notes)(int); /* a handler that only takes note of a signal, so that it resolves no fault: CPython's own
                                for handlers made in Python; NULL: not known */
};

/* Normal context, any thread.  Installs the handlers of SIGSEGV and SIGBUS for guarded reads if they aren't ours now.
 */
FP_HIDDEN void fp_guard_require(void);
/* The same, but only if it wasn't placed before, by enable() or for a reading: a library that took the handlers since
   keeps them, and the dump picks another reader. */
FP_HIDDEN void fp_guard_require_once(void);
/* Is the handler of SIGSEGV and SIGBUS ours?  Any context. */
FP_HIDDEN bool fp_guard_in_place(void);
/* Is the handler of SIGSEGV and SIGBUS ours, and are both unblocked in this thread?  Any context. */
FP_HIDDEN bool fp_guard_ready(void);

/* Normal context, any thread.  Installs the handlers of all fatal signals, in front of whoever has them; when enabled
   already it replaces the configuration, and leaves them to functions that somebody has put over ours since.  0, or an
   errno value. */
FP_HIDDEN int fp_fatal_enable(const struct fp_fatal_config *config);
/* Gives the signals back to who had them before; the guard stays if something else required it.  Was it enabled? */
FP_HIDDEN bool fp_fatal_disable(void);
FP_HIDDEN bool fp_fatal_is_enabled(void);
/* What it was enabled with; false: it isn't. */
FP_HIDDEN bool fp_fatal_options(struct fp_fatal_config *config);

/* Once a process, in normal context, before anything else here: makes fork() safe.  0 or an errno value. */
FP_HIDDEN int fp_control_start(void);
/* Normal context, when the interpreter is gone: gives everything back, the guard's signals and user signals too.  What
   somebody has put over ours stays, and may go on calling our handlers.  All can be installed again. */
FP_HIDDEN void fp_control_end(void);
/* Is this one of the signals that enable() handles? */
FP_HIDDEN bool fp_fatal_handles(int signo);

#endif
