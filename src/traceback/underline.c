/* The text of a frame with carets under its first line only (3.11 and 3.12).  Normal context. */
#include "carets.h"

#include <string.h>

struct place {
    int start, end;  /* of the expression in the line, in characters */
    int left, right; /* of the anchors, from the start; right 0: none */
};

/* From an operand's or a value's end to the operator or the bracket: parentheses may stand between them. */
static void skip_closing(const Py_UCS4 *segment, int length, struct place *place)
{
    while (place->left < length && (Py_UNICODE_ISSPACE(segment[place->left]) || segment[place->left] == ')')) {
        place->left++;
        place->right++;
    }
    place->right = place->right < length ? place->right : length;
}

/* The operator with its neighbour, or the brackets, as 3.11 and 3.12 find them.  Declines what isn't certain: a blank
   at the start is an indentation to their parser. */
static bool find_anchors(const struct fp_tb *tb, const struct fp_line *line, struct place *place)
{
    const Py_UCS4 *segment = line->text + place->start;
    int length = place->end - place->start;
    struct fp_expression expression;
    if (!line->ascii || (length > 0 && Py_UNICODE_ISSPACE(segment[0])) || !fp_parse(segment, length, &expression))
        return false;
    if (expression.shape == FP_BINARY) {
        int blanks = 0, between = expression.right_start - expression.left_end;
        const Py_UCS4 *text = segment + expression.left_end;
        while (blanks < between && Py_UNICODE_ISSPACE(text[blanks]))
            blanks++;
        place->left = expression.left_end + blanks;
        place->right = place->left + 1 + (blanks + 1 < between && !Py_UNICODE_ISSPACE(text[blanks + 1]));
        if (tb->has.display_width)
            skip_closing(segment, length, place);
    }
    else if (expression.shape == FP_SUBSCRIPT) {
        place->left = tb->has.display_width ? expression.mark : expression.left_end;
        place->right = expression.slice_end + 1;
        if (tb->has.display_width) {
            while (place->right < length && segment[place->right] != ']')
                place->right++;
            place->right += place->right < length;
        }
    }
    return true;
}

/* In a file that has changed the expression may end behind the line, whose line end is counted there. */
static bool is_within(const struct fp_line *line, int byte_offset)
{
    int bytes = 0;
    for (int i = 0; i < line->length; i++) {
        Py_UCS4 c = line->text[i];
        bytes += c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    }
    return byte_offset <= bytes;
}

static bool place_expression(const struct fp_tb *tb, const struct fp_line *line, const struct fp_item *item,
                             struct place *place)
{
    *place = (struct place){0};
    if (!is_within(line, item->column) || (item->end_lineno == item->lineno && !is_within(line, item->end_column)))
        return false;
    place->start = fp_character_offset(line, item->column);
    if (item->end_lineno != item->lineno) {
        place->end = line->length;
        return place->start <= place->end;
    }
    place->end = fp_character_offset(line, item->end_column);
    return place->start <= place->end && find_anchors(tb, line, place);
}

static int put_carets(struct fp_tb *tb, struct fp_buffer *out, const struct fp_line *line, const struct place *place,
                      int blanks)
{
    int start = fp_width(tb, line->text, line->length, place->start);
    int end = fp_width(tb, line->text, line->length, place->end);
    if (start < 0 || end < 0)
        return -1;
    fp_put_ascii(out, "    ");
    fp_put(out, ' ', start - blanks);
    if (place->right > 0) {
        fp_put(out, '~', place->left);
        fp_put(out, '^', place->right - place->left);
        fp_put(out, '~', end - start - place->right);
    }
    else
        fp_put(out, '^', end - start);
    fp_put_ascii(out, "\n");
    return 0;
}

static enum fp_answer lay_out(struct fp_tb *tb, const struct fp_item *item, const struct fp_line *line,
                              struct fp_buffer *out)
{
    struct place place;
    int blanks = 0;
    while (blanks < line->length && Py_UNICODE_ISSPACE(line->text[blanks]))
        blanks++;
    /* blanks at the end are counted with those at the start there: such a line is left to the interpreter */
    Py_ssize_t whole = PyUnicode_GET_LENGTH(line->whole);
    if (blanks == line->length || whole != line->length + 1 || !place_expression(tb, line, item, &place))
        return FP_DECLINE;
    fp_put_header(out, item);
    fp_put_ascii(out, "    ");
    fp_put_text(out, line->text + blanks, line->length - blanks);
    fp_put_ascii(out, "\n");
    bool whole_line = place.end - place.start >= line->length - blanks;
    if (!whole_line || place.right > place.left)
        return put_carets(tb, out, line, &place, blanks) < 0 ? FP_ERROR : FP_DONE;
    return FP_DONE;
}

enum fp_answer fp_carets_under_line(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject **text)
{
    struct fp_lines lines;
    struct fp_buffer out = {0};
    enum fp_answer answer = fp_lines_read(line, NULL, &lines);
    if (answer != FP_DONE)
        return answer;
    answer = lay_out(call->tb, item, &lines.lines[0], &out);
    if (answer == FP_DONE) {
        *text = fp_buffer_finish(&out);
        answer = *text != NULL ? FP_DONE : FP_ERROR;
    }
    else
        PyMem_Free(out.text);
    fp_lines_free(&lines);
    return answer;
}
