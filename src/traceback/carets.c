/* The text of a frame with carets, where all its lines are shown or could be (3.13 and later).  Normal context. */
#include "carets.h"

#include <string.h>

/* What the layout works on.  Offsets are in characters of the dedented lines, columns in places of the terminal. */
struct layout {
    struct fp_tb *tb;
    struct fp_lines lines;
    int start, end; /* of the expression, in the first and the last line */
    int start_column, end_column;
    struct fp_anchors anchors;
    bool carets;
    struct fp_buffer out;
};

/* The expression's own text; NULL: no memory. */
static Py_UCS4 *join_segment(const struct layout *layout, int *length)
{
    const struct fp_lines *lines = &layout->lines;
    size_t room = 0;
    for (int i = 0; i < lines->count; i++)
        room += (size_t)lines->lines[i].length + 1;
    Py_UCS4 *segment = PyMem_Malloc(room * sizeof *segment);
    *length = 0;
    for (int i = 0; segment != NULL && i < lines->count; i++) {
        const struct fp_line *line = &lines->lines[i];
        int from = i == 0 ? layout->start : 0, to = i == lines->count - 1 ? layout->end : line->length;
        if (i > 0)
            segment[(*length)++] = '\n';
        memcpy(segment + *length, line->text + from, (size_t)(to - from) * sizeof *segment);
        *length += to - from;
    }
    return segment;
}

static void place_in_segment(const Py_UCS4 *segment, int offset, int *line, int *column)
{
    *line = *column = 0;
    for (int i = 0; i < offset; i++) {
        (*column)++;
        if (segment[i] == '\n') {
            (*line)++;
            *column = 0;
        }
    }
}

/* Where another sign than the caret begins and ends: before and after the operator, or around the brackets. */
static void place_anchors(const Py_UCS4 *segment, int length, const struct fp_expression *expression,
                          struct fp_anchors *anchors)
{
    anchors->present =
        expression->shape == FP_BINARY || expression->shape == FP_SUBSCRIPT || expression->shape == FP_CALL;
    if (!anchors->present)
        return;
    int mark = expression->mark, next = mark + 1;
    place_in_segment(segment, mark, &anchors->left_line, &anchors->left);
    if (expression->shape != FP_BINARY) {
        place_in_segment(segment, expression->end - 1, &anchors->right_line, &anchors->right);
        anchors->right++;
        return;
    }
    bool two = next < length && next < expression->right_start && !Py_UNICODE_ISSPACE(segment[next]);
    anchors->right_line = anchors->left_line;
    anchors->right = anchors->left + 1 + two;
}

static int skip_blanks(const struct fp_line *line, int at)
{
    while (at < line->length && (line->text[at] == ' ' || line->text[at] == '\t'))
        at++;
    return at;
}

static int name_length(const struct fp_line *line)
{
    int at = 0;
    while (at < line->length && (line->text[at] == '_' || (line->text[at] < 128 && Py_UNICODE_ISALNUM(line->text[at]))))
        at++;
    return at;
}

enum frame_of { NEITHER, RETURNED, ASSIGNED, UNCERTAIN };

/* Whether the expression is all that "return" or "name =" is followed by. */
static enum frame_of what_takes_it(const struct layout *layout)
{
    const struct fp_line *first = &layout->lines.lines[0], *last = &layout->lines.lines[layout->lines.count - 1];
    static const Py_UCS4 word[] = {'r', 'e', 't', 'u', 'r', 'n'};
    int length = name_length(first), at = skip_blanks(first, length);
    if (layout->start > 0 && first->text[0] == '(')
        return UNCERTAIN; /* a target may stand in parentheses */
    bool returned = length == 6 && memcmp(first->text, word, sizeof word) == 0;
    if (length == 0 || length > layout->start || (!returned && (at >= layout->start || first->text[at] != '=')))
        return NEITHER;
    if (!returned)
        at = skip_blanks(first, at + 1);
    if (at != layout->start)
        return at < first->length && first->text[at] == '(' ? UNCERTAIN : NEITHER;
    for (int i = 0; i < layout->end; i++)
        if (last->text[i] >= 128)
            return NEITHER; /* the interpreter compares an offset in bytes with one in characters */
    if (!returned && (fp_is_keyword(first->text, length) || (first->text[0] >= '0' && first->text[0] <= '9')))
        return UNCERTAIN;
    int after = skip_blanks(last, layout->end);
    if (after < last->length && last->text[after] != '#')
        return last->text[after] == ';' ? UNCERTAIN : NEITHER;
    return returned ? RETURNED : ASSIGNED;
}

