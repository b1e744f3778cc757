/* What the files of the extension module share.  Normal context; this folder is the only one that knows Python.h. */
#ifndef FP_EXT_H
#define FP_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "trigger/signals.h"

/* target.c.  The process's target once it has been found and checked; the status says why it can't be used. */
enum fp_status fp_ext_start(void);
enum fp_status fp_ext_status(void);
const struct fp_target *fp_ext_target(void);

/* args.c.  The descriptor of a `file` argument: NULL or None is sys.stderr, an int is taken as it is, else fileno() and
   flush() are called.  -1 with an exception set.  *keep: a new reference to the object that has to stay alive for the
   descriptor to stay open, or NULL. */
int fp_ext_fileno(PyObject *file, PyObject **keep);

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

/* enable(c_stack=...) as the running interpreter has it; the text is for the signature */
#if PY_VERSION_HEX >= 0x030e0000
#define FP_C_STACK_DEFAULT "True"
#else
#define FP_C_STACK_DEFAULT "False"
#endif

/* capsule.c: adds the C API to the module.  0, or -1 with an exception set. */
int fp_ext_capsule_add(PyObject *module);

/* crash.c: the private functions that crash, for tests. */
extern PyMethodDef fp_ext_crash_methods[];

/* probe.c: the private functions by which tests look inside, and capabilities(). */
extern PyMethodDef fp_ext_probe_methods[];

#endif
