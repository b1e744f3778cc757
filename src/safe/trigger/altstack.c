/* Alternate signal stacks: each thread sets its own.  Normal context, any thread.
 *
 * Who has one stands in a list, by pthread_t.  The list tells which threads are still without, and what is left of
 * threads that a fork() didn't copy.  Stacks that are given by a signal: given.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger/signals.h"
#include "trigger/stacks.h"

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51 /* glibc before 2.34 */
#endif

_Atomic(struct fp_stack *) fp_stacks;
pthread_mutex_t fp_stacks_lock = PTHREAD_MUTEX_INITIALIZER;

static pthread_key_t key; /* the thread's struct fp_stack, or &unlisted */
static atomic_bool key_made;
static struct fp_stack unlisted; /* of threads for which there was no memory */
static atomic_uint expected;     /* nodes in the state FP_STACK_EXPECTED */

/* Never 0: no page is larger than this needs, and a page is what a guard takes. */
static size_t page_size(void)
{
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : (size_t)getauxval(AT_PAGESZ);
}

static size_t in_pages(size_t size)
{
    size_t page = page_size();
    return (size + page - 1) / page * page;
}

/* What our own handler needs. */
static size_t least_size(void)
{
    size_t kernel = getauxval(AT_MINSIGSTKSZ), least = (size_t)MINSIGSTKSZ;
    return in_pages((kernel > least ? kernel : least) + FP_HANDLER_DEPTH);
}

stack_t fp_stack_descriptor(const struct fp_stack *s)
{
    size_t guard = page_size();
    return (stack_t){.ss_sp = s->base + guard, .ss_size = s->size - guard};
}

static bool is_at(const struct fp_stack *s, const stack_t *now)
{
    return s->base != NULL && now->ss_sp == s->base + page_size();
}

struct fp_stack *fp_stack_claim(void)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next) {
        enum fp_stack_state wanted = FP_STACK_FREE;
        if (atomic_compare_exchange_strong(&s->state, &wanted, FP_STACK_CLAIMED))
            return s;
    }
    struct fp_stack *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    atomic_init(&s->state, FP_STACK_CLAIMED);
    s->next = atomic_load(&fp_stacks);
    while (!atomic_compare_exchange_weak(&fp_stacks, &s->next, s))
        continue;
    return s;
}

static bool map(struct fp_stack *s, size_t size)
{
    size_t guard = page_size();
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE;
    char *base = mmap(NULL, size + guard, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED)
        return false;
    if (mprotect(base, guard, PROT_NONE) != 0) { /* without it an overflow here would damage what lies below */
        munmap(base, size + guard);
        return false;
    }
    s->size = size + guard;
    s->base = base;
    return true;
}

bool fp_stack_map(struct fp_stack *s)
{
    return map(s, in_pages(FP_ALTSTACK_SIZE)) || map(s, least_size());
}

void fp_stack_free(struct fp_stack *s)
{
    char *base = s->base;
    s->base = NULL; /* first: a child of a fork() in between must not unmap what may be somebody else's by then */
    if (base != NULL)
        munmap(base, s->size);
    atomic_store(&s->thread, 0);
    atomic_store(&s->given, false);
    atomic_store(&s->state, FP_STACK_FREE);
}

static void free_expected(struct fp_stack *s)
{
    enum fp_stack_state wanted = FP_STACK_EXPECTED;
    if (atomic_compare_exchange_strong(&s->state, &wanted, FP_STACK_CLAIMED)) {
        atomic_fetch_sub(&expected, 1);
        fp_stack_free(s);
    }
}

/* True when the calling thread doesn't use this stack and the kernel will not either. */
static bool taken_off(const struct fp_stack *s)
{
    const stack_t off = {.ss_flags = SS_DISABLE};
    stack_t now;
    if (sigaltstack(NULL, &now) != 0 || (now.ss_flags & SS_ONSTACK))
        return false;
    return !is_at(s, &now) || sigaltstack(&off, NULL) == 0;
}

/* A thread that ends on this very stack keeps it. */
static void on_thread_end(void *value)
{
    struct fp_stack *s = value;
    if (s == &unlisted)
        return;
    if (s->base == NULL || taken_off(s))
        fp_stack_free(s);
    else
        atomic_store(&s->thread, 0);
}

static void before_fork(void)
{
    pthread_mutex_lock(&fp_stacks_lock);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&fp_stacks_lock);
}

/* The child has one thread: what belonged to the others goes, and the ids of theirs may come again. */
static void in_child(void)
{
    stack_t now = {.ss_sp = NULL};
    (void)sigaltstack(NULL, &now);
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next)
        if (s != pthread_getspecific(key) && !is_at(s, &now))
            fp_stack_free(s);
        else
            s->tid = (pid_t)syscall(SYS_gettid);
    atomic_store(&expected, 0);
    pthread_mutex_init(&fp_stacks_lock, NULL);
}

int fp_altstack_start(void)
{
    int error = 0;
    pthread_mutex_lock(&fp_stacks_lock);
    if (!atomic_load(&key_made)) {
        error = pthread_key_create(&key, on_thread_end);
        if (error == 0)
            error = pthread_atfork(before_fork, in_parent, in_child);
        atomic_store(&key_made, error == 0);
    }
    pthread_mutex_unlock(&fp_stacks_lock);
    return error;
}

