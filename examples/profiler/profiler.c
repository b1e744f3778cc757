/* A sampling profiler on faultproof's C API: start(path, hz, all_threads), stop() -> what was sampled.
 *
 * A timer sends SIGPROF to the process hz times a second.  Whichever thread gets it passes it on to the thread that
 * holds the GIL, or to all threads; mostly that is itself, which costs no other thread a wake-up.  The handler collects
 * the interrupted thread's stack as numbers into a ring of slots; a thread that Python doesn't know resolves them soon
 * after, counts equal stacks, and at the end writes a line for each: root;...;leaf count.
 * on_signal and what it calls run as a signal handler; all else in normal context.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* defines _GNU_SOURCE */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faultproof.h"

enum { SLOTS = 1024, DEPTH = 256, TABLE = 1 << 18, PROBES = 64, LINE = 16384, CACHE = 4 << 20 };
enum { FREE, FILLING, READY };

struct slot {
    atomic_int state;
    int n; /* frames, or what the collector said */
    faultproof_frame frames[DEPTH];
};

static struct slot slots[SLOTS];
static atomic_uint next_slot; /* the handlers' */
static unsigned drained;      /* the resolving thread's */
static atomic_ulong dropped;  /* the ring was full */

static struct {
    unsigned long samples, torn, unknown, frames, freed; /* stacks; half linked; without a Python frame; frames */
} seen;

static struct stack {
    char *line;
    unsigned long count;
} table[TABLE];

static pthread_t resolver;
static timer_t timer;
static atomic_bool running;
static struct sigaction previous;
static long hz;
static int all_threads;
static FILE *output;
static faultproof_cache *cache;

static void collect(void)
{
    struct slot *s = &slots[atomic_fetch_add(&next_slot, 1) % SLOTS];
    int expected = FREE;
    if (!atomic_compare_exchange_strong(&s->state, &expected, FILLING)) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    s->n = faultproof_collect_own(NULL, s->frames, DEPTH);
    atomic_store(&s->state, READY);
}

static int collect_of(const faultproof_thread *thread, void *own_id)
{
    if (thread->interpreter_id != 0)
        return 0;
    if ((long)thread->native_id == *(long *)own_id)
        collect();
    else if (thread->native_id != 0)
        syscall(SYS_tgkill, getpid(), (pid_t)thread->native_id, SIGPROF);
    return 0;
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    int before = errno;
    long own_id = syscall(SYS_gettid);
    faultproof_thread holder = {.struct_size = sizeof(holder)};
    (void)signo, (void)context;
    if (info->si_code != SI_TIMER)
        collect(); /* passed on */
    else if (all_threads || !faultproof_can_gil_holder())
        faultproof_each_thread(collect_of, &own_id);
    else if (faultproof_thread_info(faultproof_gil_holder(0), &holder) == 0)
        collect_of(&holder, &own_id);
    errno = before;
}

/* "name (file.py)" of a frame, appended at `at`; the new end. */
static size_t append_frame(char *line, size_t at, const faultproof_frame *frame)
{
    static faultproof_location where; /* the resolving thread's only */
    where.struct_size = sizeof(where);
    seen.frames++;
    if (faultproof_resolve(cache, frame, &where) < 0) {
        seen.freed++;
        return at + (size_t)snprintf(line + at, LINE - at, "%s[freed]", at ? ";" : "");
    }
    const char *slash = strrchr(where.filename, '/'), *name = where.qualname[0] ? where.qualname : where.name;
    size_t start = at + (at > 0);
    at += (size_t)snprintf(line + at, LINE - at, "%s%.100s (%.60s)", at ? ";" : "", name,
                           slash ? slash + 1 : where.filename);
    for (size_t i = start; i < at && i < LINE; i++)
        if (line[i] == ';' || line[i] == '\n')
            line[i] = ':';
    return at;
}

static void count(const char *line)
{
    unsigned long hash = 5381;
    for (const char *c = line; *c; c++)
        hash = hash * 33 + (unsigned char)*c;
    for (unsigned long i = 0; i < PROBES; i++) {
        struct stack *s = &table[(hash + i) % TABLE];
        if (s->line == NULL)
            s->line = strdup(line);
        if (s->line != NULL && strcmp(s->line, line) == 0) {
            s->count++;
            return;
        }
    }
    seen.samples--; /* the table is full */
    atomic_fetch_add(&dropped, 1);
}

