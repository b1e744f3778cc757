/* The C API as an extension sees it, for tests/python/test_c_api*.py: each function in each context.  Normal context,
 * but what runs as a signal handler says so.
 *
 * A context is a way to get from the test to a call: directly, without the GIL, in a signal handler on an alternate
 * stack, in a thread that Python doesn't know.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* defines _GNU_SOURCE */

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "faultproof.h"

enum { MAX_FRAMES = 20000, ERRNO_MARK = 4242 };

/* ---- contexts ---- */

struct job {
    void (*run)(void *);
    void *data;
};

static struct job *pending; /* for the signal handler */

static void on_signal(int signo)
{
    (void)signo;
    pending->run(pending->data);
}

static void run_in_handler(struct job *job)
{
    enum { SIZE = 256 << 10 };
    stack_t stack = {.ss_sp = malloc(SIZE), .ss_size = SIZE}, before;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK}, previous;
    sigaltstack(&stack, &before);
    sigaction(SIGUSR2, &action, &previous);
    pending = job;
    raise(SIGUSR2);
    sigaction(SIGUSR2, &previous, NULL);
    sigaltstack(&before, NULL);
    free(stack.ss_sp);
}

static void *thread_main(void *job)
{
    ((struct job *)job)->run(((struct job *)job)->data);
    return NULL;
}

static void run_in_thread(struct job *job)
{
    pthread_t thread;
    pthread_create(&thread, NULL, thread_main, job);
    Py_BEGIN_ALLOW_THREADS pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
}

static void run_blocked(struct job *job) /* SIGSEGV blocked: the guard can't be used */
{
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    job->run(job->data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int run_in(const char *context, struct job *job)
{
    if (strcmp(context, "direct") == 0)
        job->run(job->data);
    else if (strcmp(context, "nogil") == 0) {
        Py_BEGIN_ALLOW_THREADS job->run(job->data);
        Py_END_ALLOW_THREADS
    }
    else if (strcmp(context, "handler") == 0)
        run_in_handler(job);
    else if (strcmp(context, "thread") == 0)
        run_in_thread(job);
    else if (strcmp(context, "blocked") == 0)
        run_blocked(job);
    else {
        PyErr_Format(PyExc_ValueError, "no such context: %s", context);
        return -1;
    }
    return 0;
}

static struct _ts *tstate_of(PyObject *address)
{
    return address == Py_None ? NULL : (struct _ts *)PyLong_AsVoidPtr(address);
}

/* ---- collect_call_stack ---- */

struct collect {
    struct _ts *tstate;
    PyUnstable_FrameInfo *frames;
    int max, result, errno_after;
};

static void do_collect(void *data)
{
    struct collect *c = data;
    errno = ERRNO_MARK;
    c->result = PyUnstable_CollectCallStack(c->tstate, c->frames, c->max);
    c->errno_after = errno;
}

static PyObject *info_list(const PyUnstable_FrameInfo *frames, int n)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < n; i++) {
        const PyUnstable_FrameInfo *f = &frames[i];
        PyObject *row =
            Py_BuildValue("(sisii)", f->filename, f->lineno, f->name, f->filename_truncated, f->name_truncated);
        if (row == NULL || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* call_stack(context, tstate or None for NULL, max_frames) -> (result, frames); nothing is written behind the array */
static PyObject *call_stack(PyObject *self, PyObject *args)
{
    const char *context;
    PyObject *address;
    struct collect c = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "sOi", &context, &address, &c.max))
        return NULL;
    c.tstate = tstate_of(address);
    size_t n = c.max > 0 ? (size_t)c.max : 0;
    c.frames = malloc((n + 1) * sizeof(*c.frames));
    memset(c.frames, 0x5a, (n + 1) * sizeof(*c.frames));
    struct job job = {do_collect, &c};
    if (run_in(context, &job) < 0)
        return NULL;
    const unsigned char *after = (const unsigned char *)&c.frames[n];
    int touched = 0;
    for (size_t i = 0; i < sizeof(*c.frames); i++)
        touched |= after[i] != 0x5a;
    PyObject *list = info_list(c.frames, c.result > 0 ? c.result : 0);
    free(c.frames);
    if (touched || c.errno_after != ERRNO_MARK) {
        Py_XDECREF(list);
        return PyErr_Format(PyExc_AssertionError, touched ? "wrote behind the array" : "errno changed");
    }
    return Py_BuildValue("(iN)", c.result, list);
}

static PyObject *call_stack_null(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromLong(PyUnstable_CollectCallStack(PyThreadState_Get(), NULL, 1));
}

/* ---- print_call_stack ---- */

/* print_stack(fd, [(filename, line, name, cut, cut), ...] or None for NULL, n, header) */
static PyObject *print_stack(PyObject *self, PyObject *args)
{
    int fd, n, header;
    PyObject *rows;
    PyUnstable_FrameInfo *frames = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iOii", &fd, &rows, &n, &header))
        return NULL;
    if (rows != Py_None) {
        frames = calloc((size_t)PyList_GET_SIZE(rows) + 1, sizeof(*frames));
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(rows); i++) {
            const char *file, *name;
            PyUnstable_FrameInfo *f = &frames[i];
            if (!PyArg_ParseTuple(PyList_GET_ITEM(rows, i), "sisii", &file, &f->lineno, &name, &f->filename_truncated,
                                  &f->name_truncated))
                return NULL;
            memcpy(f->filename, file, strnlen(file, sizeof(f->filename))); /* 501 characters: no terminator */
            memcpy(f->name, name, strnlen(name, sizeof(f->name)));
        }
    }
    errno = ERRNO_MARK;
    PyUnstable_PrintCallStack(fd, frames, n, header);
    int kept = errno == ERRNO_MARK;
    free(frames);
    return PyBool_FromLong(kept);
}

