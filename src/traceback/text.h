/* Source lines as characters, and a buffer to write a frame's text to.  Normal context. */
#ifndef FAULTPROOF_TRACEBACK_TEXT_H
#define FAULTPROOF_TRACEBACK_TEXT_H

#include "tb.h"

/* A source line without blanks at its end and, where lines are shown together, without their common indentation. */
struct fp_line {
    PyObject *whole; /* as it came; borrowed */
    Py_UCS4 *text;   /* from the first character that is shown */
    int length;
    int dedent; /* characters taken away before text */
    bool ascii;
};

struct fp_lines {
    struct fp_line *lines;
    int count;
    Py_UCS4 *storage;
};

struct fp_buffer {
    Py_UCS4 *text;
    size_t length, room;
    bool failed; /* no memory */
};

enum fp_answer fp_lines_read(PyObject *line, PyObject *rest, struct fp_lines *lines);
void fp_lines_dedent(struct fp_lines *lines);
void fp_lines_free(struct fp_lines *lines);
int fp_character_offset(const struct fp_line *line, int byte_offset);
int fp_width(struct fp_tb *tb, const Py_UCS4 *text, int length, int offset); /* -1: an exception */

void fp_put(struct fp_buffer *buffer, Py_UCS4 c, int count);
void fp_put_ascii(struct fp_buffer *buffer, const char *text);
void fp_put_text(struct fp_buffer *buffer, const Py_UCS4 *text, int length);
void fp_put_header(struct fp_buffer *buffer, const struct fp_item *item);
PyObject *fp_buffer_finish(struct fp_buffer *buffer);

#endif
