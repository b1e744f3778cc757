/* dump_traceback_later, register and their counterparts.  Normal context. */
#include "ext.h"

#include <errno.h>
#include <math.h>

#include "trigger/user.h"
#include "trigger/watchdog.h"

/* Raises what the standard module raises for this timeout: its messages change between patch releases. */
static int refuse_timeout(struct fp_ext_state *state, PyObject *timeout)
{
    PyErr_Clear();
    if (state->standard_later == NULL || state->standard_cancel == NULL) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds greater than 0 and not too large");
        return -1;
    }
    PyObject *result = PyObject_CallFunction(state->standard_later, "Oii", timeout, 0, 2);
    if (result != NULL) { /* it takes more than we do */
        Py_DECREF(result);
        result = PyObject_CallFunction(state->standard_cancel, NULL);
        Py_XDECREF(result);
        PyErr_SetString(PyExc_OverflowError, "timeout is too large");
    }
    return -1;
}

/* Microseconds, rounded away from zero so that a timeout never becomes none; false: that is no time. */
static bool timeout_us(PyObject *object, int64_t *us)
{
    const double most = 9223372036.0; /* seconds, INT64_MAX nanoseconds */
    if (PyFloat_Check(object)) {
        double seconds = PyFloat_AS_DOUBLE(object), exact = seconds * 1e6;
        if (!(seconds < most && seconds > -most))
            return false;
        *us = (int64_t)(exact >= 0 ? ceil(exact) : floor(exact));
        return *us > 0;
    }
    long long seconds = PyLong_AsLongLong(object);
    if ((seconds == -1 && PyErr_Occurred()) || seconds <= 0 || (double)seconds >= most)
        return false;
    *us = seconds * 1000000;
    return true;
}

static int timeout_from(struct fp_ext_state *state, PyObject *object, int64_t *us)
{
    return timeout_us(object, us) ? 0 : refuse_timeout(state, object);
}

static void timeout_header(char header[FP_WATCHDOG_HEADER], int64_t us)
{
    int64_t seconds = us / 1000000, rest = us % 1000000;
    int n = PyOS_snprintf(header, FP_WATCHDOG_HEADER, "Timeout (%lld:%02d:%02d", (long long)(seconds / 3600),
                          (int)(seconds / 60 % 60), (int)(seconds % 60));
    if (rest != 0)
        n += PyOS_snprintf(header + n, (size_t)(FP_WATCHDOG_HEADER - n), ".%06d", (int)rest);
    PyOS_snprintf(header + n, (size_t)(FP_WATCHDOG_HEADER - n), ")!\n");
}

PyDoc_STRVAR(later_doc, "dump_traceback_later($module, /, timeout, repeat=False, file=None, exit=False, *,\n"
                        "                     max_threads=100, max_frames=100, max_chars=500)\n"
                        "--\n\n"
                        "Write the stacks of all threads after timeout seconds, once or each timeout seconds.\n\n"
                        "timeout: seconds, int or float, greater than 0, rounded up to microseconds.  exit: end the\n"
                        "process with _exit(1) after the first dump.  A second call replaces the first.");

