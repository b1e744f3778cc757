/* Wrappers around CPython's allocators that stay whatever else wraps them.  Normal context, with an attached thread
 * state; one thread at a time, but for fp_hook_called().
 */
#ifndef FP_ALLOCATORS_H
#define FP_ALLOCATORS_H

#include "ext.h"

/* A wrapper around one domain. */
struct fp_hook {
    PyMemAllocatorDomain domain;
    PyMemAllocatorEx ours; /* its context is set when it is inserted */
    PyMemAllocatorEx next; /* what ours has to call; stays valid when ours is taken out */
};

/* Puts the wrapper into the chain of the domain's allocators if it isn't there: below all wrappers that tell what they
   wrap, else on top. */
void fp_hook_insert(struct fp_hook *hook);
/* Takes it out if it can be found. */
void fp_hook_remove(const struct fp_hook *hook);
/* The same, only if it is on top, and without a look at other people's memory: false, it isn't. */
bool fp_hook_remove_top(const struct fp_hook *hook);

/* Between these two a call of fp_hook_called() for this hook by this thread is noticed: was there one? */
void fp_hook_probe(const struct fp_hook *hook);
bool fp_hook_probe_end(void);

extern const struct fp_hook *fp_hook_probed; /* NULL: nobody probes */
extern uint64_t fp_hook_prober;
extern bool fp_hook_seen;

static inline bool fp_hook_is_probed(void)
{
    return __atomic_load_n(&fp_hook_probed, __ATOMIC_ACQUIRE) != NULL;
}

/* Every function of a wrapper calls this. */
static inline void fp_hook_called(const struct fp_hook *hook)
{
    if (FP_UNLIKELY(__atomic_load_n(&fp_hook_probed, __ATOMIC_ACQUIRE) == hook) &&
        __atomic_load_n(&fp_hook_prober, __ATOMIC_RELAXED) == (uint64_t)PyThread_get_thread_ident())
        fp_hook_seen = true;
}

#endif
