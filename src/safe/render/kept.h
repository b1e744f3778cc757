/* The descriptor that is kept from the start of the process on, so that reports reach the stderr of the start. */
#ifndef FP_KEPT_H
#define FP_KEPT_H

#include "base/base.h"

/* Normal context, once a process: from now on `fd` stands for the file that it is now.  0, or an errno value. */
FP_HIDDEN int fp_kept_remember(int fd);
/* Where to write what is meant for `fd`: the kept descriptor, once it has been closed or has become another file, isn't
   ours to write to any more, and stderr is as good as it gets.  Any context. */
FP_HIDDEN int fp_kept_resolve(int fd);
/* Does what is written to `fd` go where stderr goes?  Only the kept descriptor is looked at.  Any context. */
FP_HIDDEN bool fp_kept_is_stderr(int fd);

#endif
