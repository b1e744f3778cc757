/* Finds the interpreter's structures once a process, and proves the walker on the calling thread.  Normal context. */
#include "ext.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <frameobject.h> /* PyFrame_GetBack before 3.11 */
#include <unistd.h>

#include <stdatomic.h>

#include "render/out.h"

/* Exported by every CPython; its type is private. */
extern char _PyRuntime[];

static struct fp_target target;
static atomic_int state = FP_NOT_STARTED; /* enum fp_status; written last */

/* Enough to see callers of several kinds; each is read by system calls, which every start of a process pays for. */
enum { CHECKED_FRAMES = 8 };

static uint32_t running_version(void)
{
    PyObject *hex = PySys_GetObject("hexversion");
    PyObject *assumed = NULL, *options = PySys_GetObject("_xoptions");
    /* -X faultproof-version=0x...: for tests of what happens on a version that isn't known */
    if (options != NULL && PyDict_Check(options))
        assumed = PyDict_GetItemString(options, "faultproof-version");
    unsigned long version = hex ? PyLong_AsUnsignedLong(hex) : 0;
    if (assumed != NULL && PyUnicode_Check(assumed)) {
        PyObject *number = PyLong_FromUnicodeObject(assumed, 0);
        version = number ? PyLong_AsUnsignedLong(number) : 0;
        Py_XDECREF(number);
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        version = 0;
    }
    return (uint32_t)version;
}

static bool text_equals(const struct fp_text *text, PyObject *str)
{
    if (!PyUnicode_IS_ASCII(str) || text->data == NULL || PyUnicode_GET_LENGTH(str) > 500)
        return text->data != NULL;
    return text->size == (uint32_t)PyUnicode_GET_LENGTH(str) &&
           memcmp(text->data, PyUnicode_1BYTE_DATA(str), text->size) == 0;
}

static bool frame_equals(const struct fp_frame *seen, PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    int line = PyFrame_GetLineNumber(frame);
    bool equal = seen->code == (fp_addr)(uintptr_t)code && (seen->line == line || line <= 0) &&
                 text_equals(&seen->name, code->co_name) && text_equals(&seen->file, code->co_filename);
    Py_DECREF(code);
    return equal;
}

/* The frames that the walker reads against those of the public API. */
static bool frames_agree(struct fp_walk *w, fp_addr tstate)
{
    PyFrameObject *frame = PyEval_GetFrame();
    Py_XINCREF(frame);
    bool agree = fp_chain_read(w, tstate, 0, CHECKED_FRAMES) == FP_OK;
    for (uint32_t i = 0; agree && i < w->n_raw; i++) {
        struct fp_frame seen;
        if (fp_raw_hidden(w, &w->raw[i]))
            continue;
        fp_frame_decode(w, &w->raw[i], &seen);
        agree = frame != NULL && seen.status == FP_OK && frame_equals(&seen, frame);
        if (frame != NULL) {
            PyFrameObject *back = PyFrame_GetBack(frame);
            Py_DECREF(frame);
            frame = back;
        }
    }
    agree = agree && (frame == NULL || !w->raw_complete);
    Py_XDECREF(frame);
    return agree;
}

static enum fp_status self_check(struct fp_walk *w)
{
    PyThreadState *own = PyThreadState_Get();
    fp_addr interp = (fp_addr)(uintptr_t)PyThreadState_GetInterpreter(own);
    struct fp_thread thread;