/* ---- compact ---- */

struct compact {
    struct _ts *tstate; /* NULL: own */
    faultproof_frame *frames;
    int with_session, max, result, errno_after;
};

static void do_compact(void *data)
{
    struct compact *c = data;
    faultproof_session session = {.struct_size = sizeof(session)}, *s = NULL;
    errno = ERRNO_MARK;
    if (c->with_session && faultproof_session_begin(&session) == 0)
        s = &session;
    c->result =
        c->tstate ? faultproof_collect(s, c->tstate, c->frames, c->max) : faultproof_collect_own(s, c->frames, c->max);
    faultproof_session_end(s);
    c->errno_after = errno;
}

/* compact(context, tstate or None for the own, max_frames, session) -> (result, [(code, offset, check, kind), ...]) */
static PyObject *compact(PyObject *self, PyObject *args)
{
    const char *context;
    PyObject *address;
    struct compact c = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "sOip", &context, &address, &c.max, &c.with_session))
        return NULL;
    c.tstate = tstate_of(address);
    c.frames = calloc((size_t)(c.max > 0 ? c.max : 0) + 1, sizeof(*c.frames));
    struct job job = {do_compact, &c};
    if (run_in(context, &job) < 0)
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; i < c.result; i++) {
        const faultproof_frame *f = &c.frames[i];
        PyObject *row = Py_BuildValue("(KiII)", (unsigned long long)f->code, f->offset, f->check, f->kind);
        PyList_Append(list, row);
        Py_XDECREF(row);
    }
    free(c.frames);
    if (c.errno_after != ERRNO_MARK)
        return PyErr_Format(PyExc_AssertionError, "errno changed");
    return Py_BuildValue("(iN)", c.result, list);
}

static PyObject *location_dict(int result, const faultproof_location *l)
{
    if (result < 0)
        Py_RETURN_NONE;
    return Py_BuildValue("{s:I,s:i,s:i,s:i,s:i,s:i,s:I,s:s,s:s,s:s}", "flags", l->flags, "line", l->line, "end_line",
                         l->end_line, "column", l->column, "end_column", l->end_column, "first_line", l->first_line,
                         "code_flags", l->code_flags, "filename", l->filename, "name", l->name, "qualname",
                         l->qualname);
}

static faultproof_cache *cache;

