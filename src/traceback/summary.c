/* FrameSummary and StackSummary objects of the interpreter's own classes, filled without a call of Python code.
 * Normal context. */
#include "tb.h"

#include <string.h>

/* The place of a member in the object; -1: this version has none. */
static int slot_offset(PyObject *type, const char *name, Py_ssize_t *offset)
{
    PyObject *member = PyObject_GetAttrString(type, name);
    *offset = -1;
    if (member == NULL)
        return fp_clear(PyExc_AttributeError) ? 0 : -1;
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

/* Of a new object, whose members are empty.  Steals the value; false: there is none. */
static bool give(PyObject *summary, Py_ssize_t offset, PyObject *value)
{
    if (offset >= 0)
        *(PyObject **)(void *)((char *)summary + offset) = value;
    else
        Py_XDECREF(value);
    return value != NULL;
}

static PyObject *number_or_none(int number)
{
    return number >= 0 ? PyLong_FromLong(number) : Py_NewRef(Py_None);
}

/* line.rstrip() + "\n", which most lines of a file are already */
static PyObject *stripped_line(PyObject *line)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(line);
    if (length > 0 && PyUnicode_READ_CHAR(line, length - 1) == '\n' &&
        (length == 1 || !Py_UNICODE_ISSPACE(PyUnicode_READ_CHAR(line, length - 2))))
        return Py_NewRef(line);
    PyObject *stripped = fp_strip(line, false);
    PyObject *result = stripped != NULL ? PyUnicode_FromFormat("%U\n", stripped) : NULL;
    Py_XDECREF(stripped);
    return result;
}

static PyObject *joined_lines(PyObject *line, PyObject *rest)
{
    PyObject *result = stripped_line(line);
    for (Py_ssize_t i = 0; rest != NULL && result != NULL && i < PyTuple_GET_SIZE(rest); i++)
        PyUnicode_AppendAndDel(&result, stripped_line(PyTuple_GET_ITEM(rest, i)));
    return result;
}

/* What FrameSummary keeps of the source lines: all of them joined, or the first one as it is.  line NULL: "". */
PyObject *fp_summary_lines(struct fp_tb *tb, PyObject *line, PyObject *rest)
{
    PyObject *first = line != NULL ? Py_NewRef(line) : PyUnicode_FromStringAndSize(NULL, 0), *result = NULL;
    if (first != NULL && tb->slots._lines >= 0)
        result = joined_lines(first, rest);
    else if (first != NULL)
        result = tb->has.strip_line ? fp_strip(first, true) : Py_NewRef(first);
    Py_XDECREF(first);
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
    PyObject *first = number_or_none(item->lineno);
    PyObject *last = end_lineno == item->lineno ? Py_XNewRef(first) : number_or_none(end_lineno);
    give(summary, slots->filename, Py_NewRef(item->filename));
    give(summary, slots->name, Py_NewRef(item->name));
    give(summary, slots->locals, Py_NewRef(Py_None));
    give(summary, slots->_line, Py_NewRef(lines));
    give(summary, slots->_lines, Py_NewRef(lines));
    give(summary, slots->_lines_dedented, Py_NewRef(Py_None));
    give(summary, slots->_code, Py_XNewRef((PyObject *)item->code));
    bool good = give(summary, slots->lineno, first);
    good &= give(summary, slots->end_lineno, last);
    good &= give(summary, slots->colno, number_or_none(columns ? item->column : -1));
    good &= give(summary, slots->end_colno, number_or_none(columns ? item->end_column : -1));
    if (!good)
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
    *lines = fp_summary_lines(call->tb, line, rest);
    Py_XDECREF(line);
    Py_XDECREF(rest);
    return *lines != NULL ? FP_DONE : FP_ERROR;
}

static enum fp_answer make_summary(struct fp_call *call, struct fp_item *item, bool lazy, PyObject **summary)
{
    PyObject *lines = NULL;
    int others = lazy ? 0 : fp_may_have_code_lines(call, item);
    item->exact = others == 0;
    enum fp_answer answer = others < 0 ? FP_ERROR : item->exact ? fp_locate(item) : FP_DECLINE;
    if (answer == FP_DONE && lazy)
        lines = Py_NewRef(Py_None);
    else if (answer == FP_DONE)
        answer = lines_of(call, item, &lines);
    if (answer == FP_DONE && (*summary = fp_summary_new(call->tb, item, lines)) == NULL)
        answer = FP_ERROR;
    Py_XDECREF(lines);
    return answer;
}

/* StackSummary.extract(): a new stack with a summary for each item; lazy: lines are looked up when they are asked for.
 * Declines where a line has other sources than the file. */
enum fp_answer fp_summaries(struct fp_call *call, struct fp_items *items, bool lazy, PyObject **stack)
{
    PyObject *list = PyList_New(items->count);
    enum fp_answer answer = list != NULL ? FP_DONE : FP_ERROR;
    *stack = NULL;
    if (list != NULL)
        PyObject_GC_UnTrack(list); /* linecache may run anything, which must not meet the empty places */
    for (Py_ssize_t i = 0; i < items->count && answer == FP_DONE; i++) {
        PyObject *summary = NULL;
        answer = make_summary(call, &items->items[i], lazy, &summary);
        if (answer == FP_DONE)
            PyList_SET_ITEM(list, i, summary);
    }
    if (answer == FP_DONE && ((*stack = PyObject_CallObject(call->tb->StackSummary, NULL)) == NULL ||
                              PyList_SetSlice(*stack, 0, 0, list) < 0)) {
        Py_CLEAR(*stack);
        answer = FP_ERROR;
    }
    Py_XDECREF(list);
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
    int overflow;
    PyObject *value = member(summary, offset);
    long found = PyLong_CheckExact(value) ? PyLong_AsLongAndOverflow(value, &overflow) : -1;
    bool good = value == Py_None || (found >= 0 && found <= INT_MAX);
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
    Py_ssize_t length = PyUnicode_GET_LENGTH(line);
    bool blank = length > 0;
    for (Py_ssize_t i = 0; i < length; i++)
        blank &= Py_UNICODE_ISSPACE(PyUnicode_READ_CHAR(line, i)) != 0;
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