    fp_addr tstate = fp_thread_of(w, PyThread_get_thread_ident());
    if (tstate == 0)
        return FP_NO_THREAD;
    if (tstate != (fp_addr)(uintptr_t)own || fp_thread_read(w, tstate, &thread) != FP_OK || thread.interp != interp ||
        thread.interp_id != PyInterpreterState_GetID((PyInterpreterState *)(uintptr_t)interp))
        return FP_SELF_CHECK;
    fp_addr modules = fp_load64(w->reader, interp + (fp_addr)w->target->layout.interp_modules);
    if (fp_reader_faulted(w->reader) || modules != (fp_addr)(uintptr_t)PyImport_GetModuleDict())
        return FP_SELF_CHECK;
#if PY_VERSION_HEX >= 0x030a0000
    uint32_t collects = fp_load32(w->reader, interp + (fp_addr)w->target->layout.interp_gc_enabled);
    if (fp_reader_faulted(w->reader) || (int)collects != PyGC_IsEnabled())
        return FP_SELF_CHECK;
#endif
    if (!target.free_threaded && fp_gil_holder(w, interp) != tstate)
        return FP_SELF_CHECK;
    return frames_agree(w, tstate) ? FP_OK : FP_SELF_CHECK;
}

/* A walk of its own: a session's reader may make system calls that a filter ends the process for. */
static enum fp_status check_walk(struct fp_reader *reader)
{
    struct {
        struct fp_walk walk;
        struct fp_walk_memory memory;
    } *own = PyMem_RawCalloc(1, sizeof(*own));
    if (own == NULL)
        return FP_NO_READER;
    fp_walk_lend(&own->walk, &own->memory);
    fp_walk_init(&own->walk, reader, &target, true);
    enum fp_status status = self_check(&own->walk);
    PyMem_RawFree(own);
    return status;
}

/* The calling thread reads what it holds itself, with the GIL where there is one. */
static enum fp_status open_harmless(struct fp_reader *reader)
{
    return fp_reader_open(reader, FP_READER_MASK) == FP_OK ? FP_OK : fp_reader_open_fallback(reader);
}

/* Does a seccomp filter look at this process's system calls?  Import has just opened files, so one more may be. */
static bool is_filtered(void)
{
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *line = strstr(text, "\nSeccomp:\t");
    return line != NULL && line[strlen("\nSeccomp:\t")] != '0';
}

static enum fp_status find_target(void)
{
    struct fp_reader reader;
    target = (struct fp_target){
        .runtime = (fp_addr)(uintptr_t)_PyRuntime,
        .version = running_version(),
        .code_type = (fp_addr)(uintptr_t)&PyCode_Type,
        .str_type = (fp_addr)(uintptr_t)&PyUnicode_Type,
        .bytes_type = (fp_addr)(uintptr_t)&PyBytes_Type,
        .dict_type = (fp_addr)(uintptr_t)&PyDict_Type,
        .frozenset_type = (fp_addr)(uintptr_t)&PyFrozenSet_Type,
        .module_type = (fp_addr)(uintptr_t)&PyModule_Type,
        /* the third is exported up to 3.12 only */
        .fatal_functions = {(fp_addr)(uintptr_t)(Py_FatalError), (fp_addr)(uintptr_t)_Py_FatalErrorFunc,
                            (fp_addr)(uintptr_t)dlsym(RTLD_DEFAULT, "_Py_FatalErrorFormat")},
    };
#ifdef Py_GIL_DISABLED
    target.free_threaded = true;
#endif
    if (is_filtered())
        fp_reader_expect_filter();
    enum fp_status status = open_harmless(&reader);
    if (status != FP_OK)
        return status;
    status = fp_layout_choose(&target, &reader);
    if (status == FP_OK)
        status = check_walk(&reader);
    fp_reader_close(&reader);
    return status;
}

/* The first import decides for the process; later ones (subinterpreters) find it decided. */
enum fp_status fp_ext_start(void)
{
    static atomic_flag starting = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&starting)) {
        fp_out_expect(STDERR_FILENO);
        atomic_store(&state, fp_control_start() == 0 && fp_ext_files_start() == 0 ? find_target() : FP_NOT_STARTED);
    }
    return fp_ext_status();
}

enum fp_status fp_ext_status(void)
{
    return (enum fp_status)atomic_load(&state);
}

const struct fp_target *fp_ext_target(void)
{
    return &target;
}
