/* What is told of the interpreter's module from its functions.  Normal context. */
#ifndef FAULTPROOF_TRACEBACK_RULES_H
#define FAULTPROOF_TRACEBACK_RULES_H

#include "tb.h"

#include <string.h>

/* Functions for faultproof/traceback.py. */
PyObject *fp_rules_owns(PyObject *module, PyObject *args);
PyObject *fp_rules_takes(PyObject *module, PyObject *args);
PyObject *fp_rules_generator(PyObject *module, PyObject *function);
PyObject *fp_rules_fingerprint(struct fp_tb *tb);

/* Is this the fingerprint of a release for which our carets were compared with the interpreter's? */
bool fp_rules_listed(uint64_t hash);

#endif
