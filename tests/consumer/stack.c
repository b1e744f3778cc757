/* The consumer of the capsule, built by setuptools, meson and CMake: Python's own stack as a list.  Normal context. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "faultproof.h"

int stack_collect(PyUnstable_FrameInfo *frames, int max); /* stack_collect.c: shares what was imported here */

static PyObject *stack(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    static PyUnstable_FrameInfo frames[100];
    PyObject *list = PyList_New(0);
    int n = stack_collect(frames, 100);
    (void)self;
    for (int i = 0; list != NULL && i < n; i++) {
        PyObject *row = Py_BuildValue("(sis)", frames[i].filename, frames[i].lineno, frames[i].name);
        if (row == NULL || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyMethodDef methods[] = {{"stack", stack, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "stack", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_stack(void)
{
    return faultproof_import() < 0 ? NULL : PyModule_Create(&definition);
}
