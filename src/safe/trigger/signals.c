/* The handler of the fatal signals, which is also the guard's.  Signal handler.
 *
 * Order in the handler: a guarded read that faulted goes on at its fix-up; then, while only the guard is on, the signal
 * goes to who had it before us; then the report; then the signal is handed back, so that a core dump, a debugger and
 * the parent's wait status show what they would have shown without us.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "trigger/fatals.h"

/* FATAL(signal, name as faulthandler prints it, also the guard's) */
#define FATAL_SIGNALS(FATAL)                                                                                           \
    FATAL(SIGBUS, "Bus error", true)                                                                                   \
    FATAL(SIGILL, "Illegal instruction", false)                                                                        \
    FATAL(SIGFPE, "Floating-point exception", false)                                                                   \
    FATAL(SIGABRT, "Aborted", false)                                                                                   \
    FATAL(SIGSEGV, "Segmentation fault", true)

struct fp_fatal fp_fatals[] = {
#define FATAL(signo, name, guard) {signo, name, guard, false, false, {.sa_flags = 0}, {.sa_flags = 0}, false},
    FATAL_SIGNALS(FATAL)
#undef FATAL
};
_Static_assert(FP_COUNT(fp_fatals) == FP_FATALS, "the table has a row for each fatal signal");

struct fp_published fp_fatal_published;

/* The thread that writes a fatal report, by kernel thread id; 0: none.  It stays set while the process dies. */
static atomic_int reporter;

/* Threads that crashed while another one's report was written: each takes a place. */
enum { WAITERS = 64 };
static struct {
    _Atomic(uint64_t) thread_id;
    atomic_int signo;
} waiters[WAITERS];

static void on_fatal(int signo, siginfo_t *info, void *context);

static struct fp_fatal *find(int signo)
{
    for (size_t i = 0; i < FP_FATALS; i++)
        if (fp_fatals[i].signo == signo)
            return &fp_fatals[i];
    return NULL;
}

bool fp_fatal_handles(int signo)
{
    return find(signo) != NULL;
}

static bool is_ours(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fatal;
}

bool fp_guard_ready(void)
{
    sigset_t blocked;
    if (!is_ours(SIGSEGV) || !is_ours(SIGBUS) || pthread_sigmask(SIG_BLOCK, NULL, &blocked) != 0)
        return false;
    return !sigismember(&blocked, SIGSEGV) && !sigismember(&blocked, SIGBUS);
}

