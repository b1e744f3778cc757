/* What a generator of walk_stack() or walk_tb() would yield, told from its argument instead of by running it.  Normal
 * context. */
#include "tb.h"

/* One generator function: its code, the name of its argument, and what it yields. */
enum { CODE, ARGUMENT, KIND, PARTS };

/* -1: an exception. */
static int has_begun(struct fp_tb *tb, PyObject *generator, PyObject *frame)
{
#if PY_VERSION_HEX >= 0x030B0000
    PyObject *suspended = PyObject_GetAttr(generator, tb->s.gi_suspended);
    int begun = suspended == NULL ? -1 : suspended != Py_False;
    (void)frame;
    Py_XDECREF(suspended);
#else
    PyObject *at = PyObject_GetAttr(frame, tb->s.f_lasti);
    int begun = at == NULL ? -1 : PyLong_AsLong(at) != -1;
    (void)generator;
    Py_XDECREF(at);
#endif
    return begun;
}

/* The generator's argument, a new reference, if it hasn't begun; NULL without an exception: it has. */
static PyObject *argument_of(struct fp_tb *tb, PyObject *generator, PyObject *name)
{
    PyObject *frame = PyObject_GetAttr(generator, tb->s.gi_frame), *value = NULL;
    PyObject *running = frame != NULL ? PyObject_GetAttr(generator, tb->s.gi_running) : NULL;
    if (running == Py_False && frame != Py_None && has_begun(tb, generator, frame) == 0)
        value = fp_frame_variable(frame, name);
    Py_XDECREF(frame);
    Py_XDECREF(running);
    return value;
}

/* *start: a new reference to what the generator would start with.  Declines every other iterable. */
enum fp_answer fp_walker_read(struct fp_tb *tb, PyObject *generator, enum fp_walk *kind, PyObject **start)
{
    *start = NULL;
    if (!PyGen_CheckExact(generator))
        return FP_DECLINE;
    PyObject *code = PyObject_GetAttr(generator, tb->s.gi_code);
    if (code == NULL)
        return FP_ERROR;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tb->walkers) && *start == NULL; i++) {
        PyObject *walker = PyTuple_GET_ITEM(tb->walkers, i);
        if (PyTuple_GET_ITEM(walker, CODE) != code)
            continue;
        *kind = (enum fp_walk)PyLong_AsLong(PyTuple_GET_ITEM(walker, KIND));
        *start = argument_of(tb, generator, PyTuple_GET_ITEM(walker, ARGUMENT));
        break;
    }
    Py_DECREF(code);
    /* who starts at its caller counts frames on the way, which only a generator that nobody else has can be spared */
    if (*start == NULL && PyErr_Occurred())
        return FP_ERROR;
    if (*start == Py_None && *kind == FP_WALK_STACK) {
        Py_DECREF(*start);
        *start = Py_REFCNT(generator) == 1 ? Py_XNewRef((PyObject *)PyEval_GetFrame()) : NULL;
    }
    return *start != NULL ? FP_DONE : FP_DECLINE;
}

/* Leaves the generator as if `taken` items had been taken from it, of more or of `all`. */
enum fp_answer fp_walker_finish(struct fp_tb *tb, PyObject *generator, Py_ssize_t taken, bool all)
{
    PyObject *result = NULL;
    if (all) {
        result = PyObject_CallMethodNoArgs(generator, tb->s.close);
        Py_XDECREF(result);
        return result != NULL ? FP_DONE : FP_ERROR;
    }
    /* Before 3.14 the caller's stack holds a reference of its own: then nobody else can look. */
    if (PY_VERSION_HEX < 0x030E0000 && Py_REFCNT(generator) == 1)
        return FP_DONE;
    for (Py_ssize_t i = 0; i < taken; i++) {
        if ((result = PyIter_Next(generator)) == NULL)
            break;
        Py_DECREF(result);
    }
    return PyErr_Occurred() ? FP_ERROR : FP_DONE;
}

/* (code, argument, kind) of each */
int fp_walkers_init(struct fp_tb *tb, PyObject *walkers)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(walkers); i++) {
        PyObject *walker = PyTuple_GET_ITEM(walkers, i);
        if (!PyTuple_Check(walker) || PyTuple_GET_SIZE(walker) != PARTS) {
            PyErr_SetString(PyExc_TypeError, "faultproof: a walker is (code, argument, kind)");
            return -1;
        }
    }
    tb->walkers = Py_NewRef(walkers);
    return 0;
}
