/* Alternate signal stacks for the calling thread, and for threads that run already.  Normal context, but for on_give,
 * which runs in the handler of a real-time signal.
 *
 * sigaltstack() inside a handler is undone when the handler returns; what counts is uc_stack in the saved context,
 * which sigreturn installs (Linux, arch/x86/kernel/signal_64.c: restore_altstack).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "trigger/altstack.h"
#include "trigger/dump.h"

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51 /* glibc before 2.34 */
#endif

enum { GUARD = 4096, WAIT_NS = 50000000, PTHREAD_SCAN = 2304 };

enum state { FREE, PENDING, INSTALLED, REFUSED };

/* One stack.  Nodes are never freed, only used again, so that the signal handler may walk the list. */
struct stack {
    struct stack *next;
    _Atomic(enum state) state;
    pid_t tid;  /* who it was sent to, while PENDING */
    char *base; /* of the mapping; the lowest page is the guard */
};

static _Atomic(struct stack *) stacks;
static pthread_key_t key; /* the thread's struct stack, or &foreign */
static struct stack foreign;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool key_made;
static int give_signo; /* 0: none could be had */

static size_t stack_size(void)
{
    size_t kernel = getauxval(AT_MINSIGSTKSZ), least = (size_t)MINSIGSTKSZ;
    size_t size = (kernel > least ? kernel : least) + FP_HANDLER_DEPTH;
    return (size + GUARD - 1) & ~(size_t)(GUARD - 1);
}

static stack_t descriptor(const struct stack *s)
{
    return (stack_t){.ss_sp = s->base + GUARD, .ss_size = stack_size()};
}

static struct stack *new_node(void)
{
    for (struct stack *s = atomic_load(&stacks); s != NULL; s = s->next) {
        enum state wanted = FREE;
        if (atomic_compare_exchange_strong(&s->state, &wanted, PENDING))
            return s;
    }
    struct stack *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    atomic_init(&s->state, PENDING);
    s->next = atomic_load(&stacks);
    while (!atomic_compare_exchange_weak(&stacks, &s->next, s))
        continue;
    return s;
}

static struct stack *new_stack(void)
{
    struct stack *s = new_node();
    if (s == NULL)
        return NULL;
    s->base = mmap(NULL, stack_size() + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (s->base == MAP_FAILED) {
        atomic_store(&s->state, FREE);
        return NULL;
    }
    mprotect(s->base, GUARD, PROT_NONE);
    return s;
}

static void free_stack(struct stack *s)
{
    munmap(s->base, stack_size() + GUARD);
    atomic_store(&s->state, FREE);
}

/* The thread ends: no signal of it may use the stack any more. */
static void on_thread_end(void *value)
{
    const stack_t off = {.ss_flags = SS_DISABLE};
    struct stack *s = value;
    stack_t now;
    if (s == &foreign)
        return;
    /* A thread that ends on this very stack keeps it. */
    if (sigaltstack(NULL, &now) != 0 || (now.ss_flags & SS_ONSTACK))
        return;
    if (now.ss_sp == s->base + GUARD && sigaltstack(&off, NULL) != 0)
        return;
    free_stack(s);
}

static void on_give(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)signo;
    if (info->si_code != SI_QUEUE || info->si_pid != getpid())
        return;
    for (struct stack *s = atomic_load(&stacks); s != NULL; s = s->next) {
        if (s != info->si_value.sival_ptr || atomic_load(&s->state) != PENDING)
            continue;
        bool none = (uc->uc_stack.ss_flags & SS_DISABLE) != 0;
        if (none)
            uc->uc_stack = descriptor(s);
        atomic_store(&s->state, none ? INSTALLED : REFUSED);
    }
}