static bool is_function(const struct sigaction *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

int fp_fatal_install(struct fp_fatal *f)
{
    /* SA_NODEFER: a guarded read inside the handler may fault too.  SA_ONSTACK: the stack may be what is used up. */
    struct sigaction action = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction before;

    if (is_ours(f->signo))
        return 0;
    sigemptyset(&action.sa_mask);
    if (sigaction(f->signo, NULL, &before) != 0)
        return errno;
    /* Whoever has put a function over ours may call us from it: in front of it again we would call each other for ever.
     */
    if (atomic_load(&f->installed) && is_function(&before))
        return 0;
    f->previous = before;
    atomic_store(&f->spent, false);
    if (!atomic_exchange(&f->known, true))
        f->first = before;
    if (sigaction(f->signo, &action, NULL) != 0)
        return errno;
    atomic_store(&f->installed, true);
    return 0;
}

/* Where the signal goes after us: when we aren't its handler now, its handler has called us, and what was there before
   both comes next. */
static const struct sigaction *next_of(const struct fp_fatal *f)
{
    static const struct sigaction default_action = {.sa_flags = 0}; /* SIG_DFL */
    if (atomic_load(&f->spent))
        return &default_action;
    return is_ours(f->signo) ? &f->previous : &f->first;
}

static void call_next(struct fp_fatal *f, siginfo_t *info, void *context)
{
    const struct sigaction *next = next_of(f);
    if (next->sa_flags & (int)SA_RESETHAND)
        atomic_store(&f->spent, true);
    fp_handler_call(next, f->signo, info, context);
}

void fp_fatal_restore(struct fp_fatal *f)
{
    if (is_ours(f->signo) && atomic_exchange(&f->installed, false))
        sigaction(f->signo, next_of(f), NULL);
}

bool fp_fatal_is_enabled(void)
{
    return fp_is_published(&fp_fatal_published);
}

/* Sent by a process or thread (kill, tgkill, sigqueue), not raised by an instruction: man 2 sigaction, si_code. */
static bool was_sent(const siginfo_t *info)
{
    return info->si_code <= 0;
}

static void resend(int signo, siginfo_t *info)
{
    pid_t pid = getpid();
    if (syscall(SYS_rt_tgsigqueueinfo, pid, (pid_t)syscall(SYS_gettid), signo, info) != 0)
        syscall(SYS_tgkill, pid, (pid_t)syscall(SYS_gettid), signo);
}

/* Gives one signal back to who had it before: an instruction that faulted will fault again when we return.  Whoever has
   taken the signal since has called us, so what comes next is what was before us. */
static void hand_back(struct fp_fatal *f, siginfo_t *info)
{
    const struct sigaction *next = next_of(f);
    atomic_store(&f->installed, false);
    sigaction(f->signo, next, NULL);
    if (was_sent(info))
        resend(f->signo, info);
}

void fp_handler_call(const struct sigaction *handler, int signo, siginfo_t *info, void *context)
{
    sigset_t mask = handler->sa_mask, before;
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, signo);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    pthread_sigmask(handler->sa_flags & SA_NODEFER ? SIG_UNBLOCK : SIG_BLOCK, &own, NULL);
    if (handler->sa_flags & SA_SIGINFO)
        handler->sa_sigaction(signo, info, context);
    else
        handler->sa_handler(signo);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool has_previous(const struct fp_fatal *f)
{
    return is_function(next_of(f));
}

/* While only the guard is on: as if we weren't there.  A previous handler is called, so that the guard stays; SIG_DFL
   and SIG_IGN are put back. */
static void pass_on(struct fp_fatal *f, siginfo_t *info, void *context)
{
    if (has_previous(f))
        call_next(f, info, context);
    else if (next_of(f)->sa_handler == SIG_DFL || !was_sent(info))
        hand_back(f, info);
}

/* The last fault that a previous handler was asked to resolve and came back from without moving on. */
static struct {
    atomic_int thread;
    _Atomic(uintptr_t) pc, address;
} unresolved;

/* Is this code that no file holds: private memory has no name, shared memory the name of a file that isn't one. */
static bool made_at_run_time(struct fp_maps *maps, fp_addr pc)
{
    static const char *const pseudo[] = {"/dev/zero", "/memfd:", "/dev/shm/", "[anon"};
    size_t size;
    const char *name = fp_maps_name(maps, pc, &size);
    for (size_t i = 0; i < FP_COUNT(pseudo); i++)
        if (size >= strlen(pseudo[i]) && memcmp(name, pseudo[i], strlen(pseudo[i])) == 0)
            return true;
    return size == 0;
}

/* Is the faulting code of the kind that a virtual machine makes (memory of no file), or of the object that the previous
   handler is in? */
static bool code_of_previous(const struct fp_fatal_config *config, const struct fp_fatal *f, uintptr_t pc)
{
    struct fp_session *s = fp_session_acquire(config->target, true, config->dump.budget_ns);
    if (s == NULL)
        return false;
    fp_unwind_open(&s->unwind, &s->reader);
    struct fp_maps *maps = &s->unwind.maps;
    const struct fp_mapping *handler = fp_maps_find(maps, (fp_addr)(uintptr_t)next_of(f)->sa_handler);
    fp_addr base = handler ? handler->base : 0; /* the next look-up may use the same place */
    const struct fp_mapping *code = fp_maps_find(maps, pc);
    bool theirs = code != NULL && ((base != 0 && code->base == base) || made_at_run_time(maps, pc));
    fp_session_release(s);
    return theirs;
}

/* Runtimes (JVM, Go, WebAssembly) resolve faults of their own code as part of normal work.  Such a fault is offered to
   the handler that was there before us, without a report.  It has resolved it if it changes where the code goes on, or
   if the same instruction doesn't fault again on the same address at once. */
static bool resolved_by_previous(const struct fp_fatal_config *config, struct fp_fatal *f, siginfo_t *info,
                                 void *context)
{
    greg_t *pc = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    uintptr_t at = (uintptr_t)*pc, address = (uintptr_t)info->si_addr;
    int self = (int)syscall(SYS_gettid);

    if (was_sent(info) || !has_previous(f))
        return false;
    bool again = atomic_load(&unresolved.thread) == self && atomic_load(&unresolved.pc) == at &&
                 atomic_load(&unresolved.address) == address;
    atomic_store(&unresolved.thread, 0);
    if (again || !code_of_previous(config, f, at))
        return false;
    call_next(f, info, context);
    if ((uintptr_t)*pc == at) {
        atomic_store(&unresolved.pc, at);
        atomic_store(&unresolved.address, address);
        atomic_store(&unresolved.thread, self);
    }
    return true;
}

static size_t append(char *to, size_t at, const char *text)
{
    size_t n = strlen(text);
    memcpy(to + at, text, n);
    return at + n;
}

static const char *name_of(const struct fp_fatal *f, const struct fp_style *style)
{
    return f->signo == SIGFPE && !style->fpe_hyphen ? "Floating point exception" : f->name;
}

static void report(const struct fp_fatal_config *config, const struct fp_fatal *f, const void *context)
{
    char header[80];
    size_t n = append(header, 0, "Fatal Python error: ");
    n = append(header, n, name_of(f, &config->dump.style));
    n = append(header, n, "\n\n");
    const struct fp_dump_caller caller = {
        .thread_id = (uint64_t)pthread_self(), .is_this_thread = true, .context = context, .modules = true};
    (void)fp_dump(config->target, &config->dump, &caller, header, n);
}

/* Py_FatalError() has written its own report to stderr before it calls abort(): one is enough there. */
static bool already_reported(const struct fp_fatal_config *config, int signo, const siginfo_t *info,
                             const void *context)
{
    struct fp_registers registers;
    if (signo != SIGABRT || !was_sent(info) || config->dump.fd != STDERR_FILENO)
        return false;
    struct fp_session *s = fp_session_acquire(config->target, true, config->dump.budget_ns);
    if (s == NULL)
        return false;
    fp_registers_of_context(&registers, context);
    fp_unwind_open_loaded(&s->unwind, &s->reader);
    bool found = fp_unwind_in_function(&s->unwind, &registers, config->target->fatal_functions,
                                       FP_COUNT(config->target->fatal_functions));
    fp_session_release(s);
    return found;
}

/* Takes a place among those that crashed while a report is written, and waits for its end. */
static void wait_for_reporter(int signo, int64_t budget_ns)
{
    const struct timespec pause = {0, 1000000};
    int64_t start = fp_now_ns();
    for (int i = 0; i < WAITERS; i++) {
        uint64_t nobody = 0;
        if (atomic_compare_exchange_strong(&waiters[i].thread_id, &nobody, (uint64_t)pthread_self())) {
            atomic_store(&waiters[i].signo, signo);
            break;
        }
    }
    while (atomic_load(&reporter) != 0 && fp_now_ns() - start < budget_ns)
        nanosleep(&pause, NULL);
}

/* "Thread 0x... crashed too: Aborted" for each thread that waits. */
static void name_waiters(const struct fp_fatal_config *config)
{
    struct fp_session *s = NULL;
    for (int i = 0; i < WAITERS; i++) {
        int signo = atomic_exchange(&waiters[i].signo, 0);
        if (signo == 0)
            continue;
        if (s == NULL) {
            s = fp_session_acquire(config->target, true, config->dump.budget_ns);
            if (s == NULL)
                return;
            fp_out_init(s->out, config->dump.fd, fp_now_ns() + config->dump.budget_ns);
            FP_OUT_LITERAL(s->out, "\n");
        }
        FP_OUT_LITERAL(s->out, "Thread ");
        fp_out_hex(s->out, atomic_load(&waiters[i].thread_id), 16);
        FP_OUT_LITERAL(s->out, " crashed too: ");
        const char *name = name_of(find(signo), &config->dump.style);
        fp_out_bytes(s->out, name, strlen(name));
        FP_OUT_LITERAL(s->out, "\n");
        atomic_store(&waiters[i].thread_id, 0);
    }
    if (s != NULL) {
        fp_out_close(s->out);
        fp_session_release(s);
    }
}

/* A fault in our own code outside of the guard: end in the signal that the report was about. */
static atomic_int reported_signo;

static void give_up(struct fp_fatal *f, siginfo_t *info)
{
    struct fp_fatal *first = find(atomic_load(&reported_signo));
    hand_back(f, info);
    if (first == NULL || first == f)
        return;
    sigaction(first->signo, &first->first, NULL);
    syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), first->signo);
}

