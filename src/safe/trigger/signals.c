/* The handler of the fatal signals, which is also the guard's.  Signal handler.
 *
 * Order in the handler: a guarded read that faulted goes on at its fix-up; then a mark, so that a fault of our own from
 * here on ends the process instead of coming back; then, while only the guard is on, the signal goes to who had it
 * before us; then the report; then the signal is handed back, so that a core dump, a debugger and the parent's wait
 * status show what they would have shown without us.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "render/kept.h"
#include "trigger/fatals.h"

/* FATAL(signal, name as faulthandler prints it, also the guard's) */
#define FATAL_SIGNALS(FATAL)                                                                                           \
    FATAL(SIGBUS, "Bus error", true)                                                                                   \
    FATAL(SIGILL, "Illegal instruction", false)                                                                        \
    FATAL(SIGFPE, "Floating-point exception", false)                                                                   \
    FATAL(SIGABRT, "Aborted", false)                                                                                   \
    FATAL(SIGSEGV, "Segmentation fault", true)

struct fp_fatal fp_fatals[] = {
#define FATAL(number, text, for_guard) {.signo = number, .name = text, .guard = for_guard},
    FATAL_SIGNALS(FATAL)
#undef FATAL
};
_Static_assert(FP_COUNT(fp_fatals) == FP_FATALS, "the table has a row for each fatal signal");

struct fp_published fp_fatal_published;

static const struct sigaction default_action = {.sa_flags = 0}; /* SIG_DFL */

static void on_fatal(int signo, siginfo_t *info, void *context);

struct fp_fatal *fp_fatal_find(int signo)
{
    for (size_t i = 0; i < FP_FATALS; i++)
        if (fp_fatals[i].signo == signo)
            return &fp_fatals[i];
    return NULL;
}

bool fp_fatal_handles(int signo)
{
    return fp_fatal_find(signo) != NULL;
}

static bool is_ours(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fatal;
}

bool fp_guard_in_place(void)
{
    return is_ours(SIGSEGV) && is_ours(SIGBUS);
}

bool fp_guard_ready(void)
{
    sigset_t blocked;
    if (!fp_guard_in_place() || pthread_sigmask(SIG_BLOCK, NULL, &blocked) != 0)
        return false;
    return !sigismember(&blocked, SIGSEGV) && !sigismember(&blocked, SIGBUS);
}

int fp_fatal_install(struct fp_fatal *f, bool front)
{
    /* SA_NODEFER: a guarded read inside the handler may fault too.  SA_ONSTACK: the stack may be what is used up. */
    struct sigaction action = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction before;

    if (is_ours(f->signo))
        return 0;
    sigemptyset(&action.sa_mask);
    if (sigaction(f->signo, NULL, &before) != 0)
        return errno;
    /* Who has put a function over ours may call ours from it, and keeps the signal until somebody asks for more. */
    if (!front && atomic_load(&f->installed) && fp_is_function(&before))
        return 0;
    f->previous = before;
    atomic_store(&f->spent, false);
    atomic_store(&f->handed_back_by, 0);
    if (!atomic_exchange(&f->known, true))
        f->first = before;
    if (sigaction(f->signo, &action, NULL) != 0)
        return errno;
    atomic_store(&f->installed, true);
    return 0;
}

/* When we aren't the signal's handler now, its handler has called us, and what was there before both comes next; the
   same where the handler that we have called calls us, and if it does so again, the default action. */
const struct sigaction *fp_fatal_next(const struct fp_fatal *f, const struct fp_arrival *a)
{
    if (atomic_load(&f->spent) || a->circles > 1)
        return &default_action;
    return a->circles == 0 && is_ours(f->signo) ? &f->previous : &f->first;
}

void fp_fatal_call_next(struct fp_fatal *f, const struct fp_arrival *a)
{
    const struct sigaction *next = fp_fatal_next(f, a);
    if (next->sa_flags & (int)SA_RESETHAND)
        atomic_store(&f->spent, true);
    fp_arrival_call(a, next);
}

void fp_fatal_restore(struct fp_fatal *f)
{
    if (!is_ours(f->signo) || !atomic_exchange(&f->installed, false))
        return;
    sigaction(f->signo, atomic_load(&f->spent) ? &default_action : &f->previous, NULL);
    atomic_store(&f->known, false);
}

bool fp_fatal_options(struct fp_fatal_config *config)
{
    return fp_published_read(&fp_fatal_published, config, sizeof(*config));
}

bool fp_fatal_is_enabled(void)
{
    return fp_is_published(&fp_fatal_published);
}

static void give_to(struct fp_fatal *f, const struct sigaction *next)
{
    atomic_store(&f->installed, false);
    atomic_store(&f->known, false);
    sigaction(f->signo, next, NULL);
}

/* Gives one signal back to who had it before: an instruction that faulted will fault again when we return. */
static void hand_back(struct fp_fatal *f, const struct fp_arrival *a)
{
    give_to(f, fp_fatal_next(f, a));
    if (fp_was_sent(a) || a->info == NULL)
        fp_arrival_resend(a, true);
}

/* The same after a report.  A handler that only takes note of a signal can't resolve a fault, which would come back for
   ever.  Whoever has called us may not go back to the instruction: the signal is sent then, as the standard module
   does. Only a process that goes on (a previous handler) gives the turn to the next thread. */
static void hand_back_reported(struct fp_fatal *f, const struct fp_arrival *a, const struct fp_fatal_config *config)
{
    const struct sigaction *next = fp_fatal_next(f, a);
    if (fp_is_function(next) && next->sa_handler == config->only_notes && !fp_was_sent(a))
        next = &default_action;
    atomic_store(&f->handed_back_by, a->thread);
    give_to(f, next);
    if (fp_was_sent(a) || !a->by_kernel)
        fp_arrival_resend(a, fp_was_sent(a) || fp_is_function(next));
    if (next->sa_handler != SIG_DFL)
        fp_turn_give();
}

