/* Writes a tree of exceptions as the list of texts that format_exception() returns.  Normal context. */
#include "nodes.h"

enum { GROUP_WIDTH = 15, GROUP_DEPTH = 10 }; /* the defaults of max_group_width and max_group_depth */

struct output {
    struct fp_tree *tree;
    PyObject *list;
    bool chain;
    int depth;       /* of groups */
    bool need_close; /* the last member's frame isn't closed yet */
};

/* Two spaces for each level.  Groups end at a depth of GROUP_DEPTH + 2. */
static const char *indent(int depth)
{
    static const char spaces[] = "                                ";
    return spaces + sizeof spaces - 1 - 2 * depth;
}

int fp_append(PyObject *list, PyObject *text)
{
    int result = text != NULL ? PyList_Append(list, text) : -1;
    Py_XDECREF(text);
    return result;
}

/* Each line of the text, however it ends, behind the margin. */
static PyObject *with_margin(PyObject *text, int depth, char mark)
{
    PyObject *margin = PyUnicode_FromFormat("%s%c ", indent(depth), mark), *lines = PyUnicode_Splitlines(text, 1);
    PyObject *empty = PyUnicode_FromStringAndSize(NULL, 0), *result = NULL;
    for (Py_ssize_t i = 0; margin != NULL && lines != NULL && i < PyList_GET_SIZE(lines); i++) {
        PyObject *line = PyUnicode_Concat(margin, PyList_GET_ITEM(lines, i));
        if (line == NULL || PyList_SetItem(lines, i, line) < 0)
            Py_CLEAR(lines);
    }
    if (margin != NULL && lines != NULL && empty != NULL)
        result = PyUnicode_Join(empty, lines);
    Py_XDECREF(margin);
    Py_XDECREF(lines);
    Py_XDECREF(empty);
    return result;
}

/* Appends the text (which it takes) with the margin of the group it stands in. */
static int emit_marked(struct output *out, PyObject *text, char mark)
{
    if (text == NULL || out->depth == 0)
        return fp_append(out->list, text);
    PyObject *marked = with_margin(text, out->depth, mark);
    Py_DECREF(text);
    return fp_append(out->list, marked);
}

static int emit(struct output *out, PyObject *text)
{
    return emit_marked(out, text, '|');
}

static int emit_all(struct output *out, PyObject *texts)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(texts); i++)
        if (emit(out, Py_NewRef(PyList_GET_ITEM(texts, i))) < 0)
            return -1;
    return 0;
}

/* Each text of an iterable (which it takes) as it comes: what was there before one fails is in the list. */
static int emit_each(struct output *out, PyObject *iterable)
{
    PyObject *iterator = iterable != NULL ? PyObject_GetIter(iterable) : NULL, *text;
    int result = iterator != NULL ? 0 : -1;
    while (result == 0 && (text = PyIter_Next(iterator)) != NULL)
        result = emit(out, text);
    if (PyErr_Occurred())
        result = -1;
    Py_XDECREF(iterator);
    Py_XDECREF(iterable);
    return result;
}

/* The frames, below the line that says so. */
static int emit_stack(struct output *out, struct fp_node *node, PyObject *heading, char mark)
{
    if (node->extracted != NULL) {
        int any = PyObject_IsTrue(node->extracted);
        if (any <= 0)
            return any;
    }
    else if (node->stack == NULL && node->failed.type == NULL)
        return 0;
    if (emit_marked(out, Py_NewRef(heading), mark) < 0)
        return -1;
    if (node->failed.type != NULL)
        fp_error_raise(&node->failed);
    else if (node->extracted != NULL)
        return emit_each(out, PyObject_CallMethodObjArgs(node->extracted, out->tree->call->tb->s.format, NULL));
    return node->stack != NULL ? emit_all(out, node->stack) : -1;
}

static PyObject *final_line(struct fp_tb *tb, const struct fp_node *node)
{
    if (PyUnicode_CheckExact(node->str)) {
        if (PyUnicode_GET_LENGTH(node->str) == 0)
            return PyUnicode_FromFormat("%U\n", node->type);
        return PyUnicode_FromFormat("%U: %U\n", node->type, node->str);
    }
    PyObject *function = fp_global(tb->std_dict, tb->s._format_final_exc_line);
    PyObject *line = function != NULL ? PyObject_CallFunctionObjArgs(function, node->type, node->str, NULL) : NULL;
    Py_XDECREF(function);
    return line;
}

int fp_str(PyObject *object, PyObject **text)
{
    *text = NULL;
    if (PyErr_CheckSignals() < 0)
        return -1;
    *text = PyObject_Str(object);
    if (*text == NULL)
        PyErr_Clear();
    return 0;
}

static int emit_note(struct output *out, PyObject *note)
{
    PyObject *text, *newline = PyUnicode_FromString("\n"), *lines = NULL;
    if (fp_str(note, &text) == 0 && text == NULL)
        text = PyUnicode_FromString("<note str() failed>");
    if (text != NULL && newline != NULL)
        lines = PyUnicode_Split(text, newline, -1);
    int result = lines != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(lines); i++)
        result = emit(out, PyUnicode_Concat(PyList_GET_ITEM(lines, i), newline));
    Py_XDECREF(text);
    Py_XDECREF(newline);
    Py_XDECREF(lines);
    return result;
}

