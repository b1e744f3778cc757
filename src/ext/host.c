/* What install() and the start of the process ask and need: private functions of the module.  Normal context. */
#include "ext.h" /* pyconfig.h defines _GNU_SOURCE */

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "render/kept.h"

/* High enough for nobody to expect another number there, low enough for the kernel's table to stay small. */
enum { KEPT_FROM = 200 };

/* _handler(signo) -> address of the C function that handles it now; 0: the default action, 1: ignored */
static PyObject *host_handler(PyObject *self, PyObject *signo)
{
    struct sigaction action;
    (void)self;
    long number = PyLong_AsLong(signo);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (sigaction((int)number, NULL, &action) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromVoidPtr((void *)action.sa_handler);
}

/* _descriptor(file) -> what enable(file) would write to, or its exception */
static PyObject *host_descriptor(PyObject *self, PyObject *file)
{
    struct fp_ext_file checked;
    (void)self;
    int fd = fp_ext_fileno(file, false, &checked);
    Py_XDECREF(checked.object);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

/* (file, all_threads, c_stack); the reference to the file is taken over, NULL: the descriptor */
static PyObject *as_arguments(PyObject *file, int fd, bool all_threads, bool c_stack)
{
    if (file == NULL)
        file = PyLong_FromLong(fd);
    if (file == NULL)
        return NULL;
    return Py_BuildValue("(NOO)", file, all_threads ? Py_True : Py_False, c_stack ? Py_True : Py_False);
}

/* _enabled() -> None, or (file, all_threads, c_stack) as enable() would take them */
static PyObject *host_enabled(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fp_ext_state *state = PyModule_GetState(self);
    struct fp_fatal_config config;
    PyObject *file;
    if (!fp_fatal_options(&config))
        Py_RETURN_NONE;
    fp_ext_files_lock();
    file = state->files[FP_USE_ENABLE];
    Py_XINCREF(file);
    fp_ext_files_unlock();
    return as_arguments(file, config.dump.fd, config.dump.all_threads, config.dump.c_stack);
}

/* _take_again(): takes the signals that somebody else's disable() has given back over our head */
static PyObject *host_take_again(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fp_fatal_config config;
    (void)self;
    if (fp_fatal_options(&config))
        (void)fp_fatal_enable(&config);
    Py_RETURN_NONE;
}

/* _standard_enabled(handler) -> None, or (file, all_threads, c_stack) as enable() would take them */
static PyObject *host_standard_enabled(PyObject *self, PyObject *handler)
{
    struct fp_ext_standard found;
    (void)self;
    void *address = PyLong_AsVoidPtr(handler);
    if (address == NULL && PyErr_Occurred())
        return NULL;
    if (!fp_ext_standard_find((uintptr_t)address, &found))
        Py_RETURN_NONE;
    Py_XINCREF(found.file);
    return as_arguments(found.file, found.fd, found.all_threads, found.c_stack);
}

/* _keep(fd) -> a duplicate, remembered: what is written to it later goes to this file or, once it isn't this file any
   more, to stderr */
static PyObject *host_keep(PyObject *self, PyObject *number)
{
    (void)self;
    int fd = (int)PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, KEPT_FROM);
    if (copy < 0 && errno == EINVAL) /* the process may have fewer */
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    errno = fp_kept_remember(copy);
    if (errno != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(copy);
        return NULL;
    }
    return PyLong_FromLong(copy);
}

PyMethodDef fp_ext_host_methods[] = {
    {"_descriptor", host_descriptor, METH_O,
     PyDoc_STR("_descriptor($module, file, /)\n--\n\nThe descriptor that enable(file) would write to.")},
    {"_enabled", host_enabled, METH_NOARGS,
     PyDoc_STR("_enabled($module, /)\n--\n\nNone, or the file, all_threads and c_stack of enable().")},
    {"_handler", host_handler, METH_O,
     PyDoc_STR("_handler($module, signo, /)\n--\n\nThe address of a signal's C handler; 0: default, 1: ignored.")},
    {"_keep", host_keep, METH_O,
     PyDoc_STR("_keep($module, fd, /)\n--\n\nA duplicate that stands for this file and no other.")},
    {"_standard_enabled", host_standard_enabled, METH_O,
     PyDoc_STR("_standard_enabled($module, handler, /)\n--\n\nWhat the standard module was enabled with.")},
    {"_take_again", host_take_again, METH_NOARGS,
     PyDoc_STR("_take_again($module, /)\n--\n\nTake the signals of enable() again.")},
    {NULL, NULL, 0, NULL},
};