static PyObject *dump_traceback_later(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", "repeat", "file", "exit", FP_LIMIT_KEYWORDS};
    struct fp_ext_state *state = PyModule_GetState(module);
    struct fp_watchdog_config config = {.target = fp_ext_target()};
    struct fp_ext_options o;
    struct fp_ext_file file;
    PyObject *timeout, *old = NULL;
    int repeat = 0, exits = 0;
    int64_t us;

    fp_ext_options_init(&o);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "O|" FP_LATER_FLAG "O" FP_LATER_FLAG FP_LIMITS ":dump_traceback_later", keywords,
                                     &timeout, &repeat, &o.file, &exits, FP_LIMIT_ADDRESSES(o)) ||
        fp_ext_options_check(&o, &config.dump) < 0 || timeout_from(state, timeout, &us) < 0)
        return NULL;
    config.dump.fd = fp_ext_fileno(o.file, true, &file);
    if (config.dump.fd < 0)
        return NULL;
    timeout_header(config.header, us);
    config.timeout_ns = us > INT64_MAX / 1000 ? INT64_MAX : us * 1000;
    config.repeat = repeat != 0;
    config.exit = exits != 0;
    config.interp = (fp_addr)(uintptr_t)PyInterpreterState_Get();
    fp_ext_files_lock();
    int error = fp_watchdog_arm(&config);
    if (error == 0)
        old = fp_ext_file_take(state, FP_USE_LATER, &file);
    fp_ext_files_unlock();
    if (!fp_watchdog_busy())
        Py_XDECREF(old); /* else a dump may still be writing to it: it stays open */
    if (error != 0) {
        fp_ext_file_refuse(&file);
        PyErr_SetString(PyExc_RuntimeError, "unable to start watchdog thread");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *cancel_dump_traceback_later(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    bool idle;
    if (fp_watchdog_busy()) {
        Py_BEGIN_ALLOW_THREADS idle = fp_watchdog_cancel();
        Py_END_ALLOW_THREADS
    }
    else {
        idle = fp_watchdog_cancel();
    }
    fp_ext_files_lock();
    if (idle)
        idle = fp_watchdog_cancel(); /* another thread may have armed it meanwhile */
    PyObject *old = fp_ext_file_drop(PyModule_GetState(module), FP_USE_LATER);
    fp_ext_files_unlock();
    if (idle)
        Py_XDECREF(old); /* else a dump is still writing to it: it stays open */
    Py_RETURN_NONE;
}

static int check_signum(int signo)
{
    if (fp_fatal_handles(signo)) {
        PyErr_Format(PyExc_RuntimeError, "signal %i cannot be registered, use enable() instead", signo);
        return -1;
    }
    if (signo < 1 || signo >= NSIG) {
        PyErr_SetString(PyExc_ValueError, "signal number out of range");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(register_doc,
             "register($module, /, signum, file=None, all_threads=True, chain=False, *,\n"
             "         max_threads=100, max_frames=100, max_chars=500)\n"
             "--\n\n"
             "Write the stacks of all threads, or of the one that gets it, when a signal arrives.\n\n"
             "chain: call the handler that was there before, after the dump.  The signals of enable() and\n"
             "those that can't be caught are refused.");

static PyObject *user_register(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"signum", "file", "all_threads", "chain", FP_LIMIT_KEYWORDS};
    struct fp_ext_state *state = PyModule_GetState(module);
    struct fp_user_config config = {.target = fp_ext_target()};
    struct fp_ext_options o;
    struct fp_ext_file file;
    PyObject *old = NULL;
    int signo, chain = 0;

    fp_ext_options_init(&o);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|O" FP_FLAG FP_FLAG FP_LIMITS ":register", keywords, fp_ext_signo,
                                     &signo, &o.file, &o.all_threads, &chain, FP_LIMIT_ADDRESSES(o)) ||
        fp_ext_options_check(&o, &config.dump) < 0 || check_signum(signo) < 0)
        return NULL;
    config.dump.fd = fp_ext_fileno(o.file, true, &file);
    if (config.dump.fd < 0)
        return NULL;
    config.chain = chain != 0;
    fp_ext_files_lock();
    int error = fp_user_register(signo, &config);
    if (error == 0)
        old = fp_ext_file_take(state, FP_USE_SIGNAL + signo, &file);
    fp_ext_files_unlock();
    Py_XDECREF(old);
    if (error != 0) {
        fp_ext_file_refuse(&file);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *user_unregister(PyObject *module, PyObject *arg)
{
    struct fp_ext_state *state = PyModule_GetState(module);
    int signo;
    if (!fp_ext_signo(arg, &signo) || check_signum(signo) < 0)
        return NULL;
    fp_ext_files_lock();
    bool was = fp_user_unregister(signo);
    PyObject *old = fp_ext_file_drop(state, FP_USE_SIGNAL + signo);
    fp_ext_files_unlock();
    Py_XDECREF(old);
    return PyBool_FromLong(was);
}

static PyObject *watchdog_thread(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(fp_watchdog_thread());
}

PyMethodDef fp_ext_timed_methods[] = {
    {"_watchdog_thread", watchdog_thread, METH_NOARGS, NULL},
    {"dump_traceback_later", (PyCFunction)(void (*)(void))dump_traceback_later, METH_VARARGS | METH_KEYWORDS,
     later_doc},
    {"cancel_dump_traceback_later", cancel_dump_traceback_later, METH_NOARGS,
     PyDoc_STR("cancel_dump_traceback_later($module, /)\n--\n\n"
               "Take back the last dump_traceback_later(); returns within about a second in any case.")},
    {"register", (PyCFunction)(void (*)(void))user_register, METH_VARARGS | METH_KEYWORDS, register_doc},
    {"unregister", user_unregister, METH_O,
     PyDoc_STR("unregister($module, signum, /)\n--\n\nGive a signal of register() back.  True if it was registered.")},
    {NULL, NULL, 0, NULL},
};
