/* Where a frame stands (line and columns) and its source lines.  Normal context. */
#include "tb.h"

/* Fills the item's position.  Declines where the code has no line there: the interpreter's module then says "None". */
enum fp_answer fp_locate(struct fp_item *item)
{
    if (item->located)
        return FP_DONE;
    item->column = item->end_column = -1;
    if (item->kind == FP_PLAIN) {
        item->lineno = item->end_lineno = item->at;
        item->located = true;
        return item->at >= 0 ? FP_DONE : FP_DECLINE;
    }
#if FP_HAS_POSITIONS
    int known =
        PyCode_Addr2Location(item->code, item->at, &item->lineno, &item->column, &item->end_lineno, &item->end_column);
    if (!known || item->lineno < 0)
        return FP_DECLINE;
    if (item->end_lineno < 0)
        item->end_lineno = item->lineno;
    item->located = true;
    return FP_DONE;
#else
    return FP_DECLINE;
#endif
}

static PyObject *empty_line(void)
{
    return PyUnicode_FromStringAndSize(NULL, 0);
}

/* The further lines of an expression, "" for one that isn't there. */
static enum fp_answer fetch_rest(struct fp_call *call, const struct fp_item *item, PyObject **rest)
{
    int count = item->end_lineno - item->lineno;
    *rest = PyTuple_New(count);
    for (int i = 0; *rest != NULL && i < count; i++) {
        PyObject *line;
        if (fp_source_line(call, item, item->lineno + 1 + i, &line) < 0 ||
            (line == NULL && (line = empty_line()) == NULL)) {
            Py_CLEAR(*rest);
            break;
        }
        PyTuple_SET_ITEM(*rest, i, line);
        if (!PyUnicode_CheckExact(line)) {
            Py_CLEAR(*rest);
            return FP_DECLINE;
        }
    }
    return *rest != NULL ? FP_DONE : FP_ERROR;
}

/* The first line (NULL: there is none) and the further ones (NULL: the frame has one line only). */
enum fp_answer fp_fetch_lines(struct fp_call *call, const struct fp_item *item, PyObject **line, PyObject **rest)
{
    *rest = NULL;
    if (fp_source_line(call, item, item->lineno, line) < 0)
        return FP_ERROR;
    enum fp_answer answer = *line == NULL || PyUnicode_CheckExact(*line) ? FP_DONE : FP_DECLINE;
    if (answer == FP_DONE && item->kind == FP_CARETS && call->tb->has.carets == 2 && item->end_lineno > item->lineno)
        answer = fetch_rest(call, item, rest);
    if (answer != FP_DONE)
        Py_CLEAR(*line);
    return answer;
}
