/* The functions that crash on purpose, with the names that CPython's own test_faulthandler calls.  Normal context. */
#include "ext.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

/* Runs with the GIL released if asked to. */
static void raise_signal(int signo, int release_gil)
{
    if (release_gil) {
        Py_BEGIN_ALLOW_THREADS raise(signo);
        Py_END_ALLOW_THREADS
    }
    else {
        raise(signo);
    }
}

static PyObject *crash_sigsegv(PyObject *self, PyObject *args)
{
    int release_gil = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "|" FP_FLAG ":_sigsegv", &release_gil))
        return NULL;
    raise_signal(SIGSEGV, release_gil);
    Py_RETURN_NONE;
}

static PyObject *crash_sigfpe(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    volatile int zero = 0, result;
    (void)self;
    result = 1 / zero;
    raise(SIGFPE); /* where the processor doesn't trap */
    return PyLong_FromLong(result);
}

static PyObject *crash_sigabrt(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    abort();
}

static PyObject *crash_read_null(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    volatile int *volatile nowhere = NULL;
    (void)self;
    return PyLong_FromLong(*nowhere);
}

/* Its name is printed: the interpreter takes it from the function that calls Py_FatalError. */
static void *faulthandler_fatal_error_thread(void *unused)
{
    (void)unused;
    Py_FatalError("in new thread");
    return NULL;
}

static PyObject *crash_fatal_error_c_thread(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    pthread_t thread;
    (void)self;
    if (pthread_create(&thread, NULL, faulthandler_fatal_error_thread, NULL) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "unable to start the thread");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS pthread_join(thread, NULL); /* never returns: the process aborts */
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

#if PY_VERSION_HEX < 0x030a0000
static PyObject *faulthandler_fatal_error_py(PyObject *self, PyObject *args)
{
    char *message;
    int release_gil = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y|i:fatal_error", &message, &release_gil))
        return NULL;
    if (release_gil) {
        Py_BEGIN_ALLOW_THREADS Py_FatalError(message);
        Py_END_ALLOW_THREADS
    }
    Py_FatalError(message);
    Py_RETURN_NONE;
}
#endif

/* Goes down the stack until `limit`; the address is used after the call, so that it can't become a loop. */
static uintptr_t __attribute__((noinline)) descend(uintptr_t limit, size_t *depth)
{
    volatile char page[4096];
    page[0] = page[sizeof(page) - 1] = (char)*depth;
    ++*depth;
    if ((uintptr_t)page < limit)
        return (uintptr_t)page;
    uintptr_t reached = descend(limit, depth);
    page[1] = page[0];
    return reached + (uintptr_t)(page[1] & 0);
}

static PyObject *crash_stack_overflow(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    enum { STACK = 100 << 20 };
    char here;
    size_t depth = 0;
    (void)self;
    uintptr_t top = (uintptr_t)&here, reached = descend(top - STACK, &depth);
    PyErr_Format(PyExc_RuntimeError,
                 "unable to raise a stack overflow (allocated %zu bytes on the stack, %zu recursive calls)",
                 (size_t)(top - reached), depth);
    return NULL;
}

PyMethodDef fp_ext_crash_methods[] = {
    {"_sigsegv", crash_sigsegv, METH_VARARGS,
     PyDoc_STR("_sigsegv($module, release_gil=False, /)\n--\n\nSend SIGSEGV to this thread, for tests.")},
    {"_sigfpe", crash_sigfpe, METH_NOARGS, PyDoc_STR("_sigfpe($module, /)\n--\n\nDivide by zero, for tests.")},
    {"_sigabrt", crash_sigabrt, METH_NOARGS, PyDoc_STR("_sigabrt($module, /)\n--\n\nCall abort(), for tests.")},
    {"_read_null", crash_read_null, METH_NOARGS,
     PyDoc_STR("_read_null($module, /)\n--\n\nRead from address 0, for tests.")},
    {"_stack_overflow", crash_stack_overflow, METH_NOARGS,
     PyDoc_STR("_stack_overflow($module, /)\n--\n\nUse up the C stack, for tests.")},
    {"_fatal_error_c_thread", crash_fatal_error_c_thread, METH_NOARGS,
     PyDoc_STR("_fatal_error_c_thread($module, /)\n--\n\nCall Py_FatalError() in a new C thread, for tests.")},
#if PY_VERSION_HEX < 0x030a0000
    {"_fatal_error", faulthandler_fatal_error_py, METH_VARARGS,
     PyDoc_STR("_fatal_error(message, release_gil=False): call Py_FatalError(), for tests.")},
#endif
    {NULL, NULL, 0, NULL},
};