static void take(struct slot *s)
{
    static char line[LINE + 256];
    size_t at = 0;
    if (s->n == FAULTPROOF_TORN)
        seen.torn++;
    else if (s->n < 0)
        seen.unknown++;
    if (s->n <= 0)
        return;
    seen.samples++;
    for (int i = s->n; i-- > 0 && at < LINE - 256;)
        at = append_frame(line, at, &s->frames[i]);
    count(line);
}

static void drain(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &slots[drained % SLOTS];
        if (atomic_load(&s->state) != READY) {
            if (drained == atomic_load(&next_slot))
                return;
            if (atomic_load(&s->state) == FILLING)
                return;
            drained++; /* that one was dropped */
            continue;
        }
        take(s);
        atomic_store(&s->state, FREE);
        drained++;
    }
}

/* Many at once, while the caches hold what resolving needs, but soon: a code object may be freed any time. */
static void *resolve_all(void *unused)
{
    const long ticks = 5 * 1000000000L / hz, longest = 50000000; /* ns */
    const struct timespec pause = {0, ticks < longest ? ticks : longest};
    (void)unused;
    while (atomic_load(&running)) {
        nanosleep(&pause, NULL);
        drain();
    }
    return NULL;
}

static PyObject *start(PyObject *self, PyObject *args)
{
    const char *path;
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    sigset_t all, before;
    (void)self;
    hz = 100;
    all_threads = 0;
    if (!PyArg_ParseTuple(args, "s|lp", &path, &hz, &all_threads))
        return NULL;
    if (atomic_load(&running) || hz < 1 || hz > 10000)
        return PyErr_Format(PyExc_ValueError, "already started, or hz is not in 1 to 10000");
    output = fopen(path, "w");
    if (cache == NULL)
        cache = faultproof_cache_init(malloc(CACHE), CACHE);
    if (output == NULL || cache == NULL)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    memset(slots, 0, sizeof(slots)); /* the handlers shall find their pages present */
    faultproof_install_guard();
    sigaction(SIGPROF, &action, &previous);
    atomic_store(&running, true);
    sigfillset(&all); /* this thread takes no signals that are meant for the program's */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&resolver, NULL, resolve_all, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        atomic_store(&running, false);
        timer_delete(timer);
        return PyErr_Format(PyExc_OSError, "can't start a thread");
    }
    struct itimerspec each = {.it_interval = {hz == 1, hz == 1 ? 0 : 1000000000 / hz}};
    each.it_value = each.it_interval;
    timer_settime(timer, 0, &each, NULL);
    Py_RETURN_NONE;
}

static void write_lines(void)
{
    for (unsigned i = 0; i < TABLE; i++) {
        if (table[i].line != NULL)
            fprintf(output, "%s %lu\n", table[i].line, table[i].count);
        free(table[i].line);
        table[i] = (struct stack){NULL, 0};
    }
    fclose(output);
}

static PyObject *stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct timespec moment = {0, 10000000};
    (void)self;
    if (!atomic_exchange(&running, false))
        return PyErr_Format(PyExc_ValueError, "not started");
    timer_delete(timer);
    Py_BEGIN_ALLOW_THREADS pthread_join(resolver, NULL);
    nanosleep(&moment, NULL); /* signals that are under way; later ones find the ring as before and do no harm */
    drain();
    write_lines();
    Py_END_ALLOW_THREADS
        /* SIGPROF's default action would kill the process if a late signal came: it is ignored if nobody had it before.
         */
        if (previous.sa_handler == SIG_DFL) previous.sa_handler = SIG_IGN;
    sigaction(SIGPROF, &previous, NULL);
    PyObject *result =
        Py_BuildValue("{s:k,s:k,s:k,s:k,s:k,s:k}", "samples", seen.samples, "torn", seen.torn, "unknown", seen.unknown,
                      "frames", seen.frames, "freed", seen.freed, "dropped", atomic_exchange(&dropped, 0));
    memset(&seen, 0, sizeof(seen));
    return result;
}

static PyMethodDef methods[] = {
    {"start", start, METH_VARARGS,
     PyDoc_STR("start(path, hz=100, all_threads=False): sample who holds the GIL, or all threads.")},
    {"stop", stop, METH_NOARGS, PyDoc_STR("stop() -> dict: end, and write the collapsed stacks to path.")},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    (void)module;
    return faultproof_import();
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "profiler",
    .m_doc = "A sampling profiler: collapsed stacks that flame-graph tools read.",
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit_profiler(void)
{
    return PyModuleDef_Init(&definition);
}
