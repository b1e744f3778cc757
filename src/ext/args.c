/* Arguments as the standard faulthandler takes them: the same exceptions with the same messages.  Normal context. */
#include "ext.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "render/out.h"

/* 3.9 to 3.11 have a typing error in this message */
#if PY_VERSION_HEX < 0x030c0000
#define NOT_A_DESCRIPTOR "file is not a valid file descripter"
#else
#define NOT_A_DESCRIPTOR "file is not a valid file descriptor"
#endif

static PyObject *standard_error(void)
{
    PyObject *file = PySys_GetObject("stderr");
    if (file == NULL)
        PyErr_SetString(PyExc_RuntimeError, "unable to get sys.stderr");
    else if (file == Py_None)
        PyErr_SetString(PyExc_RuntimeError, "sys.stderr is None");
    else
        return file;
    return NULL;
}

static int descriptor(PyObject *number)
{
#if PY_VERSION_HEX >= 0x030e0000
    if (PyBool_Check(number) && PyErr_WarnEx(PyExc_RuntimeWarning, "bool is used as a file descriptor", 1) < 0)
        return -1;
#endif
    long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        fd = LONG_MAX;
    }
    if (fd > INT_MAX || fd < INT_MIN) {
        PyErr_SetString(PyExc_OverflowError, "Python int too large to convert to C int");
        return -1;
    }
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, NOT_A_DESCRIPTOR);
        return -1;
    }
    return (int)fd;
}

static int flush(PyObject *file)
{
    PyObject *result = PyObject_CallMethod(file, "flush", NULL);
    Py_XDECREF(result);
    PyErr_Clear(); /* a file that can't be flushed can be written to all the same */
    return 0;
}

/* The file object lives as long as the descriptor is used, but not longer than its interpreter: of one that may end
   before the process a duplicate is used.  The three standard descriptors are the process's own. */
static int keep_open(PyObject *file, int fd, bool later, struct fp_ext_file *out)
{
    out->fd = fd;
    if (!later || PyInterpreterState_Get() == PyInterpreterState_Main()) {
        Py_INCREF(file);
        out->object = file;
    }
    else if (fd > STDERR_FILENO) {
        out->fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        out->is_duplicate = out->fd >= 0;
        if (out->fd < 0)
            PyErr_SetFromErrno(PyExc_OSError);
    }
    return out->fd;
}

static int take_file(PyObject *file, bool later, struct fp_ext_file *out)
{
    *out = (struct fp_ext_file){.fd = -1};
    if (file == NULL || file == Py_None)
        file = standard_error();
    if (file == NULL)
        return -1;
    if (PyLong_Check(file))
        return out->fd = descriptor(file);
    PyObject *number = PyObject_CallMethod(file, "fileno", NULL);
    if (number == NULL)
        return -1;
    long fd = PyLong_Check(number) ? PyLong_AsLong(number) : -1;
    Py_DECREF(number);
    if (fd < 0 || fd > INT_MAX) {
        PyErr_SetString(PyExc_RuntimeError, "file.fileno() is not a valid file descriptor");
        return -1;
    }
    flush(file);
    return keep_open(file, (int)fd, later, out);
}

int fp_ext_fileno(PyObject *file, bool later, struct fp_ext_file *out)
{
    int fd = take_file(file, later, out);
    if (fd > STDERR_FILENO) /* stderr was looked at when the module was imported: a filter may have come since */
        fp_out_expect(fd);
    return fd;
}

int fp_ext_signo(PyObject *object, void *address)
{
#if PY_VERSION_HEX >= 0x030f0000
    const char *type = "int";
#else
    const char *type = "long";
#endif
    int overflow = 0;
    long value = PyLong_AsLongAndOverflow(object, &overflow);
    if (value == -1 && PyErr_Occurred())
        return 0;
    bool narrow = PY_VERSION_HEX >= 0x030f0000 && (value < INT_MIN || value > INT_MAX);
    if (overflow != 0 || narrow) {
        PyErr_Format(PyExc_OverflowError, "Python int too large to convert to C %s", type);
        return 0;
    }
    if (value < INT_MIN || value > INT_MAX) {
        PyErr_Format(PyExc_OverflowError, "signed integer is %s than %s", value > 0 ? "greater" : "less",
                     value > 0 ? "maximum" : "minimum");
        return 0;
    }
    *(int *)address = (int)value;
    return 1;
}

void fp_ext_options_init(struct fp_ext_options *o)
{
    *o = (struct fp_ext_options){
        .file = NULL,
        .all_threads = 1,
        .c_stack = PY_VERSION_HEX >= 0x030e0000,
        .max_threads = FP_DEFAULT_THREADS,
        .max_frames = FP_DEFAULT_FRAMES,
        .max_chars = FP_DEFAULT_CHARS,
    };
}

int fp_ext_options_check(const struct fp_ext_options *o, struct fp_dump_options *out)
{
    if (o->max_frames < 1 || o->max_chars < 1) {
        PyErr_Format(PyExc_ValueError, "%s must be 1 or greater", o->max_frames < 1 ? "max_frames" : "max_chars");
        return -1;
    }
    *out = (struct fp_dump_options){
        .fd = -1,
        .all_threads = o->all_threads != 0,
        /* as 3.15 has it: 0 is the default, a negative number lets none through (but the current thread) */
        .max_threads = o->max_threads == 0  ? FP_DEFAULT_THREADS
                       : o->max_threads < 0 ? 0
                                            : (uint64_t)o->max_threads,
        .max_frames = (uint64_t)o->max_frames,
        .max_chars = o->max_chars > UINT32_MAX ? UINT32_MAX : (uint32_t)o->max_chars,
        .budget_ns = 10000000000,
        .style = {.thread_names = PY_VERSION_HEX >= 0x030e0000,
                  .fpe_hyphen = PY_VERSION_HEX >= 0x030d0000,
                  .frames_cut = PY_VERSION_HEX < 0x030d0000,
                  .gil_note = PY_VERSION_HEX >= 0x030e0000 && FP_FREE_THREADED,
                  .modules = PY_VERSION_HEX >= 0x030a0000},
    };
    return 0;
}
