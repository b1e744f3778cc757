/* The watchdog thread: made when it is needed, woken while it is, gone when it isn't.  Normal context.
 *
 * It blocks all signals, so that none that the program waits for ends here.  Only while it dumps the guard's two are
 * unblocked, for faults of its own reads. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "reader/arrival.h"
#include "trigger/signals.h"
#include "trigger/watchdog.h"

/* LINGER: a thread that isn't needed stays so long where it has been needed again as soon as that before: then who arms
   and cancels all the time doesn't make a thread each time.  Else cancelling ends it. */
enum { STACK_SIZE = 256 << 10, CANCEL_WAIT_NS = 1000000000, LINGER_NS = 20000000, EXIT_WAIT_NS = 1000000000 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC: something for the thread to look at, or what it did has ended */
    bool started;           /* the thread exists in this process */
    pid_t thread;           /* its id, or that of the last one */
    int64_t ended_ns;       /* when that has left its function; the kernel counts it for some microseconds more */
    bool armed;
    bool leave;           /* the thread is to end now */
    bool lively;          /* this arming came soon after a cancelling */
    int64_t cancelled_ns; /* when the last one was */
    int64_t deadline_ns;  /* when the armed dump is due; not armed: when the thread ends */
    int64_t wakes_at_ns;  /* what the thread sleeps until; 0: it doesn't */
    uint64_t generation;  /* counts arm and cancel */
    struct fp_watchdog_config config;
    atomic_bool dumping;
} dog = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct timespec as_timespec(int64_t ns)
{
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

static int64_t later(int64_t now, int64_t delay)
{
    return delay > INT64_MAX - now ? INT64_MAX : now + delay;
}

/* Waits with the lock held until the deadline may have come or something has changed. */
static void sleep_until(int64_t ns)
{
    struct timespec until = as_timespec(ns);
    dog.wakes_at_ns = ns;
    pthread_cond_timedwait(&dog.changed, &dog.lock, &until);
    dog.wakes_at_ns = 0;
}

/* With the lock held: what the thread has to do is due at this time.  It is woken only for what comes sooner than what
   it sleeps for. */
static void due_at(int64_t ns)
{
    dog.deadline_ns = ns;
    if (dog.wakes_at_ns > ns)
        pthread_cond_broadcast(&dog.changed);
}

/* The guard's signals, for the time of a dump: a read that faults needs them.  Where the guard isn't in place they stay
   blocked, and system calls read. */
static void dump(const struct fp_watchdog_config *config, const struct fp_dump_caller *caller)
{
    sigset_t guard, blocked;
    bool guarded = fp_guard_in_place();
    sigemptyset(&guard);
    sigaddset(&guard, SIGSEGV);
    sigaddset(&guard, SIGBUS);
    if (guarded) {
        fp_sent_put_off();
        pthread_sigmask(SIG_UNBLOCK, &guard, &blocked);
    }
    (void)fp_dump(config->target, &config->dump, caller, config->header, strlen(config->header));
    if (guarded) {
        pthread_sigmask(SIG_SETMASK, &blocked, NULL);
        fp_sent_requeue();
    }
}

/* Dumps without the lock, so that arm and cancel don't wait for it. */
static void bark(void)
{
    const struct fp_watchdog_config config = dog.config;
    const struct fp_dump_caller caller = {
        .interp = config.interp, .stop = &dog.generation, .stop_if_not = dog.generation};

    atomic_store(&dog.dumping, true);
    pthread_mutex_unlock(&dog.lock);
    dump(&config, &caller);
    if (config.exit)
        _exit(1);
    pthread_mutex_lock(&dog.lock);
    atomic_store(&dog.dumping, false);
    pthread_cond_broadcast(&dog.changed);
}

static void dump_when_due(int64_t now)
{
    uint64_t generation = dog.generation;
    if (dog.config.repeat)
        dog.deadline_ns = later(now, dog.config.timeout_ns);
    else
        dog.armed = false;
    bark();
    if (generation == dog.generation)
        dog.deadline_ns = later(fp_now_ns(), dog.config.repeat ? dog.config.timeout_ns : LINGER_NS);
}

static void *run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&dog.lock);
    dog.thread = (pid_t)syscall(SYS_gettid);
    while (!dog.leave) {
        int64_t now = fp_now_ns();
        if (now < dog.deadline_ns)
            sleep_until(dog.deadline_ns);
        else if (dog.armed)
            dump_when_due(now);
        else
            break;
    }
    dog.started = dog.leave = false;
    dog.ended_ns = fp_now_ns();
    pthread_cond_broadcast(&dog.changed);
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

/* Has the thread left its function, but not the kernel's count?  That takes some microseconds; on a busy machine more.
 */