/* While only the guard is on: as if we weren't there.  A previous handler is called, so that the guard stays; SIG_DFL
   and SIG_IGN are put back. */
static void pass_on(struct fp_fatal *f, const struct fp_arrival *a)
{
    const struct sigaction *next = fp_fatal_next(f, a);
    if (fp_is_function(next) && fp_arrival_serves(a, next))
        fp_fatal_call_next(f, a);
    else if (next->sa_handler != SIG_IGN || !fp_was_sent(a))
        hand_back(f, a);
}

static size_t append(char *to, size_t at, const char *text)
{
    size_t n = strlen(text);
    memcpy(to + at, text, n);
    return at + n;
}

const char *fp_fatal_name(const struct fp_fatal *f, const struct fp_style *style)
{
    return f->signo == SIGFPE && !style->fpe_hyphen ? "Floating point exception" : f->name;
}

static void report(const struct fp_fatal_config *config, const struct fp_fatal *f, const struct fp_arrival *a)
{
    char header[80];
    size_t n = append(header, 0, "Fatal Python error: ");
    n = append(header, n, fp_fatal_name(f, &config->dump.style));
    n = append(header, n, "\n\n");
    const struct fp_dump_caller caller = {
        .thread_id = (uint64_t)pthread_self(), .is_this_thread = true, .context = a->context, .fatal = true};
    (void)fp_dump(config->target, &config->dump, &caller, header, n);
}

/* Py_FatalError() has written its own report to stderr before it calls abort(): one is enough there. */
static bool already_reported(const struct fp_fatal_config *config, const struct fp_arrival *a)
{
    struct fp_registers registers;
    if (a->signo != SIGABRT || !fp_was_sent(a) || a->context == NULL || !fp_kept_is_stderr(config->dump.fd))
        return false;
    struct fp_session *s = fp_session_acquire(config->target, true, config->dump.budget_ns);
    if (s == NULL)
        return false;
    fp_registers_of_context(&registers, a->context);
    fp_unwind_open_loaded(&s->unwind, &s->reader);
    bool found = fp_unwind_in_function(&s->unwind, &registers, config->target->fatal_functions,
                                       FP_COUNT(config->target->fatal_functions));
    fp_session_release(s);
    return found;
}

/* Is this the fault that was reported last, come again by way of a handler that calls ours? */
static bool seen_before(const struct fp_arrival *a)
{
    static struct {
        int thread;
        uintptr_t pc, address;
    } last; /* only the reporter is here */
    if (fp_was_sent(a) || a->context == NULL) {
        last.thread = 0;
        return false;
    }
    uintptr_t pc = (uintptr_t)a->context->uc_mcontext.gregs[REG_RIP], address = (uintptr_t)a->info->si_addr;
    bool seen = last.thread == a->thread && last.pc == pc && last.address == address;
    last.thread = a->thread;
    last.pc = pc;
    last.address = address;
    return seen;
}

/* What we have reported and given back comes again: by a handler that calls us twice (what it was given is pending
   then, or comes for ever), or by one that has put ours in place again.  What was there before both is left. */
static bool given_back_before(struct fp_fatal *f, const struct fp_arrival *a)
{
    sigset_t pending;
    if (atomic_load(&f->installed) || atomic_load(&f->handed_back_by) != a->thread)
        return false;
    if (a->by_kernel) {
        give_to(f, &f->first);
        if (fp_was_sent(a))
            fp_arrival_resend(a, true);
    }
    else if (sigpending(&pending) != 0 || !sigismember(&pending, f->signo)) {
        fp_die_of(f->signo);
    }
    return true;
}

static void report_in_turn(struct fp_fatal *f, const struct fp_arrival *a, const struct fp_fatal_config *config)
{
    enum fp_turn turn = fp_turn_take(a->thread, a->signo, config->dump.budget_ns);
    if (turn == FP_TURN_MINE_ALREADY && a->nested) { /* sent while this thread reports: the end comes sooner */
        hand_back(f, a);
        return;
    }
    if (turn != FP_TURN_NEVER) {
        if (!seen_before(a) && !already_reported(config, a))
            report(config, f, a);
        fp_turn_name_waiters(config);
    }
    hand_back_reported(f, a, config);
}

static void handle(struct fp_fatal *f, const struct fp_arrival *a)
{
    struct fp_fatal_config config;
    if (fp_sent_is_put_off(a))
        return;
    if (!fp_published_read(&fp_fatal_published, &config, sizeof(config)))
        pass_on(f, a);
    else if (!given_back_before(f, a) && (fp_turn_is(a->thread) || !fp_fatal_resolved(&config, f, a)))
        report_in_turn(f, a, &config);
}

/* Not a guarded read's fault.  One of our own code ends in the signal that it was about. */
static __attribute__((noinline)) void arrive(struct fp_arrival *a)
{
    fp_arrival_begin(a);
    if (a->nested && !fp_was_sent(a) && fp_fatal_handles(a->nested_in))
        fp_die_of(a->nested_in);
    int saved = errno;
    handle(fp_fatal_find(a->signo), a);
    errno = saved;
    fp_arrival_end(a);
}

static void on_fatal(int signo, siginfo_t *info, void *context)
{
    fp_flags_clear();
    struct fp_arrival a = fp_arrival_of(signo, info, context, __builtin_frame_address(0));
    if (!fp_arrival_recovers(&a))
        arrive(&a);
}
