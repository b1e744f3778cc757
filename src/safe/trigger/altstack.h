/* Alternate signal stacks: a thread whose own stack is used up can still report.  Normal context. */
#ifndef FP_ALTSTACK_H
#define FP_ALTSTACK_H

#include "layout/layout.h"

/* What the handler path needs beside the kernel's own frame (AT_MINSIGSTKSZ), in bytes.  tests/lint measures the real
   depth from the compiler's -fstack-usage and fails when it doesn't fit. */
enum { FP_HANDLER_DEPTH = 32 << 10 };

/* How large a stack is where memory allows: it serves every handler with SA_ONSTACK, and those of others would have had
   the thread's own stack without it.  Address space only: a page counts once it is used. */
enum { FP_ALTSTACK_SIZE = 1 << 20 };

enum fp_altstack_scope {
    FP_ALTSTACK_NONE,
    FP_ALTSTACK_PYTHON, /* threads that have a Python thread state, each at its first call of fp_altstack_ensure() */
    FP_ALTSTACK_ALL,    /* every thread of the process at once: system calls of those may return EINTR once */
};

/* Once before the others, again without harm.  0 or an errno value. */
FP_HIDDEN int fp_altstack_start(void);

/* Gives the calling thread an alternate stack if it has none; it goes when the thread ends.  Cheap when there is one.
   errno is preserved. */
FP_HIDDEN void fp_altstack_ensure(void);

/* Takes it from the calling thread again, unless it stands on it or somebody else has set another. */
FP_HIDDEN void fp_altstack_drop(void);

/* Finds the Python threads that have no stack yet, and waits for them, as it were: how many are left is
   fp_altstack_expected(), which falls as they come to fp_altstack_ensure(). */
FP_HIDDEN void fp_altstack_expect(const struct fp_target *target);
FP_HIDDEN void fp_altstack_expect_none(void);
FP_HIDDEN unsigned fp_altstack_expected(void);

/* Gives one to all threads that exist now, by a directed real-time signal, but to those that block it; waits up to
   50 ms for them. */
FP_HIDDEN void fp_altstack_give_all(void);

#endif