static bool is_leaving(void)
{
    return !dog.started && dog.thread != 0 && fp_now_ns() - dog.ended_ns < EXIT_WAIT_NS &&
           syscall(SYS_tgkill, getpid(), dog.thread, 0) == 0;
}

static void pause_briefly(int times_before)
{
    const struct timespec pause = {0, 100000};
    if (times_before < 50)
        sched_yield();
    else
        nanosleep(&pause, NULL); /* the thread may have a lower priority than this one */
}

/* With the lock held: waits until a thread that isn't needed is gone, from the kernel's count of threads too, which
   who forks or unshares looks at.  Not for one that hangs in a dump. */
static void see_off(void)
{
    struct timespec until = as_timespec(fp_now_ns() + EXIT_WAIT_NS);
    dog.leave = dog.started && !dog.armed;
    if (dog.leave)
        pthread_cond_broadcast(&dog.changed);
    while (dog.leave && !atomic_load(&dog.dumping) &&
           pthread_cond_timedwait(&dog.changed, &dog.lock, &until) != ETIMEDOUT)
        continue;
    for (int i = 0; is_leaving(); i++)
        pause_briefly(i);
}

/* fork() copies one thread: a program that has only one is to have only one there. */
static void before_fork(void)
{
    pthread_mutex_lock(&dog.lock);
    see_off();
}

static void in_parent(void)
{
    pthread_mutex_unlock(&dog.lock);
}

static void init_cond(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&dog.changed, &attr);
    pthread_condattr_destroy(&attr);
}

/* The child has no watchdog thread and none armed, as with the standard module. */
static void in_child(void)
{
    pthread_mutex_init(&dog.lock, NULL);
    init_cond();
    dog.started = dog.armed = dog.leave = false;
    dog.thread = 0;
    atomic_store(&dog.dumping, false);
}

/* All signals stay with the program's own threads. */
static int start_thread(void)
{
    static bool prepared;
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t blocked, before;

    if (!prepared) {
        init_cond();
        pthread_atfork(before_fork, in_parent, in_child);
        prepared = true;
    }
    sigfillset(&blocked);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    dog.leave = false;
    dog.wakes_at_ns = 0;
    dog.thread = 0;
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = pthread_create(&thread, &attr, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    dog.started = error == 0;
    return error;
}

/* Waits for the end of a dump of an earlier arming; the dump looks at the generation and stops. */
static bool wait_idle(void)
{
    struct timespec until = as_timespec(fp_now_ns() + CANCEL_WAIT_NS);
    int error = 0;
    while (atomic_load(&dog.dumping) && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&dog.changed, &dog.lock, &until);
    return !atomic_load(&dog.dumping);
}

int fp_watchdog_arm(const struct fp_watchdog_config *config)
{
    int error = 0;
    fp_guard_require();
    pthread_mutex_lock(&dog.lock);
    __atomic_add_fetch(&dog.generation, 1, __ATOMIC_SEQ_CST);
    if (dog.started)
        (void)wait_idle();
    int64_t now = fp_now_ns();
    dog.leave = false;
    dog.config = *config;
    dog.armed = true;
    dog.lively = dog.cancelled_ns != 0 && now - dog.cancelled_ns < LINGER_NS;
    due_at(later(now, config->timeout_ns));
    if (!dog.started)
        error = start_thread();
    dog.armed = error == 0;
    pthread_mutex_unlock(&dog.lock);
    return error;
}

/* With the lock held; is no dump under way? */
static bool disarm(bool may_linger)
{
    __atomic_add_fetch(&dog.generation, 1, __ATOMIC_SEQ_CST);
    if (dog.armed) {
        dog.cancelled_ns = fp_now_ns();
        dog.deadline_ns = later(dog.cancelled_ns, LINGER_NS);
    }
    dog.armed = false;
    if (dog.started && !wait_idle())
        return false;
    if (may_linger && dog.lively)
        due_at(dog.deadline_ns);
    else
        see_off();
    return true;
}

bool fp_watchdog_cancel(void)
{
    pthread_mutex_lock(&dog.lock);
    bool idle = disarm(true);
    pthread_mutex_unlock(&dog.lock);
    return idle;
}

void fp_watchdog_end(void)
{
    pthread_mutex_lock(&dog.lock);
    (void)disarm(false);
    pthread_mutex_unlock(&dog.lock);
}

int fp_watchdog_thread(void)
{
    pthread_mutex_lock(&dog.lock);
    int thread = dog.started ? dog.thread : 0;
    pthread_mutex_unlock(&dog.lock);
    return thread;
}

bool fp_watchdog_busy(void)
{
    return atomic_load(&dog.dumping);
}
