/* The text of faulthandler, from the model's records.  Any context. */
#ifndef FP_TEXT_H
#define FP_TEXT_H

#include "model/model.h"
#include "render/out.h"

enum { FP_TEXT_NO_NAME = -1, FP_TEXT_OWN_NAME = -2 };

/* "Thread 0x... [name] (most recent call first):" or "Current thread ...".  tasks: a descriptor of /proc/self/task, to
   print the name (3.14 and later); FP_TEXT_OWN_NAME: it is the calling thread, which needs none; FP_TEXT_NO_NAME. */
FP_HIDDEN void fp_text_thread(struct fp_out *out, const struct fp_thread *thread, int tasks);
/* '  File "...", line N in name' with "???" for what is unavailable. */
FP_HIDDEN void fp_text_frame(struct fp_out *out, const struct fp_frame *frame);
/* Why a stack ends before its root: "  <...>"; nothing for FP_OK. */
FP_HIDDEN void fp_text_end(struct fp_out *out, enum fp_status status, fp_addr bad_address);

#endif