/* resolve((code, offset, check, kind), use_cache) -> dict or None */
static PyObject *resolve(PyObject *self, PyObject *args)
{
    unsigned long long code;
    faultproof_frame f = {0};
    faultproof_location l = {.struct_size = sizeof(l)};
    int use_cache;
    (void)self;
    if (!PyArg_ParseTuple(args, "(KiII)p", &code, &f.offset, &f.check, &f.kind, &use_cache))
        return NULL;
    f.code = code;
    return location_dict(faultproof_resolve(use_cache ? cache : NULL, &f, &l), &l);
}

/* cache(entries' bytes): a new one; cache(0): none; -> whether there is one */
static PyObject *new_cache(PyObject *self, PyObject *arg)
{
    static char *memory;
    size_t size = PyLong_AsSize_t(arg);
    (void)self;
    free(memory);
    memory = size ? malloc(size) : NULL;
    cache = faultproof_cache_init(memory, size);
    return PyBool_FromLong(cache != NULL);
}

/* positions(code, check, [offset, ...]) -> [(line, end_line, column, end_column), ...] */
static PyObject *positions(PyObject *self, PyObject *args)
{
    PyObject *code, *offsets;
    faultproof_frame f = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "OIO!", &code, &f.check, &PyList_Type, &offsets))
        return NULL;
    f.code = (uint64_t)(uintptr_t)code;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(offsets); i++) {
        faultproof_location l = {.struct_size = sizeof(l)};
        f.offset = (int32_t)PyLong_AsLong(PyList_GET_ITEM(offsets, i));
        if (faultproof_resolve(cache, &f, &l) < 0)
            l.line = -2;
        PyObject *row = Py_BuildValue("(iiii)", l.line, l.end_line, l.column, l.end_column);
        PyList_Append(list, row);
        Py_XDECREF(row);
    }
    return list;
}

/* ---- threads ---- */

static PyObject *thread_dict(const faultproof_thread *t)
{
    return Py_BuildValue("{s:N,s:I,s:K,s:K,s:L}", "tstate", PyLong_FromVoidPtr(t->tstate), "flags", t->flags,
                         "thread_id", (unsigned long long)t->thread_id, "native_id", (unsigned long long)t->native_id,
                         "interpreter_id", (long long)t->interpreter_id);
}

struct visits {
    faultproof_thread threads[4096];
    int n, stop_after, collected;
};

static int visit_one(const faultproof_thread *thread, void *context)
{
    struct visits *v = context;
    faultproof_frame frame;
    v->threads[v->n++] = *thread;
    v->collected += faultproof_collect(NULL, thread->tstate, &frame, 1) == 1;
    return v->n == v->stop_after;
}

static void do_visit(void *data)
{
    struct visits *v = data;
    int n = faultproof_each_thread(visit_one, v);
    if (n != v->n)
        v->n = -1;
}

/* threads(context, stop_after) -> ([thread, ...], how many of them had a stack) */
static PyObject *threads(PyObject *self, PyObject *args)
{
    const char *context;
    struct visits *v = calloc(1, sizeof(*v));
    (void)self;
    if (!PyArg_ParseTuple(args, "si", &context, &v->stop_after))
        return NULL;
    struct job job = {do_visit, v};
    if (run_in(context, &job) < 0)
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; i < v->n; i++) {
        PyObject *row = thread_dict(&v->threads[i]);
        if (row == NULL || PyList_Append(list, row) < 0)
            return NULL;
        Py_DECREF(row);
    }
    PyObject *result = Py_BuildValue("(iNi)", v->n, list, v->collected);
    free(v);
    return result;
}

struct query {
    struct _ts *tstate;
    long long interpreter_id;
    faultproof_thread thread;
    int result;
};

static void do_current(void *data)
{
    ((struct query *)data)->tstate = faultproof_current_tstate();
}

static void do_holder(void *data)
{
    struct query *q = data;
    q->tstate = faultproof_gil_holder(q->interpreter_id);
}

static void do_info(void *data)
{
    struct query *q = data;
    q->result = faultproof_thread_info(q->tstate, &q->thread);
}

