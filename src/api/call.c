/* Begin and end of each call: is there a target, and which reader works.  Any context, but fp_api_start. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/api.h"

static _Atomic(const struct fp_target *) started; /* NULL: not yet, or in vain */
static atomic_int start_status = FP_NOT_STARTED;  /* enum fp_status */
static atomic_int tid_offset = FP_ABSENT;

/* Looks for the kernel's id of this thread in what pthread_t points at; glibc has had it at byte 720 for long. */
static int32_t find_tid_offset(void)
{
    enum { FIRST = 512, END = 1024 };
    const char *self = (const char *)(uintptr_t)pthread_self();
    int32_t own = (int32_t)syscall(SYS_gettid), seen;
    for (int32_t at = FIRST; at < END; at += 4) {
        memcpy(&seen, self + at, sizeof(seen));
        if (seen == own)
            return at;
    }
    return FP_ABSENT;
}

void fp_api_start(const struct fp_target *target, enum fp_status status)
{
    atomic_store(&start_status, status);
    if (status != FP_OK)
        return;
    if (target->layout.tstate_native_id < 0)
        atomic_store(&tid_offset, find_tid_offset());
    atomic_store(&started, target);
}

const struct fp_target *fp_api_target(void)
{
    return atomic_load_explicit(&started, memory_order_acquire);
}

int32_t fp_api_tid_offset(void)
{
    return atomic_load(&tid_offset);
}

static enum fp_status open_reader(struct fp_reader *r, const faultproof_session *session)
{
    enum fp_reader_kind kind = session ? (enum fp_reader_kind)session->reader : FP_READER_NONE;
    if (session == NULL && fp_guard_ready())
        kind = FP_READER_GUARD;
    if (FP_LIKELY(kind == FP_READER_GUARD)) { /* needs no opening and no copy function: all its loads are inline */
        *r = (struct fp_reader){.kind = kind, .guarded = true, .fds = {-1, -1}};
        return FP_OK;
    }
    return kind != FP_READER_NONE ? fp_reader_open(r, kind) : fp_reader_open_fallback(r);
}

enum fp_status fp_call_begin(struct fp_call *c, const faultproof_session *session)
{
    const struct fp_target *target = fp_api_target();
    if (FP_UNLIKELY(target == NULL))
        return FP_NOT_STARTED;
    c->saved_errno = errno;
    enum fp_status status = open_reader(&c->reader, session);
    if (FP_UNLIKELY(status != FP_OK)) {
        errno = c->saved_errno;
        return status;
    }
    c->walk.raw = c->walk.known = NULL;
    c->walk.slots = NULL;
    c->walk.arena = NULL;
    fp_walk_init(&c->walk, &c->reader, target, true);
    return FP_OK;
}

void fp_call_end(struct fp_call *c)
{
    if (FP_UNLIKELY(c->reader.kind != FP_READER_GUARD))
        fp_reader_close(&c->reader);
    errno = c->saved_errno;
}

int faultproof_session_begin(faultproof_session *session)
{
    struct fp_call c;
    if (session == NULL || session->struct_size < sizeof(*session) || fp_call_begin(&c, NULL) != FP_OK)
        return -1;
    session->reader = (uint32_t)c.reader.kind;
    memset(session->unused, 0, sizeof(session->unused));
    fp_call_end(&c);
    return 0;
}

void faultproof_session_end(faultproof_session *session)
{
    if (session != NULL)
        session->reader = FP_READER_NONE;
}

/* An interpreter that was found may have ended since, and another one may have been started in its place. */
enum fp_status fp_api_status(void)
{
    struct fp_call c;
    enum fp_status status = (enum fp_status)atomic_load(&start_status);
    if (status == FP_OK)
        status = fp_call_begin(&c, NULL);
    if (status != FP_OK)
        return status;
    if (fp_interp_first(&c.walk) == 0)
        status = FP_NO_INTERPRETER;
    fp_call_end(&c);
    return status;
}

const char *faultproof_status(void)
{
    return fp_status_text(fp_api_status());
}

uint32_t faultproof_version(void)
{
    return fp_api_target() ? FAULTPROOF_VERSION_HEX : 0;
}

int faultproof_can_collect(void)
{
    return fp_api_status() == FP_OK;
}

int faultproof_can_guard(void)
{
    int saved = errno;
    int ready = fp_api_target() != NULL && fp_guard_ready();
    errno = saved;
    return ready;
}

int faultproof_can_columns(void)
{
    const struct fp_target *t = fp_api_target();
    return t != NULL && t->layout.line_format == FP_LINES_LOCATION;
}

int faultproof_can_qualnames(void)
{
    const struct fp_target *t = fp_api_target();
    return t != NULL && t->layout.code_qualname >= 0;
}

int faultproof_can_native_ids(void)
{
    const struct fp_target *t = fp_api_target();
    return t != NULL && (t->layout.tstate_native_id >= 0 || fp_api_tid_offset() >= 0);
}

int faultproof_can_gil_holder(void)
{
    const struct fp_target *t = fp_api_target();
    return t != NULL && !t->free_threaded;
}

int faultproof_can_identify_code(void)
{
    const struct fp_target *t = fp_api_target();
    return t != NULL && t->layout.code_version >= 0;
}
