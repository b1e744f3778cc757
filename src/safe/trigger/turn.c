/* Of several threads that crash one reports; the others wait, and are named at its end.  Signal handler. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "trigger/fatals.h"

/* The thread that writes a fatal report, by kernel thread id; 0: none.  It stays set while the process dies. */
static atomic_int reporter;

/* Threads that crashed while another one's report was written: each takes a place. */
enum { WAITERS = 64 };
static struct {
    _Atomic(uint64_t) thread_id;
    atomic_int signo;
} waiters[WAITERS];

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

enum fp_turn fp_turn_take(int thread, int signo, int64_t budget_ns)
{
    int nobody = 0;
    while (!atomic_compare_exchange_strong(&reporter, &nobody, thread)) {
        if (nobody == thread)
            return FP_TURN_MINE_ALREADY;
        wait_for_reporter(signo, budget_ns);
        nobody = 0;
        if (atomic_load(&reporter) != 0)
            return FP_TURN_NEVER;
    }
    return FP_TURN_MINE;
}

bool fp_turn_is(int thread)
{
    return atomic_load(&reporter) == thread;
}

void fp_turn_give(void)
{
    atomic_store(&reporter, 0);
}

void fp_turn_name_waiters(const struct fp_fatal_config *config)
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
        const char *name = fp_fatal_name(fp_fatal_find(signo), &config->dump.style);
        fp_out_bytes(s->out, name, strlen(name));
        FP_OUT_LITERAL(s->out, "\n");
        atomic_store(&waiters[i].thread_id, 0);
    }
    if (s != NULL) {
        fp_out_close(s->out);
        fp_session_release(s);
    }
}

void fp_turn_after_fork(void)
{
    atomic_store(&reporter, 0);
    for (int i = 0; i < WAITERS; i++) {
        atomic_store(&waiters[i].signo, 0);
        atomic_store(&waiters[i].thread_id, 0);
    }
}