/* Is this the fault that was reported last, come again by way of a handler that calls ours? */
static bool seen_before(int self, uintptr_t pc, const siginfo_t *info)
{
    static struct {
        int thread;
        uintptr_t pc, address;
    } last; /* only the reporter is here */
    uintptr_t address = was_sent(info) ? 0 : (uintptr_t)info->si_addr;
    bool seen = !was_sent(info) && last.thread == self && last.pc == pc && last.address == address;
    last.thread = self;
    last.pc = pc;
    last.address = address;
    return seen;
}

void fp_fatal_after_fork(void)
{
    atomic_store(&reporter, 0);
    for (int i = 0; i < WAITERS; i++) {
        atomic_store(&waiters[i].signo, 0);
        atomic_store(&waiters[i].thread_id, 0);
    }
}

static void on_fatal(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    struct fp_fatal *f = find(signo);
    greg_t *pc = &uc->uc_mcontext.gregs[REG_RIP];

    uintptr_t fixup = f->guard && !was_sent(info) ? fp_guard_fixup((uintptr_t)*pc) : 0;
    if (fixup != 0) {
        *pc = (greg_t)fixup;
        return;
    }
    int saved = errno, self = (int)syscall(SYS_gettid), nobody = 0;
    struct fp_fatal_config config;
    if (!fp_published_read(&fp_fatal_published, &config, sizeof(config))) {
        pass_on(f, info, context);
        errno = saved;
        return;
    }
    if (atomic_load(&reporter) != self && resolved_by_previous(&config, f, info, context)) {
        errno = saved;
        return;
    }
    while (!atomic_compare_exchange_strong(&reporter, &nobody, self)) {
        if (nobody == self) {
            give_up(f, info);
            errno = saved;
            return;
        }
        wait_for_reporter(signo, config.dump.budget_ns);
        nobody = 0;
        if (atomic_load(&reporter) != 0)
            break; /* the other report hangs: this thread's own fate goes on */
    }
    if (atomic_load(&reporter) == self) {
        atomic_store(&reported_signo, signo);
        if (!seen_before(self, (uintptr_t)*pc, info) && !already_reported(&config, signo, info, context))
            report(&config, f, context);
        name_waiters(&config);
        atomic_store(&reported_signo, 0);
    }
    /* Only a process that goes on (a previous handler) gives the turn to the next thread. */
    bool dies = next_of(f)->sa_handler == SIG_DFL;
    hand_back(f, info);
    if (!dies)
        atomic_store(&reporter, 0);
    errno = saved;
}