/* format_exception_only() */
static int emit_exception(struct output *out, const struct fp_node *node)
{
    struct fp_tb *tb = out->tree->call->tb;
    if (node->standard != NULL)
        return emit_each(out, PyObject_CallMethodObjArgs(node->standard, tb->s.format_exception_only, NULL));
    if (node->lines != NULL ? emit_all(out, node->lines) < 0 : emit(out, final_line(tb, node)) < 0)
        return -1;
    for (Py_ssize_t i = 0; node->notes != NULL && i < PyList_GET_SIZE(node->notes); i++) {
        PyObject *note = fp_list_get(node->notes, i);
        int result = note != NULL ? emit_note(out, note) : 0;
        Py_XDECREF(note);
        if (result < 0)
            return -1;
    }
    return 0;
}

static int emit_chain(struct output *out, Py_ssize_t at);

/* One member with the line above it; the number beyond the width stands for all further ones. */
static int emit_member(struct output *out, const struct fp_node *group, Py_ssize_t number, bool last)
{
    bool truncated = number >= GROUP_WIDTH;
    const char *start = number == 0 ? "+-" : "  ";
    PyObject *title =
        truncated ? PyUnicode_FromFormat("%s%s+---------------- ... ----------------\n", indent(out->depth), start)
                  : PyUnicode_FromFormat("%s%s+---------------- %zd ----------------\n", indent(out->depth), start,
                                         number + 1);
    if (last)
        out->need_close = true; /* a member that is a group may close for us */
    if (fp_append(out->list, title) < 0)
        return -1;
    out->depth++;
    Py_ssize_t more = group->members - GROUP_WIDTH;
    int result = truncated ? emit(out, PyUnicode_FromFormat("and %zd more exception%s\n", more, more > 1 ? "s" : ""))
                           : emit_chain(out, group->first_member + number);
    if (result == 0 && last && out->need_close) {
        result =
            fp_append(out->list, PyUnicode_FromFormat("%s+------------------------------------\n", indent(out->depth)));
        out->need_close = false;
    }
    out->depth--;
    return result;
}

static int emit_group(struct output *out, struct fp_node *node)
{
    struct fp_tb *tb = out->tree->call->tb;
    bool outermost = out->depth == 0;
    if (outermost)
        out->depth++;
    if (emit_stack(out, node, tb->group_heading, outermost ? '+' : '|') < 0)
        return -1;
    if (emit_exception(out, node) < 0)
        return -1;
    Py_ssize_t count = node->members <= GROUP_WIDTH ? node->members : GROUP_WIDTH + 1;
    out->need_close = false;
    for (Py_ssize_t i = 0; i < count; i++)
        if (emit_member(out, node, i, i == count - 1) < 0)
            return -1;
    if (outermost)
        out->depth = 0;
    return 0;
}

static int emit_one(struct output *out, struct fp_node *node)
{
    struct fp_tb *tb = out->tree->call->tb;
    if (node->members < 0) {
        if (emit_stack(out, node, tb->heading, '|') < 0)
            return -1;
        return emit_exception(out, node);
    }
    if (out->depth > GROUP_DEPTH)
        return emit(out, PyUnicode_FromFormat("... (max_group_depth is %d)\n", GROUP_DEPTH));
    return emit_group(out, node);
}

/* The node that is shown before this one, and the sentence between them. */
static Py_ssize_t before(struct fp_tb *tb, const struct fp_node *node, PyObject **message)
{
    *message = NULL;
    if (node->cause >= 0) {
        *message = tb->cause_message;
        return node->cause;
    }
    if (node->context >= 0 && !node->suppress_context) {
        *message = tb->context_message;
        return node->context;
    }
    return -1;
}

/* An exception with what led to it, the first one first. */
static int emit_chain(struct output *out, Py_ssize_t at)
{
    struct fp_tb *tb = out->tree->call->tb;
    struct fp_node *nodes = out->tree->nodes;
    PyObject *message;
    Py_ssize_t count = 1, last = at, next;
    while (out->chain && (next = before(tb, &nodes[last], &message)) >= 0) {
        last = next;
        count++;
    }
    Py_ssize_t *order = PyMem_Malloc((size_t)count * sizeof *order);
    if (order == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = count - 1; i >= 0; i--) {
        order[i] = at;
        if (i > 0)
            at = before(tb, &nodes[at], &message);
    }
    int result = 0;
    for (Py_ssize_t i = 0; i < count && result == 0; i++) {
        before(tb, &nodes[order[i]], &message);
        if (i > 0)
            result = emit(out, Py_NewRef(message));
        if (result == 0)
            result = emit_one(out, &nodes[order[i]]);
    }
    PyMem_Free(order);
    return result;
}

int fp_tree_emit(struct fp_tree *tree, enum fp_scope scope, PyObject *list)
{
    struct output out = {.tree = tree, .list = list, .chain = scope == FP_CHAIN};
    return scope == FP_ONLY ? emit_exception(&out, &tree->nodes[0]) : emit_chain(&out, 0);
}
