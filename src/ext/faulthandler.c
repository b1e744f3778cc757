/* The module faultproof.faulthandler: a drop-in for the standard library's.  Normal context. */
#include "ext.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "trigger/user.h"
#include "trigger/watchdog.h"

static struct fp_ext_state *state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

static PyObject *refuse(enum fp_status status)
{
    return PyErr_Format(PyExc_RuntimeError, "faultproof is off: %s; see faultproof.capabilities()",
                        fp_status_text(status));
}

PyDoc_STRVAR(
    dump_traceback_doc,
    "dump_traceback($module, /, file=None, all_threads=True, *,\n"
    "               max_threads=100, max_frames=100, max_chars=500)\n"
    "--\n\n"
    "Write the stacks of all threads, or of the calling one, to a file.\n\n"
    "file: an object with fileno(), a descriptor, or None for sys.stderr.  At most max_threads threads, max_frames\n"
    "frames of each and max_chars characters of a name are shown; what is cut ends in '...'.");

static PyObject *dump_traceback(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"file", "all_threads", FP_LIMIT_KEYWORDS};
    struct fp_ext_options o;
    struct fp_dump_options dump;
    struct fp_ext_file file;
    (void)module;

    fp_ext_options_init(&o);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O" FP_FLAG FP_LIMITS ":dump_traceback", keywords, &o.file,
                                     &o.all_threads, FP_LIMIT_ADDRESSES(o)) ||
        fp_ext_options_check(&o, &dump) < 0)
        return NULL;
    dump.fd = fp_ext_fileno(o.file, false, &file);
    if (dump.fd < 0)
        return NULL;
    fp_guard_require_once();
    const struct fp_dump_caller caller = {.thread_id = (uint64_t)pthread_self(), .is_this_thread = true};
    enum fp_status status = fp_dump(fp_ext_target(), &dump, &caller, "", 0);
    Py_XDECREF(file.object);
    if (status == FP_NO_READER)
        return refuse(status);
    if (PyErr_CheckSignals())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(dump_c_stack_doc, "dump_c_stack($module, /, file=None)\n"
                               "--\n\n"
                               "Write the C stack of the calling thread: the functions of native code, by the frame\n"
                               "information of the loaded objects.  file: as in dump_traceback().");

static PyObject *dump_c_stack(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"file", NULL};
    PyObject *argument = NULL;
    struct fp_ext_file file;
    (void)module;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:dump_c_stack", keywords, &argument))
        return NULL;
    if (fp_ext_fileno(argument, false, &file) < 0)
        return NULL;
    fp_guard_require_once();
    enum fp_status status = fp_dump_c_stack(fp_ext_target(), file.fd, 10000000000);
    Py_XDECREF(file.object);
    if (status != FP_OK)
        return refuse(status);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enable_doc,
             "enable($module, /, file=None, all_threads=True, c_stack=" FP_C_STACK_DEFAULT ", *,\n"
             "       max_threads=100, max_frames=100, max_chars=500, altstacks='python',\n"
             "       budget=10.0)\n"
             "--\n\n"
             "Write the stacks when SIGSEGV, SIGFPE, SIGABRT, SIGBUS or SIGILL arrives.\n\n"
             "file: an object with fileno(), a descriptor, or None for sys.stderr.  The file must stay open until "
             "disable() is called; see the documentation on descriptors.\n"
             "A second call replaces the options of the first.\n\n"
             "altstacks: which threads get an alternate signal stack, so that one whose stack overflows can\n"
             "report: 'python' (each that Python knows, now and later), 'all' (also those that only C code\n"
             "knows now; a system call of theirs may end with EINTR once), 'none'.  budget: seconds after which\n"
             "a report ends, marked, and for which other threads that crash wait.");

static int altstack_scope(const char *name, enum fp_altstack_scope *scope)
{
    static const char *const names[] = {
        [FP_ALTSTACK_NONE] = "none", [FP_ALTSTACK_PYTHON] = "python", [FP_ALTSTACK_ALL] = "all"};
    for (size_t i = 0; i < FP_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *scope = (enum fp_altstack_scope)i;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "altstacks must be 'python', 'all' or 'none', not '%s'", name);
    return -1;
}

static PyObject *enable(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"file",      "all_threads", "c_stack", "max_threads", "max_frames",
                               "max_chars", "altstacks",   "budget",  NULL};
    struct fp_ext_options o;
    struct fp_fatal_config config = {.target = fp_ext_target()};
    const char *altstacks = "python";
    double budget = 10;
    enum fp_altstack_scope scope;
    struct fp_ext_file file;

    fp_ext_options_init(&o);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O" FP_FLAG FP_FLAG FP_LIMITS "sd:enable", keywords, &o.file,
                                     &o.all_threads, &o.c_stack, FP_LIMIT_ADDRESSES(o), &altstacks, &budget) ||
        fp_ext_options_check(&o, &config.dump) < 0 || altstack_scope(altstacks, &scope) < 0)
        return NULL;
    if (!(budget > 0 && budget < 1e9)) {
        PyErr_SetString(PyExc_ValueError, "budget must be a number of seconds greater than 0");
        return NULL;
    }
    config.dump.budget_ns = (int64_t)(budget * 1e9);
    config.dump.c_stack = o.c_stack != 0;
    config.dump.fd = fp_ext_fileno(o.file, true, &file);
    if (config.dump.fd < 0)
        return NULL;
    config.only_notes = fp_ext_signal_handler();
    fp_ext_files_lock();
    int error = fp_fatal_enable(&config);
    PyObject *old = fp_ext_file_take(state_of(module), FP_USE_ENABLE, &file);
    fp_ext_files_unlock();
    Py_XDECREF(old);
    fp_ext_altstack_start(scope);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_RuntimeError);
    }
    Py_RETURN_NONE;
}

