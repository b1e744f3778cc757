/* The end of the interpreter: what is installed would report on memory that is gone.  Normal context. */
#include "ext.h"

#include <stdatomic.h>

static atomic_bool registered; /* in the runtime that runs now; a host may start one again after its end */

/* Runs last in Py_Finalize(); no Python function may be called but those that set allocators. */
static void at_end(void)
{
    atomic_store(&registered, false);
    fp_control_end();
    fp_ext_altstack_stop();
}

void fp_ext_give_back_at_end(void)
{
    if (!atomic_exchange(&registered, true) && Py_AtExit(at_end) < 0)
        atomic_store(&registered, false); /* all of its places are taken: the next import tries again */
}