/* A real-time signal that nobody handles.  It stays ours: a thread that blocks it may unblock it at any later time. */
static int take_signal(void)
{
    struct sigaction now, action = {.sa_sigaction = on_give, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (int signo = SIGRTMAX; signo >= SIGRTMIN; signo--)
        if (sigaction(signo, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL &&
            sigaction(signo, &action, NULL) == 0)
            return signo;
    return 0;
}

static bool handles(int signo)
{
    struct sigaction now;
    return signo != 0 && sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
           now.sa_sigaction == on_give;
}

static void prepare(void)
{
    key_made = pthread_key_create(&key, on_thread_end) == 0;
}

/* The stack that a signal gave to this thread earlier; NULL if its stack is somebody else's. */
static struct stack *find_installed(const stack_t *now)
{
    for (struct stack *s = atomic_load(&stacks); s != NULL; s = s->next)
        if (atomic_load(&s->state) == INSTALLED && now->ss_sp == s->base + GUARD)
            return s;
    return NULL;
}

void fp_altstack_ensure(void)
{
    stack_t now;
    int saved = errno;

    pthread_once(&once, prepare);
    if (!key_made || pthread_getspecific(key) != NULL)
        return;
    struct stack *s = NULL;
    if (sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE)) {
        s = new_stack();
        stack_t mine = s ? descriptor(s) : now;
        if (s != NULL && sigaltstack(&mine, NULL) == 0) {
            atomic_store(&s->state, INSTALLED);
        }
        else if (s != NULL) {
            free_stack(s);
            s = NULL;
        }
    }
    else {
        s = find_installed(&now);
    }
    pthread_setspecific(key, s ? s : &foreign);
    errno = saved;
}

/* 3.9 and 3.10 keep no kernel thread id: it stands in glibc's struct pthread, whose address is the pthread_t, at the
   place where the calling thread's own stands. */
static pid_t native_id(struct fp_reader *reader, const struct fp_thread *thread)
{
    static int offset = -1;
    pid_t own = (pid_t)syscall(SYS_gettid);
    if (thread->native_id != 0)
        return (pid_t)thread->native_id;
    for (int i = 0; offset < 0 && i < PTHREAD_SCAN; i += 4)
        if ((pid_t)fp_load32(reader, (fp_addr)pthread_self() + (fp_addr)i) == own)
            offset = i;
    pid_t tid = offset < 0 ? 0 : (pid_t)fp_load32(reader, thread->thread_id + (fp_addr)offset);
    return fp_reader_faulted(reader) ? 0 : tid;
}

struct sent {
    unsigned n;
    struct stack *stacks[1024];
};

/* A thread that blocks the signal has one waiting already. */
static bool waits(pid_t tid)
{
    for (struct stack *s = atomic_load(&stacks); s != NULL; s = s->next)
        if (s->tid == tid && atomic_load(&s->state) == PENDING)
            return true;
    return false;
}

static void send(struct sent *sent, pid_t tid)
{
    pid_t pid = getpid();
    if (tid <= 0 || waits(tid) || tid == (pid_t)syscall(SYS_gettid) || sent->n == FP_COUNT(sent->stacks))
        return;
    struct stack *s = new_stack();
    if (s == NULL)
        return;
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = pid;
    info.si_uid = getuid();
    info.si_value.sival_ptr = s;
    s->tid = tid;
    if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, give_signo, &info) == 0)
        sent->stacks[sent->n++] = s;
    else
        free_stack(s);
}

static void send_to_python(const struct fp_target *target, struct sent *sent)
{
    struct fp_session *s = fp_session_acquire(target, true, WAIT_NS);
    if (s == NULL)
        return;
    struct fp_walk *w = &s->walk;
    for (fp_addr i = fp_interp_first(w); i != 0; i = fp_interp_next(w, i)) {
        unsigned links = 0;
        for (fp_addr t = fp_thread_first(w, i); t != 0 && links++ < FP_THREADS_MAX; t = fp_thread_next(w, t)) {
            struct fp_thread thread;
            if (fp_thread_read(w, t, &thread) == FP_OK && thread.thread_id != 0)
                send(sent, native_id(&s->reader, &thread));
        }
    }
    fp_session_release(s);
}

static void send_to_all(struct sent *sent)
{
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        send(sent, (pid_t)atoi(entry->d_name));
    closedir(tasks);
}

/* A thread that had a stack already doesn't need ours; one that blocks the signal keeps it pending. */
static unsigned collect(struct sent *sent)
{
    const struct timespec pause = {0, 100000};
    int64_t end = fp_now_ns() + WAIT_NS;
    unsigned pending;
    do {
        pending = 0;
        for (unsigned i = 0; i < sent->n; i++)
            pending += atomic_load(&sent->stacks[i]->state) == PENDING;
        if (pending != 0)
            nanosleep(&pause, NULL);
    } while (pending != 0 && fp_now_ns() < end);
    for (unsigned i = 0; i < sent->n; i++)
        if (atomic_load(&sent->stacks[i]->state) == REFUSED)
            free_stack(sent->stacks[i]);
    return sent->n - pending;
}

unsigned fp_altstack_give(const struct fp_target *target, enum fp_altstack_scope scope)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct sent sent; /* 8 KB: too much for a small thread's stack */

    if (scope == FP_ALTSTACK_NONE)
        return 0;
    fp_altstack_ensure();
    pthread_mutex_lock(&lock);
    if (!handles(give_signo)) /* a program may have reset all signals to their defaults, which end the process */
        give_signo = take_signal();
    if (give_signo == 0) {
        pthread_mutex_unlock(&lock);
        return 1;
    }
    sent.n = 0;
    if (scope == FP_ALTSTACK_ALL)
        send_to_all(&sent);
    else
        send_to_python(target, &sent);
    unsigned given = collect(&sent) + 1;
    pthread_mutex_unlock(&lock);
    return given;
}
