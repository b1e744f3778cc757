/* Collects the calling thread's stack at each machine instruction of a program, and lists the threads at each while a
 * thread state is made and deleted, for tests/python/test_each_instruction.py.
 *
 * The processor's trap flag makes each instruction raise SIGTRAP; so a stack is taken at each moment at which a signal
 * can come, also between the instructions that link a frame.  on_trap and what it calls run as a signal handler; all
 * else in normal context.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* defines _GNU_SOURCE */

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#include "faultproof.h"

enum { TRAP_FLAG = 0x100, STACKS = 1 << 12, TRIES = 100, DEPTH = 48, SIZE = 8192 };

/* A stack, as frames or as the text of a FrameInfo array, and how often it was met. */
struct met {
    unsigned long times;
    size_t size;
    union {
        faultproof_frame frames[DEPTH];
        char text[SIZE];
    };
};

static struct met stacks[STACKS]; /* by hash */
static unsigned long taken, limit, stride, whole, torn, none, lost;
static faultproof_session session = {.struct_size = sizeof(session)};
static bool as_text;
static void (*take)(void); /* what a trap does */

static void count(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    unsigned long hash = 5381;
    for (size_t i = 0; i < size; i++)
        hash = hash * 33 + bytes[i];
    for (unsigned long i = 0; i < TRIES; i++) {
        struct met *met = &stacks[(hash + i) % STACKS];
        if (met->times == 0) {
            met->size = size;
            memcpy(met->text, data, size);
        }
        if (met->size == size && memcmp(met->text, data, size) == 0) {
            met->times++;
            whole++;
            return;
        }
    }
    lost++;
}

static void take_frames(void)
{
    static faultproof_frame frames[DEPTH];
    int n = faultproof_collect_own(&session, frames, DEPTH);
    if (n > 0)
        count(frames, (size_t)n * sizeof *frames);
    else
        *(n == FAULTPROOF_TORN ? &torn : &none) += 1;
}

static void take_text(void)
{
    static faultproof_frame_info frames[DEPTH];
    static char text[SIZE];
    int n = faultproof_collect_call_stack(PyThreadState_Get(), frames, DEPTH);
    size_t at = 0;
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, SIZE - at, "%.60s\t%d\t%.60s\n", frames[i].filename, frames[i].lineno,
                               frames[i].name);
    if (n > 0)
        count(text, at);
    else
        none++;
}

static void on_trap(int signo, siginfo_t *info, void *context)
{
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    (void)signo, (void)info;
    if (limit == 0 || taken >= limit) {
        if (*flags & TRAP_FLAG && limit != 0)
            PyErr_SetInterrupt();
        *flags &= ~(greg_t)TRAP_FLAG;
        return;
    }
    *flags |= TRAP_FLAG;
    if (stride != 0 && taken % stride == 0)
        take();
    taken++;
}

static PyObject *stack_of(const struct met *met)
{
    if (as_text)
        return PyUnicode_FromStringAndSize(met->text, (Py_ssize_t)met->size);
    PyObject *frames = PyList_New(0);
    for (int i = 0; frames != NULL && i < (int)(met->size / sizeof *met->frames); i++) {
        faultproof_location where = {.struct_size = sizeof(where)};
        int resolved = faultproof_resolve(NULL, &met->frames[i], &where);
        PyObject *frame = Py_BuildValue("(sis)", resolved < 0 ? "???" : where.filename, where.line, where.name);
        if (frame == NULL || PyList_Append(frames, frame) < 0)
            Py_CLEAR(frames);
        Py_XDECREF(frame);
    }
    return frames;
}

static bool catch_traps(struct sigaction *before)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    return sigaction(SIGTRAP, NULL, before) == 0 &&
           (before->sa_handler != SIG_DFL || sigaction(SIGTRAP, &action, before) == 0);
}

/* step(function, instructions, stride, as_text): call it until that many instructions have been executed; it must not
 * end before.  Every stride-th of them takes the stack (0: none does).
 * -> (whole, torn, none, lost, [(times, stack), ...]) */
static PyObject *step(PyObject *self, PyObject *args)
{
    PyObject *function;
    unsigned long instructions;
    int text;
    (void)self;
    if (!PyArg_ParseTuple(args, "Okkp", &function, &instructions, &stride, &text))
        return NULL;
    as_text = text;
    take = text ? take_text : take_frames;
    taken = whole = torn = none = lost = 0;
    memset(stacks, 0, sizeof stacks);
    struct sigaction before;
    if (faultproof_install_guard() < 0 || faultproof_session_begin(&session) < 0 || !catch_traps(&before))
        return PyErr_Format(PyExc_RuntimeError, "no guard");
    limit = instructions;
    raise(SIGTRAP);
    PyObject *result = PyObject_CallObject(function, NULL);
    limit = 0;
    faultproof_session_end(&session);
    if (result != NULL || !PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return result != NULL ? PyErr_Format(PyExc_RuntimeError, "ended after %lu", taken) : NULL;
    PyErr_Clear();
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < STACKS; i++) {
        if (stacks[i].times == 0)
            continue;
        PyObject *row = Py_BuildValue("(kN)", stacks[i].times, stack_of(&stacks[i]));
        if (row == NULL || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list != NULL ? Py_BuildValue("(kkkkN)", whole, torn, none, lost, list) : NULL;
}

static struct {
    PyThreadState *own;
    unsigned long strangers, incomplete; /* instructions at which the answer was another, or fewer threads were seen */
    int threads;
} states;

static int visit(const faultproof_thread *thread, void *context)
{
    (void)thread, (void)context;
    return 0;
}

static void take_states(void)
{
    states.strangers += faultproof_current_tstate() != states.own;
    states.incomplete += faultproof_each_thread(visit, NULL) < states.threads;
}

static void trapping_from_here(bool on)
{
    limit = on ? -1UL : 0;
    if (on)
        raise(SIGTRAP);
}

/* states(threads): makes a thread state and deletes it, both without the GIL, and looks for its own and for all threads
 * at each instruction.  -> (instructions, with another's, with fewer than `threads`) */
static PyObject *step_states(PyObject *self, PyObject *args)
{
    struct sigaction before;
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &states.threads))
        return NULL;
    if (faultproof_install_guard() < 0 || !catch_traps(&before))
        return PyErr_Format(PyExc_RuntimeError, "no guard");
    states.own = PyThreadState_Get();
    states.strangers = states.incomplete = taken = 0;
    stride = 1;
    take = take_states;
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    PyThreadState *made;

    Py_BEGIN_ALLOW_THREADS;
    take_states(); /* "has been here before", as the header says */
    trapping_from_here(true);
    made = PyThreadState_New(interpreter);
    trapping_from_here(false);
    Py_END_ALLOW_THREADS;

    PyThreadState_Clear(made);

    Py_BEGIN_ALLOW_THREADS;
    trapping_from_here(true);
    PyThreadState_Delete(made);
    trapping_from_here(false);
    Py_END_ALLOW_THREADS;
    return Py_BuildValue("(kkk)", taken, states.strangers, states.incomplete);
}

/* catch(): the trap's handler is in place, for another one to be put in front of it. */
static PyObject *catch(PyObject *self, PyObject *unused)
{
    struct sigaction before;
    (void)self, (void)unused;
    catch_traps(&before);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"step", step, METH_VARARGS, NULL},
    {"states", step_states, METH_VARARGS, NULL},
    {"catch", catch, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    (void)module;
    return faultproof_import();
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "step_probe",
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit_step_probe(void)
{
    return PyModuleDef_Init(&definition);
}
