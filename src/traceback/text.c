/* Source lines as characters, and a buffer to write a frame's text to.  Normal context. */
#include "text.h"

#include <stdio.h>
#include <string.h>

enum { MOST_LINES = 400, MOST_CHARACTERS = 20000 };

/* Characters that str.splitlines() splits at, that move the cursor or that can't be encoded: not handled here. */
static bool is_uncommon(Py_UCS4 c)
{
    return (c < 0x20 && c != '\t') || c == 0x85 || c == 0x2028 || c == 0x2029 || (c >= 0xD800 && c <= 0xDFFF);
}

static int stripped_length(PyObject *text)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    while (length > 0 && Py_UNICODE_ISSPACE(PyUnicode_READ(kind, data, length - 1)))
        length--;
    return length <= MOST_CHARACTERS ? (int)length : -1;
}

static bool copy_line(struct fp_line *line, PyObject *text, Py_UCS4 *storage, int length)
{
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    *line = (struct fp_line){.whole = text, .text = storage, .length = length, .ascii = true};
    for (int i = 0; i < length; i++) {
        storage[i] = PyUnicode_READ(kind, data, i);
        line->ascii &= storage[i] < 128;
        if (is_uncommon(storage[i]))
            return false;
    }
    return true;
}

/* Reads the lines, without the blanks at their ends.  Declines lines with uncommon characters. */
enum fp_answer fp_lines_read(PyObject *line, PyObject *rest, struct fp_lines *lines)
{
    Py_ssize_t count = 1 + (rest != NULL ? PyTuple_GET_SIZE(rest) : 0);
    size_t characters = 0;
    *lines = (struct fp_lines){0};
    if (count > MOST_LINES)
        return FP_DECLINE;
    for (Py_ssize_t i = 0; i < count; i++) {
        int length = stripped_length(i == 0 ? line : PyTuple_GET_ITEM(rest, i - 1));
        if (length < 0)
            return FP_DECLINE;
        characters += (size_t)length + 1;
    }
    lines->lines = PyMem_Malloc((size_t)count * sizeof *lines->lines);
    lines->storage = PyMem_Malloc(characters * sizeof *lines->storage);
    if (lines->lines == NULL || lines->storage == NULL) {
        fp_lines_free(lines);
        PyErr_NoMemory();
        return FP_ERROR;
    }
    Py_UCS4 *storage = lines->storage;
    for (lines->count = 0; lines->count < count; lines->count++) {
        PyObject *text = lines->count == 0 ? line : PyTuple_GET_ITEM(rest, lines->count - 1);
        int length = stripped_length(text);
        if (!copy_line(&lines->lines[lines->count], text, storage, length)) {
            fp_lines_free(lines);
            return FP_DECLINE;
        }
        storage += length + 1;
    }
    return FP_DONE;
}

void fp_lines_free(struct fp_lines *lines)
{
    PyMem_Free(lines->lines);
    PyMem_Free(lines->storage);
    *lines = (struct fp_lines){0};
}

/* textwrap.dedent() */
void fp_lines_dedent(struct fp_lines *lines)
{
    int margin = -1;
    const struct fp_line *first = NULL;
    for (int i = 0; i < lines->count; i++) {
        const struct fp_line *line = &lines->lines[i];
        if (line->length == 0)
            continue;
        if (first == NULL)
            first = line;
        int same = 0;
        while (same < line->length && (line->text[same] == ' ' || line->text[same] == '\t') && same < first->length &&
               line->text[same] == first->text[same])
            same++;
        margin = margin < 0 || same < margin ? same : margin;
    }
    for (int i = 0; i < lines->count && margin > 0; i++) {
        struct fp_line *line = &lines->lines[i];
        if (line->length == 0)
            continue;
        line->text += margin;
        line->length -= margin;
        line->dedent = margin;
    }
}

/* How many characters begin in the first byte_offset bytes of the line (not dedented). */
int fp_character_offset(const struct fp_line *line, int byte_offset)
{
    const Py_UCS4 *text = line->text - line->dedent;
    int length = line->length + line->dedent, count = 0, bytes = 0;
    if (line->ascii)
        return byte_offset < length ? byte_offset : length;
    while (count < length && bytes < byte_offset) {
        Py_UCS4 c = text[count++];
        bytes += c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    }
    return count;
}

/* The columns that the first characters take; beyond ASCII the interpreter's module says it. */
int fp_width(struct fp_tb *tb, const Py_UCS4 *text, int length, int offset)
{
    bool ascii = true;
    for (int i = 0; i < length; i++)
        ascii &= text[i] < 128;
    if (ascii || !tb->has.display_width)
        return offset;
    PyObject *function = fp_global(tb->std_dict, tb->s._display_width), *width = NULL;
    PyObject *line = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, text, length), *number = PyLong_FromLong(offset);
    if (function != NULL && line != NULL && number != NULL)
        width = PyObject_CallFunctionObjArgs(function, line, number, NULL);
    long value = width != NULL ? PyLong_AsLong(width) : -1;
    Py_XDECREF(number);
    Py_XDECREF(width);
    Py_XDECREF(line);
    Py_XDECREF(function);
    return (int)value;
}

static bool make_room(struct fp_buffer *buffer, size_t more)
{
    if (buffer->length + more > buffer->room && !buffer->failed) {
        size_t room = (buffer->length + more) * 2 + 128;
        Py_UCS4 *text = PyMem_Realloc(buffer->text, room * sizeof *text);
        buffer->failed = text == NULL;
        if (text != NULL) {
            buffer->text = text;
            buffer->room = room;
        }
    }
    return !buffer->failed;
}

void fp_put(struct fp_buffer *buffer, Py_UCS4 c, int count)
{
    if (count <= 0 || !make_room(buffer, (size_t)count))
        return;
    for (int i = 0; i < count; i++)
        buffer->text[buffer->length++] = c;
}

void fp_put_text(struct fp_buffer *buffer, const Py_UCS4 *text, int length)
{
    if (length <= 0 || !make_room(buffer, (size_t)length))
        return;
    memcpy(buffer->text + buffer->length, text, (size_t)length * sizeof *text);
    buffer->length += (size_t)length;
}

void fp_put_ascii(struct fp_buffer *buffer, const char *text)
{
    for (; *text != '\0'; text++)
        fp_put(buffer, (unsigned char)*text, 1);
}

static void put_object(struct fp_buffer *buffer, PyObject *text)
{
    size_t length = (size_t)PyUnicode_GET_LENGTH(text);
    if (!make_room(buffer, length + 1) ||
        PyUnicode_AsUCS4(text, buffer->text + buffer->length, (Py_ssize_t)length + 1, 0) == NULL)
        return;
    buffer->length += length;
}

/* The line that names file, line and function. */
void fp_put_header(struct fp_buffer *buffer, const struct fp_item *item)
{
    char number[32];
    snprintf(number, sizeof number, "%d", item->lineno);
    fp_put_ascii(buffer, "  File \"");
    put_object(buffer, item->filename);
    fp_put_ascii(buffer, "\", line ");
    fp_put_ascii(buffer, number);
    fp_put_ascii(buffer, ", in ");
    put_object(buffer, item->name);
    fp_put_ascii(buffer, "\n");
}

PyObject *fp_buffer_finish(struct fp_buffer *buffer)
{
    PyObject *text = NULL;
    if (buffer->failed)
        PyErr_NoMemory();
    else
        text = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, buffer->text, (Py_ssize_t)buffer->length);
    PyMem_Free(buffer->text);
    return text;
}
