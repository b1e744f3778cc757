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
    put(summary, slots->filename, item->filename);
    put(summary, slots->name, item->name);
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

/* A member's value, a new reference; None if it isn't there. */
static PyObject *member(PyObject *summary, Py_ssize_t offset)
{
    PyObject *value = NULL;
    if (offset >= 0) {
        FP_BEGIN_OBJECT(summary);
        value = Py_XNewRef(*(PyObject **)(void *)((char *)summary + offset));
        FP_END_OBJECT();
    }
    return value != NULL ? value : Py_NewRef(Py_None);
}

/* False: neither None, which is -1, nor a number that a line or column can have. */
static bool read_number(PyObject *summary, Py_ssize_t offset, int *number)
{
    PyObject *value = member(summary, offset);
    long found = PyLong_CheckExact(value) ? PyLong_AsLong(value) : -1;
    bool good = value == Py_None || (found >= 0 && found <= INT_MAX);
    PyErr_Clear();
    Py_DECREF(value);
    *number = (int)found;
    return good;
}

/* Declines a summary that isn't as extract() makes them, or shows local variables. */
static enum fp_answer read_summary(struct fp_tb *tb, PyObject *summary, struct fp_item *item)
{
    const struct fp_slots *slots = &tb->slots;
    *item = (struct fp_item){.summary = Py_NewRef(summary),
                             .filename = member(summary, slots->filename),
                             .name = member(summary, slots->name),
                             .located = true,
                             .exact = true};
    PyObject *locals = member(summary, slots->locals);
    bool good = PyUnicode_CheckExact(item->filename) && PyUnicode_CheckExact(item->name) && locals == Py_None;
    Py_DECREF(locals);
    good = good && read_number(summary, slots->lineno, &item->lineno) && item->lineno >= 0 &&
           read_number(summary, slots->end_lineno, &item->end_lineno) &&
           read_number(summary, slots->colno, &item->column) &&
           read_number(summary, slots->end_colno, &item->end_column);
    bool columns = item->column >= 0 && item->end_column >= 0;
    item->kind = columns ? FP_CARETS : FP_PLAIN;
    if (!columns)
        item->end_lineno = item->lineno;
    return good && item->end_lineno >= item->lineno ? FP_DONE : FP_DECLINE;
}

/* An item for each FrameSummary of a list; limit is for nothing. */
enum fp_answer fp_items_of_summaries(struct fp_tb *tb, PyObject *list, PyObject *limit, struct fp_items *items)
{
    (void)limit;
    *items = (struct fp_items){NULL, 0};
    if (!PyList_CheckExact(list) && (PyObject *)Py_TYPE(list) != tb->StackSummary)
        return FP_DECLINE;
    PyObject *all = PyList_GetSlice(list, 0, PyList_GET_SIZE(list));
    enum fp_answer answer = all != NULL ? FP_DONE : FP_ERROR;
    Py_ssize_t count = all != NULL ? PyList_GET_SIZE(all) : 0;
    if (answer == FP_DONE && (items->items = PyMem_Calloc((size_t)count + 1, sizeof *items->items)) == NULL) {
        PyErr_NoMemory();
        answer = FP_ERROR;
    }
    for (Py_ssize_t i = 0; i < count && answer == FP_DONE; i++) {
        PyObject *summary = PyList_GET_ITEM(all, i);
        answer = (PyObject *)Py_TYPE(summary) == tb->FrameSummary
                     ? read_summary(tb, summary, &items->items[items->count++])
                     : FP_DECLINE;
    }
    Py_XDECREF(all);
    return answer;
}

/* The summary's source lines as it keeps them, looked up if it hasn't yet; None: it has none. */
static PyObject *lines_kept(struct fp_tb *tb, PyObject *summary)
{
    Py_ssize_t offset = tb->slots._lines >= 0 ? tb->slots._lines : tb->slots._line;
    PyObject *lines = member(summary, offset);
    if (lines != Py_None)
        return lines;
    PyObject *line = PyObject_GetAttr(summary, tb->s.line);
    Py_DECREF(lines);
    if (line == NULL)
        return NULL;
    Py_DECREF(line);
    return member(summary, offset);
}

/* Takes joined lines apart again.  Declines another number of them than the item has. */
static enum fp_answer split(PyObject *lines, int count, PyObject **line, PyObject **rest)
{
    PyObject *newline = PyUnicode_FromString("\n");
    PyObject *parts = newline != NULL ? PyUnicode_Split(lines, newline, -1) : NULL;
    enum fp_answer answer = parts != NULL ? FP_DECLINE : FP_ERROR;
    if (parts != NULL && PyList_GET_SIZE(parts) == count + 1 &&
        PyUnicode_GET_LENGTH(PyList_GET_ITEM(parts, count)) == 0) {
        PyObject *further = count > 1 ? PyList_GetSlice(parts, 1, count) : NULL;
        *rest = further != NULL ? PyList_AsTuple(further) : NULL;
        Py_XDECREF(further);
        *line = Py_NewRef(PyList_GET_ITEM(parts, 0));
        answer = count == 1 || *rest != NULL ? FP_DONE : FP_ERROR;
    }
    Py_XDECREF(newline);
    Py_XDECREF(parts);
    return answer;
}

/* Where lines are kept stripped, one that nevertheless has blanks only is shown. */
static bool is_blank(PyObject *line)
{
    PyObject *stripped = fp_strip(line, true);
    bool blank = stripped != NULL && PyUnicode_GET_LENGTH(stripped) == 0 && PyUnicode_GET_LENGTH(line) > 0;
    PyErr_Clear();
    Py_XDECREF(stripped);
    return blank;
}

/* format_frame_summary() of an item that is a summary. */
enum fp_answer fp_summary_text(struct fp_call *call, const struct fp_item *item, PyObject **text)
{
    struct fp_tb *tb = call->tb;
    PyObject *lines = lines_kept(tb, item->summary), *line = NULL, *rest = NULL;
    if (lines == NULL)
        return FP_ERROR;
    enum fp_answer answer = FP_DECLINE;
    if (PyUnicode_CheckExact(lines) && tb->slots._lines >= 0)
        answer = split(lines, item->end_lineno - item->lineno + 1, &line, &rest);
    else if (PyUnicode_CheckExact(lines) && !(tb->has.strip_line && is_blank(lines))) {
        line = Py_NewRef(lines);
        answer = FP_DONE;
    }
    if (answer == FP_DONE)
        answer = fp_render_own(call, item, line, rest, text);
    Py_DECREF(lines);
    Py_XDECREF(line);
    Py_XDECREF(rest);
    if (answer != FP_DECLINE || tb->has.carets == 0)
        return answer;
    *text = PyObject_CallMethodObjArgs(tb->summary, tb->s.format_frame_summary, item->summary, NULL);
    return *text != NULL ? FP_DONE : FP_ERROR;
}
