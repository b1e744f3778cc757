/* The frames of a traceback or a stack, and their texts with repeats abbreviated.  Normal context. */
#include "tb.h"

#include <string.h>

enum { REPEATS_SHOWN = 3 };

/* How many frames to take: all, the first n or the last n. */
struct extent {
    Py_ssize_t count; /* -1: all */
    bool last;
};

static enum fp_answer read_limit(struct fp_tb *tb, PyObject *limit, struct extent *extent)
{
    PyObject *global = NULL;
    bool given = limit != NULL && limit != Py_None;
    *extent = (struct extent){-1, false};
    if (!given) {
        if (fp_dict_get(tb->sys_dict, tb->s.tracebacklimit, &global) < 0)
            return FP_ERROR;
        limit = global;
    }
    if (limit == NULL || limit == Py_None) {
        Py_XDECREF(global);
        return FP_DONE;
    }
    int overflow = 0;
    bool number = PyLong_CheckExact(limit);
    long long value = number ? PyLong_AsLongLongAndOverflow(limit, &overflow) : 0;
    Py_XDECREF(global);
    if (!number || overflow != 0 || value < -PY_SSIZE_T_MAX)
        return FP_DECLINE;
    if (value >= 0)
        extent->count = (Py_ssize_t)value;
    else
        *extent = (struct extent){given ? (Py_ssize_t)-value : 0, given};
    return FP_DONE;
}

void fp_items_clear(struct fp_items *items)
{
    for (Py_ssize_t i = 0; i < items->count; i++) {
        struct fp_item *item = &items->items[i];
        if (item->summary != NULL) {
            Py_DECREF(item->filename);
            Py_DECREF(item->name);
            Py_DECREF(item->summary);
        }
        Py_XDECREF(item->code);
        Py_XDECREF(item->frame);
    }
    PyMem_Free(items->items);
    *items = (struct fp_items){NULL, 0};
}

static PyObject *next_of(PyObject *traceback)
{
    PyObject *next;
    FP_BEGIN_OBJECT(traceback);
    next = Py_XNewRef((PyObject *)((PyTracebackObject *)traceback)->tb_next);
    FP_END_OBJECT();
    return next;
}

static Py_ssize_t length_of(PyObject *traceback)
{
    Py_ssize_t count = 0;
    PyObject *at = Py_NewRef(traceback);
    while (at != NULL) {
        PyObject *next = next_of(at);
        Py_DECREF(at);
        at = next;
        count++;
    }
    return count;
}

static bool has_plain_names(const struct fp_item *item)
{
    return PyUnicode_CheckExact(item->filename) && PyUnicode_CheckExact(item->name);
}

/* The line of an entry that carries no columns; -1: it has none, or a strange one; or an exception. */
static int line_of(struct fp_tb *tb, PyTracebackObject *entry)
{
    int overflow;
    if (entry->tb_lineno != -1)
        return entry->tb_lineno;
    PyObject *lineno = PyObject_GetAttr((PyObject *)entry, tb->s.tb_lineno); /* which may find it out now */
    long found = lineno != NULL && PyLong_Check(lineno) ? PyLong_AsLongAndOverflow(lineno, &overflow) : -1;
    Py_XDECREF(lineno);
    return (int)found;
}

static void take_code(struct fp_item *item)
{
    item->code = PyFrame_GetCode(item->frame);
    item->filename = item->code->co_filename;
    item->name = item->code->co_name;
}

static int fill(struct fp_tb *tb, struct fp_item *item, PyTracebackObject *entry, bool columns)
{
    memset(item, 0, sizeof *item);
    item->frame = (PyFrameObject *)Py_NewRef((PyObject *)entry->tb_frame);
    take_code(item);
    item->kind = columns && entry->tb_lasti >= 0 ? FP_CARETS : FP_PLAIN;
    item->at = item->kind == FP_CARETS ? entry->tb_lasti : line_of(tb, entry);
    return item->at < 0 && PyErr_Occurred() ? -1 : 0;
}

/* Drops all but the frames that the walk meets last. */
static void keep_last(struct fp_items *items, Py_ssize_t count)
{
    Py_ssize_t dropped = items->count - count;
    if (dropped <= 0)
        return;
    for (Py_ssize_t i = 0; i < dropped; i++) {
        Py_DECREF(items->items[i].code);
        Py_DECREF(items->items[i].frame);
    }
    memmove(items->items, items->items + dropped, (size_t)count * sizeof *items->items);
    items->count = count;
}

/* What a limit leaves out is looked at nevertheless: a position that can't be had is an error there. */
static enum fp_answer look_at_dropped(struct fp_items *items, Py_ssize_t count)
{
    enum fp_answer answer = FP_DONE;
    for (Py_ssize_t i = 0; i < items->count - count && answer == FP_DONE; i++)
        if (items->items[i].kind == FP_CARETS)
            answer = fp_locate(&items->items[i]);
    return answer;
}

