/* The lines of a SyntaxError: its place, its text with carets, its message.  Normal context.
 *
 * Only where all its attributes are of the types that the compiler gives them; else the interpreter's module is asked,
 * as it is where that looks for a misspelt keyword. */
#include "nodes.h"

#include <limits.h>

/* NONE stands for a number that is None; greater ones than NUMBER_MAX are left to the interpreter. */
enum { NONE = INT_MIN, NUMBER_MAX = 1 << 16 };

struct place {
    PyObject *filename, *text, *message;    /* Py_None: none */
    int line, end_line, offset, end_offset; /* offsets from 1 */
};

static void release(struct place *place)
{
    Py_XDECREF(place->filename);
    Py_XDECREF(place->text);
    Py_XDECREF(place->message);
}

static bool read_text(PyObject *exc, PyObject *name, PyObject **value)
{
    *value = PyObject_GetAttr(exc, name);
    return *value != NULL && (*value == Py_None || PyUnicode_CheckExact(*value));
}

static bool read_number(PyObject *exc, PyObject *name, int *value)
{
    int overflow = 0;
    PyObject *number = PyObject_GetAttr(exc, name);
    bool exact = number != NULL && PyLong_CheckExact(number);
    long found = exact ? PyLong_AsLongAndOverflow(number, &overflow) : 0;
    bool good = number == Py_None || (exact && found > -NUMBER_MAX && found < NUMBER_MAX && overflow == 0);
    *value = exact ? (int)found : NONE;
    Py_XDECREF(number);
    return good;
}

/* Whether the attributes are SyntaxError's own, so that reading them runs no code. */
static bool is_readable(struct fp_tb *tb, PyObject *exc)
{
    PyObject *names[] = {tb->s.filename, tb->s.lineno,     tb->s.end_lineno, tb->s.text,
                         tb->s.offset,   tb->s.end_offset, tb->s.msg};
    bool own = true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        own = own && fp_guard_inherits(Py_TYPE(exc), PyExc_SyntaxError, names[i]);
    return own;
}

/* False without an exception: something is of another form. */
static bool read_place(struct fp_tb *tb, PyObject *exc, struct place *place)
{
    *place = (struct place){.end_line = NONE, .end_offset = NONE};
    bool ends = tb->syntax != FP_SYNTAX_POINT;
    return read_text(exc, tb->s.filename, &place->filename) && read_number(exc, tb->s.lineno, &place->line) &&
           (!ends || read_number(exc, tb->s.end_lineno, &place->end_line)) &&
           read_text(exc, tb->s.text, &place->text) && read_number(exc, tb->s.offset, &place->offset) &&
           (!ends || read_number(exc, tb->s.end_offset, &place->end_offset)) &&
           read_text(exc, tb->s.msg, &place->message);
}

/* True also with an exception. */
static bool contains(PyObject *text, const char *part)
{
    PyObject *wanted = PyUnicode_FromString(part);
    bool found = wanted == NULL || PyUnicode_Contains(text, wanted) != 0;
    Py_XDECREF(wanted);
    return found;
}

/* Whether the interpreter may find that a keyword was misspelt. */
static bool may_get_typo(struct fp_tb *tb, const struct place *place)
{
    return tb->has.typos && place->message != Py_None &&
           (contains(place->message, "invalid syntax") || contains(place->message, "Perhaps you forgot a comma"));
}

/* What is shown of the text: without newlines at its end, and blanks at its start. */
struct shown {
    int kind;
    const void *data;
    Py_ssize_t start, end, length;
};

static struct shown shown_part(PyObject *text)
{
    struct shown shown = {PyUnicode_KIND(text), PyUnicode_DATA(text), 0, 0, PyUnicode_GET_LENGTH(text)};
    shown.end = shown.length;
    while (shown.end > 0 && PyUnicode_READ(shown.kind, shown.data, shown.end - 1) == '\n')
        shown.end--;
    for (; shown.start < shown.end; shown.start++) {
        Py_UCS4 c = PyUnicode_READ(shown.kind, shown.data, shown.start);
        if (c != ' ' && c != '\n' && c != '\f')
            break;
    }
    return shown;
}

/* Offsets from 0 in the part that is shown, where carets begin and end; false: there are none. */
static bool caret_range(const struct fp_tb *tb, const struct place *place, const struct shown *shown, Py_ssize_t *from,
                        Py_ssize_t *to)
{
    Py_ssize_t offset = place->offset, end = place->end_offset, after = shown->end + 1;
    if (tb->syntax == FP_SYNTAX_POINT) {
        *from = (offset != NONE ? offset : 0) - 1 - shown->start;
        *to = *from + 1;
        return *from >= 0;
    }
    if (offset == NONE)
        return false;
    if (end == NONE || end == 0)
        end = offset;
    if (tb->syntax == FP_SYNTAX_RANGE) {
        if (offset == end || end == -1)
            end = offset + 1;
    }
    else {
        if (place->line != place->end_line)
            end = after;
        if (shown->length > 0 && offset > shown->length)
            offset = after;
        if (shown->length > 0 && end > shown->length)
            end = after;
        if (offset >= end || end < 0)
            end = offset + 1;
    }
    *from = offset - 1 - shown->start;
    *to = end - 1 - shown->start;
    return *from >= 0;
}

