/* capabilities(), and what tests use to look inside.  Normal context. */
#include "ext.h" /* pyconfig.h defines _GNU_SOURCE */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "image.h"
#include "render/c_stack.h"

static const char *reader_name(enum fp_reader_kind kind)
{
    static const char *const names[] = {
        [FP_READER_NONE] = "none",           [FP_READER_GUARD] = "guarded copy", [FP_READER_MASK] = "rt_sigprocmask",
        [FP_READER_VM] = "process_vm_readv", [FP_READER_MEM] = "/proc/self/mem", [FP_READER_PIPE] = "pipe",
        [FP_READER_TEST] = "test",
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

/* One sample of _watch(): the stack of the thread that holds the GIL, then a line "#same NS" or "#moved NS" that says
   whether it still did afterwards, and how long the reading took. */
static void watch_once(int fd, uint64_t round, bool still)
{
    const struct fp_target *target = fp_ext_target();
    struct fp_dump_options options = {
        .fd = fd, .max_threads = 1, .max_frames = 200, .max_chars = 500, .budget_ns = 10000000000};
    struct fp_thread thread = {0};
    char line[64];

    struct fp_session *s = fp_session_acquire(target, false, options.budget_ns);
    if (s == NULL)
        return;
    fp_addr interp = fp_interp_first(&s->walk), holder = fp_gil_holder(&s->walk, interp);
    if (target->free_threaded) {
        holder = fp_thread_first(&s->walk, interp);
        for (uint64_t i = round % 16; i > 0 && fp_thread_next(&s->walk, holder) != 0; i--)
            holder = fp_thread_next(&s->walk, holder);
    }
    bool found = holder != 0 && fp_thread_read(&s->walk, holder, &thread) == FP_OK;
    fp_session_release(s);
    if (!found || thread.thread_id == (uint64_t)PyThread_get_thread_ident())
        return;
    const struct fp_dump_caller caller = {.thread_id = thread.thread_id, .is_this_thread = still};
    int64_t start = fp_now_ns();
    (void)fp_dump(target, &options, &caller, "", 0);
    int64_t took = fp_now_ns() - start;
    s = fp_session_acquire(target, false, options.budget_ns);
    if (s == NULL)
        return;
    bool same = target->free_threaded ? fp_thread_alive(&s->walk, &thread) : fp_gil_holder(&s->walk, interp) == holder;
    fp_session_release(s);
    int n = PyOS_snprintf(line, sizeof(line), "#%s %lld\n", same ? "same" : "moved", (long long)took);
    if (write(fd, line, (size_t)n) != n)
        return;
}

/* _watch(fd, seconds, interval, cpu, still=0, guard=1): samples running threads from a thread without the GIL, for
   tests of truth; still: reads them as if they stood still, to see what that gives; guard=0: by system calls */
static PyObject *probe_watch(PyObject *self, PyObject *args)
{
    int fd, cpu, still = 0, guard = 1;
    double seconds, interval;
    (void)self;
    if (!PyArg_ParseTuple(args, "iddi|ii:_watch", &fd, &seconds, &interval, &cpu, &still, &guard))
        return NULL;
    if (guard)
        fp_guard_require();
    Py_BEGIN_ALLOW_THREADS const struct timespec pause = {0, (long)(interval * 1e9)};
    int64_t end = fp_now_ns() + (int64_t)(seconds * 1e9);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (cpu >= 0)
        sched_setaffinity(0, sizeof(set), &set);
    for (uint64_t round = 0; fp_now_ns() < end; round++) {
        watch_once(fd, round, still != 0);
        if (interval > 0)
            nanosleep(&pause, NULL);
    }
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
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

/* What a dump reads goes through here, and into the image. */
static int copy_and_keep(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    struct fp_image *image = r->context;
    if (fp_guard_copy(to, (const void *)(uintptr_t)from, n) != 0)
        return -1;
    for (fp_addr at = from / FP_IMAGE_BLOCK * FP_IMAGE_BLOCK; at < from + n; at += FP_IMAGE_BLOCK) {
        struct fp_image_block *block = fp_image_add(image, at);
        if (block != NULL) /* a block lies in one page, so that all of it is readable */
            (void)fp_guard_copy(block->bytes, (const void *)(uintptr_t)at, FP_IMAGE_BLOCK);
    }
    return 0;
}

static void keep_all_threads(struct fp_image *image, int null_fd, bool still)
{
    const struct fp_dump_options options = {.fd = null_fd,
                                            .all_threads = true,
                                            .max_threads = 100,
                                            .max_frames = 100,
                                            .max_chars = 500,
                                            .budget_ns = 10000000000};
    const struct fp_dump_caller caller = {.thread_id = image->head.thread_id, .is_this_thread = still, .fatal = still};
    struct fp_session *s = fp_session_acquire(&image->target, true, options.budget_ns);
    if (s == NULL)
        return;
    s->reader = (struct fp_reader){.kind = FP_READER_TEST, .fds = {-1, -1}, .copy = copy_and_keep, .context = image};
    (void)fp_dump_on(s, &options, &caller, "", 0);
    fp_session_release(s);
}

/* _image(fd): writes what a dump of all threads reads, see image.h */
static PyObject *probe_image(PyObject *self, PyObject *args)
{
    int fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:_image", &fd))
        return NULL;
    struct fp_image *image = PyMem_RawCalloc(1, sizeof(*image));
    if (image == NULL)
        return PyErr_NoMemory();
    const struct fp_target *t = fp_ext_target();
    image->target = *t;
    image->head = (struct fp_image_head){"fpimage1",
                                         t->version,
                                         t->free_threaded,
                                         t->runtime,
                                         t->code_type,
                                         t->str_type,
                                         t->bytes_type,
                                         t->dict_type,
                                         t->frozenset_type,
                                         t->module_type,
                                         PyThread_get_thread_ident()};
    fp_guard_require();
    int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    keep_all_threads(image, null_fd, true);
    keep_all_threads(image, null_fd, false);
    close(null_fd);
    size_t size = image->n_blocks * sizeof(image->blocks[0]);
    bool written = write(fd, &image->head, sizeof(image->head)) == (ssize_t)sizeof(image->head) &&
                   write(fd, image->blocks, size) == (ssize_t)size;
    PyMem_RawFree(image);
    return written ? PyLong_FromLong(0) : PyErr_SetFromErrno(PyExc_OSError);
}

PyMethodDef fp_ext_probe_methods[] = {
    {"_capabilities", probe_capabilities, METH_NOARGS,
     PyDoc_STR("_capabilities($module, /)\n--\n\nSee faultproof.capabilities().")},
    {"_image", probe_image, METH_VARARGS,
     PyDoc_STR("_image($module, fd, /)\n--\n\nWrite what a dump of all threads reads, for tests.")},
    {"_lines", probe_lines, METH_VARARGS,
     PyDoc_STR("_lines($module, code, offsets, /)\n--\n\nLines of instructions, for tests.")},
    {"_watch", probe_watch, METH_VARARGS,
     PyDoc_STR("_watch($module, fd, seconds, interval, cpu, still=0, guard=1, /)\n--\n\nSample running threads, for "
               "tests.")},
    {"_c_stack", probe_c_stack, METH_VARARGS,
     PyDoc_STR("_c_stack($module, fd, /)\n--\n\nWrite this thread's C stack, for tests.")},
    {"_c_stack_on", probe_c_stack_on, METH_VARARGS,
     PyDoc_STR(
         "_c_stack_on($module, signo, fd, address, /)\n--\n\nWrite the C stack on a signal and exit, for tests.")},
    {NULL, NULL, 0, NULL},
};
