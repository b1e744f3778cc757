/* Who has the signals: enable, disable, register, unregister, the guard.  Normal context, any thread, under one lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>

#include "trigger/fatals.h"
#include "trigger/user.h"
#include "trigger/watchdog.h"

static pthread_mutex_t control = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool guard_required; /* by more than enable(); written under control */
static atomic_bool guard_placed;   /* by anyone; written under control */

static void install_guard(void)
{
    for (size_t i = 0; i < FP_FATALS; i++)
        if (fp_fatals[i].guard)
            (void)fp_fatal_install(&fp_fatals[i], false);
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
    bool again = fp_is_published(&fp_fatal_published);
    fp_publish(&fp_fatal_published, config, sizeof(*config));
    guard_placed = true;
    for (size_t i = 0; i < FP_FATALS && error == 0; i++)
        error = fp_fatal_install(&fp_fatals[i], !again);
    pthread_mutex_unlock(&control);
    return error;
}

bool fp_fatal_disable(void)
{
    pthread_mutex_lock(&control);
    bool was = fp_unpublish(&fp_fatal_published);
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

/* What comes after us.  A signal that is registered stays with who has put a function over ours, who may call ours;
   false. */
static bool takes(int signo, struct fp_user *user)
{
    struct fp_user now;
    struct sigaction before;
    bool known = fp_published_read(&fp_users[signo], &now, sizeof(now)) && !now.given_back;
    if (known) { /* is ours, or whoever has it may call ours: what was before both is known already */
        user->previous = now.previous;
        user->first = now.first;
    }
    if (user_is_ours(signo) || sigaction(signo, NULL, &before) != 0)
        return true;
    if (known && now.registered && fp_is_function(&before))
        return false;
    atomic_store(&fp_user_spent[signo], false);
    user->previous = before;
    if (!known)
        user->first = before;
    return true;
}

int fp_user_register(int signo, const struct fp_user_config *config)
{
    struct fp_user user = {.config = *config, .registered = true};
    struct sigaction action = {.sa_sigaction = fp_user_handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    int error = 0;

    if (signo < 1 || signo >= NSIG)
        return EINVAL;
    fp_guard_require();
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&control);
    bool take = takes(signo, &user);
    fp_publish(&fp_users[signo], &user, sizeof(user));
    if (take && sigaction(signo, &action, NULL) != 0) { /* no such signal: it never was ours */
        error = errno;
        (void)fp_unpublish(&fp_users[signo]);
    }
    pthread_mutex_unlock(&control);
    return error;
}

/* A signal that is on its way to our handler, now or by way of who has taken it from us, is passed on then. */
bool fp_user_unregister(int signo)
{
    struct fp_user user;
    if (signo < 1 || signo >= NSIG)
        return false;
    pthread_mutex_lock(&control);
    bool was = fp_published_read(&fp_users[signo], &user, sizeof(user)) && user.registered;
    if (was) {
        user.registered = false;
        user.given_back = user_is_ours(signo);
        fp_publish(&fp_users[signo], &user, sizeof(user));
    }
    if (was && user.given_back)
        sigaction(signo, fp_user_next(&user, signo), NULL);
    pthread_mutex_unlock(&control);
    return was;
}

void fp_control_end(void)
{
    fp_watchdog_end();
    for (int signo = 1; signo < NSIG; signo++)
        (void)fp_user_unregister(signo);
    (void)fp_fatal_disable();
    pthread_mutex_lock(&control);
    guard_required = guard_placed = fp_session_any_in_use(); /* a dump that hangs in its output still reads then */
    for (size_t i = 0; i < FP_FATALS && !guard_required; i++)
        fp_fatal_restore(&fp_fatals[i]);
    pthread_mutex_unlock(&control);
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
    fp_turn_after_fork();
    fp_arrival_after_fork();
}

int fp_control_start(void)
{
    return pthread_atfork(before_fork, in_parent, in_child);
}
