/* The descriptors that are written to later: who keeps them open, and when they are closed.  Normal context, any
 * interpreter.
 *
 * What is configured belongs to the process, and so does the duplicate of a descriptor that it may use.  A file object
 * belongs to the module of one interpreter.  Both change under one lock together with what is configured; the lock is
 * never held while the GIL is given up.
 */
#include "ext.h" /* pyconfig.h defines _GNU_SOURCE */

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "reader/arrival.h"
#include "trigger/watchdog.h"

enum { QUIET_TRIES = 40, QUIET_PAUSE_NS = 50000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What each use has now, whoever asked for it. */
static struct {
    const struct fp_ext_state *owner; /* whose file it is; NULL: nobody's, or that of one who has gone */
    int duplicate;                    /* ours to close, plus 1; 0: there is none */
} uses[FP_USES];

/* Duplicates that nothing leads to any more, but that a dump may still be writing to. */
static struct {
    int *fds;
    size_t n, room;
} parting;

/* In the child nobody else is in the middle of a change; a duplicate that was on its way stays open there. */
static void in_child(void)
{
    pthread_mutex_init(&lock, NULL);
}

int fp_ext_files_start(void)
{
    return pthread_atfork(NULL, NULL, in_child);
}

void fp_ext_files_lock(void)
{
    pthread_mutex_lock(&lock);
}

void fp_ext_files_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static bool is_quiet(void)
{
    return !fp_watchdog_busy() && !fp_arrival_any() && !fp_session_any_in_use();
}

/* A watchdog that dumps all the time pauses in between. */
static bool becomes_quiet(void)
{
    const struct timespec pause = {0, QUIET_PAUSE_NS};
    for (int i = 0; i < QUIET_TRIES; i++) {
        if (is_quiet())
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

/* If a dump takes longer than that, whoever comes next closes it. */
static void part_with(int duplicate)
{
    if (duplicate != 0 && parting.n == parting.room) {
        size_t room = parting.room ? 2 * parting.room : 16;
        int *fds = PyMem_RawRealloc(parting.fds, room * sizeof(*fds));
        if (fds == NULL)
            return; /* better open for ever than somebody else's */
        parting.fds = fds;
        parting.room = room;
    }
    if (duplicate != 0)
        parting.fds[parting.n++] = duplicate - 1;
    if (parting.n == 0 || !becomes_quiet())
        return;
    while (parting.n > 0)
        close(parting.fds[--parting.n]);
}

PyObject *fp_ext_file_take(struct fp_ext_state *state, int use, const struct fp_ext_file *file)
{
    PyObject *old = state->files[use];
    int duplicate = uses[use].duplicate;
    state->files[use] = file->object;
    uses[use].owner = state;
    uses[use].duplicate = file->is_duplicate ? file->fd + 1 : 0;
    part_with(duplicate);
    return old;
}

PyObject *fp_ext_file_drop(struct fp_ext_state *state, int use)
{
    static const struct fp_ext_file none = {.fd = -1};
    PyObject *old = fp_ext_file_take(state, use, &none);
    uses[use].owner = NULL;
    return old;
}

void fp_ext_file_refuse(const struct fp_ext_file *file)
{
    if (file->is_duplicate)
        close(file->fd); /* nothing has used it */
    Py_XDECREF(file->object);
}

bool fp_ext_file_is_last(const struct fp_ext_state *state, int use)
{
    return uses[use].owner == state && state->files[use] != NULL;
}

void fp_ext_file_forget(const struct fp_ext_state *state, int use)
{
    if (uses[use].owner == state)
        uses[use].owner = NULL;
}
