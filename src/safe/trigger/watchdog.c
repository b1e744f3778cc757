/* The watchdog thread: made once, then woken.  Normal context. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trigger/signals.h"
#include "trigger/watchdog.h"

enum { STACK_SIZE = 256 << 10, CANCEL_WAIT_NS = 1000000000 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC: something for the thread to look at, or a dump has ended */
    bool started;           /* the thread exists in this process */
    bool armed;
    int64_t deadline_ns; /* when the armed dump is due */
    int64_t wakes_at_ns; /* what the thread sleeps until; INT64_MAX: for ever */
    uint64_t generation; /* counts arm and cancel */
    struct fp_watchdog_config config;
    atomic_bool dumping;
} dog = {.lock = PTHREAD_MUTEX_INITIALIZER, .wakes_at_ns = INT64_MAX};

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
    dog.wakes_at_ns = ns;
    if (ns == INT64_MAX) {
        pthread_cond_wait(&dog.changed, &dog.lock);
    }
    else {
        struct timespec until = as_timespec(ns);
        pthread_cond_timedwait(&dog.changed, &dog.lock, &until);
    }
    dog.wakes_at_ns = 0;
}

/* Dumps without the lock, so that arm and cancel don't wait for it. */
static void bark(void)
{
    const struct fp_watchdog_config config = dog.config;
    const struct fp_dump_caller caller = {
        .interp = config.interp, .stop = &dog.generation, .stop_if_not = dog.generation};

    atomic_store(&dog.dumping, true);
    pthread_mutex_unlock(&dog.lock);
    (void)fp_dump(config.target, &config.dump, &caller, config.header, strlen(config.header));
    if (config.exit)
        _exit(1);
    pthread_mutex_lock(&dog.lock);
    atomic_store(&dog.dumping, false);
    pthread_cond_broadcast(&dog.changed);
}

static void *run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&dog.lock);
    for (;;) {
        int64_t now = fp_now_ns();
        if (!dog.armed || now < dog.deadline_ns) {
            sleep_until(dog.armed ? dog.deadline_ns : INT64_MAX);
            continue;
        }
        uint64_t generation = dog.generation;
        if (dog.config.repeat)
            dog.deadline_ns = later(now, dog.config.timeout_ns);
        else
            dog.armed = false;
        bark();
        if (dog.config.repeat && generation == dog.generation)
            dog.deadline_ns = later(fp_now_ns(), dog.config.timeout_ns);
    }
    return NULL;
}

static void before_fork(void)
{
    pthread_mutex_lock(&dog.lock);
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
    dog.started = dog.armed = false;
    atomic_store(&dog.dumping, false);
}

/* All signals but the fatal ones stay with the program's own threads; those must reach the guard. */
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
    for (int signo = 1; signo < NSIG; signo++)
        if (fp_fatal_handles(signo))
            sigdelset(&blocked, signo);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
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
    if (!dog.started)
        error = start_thread();
    if (error == 0) {
        __atomic_add_fetch(&dog.generation, 1, __ATOMIC_SEQ_CST);
        (void)wait_idle();
        dog.config = *config;
        dog.deadline_ns = later(fp_now_ns(), config->timeout_ns);
        dog.armed = true;
        if (dog.wakes_at_ns > dog.deadline_ns)
            pthread_cond_broadcast(&dog.changed);
    }
    pthread_mutex_unlock(&dog.lock);
    return error;
}

bool fp_watchdog_cancel(void)
{
    pthread_mutex_lock(&dog.lock);
    __atomic_add_fetch(&dog.generation, 1, __ATOMIC_SEQ_CST);
    dog.armed = false;
    bool idle = !dog.started || wait_idle();
    pthread_mutex_unlock(&dog.lock);
    return idle;
}

bool fp_watchdog_busy(void)
{
    return atomic_load(&dog.dumping);
}
