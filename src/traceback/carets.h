/* What the two layouts of carets share.  Normal context. */
#ifndef FAULTPROOF_TRACEBACK_CARETS_H
#define FAULTPROOF_TRACEBACK_CARETS_H

#include "parse.h"
#include "text.h"

#include <stdio.h>

/* The part of an expression that is marked with another sign.  Lines from the expression's first one; in the first line
 * offsets count from the expression's start until they are measured. */
struct fp_anchors {
    bool present;
    int left_line, left, right_line, right;
};

enum fp_answer fp_carets_under_line(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject **text);

#endif