static enum fp_answer take_traceback(struct fp_tb *tb, PyObject *traceback, PyObject *limit, bool columns,
                                     struct fp_items *items)
{
    struct extent extent;
    *items = (struct fp_items){NULL, 0};
    enum fp_answer answer = read_limit(tb, limit, &extent);
    if (answer != FP_DONE || traceback == NULL || traceback == Py_None)
        return answer;
    if (!PyTraceBack_Check(traceback))
        return FP_DECLINE;
    Py_ssize_t count = length_of(traceback);
    if (extent.count >= 0 && extent.count < count && !extent.last)
        count = extent.count;
    items->items = PyMem_Calloc((size_t)count + 1, sizeof *items->items);
    if (items->items == NULL) {
        PyErr_NoMemory();
        return FP_ERROR;
    }
    PyObject *at = Py_NewRef(traceback);
    while (at != NULL && items->count < count) {
        if (fill(tb, &items->items[items->count++], (PyTracebackObject *)at, columns) < 0) {
            Py_DECREF(at);
            return FP_ERROR;
        }
        PyObject *next = next_of(at);
        Py_DECREF(at);
        at = next;
    }
    Py_XDECREF(at);
    if (extent.last) {
        answer = look_at_dropped(items, extent.count);
        keep_last(items, extent.count);
    }
    return answer;
}

enum fp_answer fp_items_of_traceback(struct fp_tb *tb, PyObject *traceback, PyObject *limit, struct fp_items *items)
{
    return take_traceback(tb, traceback, limit, tb->has.carets != 0, items);
}

/* The same with lines only. */
enum fp_answer fp_items_of_lines(struct fp_tb *tb, PyObject *traceback, PyObject *limit, struct fp_items *items)
{
    return take_traceback(tb, traceback, limit, false, items);
}

static int append_frame(struct fp_items *items, Py_ssize_t *room, PyFrameObject *frame)
{
    if (items->count == *room) {
        Py_ssize_t larger = *room > 0 ? *room * 2 : 64;
        struct fp_item *grown = PyMem_Realloc(items->items, (size_t)larger * sizeof *grown);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        items->items = grown;
        *room = larger;
    }
    struct fp_item *item = &items->items[items->count++];
    memset(item, 0, sizeof *item);
    item->frame = (PyFrameObject *)Py_NewRef((PyObject *)frame);
    take_code(item);
    item->at = PyFrame_GetLineNumber(frame);
    return 0;
}

static void reverse(struct fp_items *items)
{
    for (Py_ssize_t i = 0, j = items->count - 1; i < j; i++, j--) {
        struct fp_item item = items->items[i];
        items->items[i] = items->items[j];
        items->items[j] = item;
    }
}

/* From the frame outwards, and so stand the items. */
enum fp_answer fp_items_of_frames(struct fp_tb *tb, PyObject *frame, PyObject *limit, struct fp_items *items)
{
    struct extent extent;
    Py_ssize_t room = 0;
    *items = (struct fp_items){NULL, 0};
    if (frame == NULL || !PyFrame_Check(frame))
        return FP_DECLINE;
    enum fp_answer answer = read_limit(tb, limit, &extent);
    if (answer != FP_DONE)
        return answer;
    PyFrameObject *at = (PyFrameObject *)Py_NewRef(frame);
    while (at != NULL && (extent.last || extent.count < 0 || items->count < extent.count)) {
        if (append_frame(items, &room, at) < 0) {
            Py_DECREF(at);
            return FP_ERROR;
        }
        PyFrameObject *back = PyFrame_GetBack(at);
        Py_DECREF(at);
        at = back;
    }
    Py_XDECREF(at);
    if (extent.last)
        keep_last(items, extent.count);
    return FP_DONE;
}

/* The same, outermost first. */
enum fp_answer fp_items_of_stack(struct fp_tb *tb, PyObject *frame, PyObject *limit, struct fp_items *items)
{
    enum fp_answer answer = fp_items_of_frames(tb, frame, limit, items);
    reverse(items);
    return answer;
}

/* Makes linecache ready for the items' files, as extracting a stack does. */
enum fp_answer fp_items_prepare(struct fp_call *call, struct fp_items *items)
{
    for (Py_ssize_t i = 0; i < items->count; i++)
        if (!has_plain_names(&items->items[i]))
            return FP_DECLINE;
    for (Py_ssize_t i = 0; i < items->count; i++)
        if (items->items[i].summary == NULL && fp_source_add(call, &items->items[i]) < 0)
            return FP_ERROR;
    return fp_sources_check(call) < 0 ? FP_ERROR : FP_DONE;
}

static bool same_text(PyObject *a, PyObject *b)
{
    return a == b || (a != NULL && b != NULL && PyUnicode_GET_LENGTH(a) == PyUnicode_GET_LENGTH(b) &&
                      PyUnicode_Compare(a, b) == 0);
}

