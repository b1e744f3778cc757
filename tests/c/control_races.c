/* The control functions from many threads at once, with user signals coming in: for ThreadSanitizer.  Normal context.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"
#include "trigger/signals.h"
#include "trigger/user.h"
#include "trigger/watchdog.h"

enum { WORKERS = 16, ROUNDS = 400, SIGNALS = 2 };

/* ThreadSanitizer starts a thread of its own in a child. */
#ifdef __SANITIZE_THREAD__
enum { OF_SANITIZER = 1 };
#else
enum { OF_SANITIZER = 0 };
#endif

static const int signals[SIGNALS] = {SIGUSR1, SIGUSR2};
static struct fp_target target; /* of no interpreter: each dump says that it can't be read */
static int out;

static struct fp_dump_options options_of(uint64_t limit)
{
    return (struct fp_dump_options){.fd = out,
                                    .all_threads = true,
                                    .max_threads = limit,
                                    .max_frames = limit,
                                    .max_chars = 100,
                                    .budget_ns = 1000000000};
}

static void one(unsigned choice, uint64_t limit)
{
    int signo = signals[choice / 8 % SIGNALS];
    struct fp_fatal_config fatal = {.target = &target, .dump = options_of(limit)};
    struct fp_user_config user = {.target = &target, .dump = options_of(limit), .chain = choice % 3 == 0};
    struct fp_watchdog_config later = {.target = &target,
                                       .dump = options_of(limit),
                                       .timeout_ns = 1 + (int64_t)(choice % 100) * 1000,
                                       .repeat = choice % 2 == 0,
                                       .header = "Timeout!\n"};
    switch (choice % 8) {
    case 0:
        CHECK(fp_fatal_enable(&fatal) == 0);
        break;
    case 1:
        (void)fp_fatal_disable();
        break;
    case 2:
        CHECK(fp_user_register(signo, &user) == 0);
        break;
    case 3:
        (void)fp_user_unregister(signo);
        break;
    case 4:
        CHECK(fp_watchdog_arm(&later) == 0);
        break;
    case 5:
        CHECK(fp_watchdog_cancel());
        break;
    case 6:
        (void)fp_guard_ready();
        (void)fp_fatal_is_enabled();
        break;
    default:
        raise(signo);
    }
}

static void *work(void *argument)
{
    unsigned state = (unsigned)(uintptr_t)argument * 2654435761u + 1;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        state = state * 1103515245 + 12345;
        one(state >> 8, 1 + i % 100);
    }
    return NULL;
}

static int count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int n = 0;
    CHECK(folder != NULL);
    while (readdir(folder) != NULL)
        n++;
    closedir(folder);
    return n - 2; /* . and .. */
}

/* Afterwards all is as it was, and the watchdog's thread is gone. */
static void everything_at_once(void)
{
    pthread_t threads[WORKERS];
    struct sigaction now, sigfpe;
    struct stat file;
    int before = count_threads();

    CHECK(sigaction(SIGFPE, NULL, &sigfpe) == 0);
    CHECK(fp_control_start() == 0);
    out = memfd_create("text", 0);
    for (int i = 0; i < SIGNALS; i++)
        signal(signals[i], SIG_IGN); /* what unregister() gives back */
    for (uintptr_t i = 0; i < WORKERS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(fstat(out, &file) == 0 && file.st_size > 0);
    (void)fp_fatal_disable();
    CHECK(fp_watchdog_cancel() && !fp_watchdog_busy());
    for (int i = 0; i < SIGNALS; i++) {
        (void)fp_user_unregister(signals[i]);
        CHECK(sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN);
    }
    CHECK(sigaction(SIGFPE, NULL, &now) == 0 && now.sa_handler == sigfpe.sa_handler);
    while (count_threads() > before + OF_SANITIZER) /* a thread may be there for a moment; else see alarm() */
        sched_yield();
}

static const struct check_case cases[] = {{"everything at once", everything_at_once}};
CHECK_MAIN(cases)
