/* Samples running threads through the C API by any reader and from any context, for tests/python/truth.py.
 *
 * Each sample is a stack as text, "  <frames changed while reading>" where something is unavailable, then a line "#same
 * NS" or "#moved NS": whether the thread had the GIL before and after, and how long it took.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* defines _GNU_SOURCE */

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "faultproof.h"

enum { FRAMES = 256, STATES = 16, TEXT = 512 << 10 };

#define MARK "  <frames changed while reading>\n"

/* One sampling at a time; what the handler uses too. */
static struct sampling {
    int fd, compact, from_handler, cpu;
    double seconds, interval;
    struct _ts *states[STATES]; /* looked at in turn with who holds the GIL */
    Py_ssize_t n_states;
    uint64_t round;
} s;

static PyUnstable_FrameInfo infos[FRAMES];
static faultproof_frame frames[FRAMES];
static char text[TEXT];

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static size_t write_infos(int n)
{
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        const PyUnstable_FrameInfo *f = &infos[i];
        if (f->filename[0] == '\0')
            used += (size_t)snprintf(text + used, TEXT - used, MARK);
        else if (f->lineno < 0)
            used +=
                (size_t)snprintf(text + used, TEXT - used, "  File \"%s\", line ??\?? in %s\n", f->filename, f->name);
        else
            used += (size_t)snprintf(text + used, TEXT - used, "  File \"%s\", line %d in %s\n", f->filename, f->lineno,
                                     f->name);
    }
    return used;
}

static size_t write_compact(int n)
{
    size_t used = n == FAULTPROOF_TORN ? (size_t)snprintf(text, TEXT, MARK) : 0;
    for (int i = 0; i < n; i++) {
        faultproof_location at = {.struct_size = sizeof(at)};
        if (frames[i].check == 0)
            used += (size_t)snprintf(text + used, TEXT - used, MARK);
        else if (faultproof_resolve(NULL, &frames[i], &at) != 0)
            used += (size_t)snprintf(text + used, TEXT - used, "  File \"freed\", line ??\?? in freed\n");
        else if (at.line < 0)
            used +=
                (size_t)snprintf(text + used, TEXT - used, "  File \"%s\", line ??\?? in %s\n", at.filename, at.name);
        else
            used += (size_t)snprintf(text + used, TEXT - used, "  File \"%s\", line %d in %s\n", at.filename, at.line,
                                     at.name);
    }
    return used;
}

static void sample(void)
{
    struct _ts *holder = faultproof_gil_holder(0), *target = holder;
    if (s.n_states > 0 && (holder == NULL || s.round % 2))
        target = s.states[s.round / 2 % (uint64_t)s.n_states];
    s.round++;
    if (target == NULL)
        return;
    int64_t start = now_ns();
    int n = s.compact ? faultproof_collect(NULL, target, frames, FRAMES)
                      : PyUnstable_CollectCallStack(target, infos, FRAMES);
    int64_t took = now_ns() - start;
    int same = target == holder && faultproof_gil_holder(0) == holder;
    size_t used = s.compact ? write_compact(n) : write_infos(n);
    used += (size_t)snprintf(text + used, TEXT - used, "#%s %lld\n", same ? "same" : "moved", (long long)took);
    for (size_t at = 0; at < used;) {
        ssize_t put = write(s.fd, text + at, used - at);
        if (put <= 0)
            return;
        at += (size_t)put;
    }
}

static void on_signal(int signo)
{
    (void)signo;
    sample();
}

static void *run(void *unused)
{
    const struct timespec pause = {0, (long)(s.interval * 1e9)};
    int64_t end = now_ns() + (int64_t)(s.seconds * 1e9);
    cpu_set_t set;
    (void)unused;
    CPU_ZERO(&set);
    if (s.cpu >= 0) {
        CPU_SET(s.cpu, &set);
        sched_setaffinity(0, sizeof(set), &set);
    }
    while (now_ns() < end) {
        if (s.from_handler)
            raise(SIGPROF);
        else
            sample();
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* watch(fd, seconds, interval, cpu, "info" or "compact", "handler" or "thread", [tstate, ...]): from a signal handler
   in this thread, or from a thread that Python doesn't know */
static PyObject *watch(PyObject *self, PyObject *args)
{
    const char *kind, *context;
    PyObject *states;
    pthread_t thread;
    (void)self;
    if (!PyArg_ParseTuple(args, "iddissO!", &s.fd, &s.seconds, &s.interval, &s.cpu, &kind, &context, &PyList_Type,
                          &states))
        return NULL;
    s.compact = strcmp(kind, "compact") == 0;
    s.from_handler = strcmp(context, "handler") == 0;
    s.n_states = PyList_GET_SIZE(states) < STATES ? PyList_GET_SIZE(states) : STATES;
    for (Py_ssize_t i = 0; i < s.n_states; i++)
        s.states[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(states, i));
    if (PyErr_Occurred())
        return NULL;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    Py_BEGIN_ALLOW_THREADS;
    if (s.from_handler)
        run(NULL);
    else if (pthread_create(&thread, NULL, run, NULL) == 0)
        pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* deny([number, ...]): from now on these system calls fail in this thread, and in those that it makes */
static PyObject *deny(PyObject *self, PyObject *numbers)
{
    struct sock_filter code[32] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    unsigned short n = 1;
    (void)self;
    for (Py_ssize_t i = 0; i < PyList_Size(numbers) && n < 30; i++) {
        unsigned number = (unsigned)PyLong_AsUnsignedLong(PyList_GET_ITEM(numbers, i));
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {n, code};
    if (PyErr_Occurred())
        return NULL;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *own_state(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromVoidPtr(PyThreadState_Get());
}

static PyObject *install_guard(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromLong(faultproof_install_guard());
}

static PyMethodDef methods[] = {
    {"watch", watch, METH_VARARGS, NULL},
    {"deny", deny, METH_O, NULL},
    {"own_state", own_state, METH_NOARGS, NULL},
    {"install_guard", install_guard, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    (void)module;
    return faultproof_import();
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "reader_probe",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_reader_probe(void)
{
    return PyModuleDef_Init(&definition);
}