/* Whether each character is one place wide for certain. */
static bool is_plain(const struct shown *shown)
{
    bool plain = true;
    for (Py_ssize_t i = shown->start; i < shown->end; i++) {
        Py_UCS4 c = PyUnicode_READ(shown->kind, shown->data, i);
        plain &= c >= 0x20 && c < 0x7f;
    }
    return plain;
}

/* The carets' line: under blanks of the text are the same blanks. */
static PyObject *caret_line(struct fp_tb *tb, const struct shown *shown, Py_ssize_t from, Py_ssize_t to)
{
    struct fp_buffer out = {0};
    Py_ssize_t length = shown->end - shown->start;
    if (tb->syntax == FP_SYNTAX_WIDTH && from < length && to > length)
        to = length; /* as wide as the text is that they stand under */
    fp_put_ascii(&out, "    ");
    for (Py_ssize_t i = 0; i < from && i < length; i++) {
        Py_UCS4 c = PyUnicode_READ(shown->kind, shown->data, shown->start + i);
        fp_put(&out, Py_UNICODE_ISSPACE(c) ? c : ' ', 1);
    }
    fp_put(&out, '^', to > from ? (int)(to - from) : 0);
    fp_put_ascii(&out, "\n");
    return fp_buffer_finish(&out);
}

static enum fp_answer append_text(struct fp_tb *tb, const struct place *place, PyObject *list)
{
    struct shown shown = shown_part(place->text);
    Py_ssize_t from = 0, to = 0;
    bool carets = caret_range(tb, place, &shown, &from, &to);
    if (carets && tb->syntax == FP_SYNTAX_WIDTH && !is_plain(&shown))
        return FP_DECLINE;
    PyObject *part = PyUnicode_Substring(place->text, shown.start, shown.end);
    int result = part != NULL ? fp_append(list, PyUnicode_FromFormat("    %U\n", part)) : -1;
    Py_XDECREF(part);
    if (result == 0 && carets)
        result = fp_append(list, caret_line(tb, &shown, from, to));
    return result == 0 ? FP_DONE : FP_ERROR;
}

static enum fp_answer append_lines(struct fp_tb *tb, const struct place *place, PyObject *type, PyObject *list)
{
    enum fp_answer answer = FP_DONE;
    bool named = place->filename != Py_None && PyUnicode_GET_LENGTH(place->filename) > 0;
    if (place->line != NONE) {
        PyObject *line = named ? PyUnicode_FromFormat("  File \"%U\", line %d\n", place->filename, place->line)
                               : PyUnicode_FromFormat("  File \"<string>\", line %d\n", place->line);
        answer = fp_append(list, line) == 0 ? FP_DONE : FP_ERROR;
    }
    if (answer == FP_DONE && place->text != Py_None)
        answer = append_text(tb, place, list);
    if (answer != FP_DONE)
        return answer;
    PyObject *message = place->message, *none = NULL;
    if (message == Py_None || PyUnicode_GET_LENGTH(message) == 0)
        message = none = PyUnicode_FromString("<no detail available>");
    PyObject *last = NULL;
    if (message != NULL && place->line == NONE && place->filename != Py_None)
        last = PyUnicode_FromFormat("%U: %U (%U)\n", type, message, place->filename);
    else if (message != NULL)
        last = PyUnicode_FromFormat("%U: %U\n", type, message);
    Py_XDECREF(none);
    return fp_append(list, last) == 0 ? FP_DONE : FP_ERROR;
}

/* Asked for when the first SyntaxError is shown: the interpreter imports much for that.  What asking raises is raised,
 * but for RecursionError: the question goes deeper than the interpreter's module would for the same error.  Then it is
 * asked again the next time. */
static enum fp_answer style_known(struct fp_tb *tb)
{
    int value = __atomic_load_n(&tb->syntax, __ATOMIC_ACQUIRE);
    if (value == 0) {
        PyObject *style = PyObject_CallObject(tb->syntax_style, NULL);
        if (style == NULL)
            return fp_clear(PyExc_RecursionError) ? FP_DECLINE : FP_ERROR;
        value = PyLong_CheckExact(style) ? (int)PyLong_AsLong(style) : -1;
        Py_DECREF(style);
        __atomic_store_n(&tb->syntax, value > 0 ? value : -1, __ATOMIC_RELEASE);
    }
    return value > 0 ? FP_DONE : FP_DECLINE;
}

/* *lines: a new list of the texts, the message last. */
enum fp_answer fp_syntax_lines(struct fp_tb *tb, PyObject *exc, PyObject *type, PyObject **lines)
{
    struct place place = {NULL};
    *lines = NULL;
    enum fp_answer answer = is_readable(tb, exc) ? style_known(tb) : FP_DECLINE;
    if (answer == FP_DONE && (!read_place(tb, exc, &place) || may_get_typo(tb, &place)))
        answer = PyErr_Occurred() ? FP_ERROR : FP_DECLINE;
    if (answer == FP_DONE) {
        *lines = PyList_New(0);
        answer = *lines != NULL ? append_lines(tb, &place, type, *lines) : FP_ERROR;
    }
    if (answer != FP_DONE)
        Py_CLEAR(*lines);
    release(&place);
    return answer;
}
