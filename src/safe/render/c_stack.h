/* The text of a C stack.  Any context. */
#ifndef FP_C_STACK_H
#define FP_C_STACK_H

#include "render/out.h"
#include "unwind/unwind.h"

/* "Current thread's C stack trace (most recent call first):" and its frames.  ucontext: the third argument of a signal
   handler, to begin at the instruction that it interrupted; NULL: the calling function's caller is the first frame.
   The reader is open; the unwind is memory that nobody else uses. */
FP_HIDDEN void fp_c_stack_show(struct fp_out *out, struct fp_reader *reader, struct fp_unwind *unwind,
                               const void *ucontext);

#endif
