/* capabilities(), and what tests use to look inside.  Normal context. */
#include "ext.h"

#include <signal.h>
#include <unistd.h>

#include "render/c_stack.h"

static const char *reader_name(enum fp_reader_kind kind)
{
    static const char *const names[] = {
        [FP_READER_NONE] = "none",          [FP_READER_GUARD] = "guarded copy", [FP_READER_VM] = "process_vm_readv",
        [FP_READER_MEM] = "/proc/self/mem", [FP_READER_PIPE] = "pipe",          [FP_READER_TEST] = "test",
    };
    return names[kind];
}

static PyObject *probe_capabilities(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    (void)self;
    enum fp_status status = fp_ext_status();
    return Py_BuildValue("{s:O,s:s,s:s,s:O}", "faulthandler", status == FP_OK ? Py_True : Py_False, "reason",
                         status == FP_OK ? "" : fp_status_text(status), "reader", reader_name(fp_reader_available()),
                         "free_threaded", fp_ext_target()->free_threaded ? Py_True : Py_False);
}

/* _lines(code, [lasti, ...]) -> [line, ...]: the line decoder on a code object, for comparison with co_lines() */
static PyObject *probe_lines(PyObject *self, PyObject *args)
{
    PyObject *code, *offsets;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!:_lines", &PyCode_Type, &code, &PyList_Type, &offsets))
        return NULL;
    const struct fp_layout *l = &fp_ext_target()->layout;
    struct fp_session *s = fp_session_acquire(fp_ext_target(), true, 10000000000);
    if (s == NULL)
        return PyErr_Format(PyExc_RuntimeError, "%s", fp_status_text(FP_NO_READER));
    fp_addr at = (fp_addr)(uintptr_t)code;
    fp_addr table = fp_load64(&s->reader, at + (fp_addr)l->code_linetable);
    int32_t first = (int32_t)fp_load32(&s->reader, at + (fp_addr)l->code_firstlineno);
    uint64_t size = fp_load64(&s->reader, table + (fp_addr)l->var_size);
    PyObject *lines = PyList_New(0);
    for (Py_ssize_t i = 0; lines != NULL && i < PyList_GET_SIZE(offsets); i++) {
        int32_t lasti = (int32_t)PyLong_AsLong(PyList_GET_ITEM(offsets, i));
        PyObject *line = PyLong_FromLong(fp_line_find(&s->walk, table + (fp_addr)l->bytes_data, size, first, lasti));
        if (line == NULL || PyList_Append(lines, line) < 0)
            Py_CLEAR(lines);
        Py_XDECREF(line);
    }
    fp_session_release(s);
    return PyErr_Occurred() ? NULL : lines;
}

/* Memory for one unwinding at a time: the tests use one thread. */
static struct fp_unwind unwind;
static struct fp_out unwind_out;
static int unwind_fd;
static fp_addr fatal_format;

/* _c_stack(fd): writes the C stack of the calling thread */
static PyObject *probe_c_stack(PyObject *self, PyObject *args)
{
    int fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:_c_stack", &fd))
        return NULL;
    struct fp_session *s = fp_session_acquire(fp_ext_target(), true, 10000000000);
    if (s == NULL)
        return PyErr_Format(PyExc_RuntimeError, "%s", fp_status_text(FP_NO_READER));
    fp_out_init(s->out, fd, fp_now_ns() + 10000000000);
    fp_c_stack_show(s->out, &s->reader, &unwind, NULL);
    fp_out_flush(s->out);
    fp_session_release(s);
    Py_RETURN_NONE;
}

/* In the signal handler: the stack of what was interrupted, and whether that is Py_FatalError. */
static void show_and_exit(int signo, siginfo_t *info, void *context)
{
    const fp_addr fatal[] = {(fp_addr)(uintptr_t)(Py_FatalError), (fp_addr)(uintptr_t)_Py_FatalErrorFunc, fatal_format};
    struct fp_reader reader;
    struct fp_registers start;
    (void)signo, (void)info;
    if (fp_reader_open_fallback(&reader) != FP_OK)
        _exit(8);
    fp_out_init(&unwind_out, unwind_fd, fp_now_ns() + 10000000000);
    fp_c_stack_show(&unwind_out, &reader, &unwind, context);
    fp_registers_of_context(&start, context);
    bool is_fatal = fp_unwind_in_function(&unwind, &start, fatal, (uint32_t)FP_COUNT(fatal));
    FP_OUT_LITERAL(&unwind_out, "Py_FatalError: ");
    fp_out_decimal(&unwind_out, is_fatal);
    FP_OUT_LITERAL(&unwind_out, "\n");
    fp_out_flush(&unwind_out);
    _exit(7);
}

/* _c_stack_on(signo, fd, address): from now on the signal writes the C stack and ends the process.  address: of a
   function that counts as Py_FatalError, beside that one and _Py_FatalErrorFunc */
static PyObject *probe_c_stack_on(PyObject *self, PyObject *args)
{
    struct sigaction action = {.sa_sigaction = show_and_exit, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    unsigned long long address;
    int signo;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiK:_c_stack_on", &signo, &unwind_fd, &address))
        return NULL;
    fatal_format = address;
    if (sigaction(signo, &action, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyMethodDef fp_ext_probe_methods[] = {
    {"_capabilities", probe_capabilities, METH_NOARGS,
     PyDoc_STR("_capabilities($module, /)\n--\n\nSee faultproof.capabilities().")},
    {"_lines", probe_lines, METH_VARARGS,
     PyDoc_STR("_lines($module, code, offsets, /)\n--\n\nLines of instructions, for tests.")},
    {"_c_stack", probe_c_stack, METH_VARARGS,
     PyDoc_STR("_c_stack($module, fd, /)\n--\n\nWrite this thread's C stack, for tests.")},
    {"_c_stack_on", probe_c_stack_on, METH_VARARGS,
     PyDoc_STR(
         "_c_stack_on($module, signo, fd, address, /)\n--\n\nWrite the C stack on a signal and exit, for tests.")},
    {NULL, NULL, 0, NULL},
};
