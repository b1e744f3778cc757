/* What bench/c_api.py times: the collectors beside a plain walk and beside the public API, in one process.  Normal
 * context. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>
#if PY_VERSION_HEX >= 0x030b0000
#include "internal/pycore_frame.h"
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_interpframe_structs.h"
#endif

#include <time.h>

#include "faultproof.h"

enum { DEPTH = 4096 };

static struct {
    uintptr_t code, instruction;
} plain_out[DEPTH];
static faultproof_frame compact_out[DEPTH];
static PyUnstable_FrameInfo info_out[256];

/* The walk that nothing guards: code and instruction of each frame, as fast as C can. */
static __attribute__((noinline)) int plain_walk(PyThreadState *tstate, int max)
{
    int n = 0;
#if PY_VERSION_HEX < 0x030b0000
    for (PyFrameObject *f = tstate->frame; f != NULL && n < max; f = f->f_back, n++) {
        plain_out[n].code = (uintptr_t)f->f_code;
        plain_out[n].instruction = (uintptr_t)f->f_lasti;
    }
#else
#if PY_VERSION_HEX < 0x030d0000
    _PyInterpreterFrame *f = tstate->cframe->current_frame;
#else
    _PyInterpreterFrame *f = tstate->current_frame;
#endif
    for (; f != NULL && n < max; f = f->previous) {
#if PY_VERSION_HEX >= 0x030e0000
        if (f->owner >= FRAME_OWNED_BY_INTERPRETER)
            continue;
        plain_out[n].code = (uintptr_t)f->f_executable.bits & ~(uintptr_t)7;
        plain_out[n].instruction = (uintptr_t)f->instr_ptr;
#elif PY_VERSION_HEX >= 0x030d0000
        if (f->owner == FRAME_OWNED_BY_CSTACK)
            continue;
        plain_out[n].code = (uintptr_t)f->f_executable;
        plain_out[n].instruction = (uintptr_t)f->instr_ptr;
#else
#if PY_VERSION_HEX >= 0x030c0000
        if (f->owner == FRAME_OWNED_BY_CSTACK)
            continue;
#endif
        plain_out[n].code = (uintptr_t)f->f_code;
        plain_out[n].instruction = (uintptr_t)f->prev_instr;
#endif
        n++;
    }
#endif
    return n;
}

static int public_walk(int max)
{
    int n = 0;
    PyFrameObject *f = PyEval_GetFrame();
    Py_XINCREF(f);
    while (f != NULL && n < max) {
        PyCodeObject *code = PyFrame_GetCode(f);
        plain_out[n].code = (uintptr_t)code;
#if PY_VERSION_HEX >= 0x030b0000
        plain_out[n].instruction = (uintptr_t)PyFrame_GetLasti(f);
#else
        plain_out[n].instruction = (uintptr_t)f->f_lasti;
#endif
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
        n++;
    }
    Py_XDECREF(f);
    return n;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* run(what, calls, max) -> (ns a call, frames) */
static PyObject *run(PyObject *self, PyObject *args)
{
    const char *what;
    int calls, max, n = 0;
    PyThreadState *own = PyThreadState_Get();
    faultproof_session session = {.struct_size = sizeof(session)};
    (void)self;
    if (!PyArg_ParseTuple(args, "sii", &what, &calls, &max))
        return NULL;
    faultproof_session_begin(&session);
    double start = now_ns();
    if (strcmp(what, "plain") == 0)
        for (int i = 0; i < calls; i++) {
            n = plain_walk(own, max);
            __asm__ volatile("" ::: "memory"); /* or else the walk is done once */
        }
    else if (strcmp(what, "public") == 0)
        for (int i = 0; i < calls; i++)
            n = public_walk(max);
    else if (strcmp(what, "compact") == 0)
        for (int i = 0; i < calls; i++)
            n = faultproof_collect(&session, own, compact_out, max);
    else if (strcmp(what, "compact_own") == 0)
        for (int i = 0; i < calls; i++)
            n = faultproof_collect_own(&session, compact_out, max);
    else if (strcmp(what, "compact_no_session") == 0)
        for (int i = 0; i < calls; i++)
            n = faultproof_collect(NULL, own, compact_out, max);
    else if (strcmp(what, "frame_info") == 0)
        for (int i = 0; i < calls; i++)
            n = PyUnstable_CollectCallStack(own, info_out, max < 256 ? max : 256);
    double end = now_ns();
    faultproof_session_end(&session);
    return Py_BuildValue("(di)", (end - start) / calls, n);
}

static PyObject *guard(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    return PyLong_FromLong(faultproof_install_guard());
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, NULL},
    {"guard", guard, METH_NOARGS, NULL},
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

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "c_api_bench", .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit_c_api_bench(void)
{
    return PyModuleDef_Init(&definition);
}
