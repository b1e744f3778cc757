/* Sees to it that each new Python thread gets an alternate stack.  Normal context.
 *
 * Each thread that Python starts frees its start record with PyMem_RawFree first thing, and each foreign thread that
 * attaches allocates its thread state with PyMem_Raw...: a wrapper around the raw allocator (PyMem_SetAllocator, which
 * tracemalloc uses too) runs in the new thread before any Python code does.
 */
#include "ext.h"

#include <pthread.h>

#include "trigger/altstack.h"

static PyMemAllocatorEx next; /* what ours calls; it stays valid when ours is taken out */
static pthread_mutex_t control = PTHREAD_MUTEX_INITIALIZER;
static bool wanted; /* read without the lock: a late reader gives a stack too many or too few */
static bool called; /* set by each call of ours, to see whether it is in the chain */

static inline void look(void)
{
    __atomic_store_n(&called, true, __ATOMIC_RELAXED);
    if (__atomic_load_n(&wanted, __ATOMIC_RELAXED))
        fp_altstack_ensure();
}

static void *raw_malloc(void *context, size_t size)
{
    (void)context;
    look();
    return next.malloc(next.ctx, size);
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
    (void)context;
    look();
    return next.calloc(next.ctx, count, size);
}

static void *raw_realloc(void *context, void *block, size_t size)
{
    (void)context;
    return next.realloc(next.ctx, block, size);
}

static void raw_free(void *context, void *block)
{
    (void)context;
    look();
    next.free(next.ctx, block);
}

/* Another allocator may stand over ours and call it (tracemalloc started later), or may have taken ours out. */
static bool in_chain(void)
{
    __atomic_store_n(&called, false, __ATOMIC_RELAXED);
    PyMem_RawFree(PyMem_RawMalloc(1));
    return __atomic_load_n(&called, __ATOMIC_RELAXED);
}

void fp_ext_altstack_start(enum fp_altstack_scope scope)
{
    pthread_mutex_lock(&control);
    __atomic_store_n(&wanted, scope != FP_ALTSTACK_NONE, __ATOMIC_RELAXED);
    if (scope != FP_ALTSTACK_NONE && !in_chain()) {
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &next);
        /* The same context: a thread that allocates meanwhile may see the old function with the new context. */
        PyMemAllocatorEx ours = {next.ctx, raw_malloc, raw_calloc, raw_realloc, raw_free};
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &ours);
    }
    pthread_mutex_unlock(&control);
    (void)fp_altstack_give(fp_ext_target(), scope);
}

void fp_ext_altstack_stop(void)
{
    PyMemAllocatorEx now;
    pthread_mutex_lock(&control);
    __atomic_store_n(&wanted, false, __ATOMIC_RELAXED);
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &now);
    if (now.malloc == raw_malloc)
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &next);
    pthread_mutex_unlock(&control);
}
