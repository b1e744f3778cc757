/* The text of one frame: plain ones here, with carets in carets.c, all others from the interpreter's module.  Normal
 * context. */
#include "tb.h"

/* str.strip() or str.rstrip() */
PyObject *fp_strip(PyObject *text, bool left)
{
    Py_ssize_t start = 0, end = PyUnicode_GET_LENGTH(text);
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    while (left && start < end && Py_UNICODE_ISSPACE(PyUnicode_READ(kind, data, start)))
        start++;
    while (end > start && Py_UNICODE_ISSPACE(PyUnicode_READ(kind, data, end - 1)))
        end--;
    return PyUnicode_Substring(text, start, end);
}

/* No character at which str.splitlines() splits. */
static bool is_one_line(PyObject *text)
{
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if ((c < 0x20 && c != '\t') || c == 0x85 || c == 0x2028 || c == 0x2029)
            return false;
    }
    return true;
}

/* Names that the interpreter may shorten when it shows them. */
static bool is_stdin(struct fp_tb *tb, PyObject *filename)
{
    static const char start[] = "<stdin";
    if (tb->has.carets != 2 || PyUnicode_GET_LENGTH(filename) < 6)
        return false;
    for (int i = 0; i < 6; i++)
        if (PyUnicode_READ_CHAR(filename, i) != (Py_UCS4)start[i])
            return false;
    return true;
}

/* A header and the stripped line. */
static enum fp_answer render_plain(const struct fp_item *item, PyObject *stripped, PyObject **text)
{
    if (stripped == NULL || PyUnicode_GET_LENGTH(stripped) == 0)
        *text = PyUnicode_FromFormat("  File \"%U\", line %d, in %U\n", item->filename, item->lineno, item->name);
    else
        *text = PyUnicode_FromFormat("  File \"%U\", line %d, in %U\n    %U\n", item->filename, item->lineno,
                                     item->name, stripped);
    return *text != NULL ? FP_DONE : FP_ERROR;
}

/* The interpreter's own text.  The lines are given to it, except where it may know of others. */
static enum fp_answer render_by_standard(struct fp_call *call, const struct fp_item *item, PyObject *line,
                                         PyObject *rest, PyObject **text)
{
    struct fp_tb *tb = call->tb;
    PyObject *lines = item->exact ? fp_summary_lines(tb, line, rest) : Py_NewRef(Py_None);
    PyObject *summary = lines != NULL ? fp_summary_new(tb, item, lines) : NULL;
    Py_XDECREF(lines);
    if (summary == NULL)
        return FP_ERROR;
    *text = PyObject_CallMethodObjArgs(tb->summary, tb->s.format_frame_summary, summary, NULL);
    Py_DECREF(summary);
    if (*text == NULL)
        return FP_ERROR;
    if (!PyUnicode_CheckExact(*text))
        Py_CLEAR(*text);
    return *text != NULL ? FP_DONE : FP_DECLINE;
}

/* The interpreter's parser warns of escapes that it doesn't know and of numbers that a word follows at once; what comes
 * of that is for the program's filters to say, each time. */
static bool may_warn(PyObject *line)
{
    int kind = PyUnicode_KIND(line);
    const void *data = PyUnicode_DATA(line);
    Py_UCS4 before = 0;
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(line); i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (c == '\\' || (before >= '0' && before <= '9' && (c == '_' || (c | 32) - 'a' < 26)))
            return true;
        before = c;
    }
    return false;
}

static bool any_may_warn(PyObject *line, PyObject *rest)
{
    bool any = line != NULL && may_warn(line);
    for (Py_ssize_t i = 0; rest != NULL && i < PyTuple_GET_SIZE(rest); i++)
        any = any || may_warn(PyTuple_GET_ITEM(rest, i));
    return any;
}

/* Declines what is left to the interpreter. */
enum fp_answer fp_render_own(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                             PyObject **text)
{
    struct fp_tb *tb = call->tb;
    *text = NULL;
    bool own = item->exact && !is_stdin(tb, item->filename);
    bool columns = item->kind == FP_CARETS && item->column >= 0 && item->end_column >= 0;
    enum fp_answer answer = FP_DECLINE;
    if (own && line == NULL && rest == NULL)
        answer = render_plain(item, NULL, text);
    else if (own && columns && line != NULL) {
        answer = fp_rules_known(call);
        if (answer == FP_DONE)
            answer = fp_carets(call, item, line, rest, text);
    }
    else if (own && !columns && rest == NULL) {
        PyObject *stripped = fp_strip(line, true);
        if (stripped == NULL)
            return FP_ERROR;
        if (tb->has.carets != 2 || is_one_line(stripped))
            answer = render_plain(item, stripped, text);
        Py_DECREF(stripped);
    }
    return answer;
}

enum fp_answer fp_render(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                         PyObject **text, bool *lasts)
{
    enum fp_answer answer = fp_render_own(call, item, line, rest, text);
    if (answer != FP_DECLINE || call->tb->has.carets == 0)
        return answer;
    *lasts = *lasts && !any_may_warn(line, rest);
    return render_by_standard(call, item, line, rest, text);
}