/* The node that has this thread, in one of two states. */
static struct fp_stack *node_of(uint64_t thread, enum fp_stack_state a, enum fp_stack_state b)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next) {
        enum fp_stack_state state = atomic_load(&s->state);
        if ((state == a || state == b) && atomic_load(&s->thread) == thread)
            return s;
    }
    return NULL;
}

/* The stack that a signal gave to this thread earlier; NULL: its stack is somebody else's. */
static struct fp_stack *given(const stack_t *now)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next)
        if (atomic_load(&s->state) == FP_STACK_INSTALLED && is_at(s, now))
            return s;
    return NULL;
}

/* A node for the calling thread, with a stack if it has none and there is memory for one; NULL: not even for a node. */
static struct fp_stack *equip(void)
{
    enum fp_stack_state state = FP_STACK_FOREIGN;
    stack_t now;

    bool known = sigaltstack(NULL, &now) == 0, none = known && (now.ss_flags & SS_DISABLE);
    struct fp_stack *s = known && !none ? given(&now) : NULL;
    if (s != NULL)
        return s;
    s = fp_stack_claim();
    if (s != NULL && none && fp_stack_map(s)) {
        const stack_t ours = fp_stack_descriptor(s);
        if (sigaltstack(&ours, NULL) == 0)
            state = FP_STACK_INSTALLED;
    }
    if (s != NULL) {
        s->tid = (pid_t)syscall(SYS_gettid);
        atomic_store(&s->thread, (uint64_t)pthread_self()); /* before the state: see expect() */
        atomic_store(&s->state, state);
    }
    return s;
}

void fp_altstack_ensure(void)
{
    if (FP_UNLIKELY(!atomic_load_explicit(&key_made, memory_order_acquire)) ||
        FP_LIKELY(pthread_getspecific(key) != NULL))
        return;
    int saved = errno;
    struct fp_stack *s = equip(), *waiting;
    uint64_t self = (uint64_t)pthread_self();
    if (s != NULL) {
        atomic_store(&s->thread, self);
        atomic_store(&s->given, false);
    }
    pthread_setspecific(key, s ? s : &unlisted);
    while ((waiting = node_of(self, FP_STACK_EXPECTED, FP_STACK_EXPECTED)) != NULL)
        free_expected(waiting);
    errno = saved;
}

void fp_altstack_drop(void)
{
    struct fp_stack *s = atomic_load(&key_made) ? pthread_getspecific(key) : NULL;
    if (s == NULL || (s != &unlisted && s->base != NULL && !taken_off(s)))
        return;
    pthread_setspecific(key, NULL);
    if (s != &unlisted)
        fp_stack_free(s);
}

/* The thread may come to ensure() just now: either it sees that it is expected, or here it is seen to have come. */
static void expect(uint64_t thread)
{
    if (thread == (uint64_t)pthread_self() || node_of(thread, FP_STACK_INSTALLED, FP_STACK_FOREIGN) != NULL ||
        node_of(thread, FP_STACK_EXPECTED, FP_STACK_EXPECTED) != NULL)
        return;
    struct fp_stack *s = fp_stack_claim();
    if (s == NULL)
        return;
    atomic_store(&s->thread, thread);
    atomic_fetch_add(&expected, 1);
    atomic_store(&s->state, FP_STACK_EXPECTED);
    if (node_of(thread, FP_STACK_INSTALLED, FP_STACK_FOREIGN) != NULL)
        free_expected(s);
}

static void expect_threads(struct fp_walk *w)
{
    unsigned interps = 0;
    for (fp_addr i = fp_interp_first(w); i != 0 && interps++ < FP_INTERPS_MAX; i = fp_interp_next(w, i)) {
        unsigned links = 0;
        for (fp_addr t = fp_thread_first(w, i); t != 0 && links++ < FP_THREADS_MAX; t = fp_thread_next(w, t)) {
            struct fp_thread thread;
            if (fp_thread_read(w, t, &thread) == FP_OK && thread.thread_id != 0)
                expect(thread.thread_id);
        }
    }
}

static void free_all_expected(void)
{
    for (struct fp_stack *s = atomic_load(&fp_stacks); s != NULL; s = s->next)
        free_expected(s);
}

/* Not by a session: where the guard can't be used that would make system calls which a filter may end the process for.
   The threads of the caller's interpreter stand still, where there is a GIL. */
void fp_altstack_expect(const struct fp_target *target)
{
    struct fp_reader reader;
    struct fp_walk walk = {.n_raw = 0};
    pthread_mutex_lock(&fp_stacks_lock);
    free_all_expected(); /* some may have ended */
    if (fp_reader_open(&reader, fp_guard_ready() ? FP_READER_GUARD : FP_READER_MASK) == FP_OK) {
        fp_walk_init(&walk, &reader, target, true);
        expect_threads(&walk);
        fp_reader_close(&reader);
    }
    pthread_mutex_unlock(&fp_stacks_lock);
}

void fp_altstack_expect_none(void)
{
    pthread_mutex_lock(&fp_stacks_lock);
    free_all_expected();
    pthread_mutex_unlock(&fp_stacks_lock);
}

unsigned fp_altstack_expected(void)
{
    return atomic_load_explicit(&expected, memory_order_relaxed);
}
