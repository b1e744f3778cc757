/* A crash tracker that compiles faultproof.c in and imports nothing; tests load it with ctypes.  Each function says
 * which context it is for. */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "faultproof.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int tracker_before_init(void)
{
    faultproof_frame_info info;
    faultproof_frame frame;
    struct _ts *some = (struct _ts *)(void *)&info;
    return faultproof_collect_call_stack(some, &info, 1) == -1 && faultproof_collect(NULL, some, &frame, 1) == -1 &&
           faultproof_collect_own(NULL, &frame, 1) == -1 && faultproof_install_guard() == -1 &&
           faultproof_current_tstate() == NULL && !faultproof_can_collect() && !faultproof_can_guard() &&
           faultproof_version() == 0 && faultproof_remove_guard() == -1 &&
           faultproof_cache_init(&info, sizeof(info) / 8 * 8) == NULL;
}

EXPORT int tracker_init(void)
{
    return faultproof_init();
}

EXPORT const char *tracker_status(void)
{
    return faultproof_status();
}

/* Is SIGSEGV's handler what it was before the first init?  0 or 1. */
EXPORT int tracker_handler_untouched(void)
{
    struct sigaction segv, bus;
    sigaction(SIGSEGV, NULL, &segv);
    sigaction(SIGBUS, NULL, &bus);
    return segv.sa_handler == SIG_DFL && bus.sa_handler == SIG_DFL;
}

EXPORT int tracker_guard(void)
{
    return faultproof_install_guard();
}

EXPORT int tracker_unguard(void)
{
    return faultproof_remove_guard();
}

EXPORT int tracker_can_guard(void)
{
    return faultproof_can_guard();
}

/* Own stack as text to a descriptor; the number of frames. */
EXPORT int tracker_report(int fd)
{
    static faultproof_frame_info frames[64];
    int n = faultproof_collect_call_stack(faultproof_current_tstate(), frames, 64);
    faultproof_print_call_stack(fd, frames, n, 1);
    return n;
}

/* Reads through the pointer given as a thread state; with a guard that is a fault that is recovered. */
EXPORT int tracker_collect_at(void *tstate)
{
    faultproof_frame frame;
    return faultproof_collect(NULL, (struct _ts *)tstate, &frame, 1);
}

/* The tracker's own handler of fatal signals: report, then die of the default action. */
static void on_crash(int signo)
{
    tracker_report(STDERR_FILENO);
    signal(signo, SIG_DFL);
}

EXPORT void tracker_enable(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_crash;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGABRT, &action, NULL);
}

EXPORT void tracker_crash(void)
{
    volatile int *volatile nowhere = NULL;
    *nowhere = 1;
}

/* A handler that was there first and goes on after the fault: the page becomes readable.  For "passes on". */
static volatile int previous_calls;

static void on_previous(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    previous_calls++;
    signal(SIGSEGV, SIG_DFL);
    _exit(previous_calls == 1 ? 33 : 34);
}

/* A handler for one call that comes back without having helped. */
static void on_only_call(int signo)
{
    (void)signo;
    (void)!write(STDERR_FILENO, "called\n", 7);
}

EXPORT void tracker_previous_once(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_only_call;
    action.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGSEGV, &action, NULL);
}

EXPORT void tracker_previous(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_previous;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, NULL);
}
