/* CPython's own signal handler, which only takes note of a signal until the interpreter looks.  Normal context. */
#include "ext.h"

#include "reader/arrival.h"

#include <dlfcn.h>
#include <stdatomic.h>

/* Has Python code set a handler for this signal? */
static bool has_python_handler(PyObject *module, int signo)
{
    PyObject *handler = PyObject_CallMethod(module, "getsignal", "i", signo);
    bool has = handler != NULL && PyCallable_Check(handler);
    if (handler == NULL)
        PyErr_Clear(); /* a number that is no signal */
    Py_XDECREF(handler);
    return has;
}

/* In the interpreter's own object, where nobody else's handler for the same signal is. */
static bool is_of_interpreter(void (*handler)(int))
{
    Dl_info of_handler, of_interpreter;
    return dladdr((void *)(uintptr_t)handler, &of_handler) != 0 &&
           dladdr((void *)(uintptr_t)PyOS_getsig, &of_interpreter) != 0 &&
           of_handler.dli_fbase == of_interpreter.dli_fbase;
}

/* By a signal that has a handler of Python: nearly always SIGINT, which comes first. */
static void (*find(PyObject *module))(int)
{
    for (int i = 0; i < NSIG; i++) {
        struct sigaction now;
        int signo = i == 0 ? SIGINT : i;
        if (sigaction(signo, NULL, &now) != 0 || (now.sa_flags & (SA_SIGINFO | SA_NODEFER)) || !fp_is_function(&now))
            continue;
        if (has_python_handler(module, signo) && is_of_interpreter(now.sa_handler))
            return now.sa_handler;
    }
    return NULL;
}

void (*fp_ext_signal_handler(void))(int)
{
    static void (*_Atomic known)(int);
    if (known != NULL)
        return known;
    PyObject *name = PyUnicode_FromString("_signal");
    PyObject *module = name ? PyImport_GetModule(name) : NULL;
    if (module != NULL)
        known = find(module);
    Py_XDECREF(name);
    Py_XDECREF(module);
    PyErr_Clear(); /* no memory for the name: not known */
    return known;
}