/* Whether the source has the same lines as when the text was made. */
static int lines_match(struct fp_call *call, const struct fp_item *item, const struct fp_memo *memo)
{
    Py_ssize_t further = memo->rest != NULL ? PyTuple_GET_SIZE(memo->rest) : 0;
    for (Py_ssize_t i = 0; i <= further; i++) {
        PyObject *line, *then = i == 0 ? memo->line : PyTuple_GET_ITEM(memo->rest, i - 1);
        if (fp_source_line(call, item, memo->lineno + (int)i, &line) < 0)
            return -1;
        bool same;
        if (line == NULL)
            same = then == NULL || PyUnicode_GET_LENGTH(then) == 0;
        else
            same = PyUnicode_CheckExact(line) && same_text(line, then);
        Py_XDECREF(line);
        if (!same)
            return 0;
    }
    return 1;
}

/* Lines that are registered by code object, for code that has no file; only the interpreter's module asks for them. */
int fp_may_have_code_lines(struct fp_call *call, const struct fp_item *item)
{
    PyObject *filename = item->filename, *registered;
    if (!call->tb->has.code_lines || PyUnicode_GET_LENGTH(filename) == 0 || PyUnicode_READ_CHAR(filename, 0) != '<')
        return 0;
    int found = fp_dict_get(call->tb->linecache_dict, call->tb->s._interactive_cache, &registered);
    if (found <= 0)
        return found < 0 ? -1 : 1;
    bool any = !PyDict_CheckExact(registered) || PyDict_GET_SIZE(registered) > 0;
    Py_DECREF(registered);
    return any;
}

static enum fp_answer make_text(struct fp_call *call, struct fp_item *item, PyObject **text)
{
    PyObject *line, *rest;
    if (item->summary != NULL)
        return fp_summary_text(call, item, text);
    enum fp_answer answer = fp_fetch_lines(call, item, &line, &rest);
    if (answer != FP_DONE)
        return answer;
    bool lasts = item->exact;
    call->rendering = true;
    answer = fp_render(call, item, line, rest, text, &lasts);
    if (answer != FP_ERROR)
        call->rendering = false;
    if (answer == FP_DONE && lasts)
        fp_memo_store(call->tb, item, item->kind, line, rest, *text);
    Py_XDECREF(line);
    Py_XDECREF(rest);
    return answer;
}

/* Finds the item's line, and its text when it is remembered. */
static enum fp_answer recall(struct fp_call *call, struct fp_item *item, PyObject **text)
{
    struct fp_memo memo;
    *text = NULL;
    if (item->summary != NULL)
        return FP_DONE;
    int others = fp_may_have_code_lines(call, item);
    if (others < 0)
        return FP_ERROR;
    item->exact = others == 0;
    if (!item->exact || !fp_memo_find(call->tb, item, item->kind, &memo))
        return fp_locate(item);
    item->lineno = memo.lineno;
    item->end_lineno = memo.end_lineno;
    int match = lines_match(call, item, &memo);
    if (match > 0)
        *text = Py_NewRef(memo.text);
    fp_memo_release(&memo);
    return match < 0 ? FP_ERROR : match > 0 ? FP_DONE : fp_locate(item);
}

static int append_repeats(PyObject *list, Py_ssize_t count)
{
    if (count <= REPEATS_SHOWN)
        return 0;
    count -= REPEATS_SHOWN;
    PyObject *text = PyUnicode_FromFormat("  [Previous line repeated %zd more time%s]\n", count, count > 1 ? "s" : "");
    int result = text != NULL ? PyList_Append(list, text) : -1;
    Py_XDECREF(text);
    return result;
}

static bool same_place(const struct fp_item *a, const struct fp_item *b)
{
    return a->lineno == b->lineno && same_text(a->filename, b->filename) && same_text(a->name, b->name);
}

/* A frame of the same instruction as the one before it has the same line. */
static bool same_instruction(const struct fp_item *a, const struct fp_item *b)
{
    return a->code != NULL && a->code == b->code && a->at == b->at && a->kind == b->kind;
}

/* Appends a text for each item to the list, and a line instead of the fourth and further ones of the same place. */
enum fp_answer fp_items_format(struct fp_call *call, struct fp_items *items, PyObject *list)
{
    const struct fp_item *last = NULL;
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < items->count; i++) {
        struct fp_item *item = &items->items[i];
        PyObject *text = NULL;
        enum fp_answer answer = FP_DONE;
        if (last != NULL && count >= REPEATS_SHOWN && same_instruction(last, item)) {
            count++;
            continue;
        }
        if ((answer = recall(call, item, &text)) != FP_DONE)
            return answer;
        if (last == NULL || !same_place(last, item)) {
            if (append_repeats(list, count) < 0) {
                Py_XDECREF(text);
                return FP_ERROR;
            }
            last = item;
            count = 0;
        }
        if (++count <= REPEATS_SHOWN) {
            if (text == NULL)
                answer = make_text(call, item, &text);
            if (answer == FP_DONE && PyList_Append(list, text) < 0)
                answer = FP_ERROR;
        }
        Py_XDECREF(text);
        if (answer != FP_DONE)
            return answer;
    }
    return append_repeats(list, count) < 0 ? FP_ERROR : FP_DONE;
}