/* A line end outside of brackets: there the text is no statement. */
static bool is_broken_before(const Py_UCS4 *segment, int mark)
{
    for (int i = 0; i < mark; i++)
        if (segment[i] == '\n')
            return true;
    return false;
}

/* Carets say nothing where they would stand under all that is shown. */
static enum fp_answer decide_carets(struct layout *layout, const struct fp_expression *expression,
                                    const Py_UCS4 *segment, int length)
{
    const struct fp_line *first = &layout->lines.lines[0], *last = &layout->lines.lines[layout->lines.count - 1];
    int text_start = skip_blanks(first, 0);
    if (text_start < first->length && first->text[text_start] == '#')
        return FP_DECLINE;
    bool whole_call = expression->shape == FP_CALL && expression->start == 0 && expression->end == length;
    enum frame_of taken = whole_call ? what_takes_it(layout) : NEITHER;
    if (taken == UNCERTAIN)
        return FP_DECLINE;
    if (taken != NEITHER && is_broken_before(segment, expression->mark))
        return FP_DECLINE;
    if (taken == ASSIGNED || (taken == RETURNED && expression->of_name)) {
        layout->carets = false;
        return FP_DONE;
    }
    bool before = false, after = false;
    for (int i = 0; i < layout->start; i++)
        before |= !Py_UNICODE_ISSPACE(first->text[i]);
    for (int i = layout->end; i < last->length; i++)
        after |= !Py_UNICODE_ISSPACE(last->text[i]);
    layout->carets = layout->anchors.present || before || after;
    return FP_DONE;
}

static enum fp_answer find_anchors(struct layout *layout)
{
    struct fp_expression expression;
    int length;
    Py_UCS4 *segment = join_segment(layout, &length);
    if (segment == NULL) {
        PyErr_NoMemory();
        return FP_ERROR;
    }
    enum fp_answer answer = FP_DECLINE;
    if (fp_parse(segment, length, &expression)) {
        place_anchors(segment, length, &expression, &layout->anchors);
        answer = decide_carets(layout, &expression, segment, length);
    }
    PyMem_Free(segment);
    return answer;
}

static int width_of(struct layout *layout, int line, int offset)
{
    const struct fp_line *text = &layout->lines.lines[line];
    return text->ascii ? offset : fp_width(layout->tb, text->text, text->length, offset);
}

/* From offsets to columns. */
static int measure(struct layout *layout)
{
    struct fp_anchors *anchors = &layout->anchors;
    layout->start_column = width_of(layout, 0, layout->start);
    layout->end_column = width_of(layout, layout->lines.count - 1, layout->end);
    if (anchors->present) {
        anchors->left =
            width_of(layout, anchors->left_line, anchors->left + (anchors->left_line == 0 ? layout->start : 0));
        anchors->right =
            width_of(layout, anchors->right_line, anchors->right + (anchors->right_line == 0 ? layout->start : 0));
    }
    return PyErr_Occurred() ? -1 : 0;
}

static bool is_between_anchors(const struct layout *layout, int line, int column)
{
    const struct fp_anchors *anchors = &layout->anchors;
    return anchors->present && (line > anchors->left_line || (line == anchors->left_line && column >= anchors->left)) &&
           (line < anchors->right_line || (line == anchors->right_line && column < anchors->right));
}

