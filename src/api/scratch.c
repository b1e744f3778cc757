/* The fixed scratch memory of calls that look at other threads.  Any context.
 *
 * A fork() copies what was in use; the child notices by the process id and takes it over.  Untouched pages cost
 * nothing.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"

enum { SCRATCHES = 16 };

static struct {
    atomic_int owner; /* process id; 0: free */
    struct fp_scratch scratch;
} scratch_pool[SCRATCHES];

static struct fp_scratch *scratch_free(int self)
{
    for (int i = 0; i < SCRATCHES; i++) {
        int owner = atomic_load_explicit(&scratch_pool[i].owner, memory_order_relaxed);
        if (owner != self && atomic_compare_exchange_strong(&scratch_pool[i].owner, &owner, self))
            return &scratch_pool[i].scratch;
    }
    return NULL;
}

struct fp_scratch *fp_scratch_take(void)
{
    const struct timespec pause = {0, 50000};
    int self = (int)getpid();
    struct fp_scratch *found = scratch_free(self);
    for (int64_t start = fp_now_ns(); found == NULL && fp_now_ns() - start < FP_SCRATCH_WAIT_NS;) {
        nanosleep(&pause, NULL);
        found = scratch_free(self);
    }
    return found;
}

void fp_scratch_give(struct fp_scratch *scratch)
{
    for (int i = 0; i < SCRATCHES; i++)
        if (&scratch_pool[i].scratch == scratch)
            atomic_store_explicit(&scratch_pool[i].owner, 0, memory_order_release);
}
