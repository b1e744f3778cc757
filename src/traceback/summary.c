/* FrameSummary and StackSummary objects of the interpreter's own classes, filled without a call of Python code.
 * Normal context. */
#include "tb.h"

#include <string.h>

/* The place of a member in the object; -1: this version has none. */
static int slot_offset(PyObject *type, const char *name, Py_ssize_t *offset)
{
    PyObject *member = PyObject_GetAttrString(type, name);
    *offset = -1;
    if (member == NULL) {
        PyErr_Clear();
        return 0;
    }
    if (Py_TYPE(member) == &PyMemberDescr_Type && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX)
        *offset = ((PyMemberDescrObject *)member)->d_member->offset;
    Py_DECREF(member);
    return 0;
}

int fp_summary_init(struct fp_tb *tb)
{
#define X(name)                                                                                                        \
    if (slot_offset(tb->FrameSummary, #name, &tb->slots.name) < 0)                                                     \
        return -1;
    FP_SLOTS(X)
#undef X
    if (tb->slots.filename < 0 || tb->slots.lineno < 0 || tb->slots.name < 0 || tb->slots.locals < 0 ||
        (tb->slots._line < 0) == (tb->slots._lines < 0)) {
        PyErr_SetString(PyExc_ImportError, "faultproof: traceback.FrameSummary has an unknown form");
        return -1;
    }
    return 0;
}

static void put(PyObject *summary, Py_ssize_t offset, PyObject *value)
{
    if (offset < 0)
        return;
    PyObject **slot = (PyObject **)(void *)((char *)summary + offset);
    PyObject *old = *slot;
    *slot = Py_NewRef(value);
    Py_XDECREF(old);
}

static int put_number(PyObject *summary, Py_ssize_t offset, int number)
{
    PyObject *value = number >= 0 ? PyLong_FromLong(number) : Py_NewRef(Py_None);
    if (value == NULL)
        return -1;
    put(summary, offset, value);
    Py_DECREF(value);
    return 0;
}

/* What FrameSummary keeps of the source lines: all of them joined, or the first one as it is. */
PyObject *fp_summary_lines(struct fp_tb *tb, const struct fp_item *item, PyObject *line, PyObject *rest)
{
    (void)item;
    PyObject *empty = PyUnicode_FromStringAndSize(NULL, 0), *result = NULL;
    if (empty == NULL)
        return NULL;
    if (line == NULL)
        line = empty;
    if (tb->slots._lines < 0)
        result = tb->has.strip_line ? fp_strip(line, true) : Py_NewRef(line);
    else {
        PyObject *parts = PyList_New(0), *newline = PyUnicode_FromString("\n");
        Py_ssize_t count = 1 + (rest != NULL ? PyTuple_GET_SIZE(rest) : 0);
        for (Py_ssize_t i = 0; parts != NULL && i <= count; i++) {
            PyObject *part =
                i == count ? Py_NewRef(empty) : fp_strip(i == 0 ? line : PyTuple_GET_ITEM(rest, i - 1), false);
            if (part == NULL || PyList_Append(parts, part) < 0)
                Py_CLEAR(parts);
            Py_XDECREF(part);
        }
        if (parts != NULL && newline != NULL)
            result = PyUnicode_Join(newline, parts);
        Py_XDECREF(parts);
        Py_XDECREF(newline);
    }
    Py_DECREF(empty);
    return result;
}

/* The same object as FrameSummary(...) in StackSummary.extract(); lines None: to be looked up when they are asked for.
 */
PyObject *fp_summary_new(struct fp_tb *tb, const struct fp_item *item, PyObject *lines)
{
    PyTypeObject *type = (PyTypeObject *)tb->FrameSummary;
    const struct fp_slots *slots = &tb->slots;
    PyObject *summary = type->tp_alloc(type, 0);
    if (summary == NULL)
        return NULL;
    bool columns = item->kind == FP_CARETS;
    int end_lineno = columns || slots->_lines >= 0 ? item->end_lineno : -1;
    put(summary, slots->filename, item->code->co_filename);
    put(summary, slots->name, item->code->co_name);
    put(summary, slots->locals, Py_None);
    put(summary, slots->_line, lines);
    put(summary, slots->_lines, lines);
    put(summary, slots->_lines_dedented, Py_None);
    put(summary, slots->_code, (PyObject *)item->code);
    if (put_number(summary, slots->lineno, item->lineno) < 0 ||
        put_number(summary, slots->end_lineno, end_lineno) < 0 ||
        put_number(summary, slots->colno, columns ? item->column : -1) < 0 ||
        put_number(summary, slots->end_colno, columns ? item->end_column : -1) < 0)
        Py_CLEAR(summary);
    return summary;
}

/* What FrameSummary would keep of the item's lines, remembered under its own kind. */
static enum fp_answer lines_of(struct fp_call *call, struct fp_item *item, PyObject **lines)
{
    PyObject *line, *rest;
    enum fp_answer answer = fp_fetch_lines(call, item, &line, &rest);
    if (answer != FP_DONE)
        return answer;
    *lines = fp_summary_lines(call->tb, item, line, rest);
    Py_XDECREF(line);
    Py_XDECREF(rest);
    return *lines != NULL ? FP_DONE : FP_ERROR;
}

/* StackSummary.extract(): a new stack with a summary for each item; lazy: lines are looked up when they are asked for.
 * Declines where a line has other sources than the file. */
enum fp_answer fp_summaries(struct fp_call *call, struct fp_items *items, bool lazy, PyObject **stack)
{
    struct fp_tb *tb = call->tb;
    *stack = PyObject_CallObject(tb->StackSummary, NULL);
    enum fp_answer answer = *stack != NULL ? FP_DONE : FP_ERROR;
    for (Py_ssize_t i = 0; i < items->count && answer == FP_DONE; i++) {
        struct fp_item *item = &items->items[i];
        PyObject *lines = NULL, *summary = NULL;
        item->exact = lazy || !fp_may_have_code_lines(call, item);
        if (!item->exact || (answer = fp_locate(item)) != FP_DONE) {
            answer = item->exact ? answer : FP_DECLINE;
            break;
        }
        if (lazy)
            lines = Py_NewRef(Py_None);
        else if ((answer = lines_of(call, item, &lines)) != FP_DONE)
            break;
        summary = fp_summary_new(tb, item, lines);
        Py_DECREF(lines);
        if (summary == NULL || PyList_Append(*stack, summary) < 0)
            answer = FP_ERROR;
        Py_XDECREF(summary);
    }
    if (answer != FP_DONE)
        Py_CLEAR(*stack);
    return answer;
}
