/* The tree of exceptions that one call formats: nodes.c builds it, emit.c writes it.  Normal context. */
#ifndef FAULTPROOF_TRACEBACK_NODES_H
#define FAULTPROOF_TRACEBACK_NODES_H

#include "tb.h"
#include "text.h"

/* One exception, captured in the order in which TracebackException captures it. */
struct fp_node {
    PyObject *exc;
    PyObject *stack;        /* a list of texts; NULL: no frames, or one of the next two */
    PyObject *extracted;    /* a StackSummary that gives the texts of frames of an uncommon form; else NULL */
    struct fp_error failed; /* what making the texts has raised; type NULL: nothing */
    PyObject *type;         /* what its line starts with; NULL where standard is given */
    PyObject *str;          /* str(exc); not always an exact str */
    PyObject *lines;        /* in place of its line: a list, of a SyntaxError; else NULL */
    PyObject *notes;        /* a list; NULL: none */
    PyObject *standard;     /* a TracebackException that gives the lines of exceptions of an uncommon form; else NULL */
    Py_ssize_t cause, context;        /* places in the tree; -1: none */
    Py_ssize_t first_member, members; /* of a group; members -1: not a group */
    bool suppress_context;
};

struct fp_tree {
    struct fp_call *call;
    PyObject *limit;
    bool without_frames; /* the texts of frames aren't asked for */
    struct fp_node *nodes;
    Py_ssize_t count, room;
    const void **seen; /* an open hash table of the exceptions' addresses */
    size_t seen_room, seen_count;
    Py_ssize_t *todo; /* nodes whose neighbours haven't been looked for; the last one is next */
    Py_ssize_t todo_count, todo_room;
};

/* exception.c: the own part of the node at that place. */
int fp_node_capture(struct fp_tree *tree, Py_ssize_t at, PyObject *traceback);

/* syntax.c */
enum fp_answer fp_syntax_lines(struct fp_tb *tb, PyObject *exc, PyObject *type, PyObject **lines);

/* str() of any object, after the signals that have arrived have been handled: what their handlers raise is no failure
 * of str().  -1: they raised.  *text NULL: str() failed, with whatever, as the interpreter's module takes it. */
int fp_str(PyObject *object, PyObject **text);

/* emit.c */
int fp_append(PyObject *list, PyObject *text); /* takes the text; NULL: an exception */
int fp_tree_emit(struct fp_tree *tree, enum fp_scope scope, PyObject *list);

#endif
