/* What the files of the extension module share.  Normal context; this folder is the only one that knows Python.h. */
#ifndef FP_EXT_H
#define FP_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <signal.h>

#include "trigger/altstack.h"
#include "trigger/signals.h"

/* What a descriptor is used for later: each has at most one. */
enum { FP_USE_ENABLE, FP_USE_LATER, FP_USE_SIGNAL, FP_USES = FP_USE_SIGNAL + NSIG };

/* What an interpreter keeps alive. */
struct fp_ext_state {
    /* the standard module's own functions, which know its error messages; NULL where it can't be had */
    PyObject *standard_later, *standard_cancel;
    PyObject *files[FP_USES];
};

/* A `file` argument. */
struct fp_ext_file {
    int fd;
    bool is_duplicate; /* ours to close */
    PyObject *object;  /* a new reference to what has to stay alive for the descriptor to stay open, or NULL */
};

#ifdef Py_GIL_DISABLED
#define FP_FREE_THREADED 1
#else
#define FP_FREE_THREADED 0
#endif

/* target.c.  The process's target once it has been found and checked; the status says why it can't be used. */
enum fp_status fp_ext_start(void);
enum fp_status fp_ext_status(void);
const struct fp_target *fp_ext_target(void);

/* args.c.  The descriptor of a `file` argument: NULL or None is sys.stderr, an int is taken as it is, else fileno() and
   flush() are called.  -1 with an exception set.  later: the descriptor is used after the call, perhaps after the
   interpreter's end. */
int fp_ext_fileno(PyObject *file, bool later, struct fp_ext_file *out);

/* files.c.  Once a process: 0 or an errno value. */
int fp_ext_files_start(void);
/* Held while the use of a descriptor is configured and told to the following; never while the GIL is given up. */
void fp_ext_files_lock(void);
void fp_ext_files_unlock(void);
/* From now on this use has this file, or none: what it had is closed as soon as no dump can be writing to it.  Both
   return a reference that the caller gives up after the lock. */
PyObject *fp_ext_file_take(struct fp_ext_state *state, int use, const struct fp_ext_file *file);
PyObject *fp_ext_file_drop(struct fp_ext_state *state, int use);
/* Instead of take: nothing uses it. */
void fp_ext_file_refuse(const struct fp_ext_file *file);
/* Does the use have a file object that goes with this state?  A duplicate stays until another takes its place. */
bool fp_ext_file_is_last(const struct fp_ext_state *state, int use);
/* The state goes; what has no file of it stays configured. */
void fp_ext_file_forget(const struct fp_ext_state *state, int use);

/* The arguments that several functions share; each is set to its default by fp_ext_options_init. */
struct fp_ext_options {
    PyObject *file;
    int all_threads;
    int c_stack;
    Py_ssize_t max_threads, max_frames, max_chars;
};
void fp_ext_options_init(struct fp_ext_options *options);
/* 0, or -1 with an exception set.  *out is complete but for the descriptor. */
int fp_ext_options_check(const struct fp_ext_options *options, struct fp_dump_options *out);

/* "p", or "i" where the running interpreter's faulthandler takes flags as int (before 3.12). */
#if PY_VERSION_HEX >= 0x030c0000
#define FP_FLAG "p"
#else
#define FP_FLAG "i"
#endif
/* The same for dump_traceback_later's flags (int before 3.15). */
#if PY_VERSION_HEX >= 0x030f0000
#define FP_LATER_FLAG "p"
#else
#define FP_LATER_FLAG "i"
#endif

/* A converter for "O&": a signal number as the running interpreter takes it. */
int fp_ext_signo(PyObject *object, void *address);

/* enable(c_stack=...) as the running interpreter has it; the text is for the signature */
#if PY_VERSION_HEX >= 0x030e0000
#define FP_C_STACK_DEFAULT "True"
#else
#define FP_C_STACK_DEFAULT "False"
#endif

/* The trailing keyword-only arguments of every function that dumps, as a format and as addresses. */
#define FP_LIMITS             "$nnn"
#define FP_LIMIT_KEYWORDS     "max_threads", "max_frames", "max_chars", NULL
#define FP_LIMIT_ADDRESSES(o) &(o).max_threads, &(o).max_frames, &(o).max_chars

/* timed.c: dump_traceback_later, cancel_dump_traceback_later, register, unregister */
extern PyMethodDef fp_ext_timed_methods[];

/* altstack.c: the calling thread gets an alternate stack now, each other Python thread, running or later, as soon as it
   uses an allocator; FP_ALTSTACK_ALL: those that run get one now.  stop: the calling thread's is taken away; others
   keep theirs to their end. */
void fp_ext_altstack_start(enum fp_altstack_scope scope);
void fp_ext_altstack_stop(void);

/* handlers.c: the address of CPython's handler of the signals that Python code handles; NULL: not known. */
void (*fp_ext_signal_handler(void))(int);

/* finalize.c: whatever is installed is given back when this runtime ends. */
void fp_ext_give_back_at_end(void);

/* capsule.c: adds the C API to the module.  0, or -1 with an exception set. */
int fp_ext_capsule_add(PyObject *module);

/* host.c: what install() and the start ask of the process. */
extern PyMethodDef fp_ext_host_methods[];

/* standard.c: what the standard module was enabled with, found in its memory.  `handler`: its handler's address. */
struct fp_ext_standard {
    PyObject *file; /* borrowed from the standard module; NULL: it was given a descriptor */
    int fd, all_threads, c_stack;
};
/* false: not found, or not certain */
bool fp_ext_standard_find(uintptr_t handler, struct fp_ext_standard *found);

/* crash.c: the private functions that crash, for tests. */
extern PyMethodDef fp_ext_crash_methods[];

/* probe.c: the private functions by which tests look inside, and capabilities(). */
extern PyMethodDef fp_ext_probe_methods[];

#endif