static PyObject *disable(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    fp_ext_files_lock();
    bool was = fp_fatal_disable();
    PyObject *old = fp_ext_file_drop(state_of(module), FP_USE_ENABLE);
    fp_ext_files_unlock();
    Py_XDECREF(old);
    fp_ext_altstack_stop();
    return PyBool_FromLong(was);
}

static PyObject *is_enabled(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    (void)module;
    return PyBool_FromLong(fp_fatal_is_enabled());
}

static PyMethodDef methods[] = {
    {"enable", (PyCFunction)(void (*)(void))enable, METH_VARARGS | METH_KEYWORDS, enable_doc},
    {"disable", disable, METH_NOARGS,
     PyDoc_STR("disable($module, /)\n--\n\nGive the fatal signals back.  True if enable() had been called.")},
    {"is_enabled", is_enabled, METH_NOARGS, PyDoc_STR("is_enabled($module, /)\n--\n\nWhether enable() is in effect.")},
    {"dump_traceback", (PyCFunction)(void (*)(void))dump_traceback, METH_VARARGS | METH_KEYWORDS, dump_traceback_doc},
    {"dump_c_stack", (PyCFunction)(void (*)(void))dump_c_stack, METH_VARARGS | METH_KEYWORDS, dump_c_stack_doc},
    {NULL, NULL, 0, NULL},
};

/* Where the walker can't be trusted the module is the standard one, under our name. */
static int delegate(PyObject *module, enum fp_status status)
{
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "faultproof.faulthandler uses the standard faulthandler: %s; see faultproof.capabilities()",
                         fp_status_text(status)) < 0)
        return -1;
    PyObject *standard = PyImport_ImportModule("faulthandler");
    PyObject *names = standard ? PyObject_Dir(standard) : NULL;
    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *name = PyList_GET_ITEM(names, i);
        if (PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_')
            continue;
        PyObject *value = PyObject_GetAttr(standard, name);
        if (value == NULL || PyObject_SetAttr(module, name, value) < 0)
            Py_CLEAR(names);
        Py_XDECREF(value);
    }
    int result = names != NULL ? 0 : -1;
    Py_XDECREF(names);
    Py_XDECREF(standard);
    return result;
}

/* The functions, not the module: install() puts our own into that. */
static void take_standard(struct fp_ext_state *state)
{
    PyObject *standard = PyImport_ImportModule("faulthandler");
    if (standard != NULL) {
        state->standard_later = PyObject_GetAttrString(standard, "dump_traceback_later");
        state->standard_cancel = PyObject_GetAttrString(standard, "cancel_dump_traceback_later");
        Py_DECREF(standard);
    }
    PyErr_Clear(); /* an interpreter with a GIL of its own can't have it */
}

static int module_exec(PyObject *module)
{
    enum fp_status status = fp_ext_start();
    if (PyModule_AddFunctions(module, fp_ext_probe_methods) < 0 || fp_ext_capsule_add(module) < 0)
        return -1;
    if (status != FP_OK)
        return delegate(module, status);
    fp_ext_give_back_at_end();
    take_standard(state_of(module));
    if (PyModule_AddFunctions(module, fp_ext_timed_methods) < 0 ||
        PyModule_AddFunctions(module, fp_ext_host_methods) < 0)
        return -1;
    return PyModule_AddFunctions(module, fp_ext_crash_methods);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct fp_ext_state *state = state_of(module);
    Py_VISIT(state->standard_later);
    Py_VISIT(state->standard_cancel);
    for (int use = 0; use < FP_USES; use++)
        Py_VISIT(state->files[use]);
    return 0;
}

static void switch_off(int use)
{
    if (use == FP_USE_ENABLE)
        (void)fp_fatal_disable();
    else if (use == FP_USE_LATER)
        (void)fp_watchdog_cancel();
    else
        (void)fp_user_unregister(use - FP_USE_SIGNAL);
}

/* What still writes to a file that goes now is switched off first: its descriptor will be somebody else's. */
static int module_clear(PyObject *module)
{
    struct fp_ext_state *state = state_of(module);
    for (int use = 0; use < FP_USES; use++) {
        PyObject *old = NULL;
        fp_ext_files_lock();
        if (fp_ext_file_is_last(state, use)) {
            switch_off(use);
            old = fp_ext_file_drop(state, use);
        }
        fp_ext_file_forget(state, use);
        fp_ext_files_unlock();
        Py_XDECREF(old);
        Py_CLEAR(state->files[use]);
    }
    Py_CLEAR(state->standard_later);
    Py_CLEAR(state->standard_cancel);
    return 0;
}

/* Without a collection before it this is all that an ending interpreter calls. */
static void module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "faultproof.faulthandler",
    .m_doc = "Python stacks on fatal signals, on request, after a timeout: a drop-in for faulthandler.",
    .m_size = sizeof(struct fp_ext_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit_faulthandler(void)
{
    return PyModuleDef_Init(&definition);
}