static int put_carets(struct layout *layout, int line)
{
    const struct fp_line *text = &layout->lines.lines[line];
    bool operator_only = layout->anchors.present;
    int blanks = 0, last = layout->lines.count - 1;
    int columns = line == last ? layout->end_column : width_of(layout, line, text->length);
    if (columns < 0)
        return -1;
    while (blanks < text->length && Py_UNICODE_ISSPACE(text->text[blanks]))
        blanks++;
    int from = line == 0 && layout->start_column > blanks ? layout->start_column : blanks;
    fp_put_ascii(&layout->out, "    ");
    if (from < columns) { /* else the line would be blank, and blank lines are shown empty */
        fp_put(&layout->out, ' ', from);
        for (int column = from; column < columns; column++)
            fp_put(&layout->out, operator_only && !is_between_anchors(layout, line, column) ? '~' : '^', 1);
    }
    fp_put_ascii(&layout->out, "\n");
    return 0;
}

static int put_line(struct layout *layout, int line)
{
    const struct fp_line *text = &layout->lines.lines[line];
    fp_put_ascii(&layout->out, "    ");
    fp_put_text(&layout->out, text->text, text->length);
    fp_put_ascii(&layout->out, "\n");
    return layout->carets ? put_carets(layout, line) : 0;
}

static bool is_significant(const struct layout *layout, int line)
{
    const struct fp_anchors *anchors = &layout->anchors;
    if (line == 0 || line == layout->lines.count - 1)
        return true;
    return anchors->present && ((line >= anchors->left_line - 1 && line <= anchors->left_line + 1) ||
                                (line >= anchors->right_line - 1 && line <= anchors->right_line + 1));
}

/* The first and the last line and those around the anchors; a single line between two of them is shown too. */
static int put_lines(struct layout *layout)
{
    int previous = -1;
    for (int line = 0; line < layout->lines.count; line++) {
        if (!is_significant(layout, line))
            continue;
        int skipped = line - previous - 1;
        if (previous >= 0 && skipped == 1 && put_line(layout, line - 1) < 0)
            return -1;
        if (previous >= 0 && skipped > 1) {
            char text[64];
            snprintf(text, sizeof text, "    ...<%d lines>...\n", skipped);
            fp_put_ascii(&layout->out, text);
        }
        if (put_line(layout, line) < 0)
            return -1;
        previous = line;
    }
    return 0;
}

/* Offsets in the dedented lines.  Declines what a changed file may lead to. */
static bool place_expression(struct layout *layout, const struct fp_item *item)
{
    const struct fp_line *first = &layout->lines.lines[0], *last = &layout->lines.lines[layout->lines.count - 1];
    layout->start = fp_character_offset(first, item->column) - first->dedent;
    layout->end = fp_character_offset(last, item->end_column) - first->dedent;
    if (last->dedent != first->dedent || first->length == 0)
        return false;
    layout->start = layout->start > 0 ? layout->start : 0;
    layout->end = layout->end > 0 ? layout->end : 0;
    return layout->lines.count > 1 || layout->start <= layout->end;
}

static enum fp_answer lay_out(struct layout *layout, const struct fp_item *item)
{
    fp_lines_dedent(&layout->lines);
    if (!place_expression(layout, item))
        return FP_DECLINE;
    enum fp_answer answer = find_anchors(layout);
    if (answer != FP_DONE)
        return answer;
    if (measure(layout) < 0)
        return FP_ERROR;
    fp_put_header(&layout->out, item);
    return put_lines(layout) < 0 ? FP_ERROR : FP_DONE;
}

enum fp_answer fp_carets(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                         PyObject **text)
{
    if (call->tb->has.carets == 1)
        return fp_carets_under_line(call, item, line, text);
    struct layout layout = {.tb = call->tb};
    enum fp_answer answer = fp_lines_read(line, rest, &layout.lines);
    if (answer != FP_DONE)
        return answer;
    answer = lay_out(&layout, item);
    if (answer == FP_DONE) {
        *text = fp_buffer_finish(&layout.out);
        answer = *text != NULL ? FP_DONE : FP_ERROR;
    }
    else
        PyMem_Free(layout.out.text);
    fp_lines_free(&layout.lines);
    return answer;
}