static PyObject *query(const char *context, void (*run)(void *), struct query *q)
{
    struct job job = {run, q};
    if (run_in(context, &job) < 0)
        return NULL;
    return PyLong_FromVoidPtr(q->tstate);
}

static PyObject *current_tstate(PyObject *self, PyObject *args)
{
    const char *context;
    struct query q = {0};
    (void)self;
    return PyArg_ParseTuple(args, "s", &context) ? query(context, do_current, &q) : NULL;
}

static PyObject *gil_holder(PyObject *self, PyObject *args)
{
    const char *context;
    struct query q = {0};
    (void)self;
    return PyArg_ParseTuple(args, "sL", &context, &q.interpreter_id) ? query(context, do_holder, &q) : NULL;
}

static PyObject *thread_info(PyObject *self, PyObject *args)
{
    const char *context;
    PyObject *address;
    struct query q = {.thread = {.struct_size = sizeof(q.thread)}};
    (void)self;
    if (!PyArg_ParseTuple(args, "sO", &context, &address))
        return NULL;
    q.tstate = tstate_of(address);
    Py_XDECREF(query(context, do_info, &q));
    if (q.result < 0)
        Py_RETURN_NONE;
    return thread_dict(&q.thread);
}

struct name {
    uint64_t native_id;
    char name[32];
    size_t size;
    int result;
};

static void do_name(void *data)
{
    struct name *n = data;
    n->result = faultproof_thread_name(n->native_id, n->name, n->size);
}

/* thread_name(context, native id, size) -> (result, name as bytes) */
static PyObject *thread_name(PyObject *self, PyObject *args)
{
    const char *context;
    unsigned long long native_id;
    struct name n = {.name = "untouched"};
    Py_ssize_t size;
    (void)self;
    if (!PyArg_ParseTuple(args, "sKn", &context, &native_id, &size))
        return NULL;
    n.native_id = native_id;
    n.size = (size_t)size;
    struct job job = {do_name, &n};
    if (run_in(context, &job) < 0)
        return NULL;
    return Py_BuildValue("(iy)", n.result, n.name);
}

/* ---- thread states ---- */

static PyObject *real_tstate(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromVoidPtr(PyThreadState_Get());
}

/* A thread state without frames, and its end. */
static PyObject *new_tstate(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromVoidPtr(PyThreadState_New(PyThreadState_GetInterpreter(PyThreadState_Get())));
}

static PyObject *delete_tstate(PyObject *self, PyObject *address)
{
    PyThreadState *tstate = (PyThreadState *)PyLong_AsVoidPtr(address);
    (void)self;
    PyThreadState_Clear(tstate);
    PyThreadState_Delete(tstate);
    Py_RETURN_NONE;
}

/* ---- struct sizes, before the import, the guard, the heap ---- */

static PyObject *small_structs(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    faultproof_session session = {.struct_size = 4};
    faultproof_location location = {.struct_size = 8};
    faultproof_thread thread = {.struct_size = 8};
    faultproof_frame frame;
    (void)self;
    faultproof_collect_own(NULL, &frame, 1);
    return Py_BuildValue("(iiiiiii)", faultproof_session_begin(&session), faultproof_session_begin(NULL),
                         faultproof_resolve(NULL, &frame, &location), faultproof_resolve(NULL, NULL, &location),
                         faultproof_thread_info(PyThreadState_Get(), &thread), faultproof_each_thread(NULL, NULL),
                         faultproof_collect_own(NULL, NULL, 1));
}

static PyObject *before_import; /* what the functions said */

static PyObject *get_before_import(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    Py_INCREF(before_import);
    return before_import;
}

