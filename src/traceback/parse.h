/* A parser of a subset of expressions, for where carets change their sign.  Normal context.
 *
 * What it accepts is a valid expression for the interpreter too, of the kind that it says; what it doesn't accept may
 * be one or not: then the interpreter's parser is asked. */
#ifndef FAULTPROOF_TRACEBACK_PARSE_H
#define FAULTPROOF_TRACEBACK_PARSE_H

#include "compat.h"

enum fp_shape {
    FP_OTHER,
    FP_NAME,
    FP_BINARY,
    FP_SUBSCRIPT,
    FP_CALL,
    FP_UNMARKED /* nothing, a statement, or an expression of a kind that has no mark */
};

/* A node as the interpreter's parser places it: without the parentheses around it.  Offsets in characters. */
struct fp_expression {
    enum fp_shape shape;
    int start, end;
    int left_end;    /* FP_BINARY: of the left operand; FP_SUBSCRIPT, FP_CALL: of what is subscripted or called */
    int right_start; /* FP_BINARY: of the right operand */
    int mark;        /* the operator's or the bracket's place */
    int slice_end;   /* FP_SUBSCRIPT: of what stands in the brackets */
    bool of_name;    /* FP_CALL: of a plain name */
};

/* How a text is read: between parentheses line ends are blanks. */
bool fp_parse(const Py_UCS4 *text, int length, struct fp_expression *expression);
bool fp_is_keyword(const Py_UCS4 *word, int length);

#endif
