/* Sees to it that each Python thread gets an alternate stack, without a signal.  Normal context, any thread.
 *
 * Wrappers around CPython's allocators run in a thread before it gets far:
 * - raw: each thread that Python starts frees its start record with PyMem_RawFree first thing, and each foreign thread
 *   that attaches allocates its thread state with PyMem_Raw...
 * - arenas: from 3.11 on a new thread's first frame takes a piece of memory from the arena allocator, which no tracer
 *   wraps.
 * - memory and objects: only while there are threads that ran before and have no stack yet.  Their wrappers are taken
 *   out when each has got one, since every object would pay for them.
 */
#include "ext.h"

#include <pthread.h>

#include "allocators.h"

enum { RAW, MEM, OBJ, HOOKS, PROBE_SIZE = 4096, TRY_EACH = 1024 };

static struct fp_hook hooks[HOOKS];
static const struct fp_hook arenas; /* only a name for the probe */
static PyObjectArenaAllocator next_arena;
static pthread_mutex_t control = PTHREAD_MUTEX_INITIALIZER;
static bool wanted; /* written under control; read without: a late reader gives a stack too many or too few */

/* The thread that was last found to need nothing, while the wrappers of memory and objects have to stay: with a GIL it
   mostly is the one that comes next.  0: each has to look. */
static uint64_t settled;

static inline uint64_t this_thread(void)
{
#if defined(__has_builtin) && __has_builtin(__builtin_thread_pointer)
    return (uint64_t)(uintptr_t)__builtin_thread_pointer();
#else
    return (uint64_t)pthread_self();
#endif
}

static bool look(const struct fp_hook *hook)
{
    bool gives = __atomic_load_n(&wanted, __ATOMIC_RELAXED);
    fp_hook_called(hook);
    if (gives)
        fp_altstack_ensure();
    return gives;
}

/* Called in the middle of an allocation: if another thread has control, a later call does it.  While a tracer stands
   over ours it can't be done, and is tried from time to time. */
static void leave_objects(void)
{
    static unsigned tries;
    if (__atomic_fetch_add(&tries, 1, __ATOMIC_RELAXED) % TRY_EACH != 0 || pthread_mutex_trylock(&control) != 0)
        return;
    (void)fp_hook_remove_top(&hooks[MEM]);
    (void)fp_hook_remove_top(&hooks[OBJ]);
    pthread_mutex_unlock(&control);
}

static void __attribute__((noinline)) look_closely(int domain)
{
    bool stay = look(&hooks[domain]) && fp_altstack_expected() != 0;
    if (!stay && __atomic_load_n(&settled, __ATOMIC_RELAXED) != 0)
        __atomic_store_n(&settled, 0, __ATOMIC_RELAXED);
    if (domain == RAW)
        return;
    if (!stay)
        leave_objects();
    else if (!FP_FREE_THREADED && !fp_hook_is_probed()) /* there the threads would only fight for the word */
        __atomic_store_n(&settled, this_thread(), __ATOMIC_RELAXED);
}

static inline void look_at(int domain)
{
    if (domain == RAW || FP_UNLIKELY(__atomic_load_n(&settled, __ATOMIC_RELAXED) != this_thread()))
        look_closely(domain);
}

#define WRAPPER(name, domain)                                                                                          \
    static void *name##_malloc(void *context, size_t size)                                                             \
    {                                                                                                                  \
        (void)context;                                                                                                 \
        look_at(domain);                                                                                               \
        return hooks[domain].next.malloc(hooks[domain].next.ctx, size);                                                \
    }                                                                                                                  \
    static void *name##_calloc(void *context, size_t count, size_t size)                                               \
    {                                                                                                                  \
        (void)context;                                                                                                 \
        look_at(domain);                                                                                               \
        return hooks[domain].next.calloc(hooks[domain].next.ctx, count, size);                                         \
    }                                                                                                                  \
    static void *name##_realloc(void *context, void *block, size_t size)                                               \
    {                                                                                                                  \
        (void)context;                                                                                                 \
        look_at(domain);                                                                                               \
        return hooks[domain].next.realloc(hooks[domain].next.ctx, block, size);                                        \
    }                                                                                                                  \
    static void name##_free(void *context, void *block)                                                                \
    {                                                                                                                  \
        (void)context;                                                                                                 \
        look_at(domain);                                                                                               \
        hooks[domain].next.free(hooks[domain].next.ctx, block);                                                        \
    }