static PyObject *try_all(void)
{
    PyUnstable_FrameInfo info;
    faultproof_frame frame = {0};
    faultproof_location location = {.struct_size = sizeof(location)};
    faultproof_thread thread = {.struct_size = sizeof(thread)};
    faultproof_session session = {.struct_size = sizeof(session)};
    struct _ts *own = PyThreadState_Get();
    char memory[8192] __attribute__((aligned(8)));
    faultproof_print_call_stack(-1, &info, 0, 0);
    faultproof_session_end(&session);
    return Py_BuildValue(
        "[iiiiiiiiiiiiiiiiiiiis]", PyUnstable_CollectCallStack(own, &info, 1), faultproof_collect(NULL, own, &frame, 1),
        faultproof_collect_own(NULL, &frame, 1), faultproof_resolve(NULL, &frame, &location),
        faultproof_thread_info(own, &thread), faultproof_each_thread(visit_one, NULL),
        faultproof_thread_name(1, memory, 16), faultproof_session_begin(&session), faultproof_remove_guard(),
        faultproof_current_tstate() != NULL, faultproof_gil_holder(0) != NULL,
        faultproof_cache_init(memory, sizeof(memory)) != NULL, faultproof_can_collect(), faultproof_can_guard(),
        faultproof_can_columns(), faultproof_can_qualnames(), faultproof_can_native_ids(), faultproof_can_gil_holder(),
        faultproof_can_identify_code(), (int)faultproof_version(), faultproof_status());
}

static PyObject *install_guard(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromLong(faultproof_install_guard());
}

static PyObject *capabilities(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return Py_BuildValue("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:s}", "collect", faultproof_can_collect(), "guard",
                         faultproof_can_guard(), "columns", faultproof_can_columns(), "qualnames",
                         faultproof_can_qualnames(), "native_ids", faultproof_can_native_ids(), "gil_holder",
                         faultproof_can_gil_holder(), "identify_code", faultproof_can_identify_code(), "version",
                         faultproof_version(), "status", faultproof_status());
}

/* heap(calls) -> the change of mallinfo2().uordblks in `calls` of each collector and of the resolver */
static PyObject *heap(PyObject *self, PyObject *args)
{
    static PyUnstable_FrameInfo info[64];
    static faultproof_frame frames[64];
    static faultproof_location location = {.struct_size = sizeof(location)};
    int calls;
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &calls))
        return NULL;
    struct _ts *own = PyThreadState_Get();
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < calls; i++) {
        PyUnstable_CollectCallStack(own, info, 64);
        int n = faultproof_collect_own(NULL, frames, 64);
        if (n > 0)
            faultproof_resolve(cache, &frames[i % n], &location);
        faultproof_current_tstate();
    }
    struct mallinfo2 after = mallinfo2();
    return PyLong_FromLongLong((long long)(after.uordblks + after.hblkhd) -
                               (long long)(before.uordblks + before.hblkhd));
}

static PyMethodDef methods[] = {
    {"call_stack", call_stack, METH_VARARGS, NULL},
    {"call_stack_null", call_stack_null, METH_NOARGS, NULL},
    {"print_stack", print_stack, METH_VARARGS, NULL},
    {"compact", compact, METH_VARARGS, NULL},
    {"resolve", resolve, METH_VARARGS, NULL},
    {"cache", new_cache, METH_O, NULL},
    {"positions", positions, METH_VARARGS, NULL},
    {"threads", threads, METH_VARARGS, NULL},
    {"current_tstate", current_tstate, METH_VARARGS, NULL},
    {"gil_holder", gil_holder, METH_VARARGS, NULL},
    {"thread_info", thread_info, METH_VARARGS, NULL},
    {"thread_name", thread_name, METH_VARARGS, NULL},
    {"real_tstate", real_tstate, METH_NOARGS, NULL},
    {"new_tstate", new_tstate, METH_NOARGS, NULL},
    {"delete_tstate", delete_tstate, METH_O, NULL},
    {"small_structs", small_structs, METH_NOARGS, NULL},
    {"before_import", get_before_import, METH_NOARGS, NULL},
    {"install_guard", install_guard, METH_NOARGS, NULL},
    {"capabilities", capabilities, METH_NOARGS, NULL},
    {"heap", heap, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    (void)module;
    before_import = try_all();
    return before_import == NULL ? -1 : faultproof_import();
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
    .m_name = "capi_probe",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_capi_probe(void)
{
    return PyModuleDef_Init(&definition);
}
