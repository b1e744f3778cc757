/* The fixed pool of walks and buffers, and the choice of the reader.  Any context. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "trigger/dump.h"
#include "trigger/signals.h"

/* More than the dumps that can be under way at once without one waiting: a watchdog, a fatal report, several nested
   user signals.  Untouched pages cost no memory. */
enum { SESSIONS = 8 };

static struct {
    atomic_bool used;
    struct fp_session session;
    struct fp_out out;
} pool[SESSIONS];

static struct fp_session *take_free(void)
{
    for (int i = 0; i < SESSIONS; i++)
        if (!atomic_exchange_explicit(&pool[i].used, true, memory_order_acquire)) {
            pool[i].session.out = &pool[i].out;
            fp_walk_lend(&pool[i].session.walk, &pool[i].session.memory);
            return &pool[i].session;
        }
    return NULL;
}

static struct fp_session *wait_for_free(int64_t budget_ns)
{
    const struct timespec pause = {0, 1000000};
    int64_t start = fp_now_ns();
    struct fp_session *session = take_free();
    while (session == NULL && fp_now_ns() - start < budget_ns) {
        nanosleep(&pause, NULL);
        session = take_free();
    }
    return session;
}

enum fp_reader_kind fp_reader_available(void)
{
    struct fp_reader r;
    if (fp_guard_ready())
        return FP_READER_GUARD;
    enum fp_reader_kind kind = fp_reader_open_fallback(&r) == FP_OK ? r.kind : FP_READER_NONE;
    fp_reader_close(&r);
    return kind;
}

enum fp_status fp_reader_open_best(struct fp_reader *reader)
{
    if (fp_guard_ready())
        return fp_reader_open(reader, FP_READER_GUARD);
    return fp_reader_open_fallback(reader);
}

struct fp_session *fp_session_acquire(const struct fp_target *target, bool exact, int64_t budget_ns)
{
    struct fp_session *s = wait_for_free(budget_ns);
    if (s == NULL)
        return NULL;
    if (fp_reader_open_best(&s->reader) != FP_OK) {
        fp_session_release(s);
        return NULL;
    }
    memset(s->rows, 0, sizeof(s->rows));
    s->row_used = 0;
    fp_walk_init(&s->walk, &s->reader, target, exact);
    return s;
}

void fp_session_release(struct fp_session *session)
{
    for (int i = 0; i < SESSIONS; i++)
        if (&pool[i].session == session) {
            fp_reader_close(&session->reader);
            atomic_store_explicit(&pool[i].used, false, memory_order_release);
        }
}

bool fp_session_any_in_use(void)
{
    for (int i = 0; i < SESSIONS; i++)
        if (atomic_load(&pool[i].used))
            return true;
    return false;
}

void fp_session_after_fork(void)
{
    for (int i = 0; i < SESSIONS; i++)
        atomic_store(&pool[i].used, false);
}