WRAPPER(raw, RAW)
WRAPPER(mem, MEM)
WRAPPER(obj, OBJ)

static struct fp_hook hooks[HOOKS] = {
    [RAW] = {PYMEM_DOMAIN_RAW, {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free}, {NULL}},
    [MEM] = {PYMEM_DOMAIN_MEM, {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free}, {NULL}},
    [OBJ] = {PYMEM_DOMAIN_OBJ, {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free}, {NULL}},
};

static void *arena_alloc(void *context, size_t size)
{
    (void)context;
    (void)look(&arenas);
    return next_arena.alloc(next_arena.ctx, size);
}

static void arena_free(void *context, void *block, size_t size)
{
    (void)context;
    next_arena.free(next_arena.ctx, block, size);
}

/* Does an allocator that isn't ours call ours? */
static bool leads_to_ours(const PyObjectArenaAllocator *now)
{
    fp_hook_probe(&arenas);
    void *block = now->alloc(now->ctx, PROBE_SIZE);
    if (block != NULL)
        now->free(now->ctx, block, PROBE_SIZE);
    return fp_hook_probe_end();
}

static void insert_arenas(void)
{
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    if (now.alloc == arena_alloc || leads_to_ours(&now))
        return;
    next_arena = now;
    PyObjectArenaAllocator ours = {now.ctx, arena_alloc, arena_free};
    PyObject_SetArenaAllocator(&ours);
}

static void remove_arenas(void)
{
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    if (now.alloc == arena_alloc)
        PyObject_SetArenaAllocator(&next_arena);
}

static void before_fork(void)
{
    pthread_mutex_lock(&control);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&control);
}

static void in_child(void)
{
    pthread_mutex_init(&control, NULL);
}

/* The main thread also comes by itself, after the call that it may be waiting in. */
static int come(void *unused)
{
    (void)unused;
    (void)look(&hooks[RAW]);
    return 0;
}

/* The order of the two is that of their locks: the last to ask is the first to be asked at a fork. */
static bool prepare(void)
{
    static bool prepared;
    pthread_mutex_lock(&control);
    if (!prepared)
        prepared = fp_altstack_start() == 0 && pthread_atfork(before_fork, in_parent, in_child) == 0;
    bool is = prepared;
    pthread_mutex_unlock(&control);
    return is;
}

static void wrap(void)
{
    __atomic_store_n(&settled, 0, __ATOMIC_RELAXED);
    fp_hook_insert(&hooks[RAW]);
    if (PY_VERSION_HEX >= 0x030b0000)
        insert_arenas();
    fp_altstack_expect(fp_ext_target());
    if (fp_altstack_expected() != 0) {
        (void)Py_AddPendingCall(come, NULL); /* may be refused: too many are waiting */
        fp_hook_insert(&hooks[MEM]);
        fp_hook_insert(&hooks[OBJ]);
    }
}

static void unwrap(void)
{
    __atomic_store_n(&settled, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < HOOKS; i++)
        fp_hook_remove(&hooks[i]);
    remove_arenas();
    fp_altstack_expect_none();
}

void fp_ext_altstack_start(enum fp_altstack_scope scope)
{
    if (!prepare())
        return;
    pthread_mutex_lock(&control);
    __atomic_store_n(&wanted, scope != FP_ALTSTACK_NONE, __ATOMIC_RELAXED);
    if (scope != FP_ALTSTACK_NONE) {
        fp_altstack_ensure();
        wrap();
    }
    else {
        unwrap();
    }
    pthread_mutex_unlock(&control);
    if (scope == FP_ALTSTACK_ALL) {
        Py_BEGIN_ALLOW_THREADS fp_altstack_give_all();
        Py_END_ALLOW_THREADS
    }
}

void fp_ext_altstack_stop(void)
{
    pthread_mutex_lock(&control);
    __atomic_store_n(&wanted, false, __ATOMIC_RELAXED);
    unwrap();
    fp_altstack_drop();
    pthread_mutex_unlock(&control);
}
