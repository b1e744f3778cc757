/* Where a frame stands (line and columns) and its source lines.  Normal context. */
#include "tb.h"

#if FP_HAS_POSITIONS
/* The position table, as CPython's Objects/locations.md describes it: entries that begin with a byte of 128 or more,
 * which holds a form and how many code units it is for; numbers in the bytes after it, all below 128. */
enum { ENTRY = 128, ONE_LINE = 10, NO_COLUMNS = 13, LONG = 14, NOTHING = 15, UNIT = 2 };

struct table {
    const unsigned char *at, *end;
    bool broken; /* numbers that end too early or are too large */
};

static int next_byte(struct table *table)
{
    if (table->at < table->end && *table->at < ENTRY)
        return *table->at++;
    table->broken = true;
    return 0;
}

/* Six bits a byte, the lowest first. */
static int next_number(struct table *table)
{
    unsigned value = 0, shift = 0, byte;
    do {
        byte = (unsigned)next_byte(table);
        value |= (byte & 63) << shift;
        shift += 6;
    } while ((byte & 64) != 0 && shift < 30);
    table->broken |= (byte & 64) != 0;
    return (int)value;
}

static int next_signed(struct table *table)
{
    int value = next_number(table);
    return (value & 1) != 0 ? -(value >> 1) : value >> 1;
}

/* Of the entry whose first byte has been read; *line: the one before it, then its own. */
static void read_entry(struct table *table, int form, int64_t *line, struct fp_item *item)
{
    item->lineno = item->end_lineno = item->column = item->end_column = -1;
    if (form == NOTHING)
        return;
    if (form == NO_COLUMNS || form == LONG)
        *line += next_signed(table);
    else if (form >= ONE_LINE)
        *line += form - ONE_LINE;
    int64_t end = form == LONG ? *line + next_number(table) : *line;
    table->broken |= *line < 0 || end > INT_MAX;
    item->lineno = (int)*line;
    item->end_lineno = (int)end;
    if (form == LONG) {
        item->column = next_number(table) - 1;
        item->end_column = next_number(table) - 1;
    }
    else if (form != NO_COLUMNS) {
        int first = next_byte(table), second = form < ONE_LINE ? first & 15 : next_byte(table);
        item->column = form < ONE_LINE ? form * 8 + (first >> 4) : first;
        item->end_column = form < ONE_LINE ? item->column + second : second;
    }
}

/* What co_positions() gives for the instruction.  False for a table that isn't as the compiler makes them, and for an
 * instruction that isn't there. */
static bool read_position(const PyCodeObject *code, int at, struct fp_item *item)
{
    const unsigned char *start = (const unsigned char *)PyBytes_AS_STRING(code->co_linetable);
    struct table table = {start, start + PyBytes_GET_SIZE(code->co_linetable), false};
    int64_t line = code->co_firstlineno;
    for (int unit = 0; unit <= at / UNIT && !table.broken;) {
        if (table.at == table.end || *table.at < ENTRY)
            return false;
        int first = *table.at++ - ENTRY;
        unit += (first & 7) + 1;
        read_entry(&table, first >> 3, &line, item);
    }
    return !table.broken && (table.at == table.end || *table.at >= ENTRY);
}
#endif

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
    if (!read_position(item->code, item->at, item) || item->lineno < 0)
        return FP_DECLINE;
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
