/* Who has the signals: enable, disable, register, unregister, the guard.  Normal context, any thread, under one lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>

#include "trigger/fatals.h"
#include "trigger/user.h"

static pthread_mutex_t control = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool guard_required;        /* by more than enable(); written under control */
static atomic_bool guard_placed;          /* by anyone; written under control */
static struct fp_fatal_config configs[2]; /* the one that isn't published is free for writing */

static void install_guard(void)
{
    for (size_t i = 0; i < FP_FATALS; i++)
        if (fp_fatals[i].guard)
            (void)fp_fatal_install(&fp_fatals[i]);
}

void fp_guard_require_once(void)
{
    if (!atomic_load_explicit(&guard_placed, memory_order_relaxed))
        fp_guard_require();
}

void fp_guard_require(void)
{
    pthread_mutex_lock(&control);
    guard_required = guard_placed = true;
    install_guard();
    pthread_mutex_unlock(&control);
}

int fp_fatal_enable(const struct fp_fatal_config *config)
{
    int error = 0;
    pthread_mutex_lock(&control);
    struct fp_fatal_config *free_one = atomic_load(&fp_fatal_published) == &configs[0] ? &configs[1] : &configs[0];
    *free_one = *config;
    atomic_store(&fp_fatal_published, free_one);
    guard_placed = true;
    for (size_t i = 0; i < FP_FATALS && error == 0; i++)
        error = fp_fatal_install(&fp_fatals[i]);
    pthread_mutex_unlock(&control);
    return error;
}

bool fp_fatal_disable(void)
{
    pthread_mutex_lock(&control);
    bool was = atomic_exchange(&fp_fatal_published, NULL) != NULL;
    if (was && fp_session_any_in_use())
        guard_required = true; /* somebody may be reading just now */
    guard_placed = guard_placed && (!was || guard_required);
    for (size_t i = 0; was && i < FP_FATALS; i++)
        if (!(fp_fatals[i].guard && guard_required))
            fp_fatal_restore(&fp_fatals[i]);
    pthread_mutex_unlock(&control);
    return was;
}

static bool user_is_ours(int signo)
{
    struct sigaction now;
    return sigaction(signo, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == fp_user_handler;
}

int fp_user_register(int signo, const struct fp_user_config *config)
{
    struct fp_user *u = &fp_users[signo];
    struct sigaction before,
        action = {.sa_sigaction = fp_user_handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    int error = 0;

    if (signo < 1 || signo >= NSIG)
        return EINVAL;
    fp_guard_require();
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&control);
    struct fp_user_config *free_one = atomic_load(&u->published) == &u->configs[0] ? &u->configs[1] : &u->configs[0];
    *free_one = *config;
    bool again = user_is_ours(signo);
    if (!again && sigaction(signo, NULL, &before) == 0)
        u->previous = before;
    struct fp_user_config *old = atomic_exchange(&u->published, free_one);
    if (sigaction(signo, &action, NULL) != 0) {
        error = errno;
        atomic_store(&u->published, old);
    }
    pthread_mutex_unlock(&control);
    return error;
}

bool fp_user_unregister(int signo)
{
    if (signo < 1 || signo >= NSIG)
        return false;
    pthread_mutex_lock(&control);
    bool was = atomic_exchange(&fp_users[signo].published, NULL) != NULL;
    if (was && user_is_ours(signo))
        sigaction(signo, &fp_users[signo].previous, NULL);
    pthread_mutex_unlock(&control);
    return was;
}

static void before_fork(void)
{
    pthread_mutex_lock(&control);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&control);
}

/* The child has no other thread: whoever held a session or wrote a report isn't there. */
static void in_child(void)
{
    pthread_mutex_unlock(&control);
    fp_session_after_fork();
    fp_fatal_after_fork();
}

int fp_control_start(void)
{
    return pthread_atfork(before_fork, in_parent, in_child);
}
