/* Alternate signal stacks: a thread whose own stack is used up can still report.  Normal context. */
#ifndef FP_ALTSTACK_H
#define FP_ALTSTACK_H

#include "layout/layout.h"

/* What the handler path needs beside the kernel's own frame (AT_MINSIGSTKSZ), in bytes.  tests/lint measures the real
   depth from the compiler's -fstack-usage and fails when it doesn't fit. */
enum { FP_HANDLER_DEPTH = 32 << 10 };

enum fp_altstack_scope {
    FP_ALTSTACK_NONE,
    FP_ALTSTACK_PYTHON, /* threads that have a Python thread state */
    FP_ALTSTACK_ALL,    /* every thread of the process: system calls of those may return EINTR once */
};

/* Gives the calling thread an alternate stack if it has none; it goes when the thread ends.  Cheap when there is one.
 */
FP_HIDDEN void fp_altstack_ensure(void);

/* Gives one to the threads that exist now, by a directed real-time signal; waits up to 50 ms for them.  Returns how
   many have got one or had one. */
FP_HIDDEN unsigned fp_altstack_give(const struct fp_target *target, enum fp_altstack_scope scope);

#endif
