/* Reading position and tokens of the expression parser.  Normal context. */
#ifndef FAULTPROOF_TRACEBACK_SCAN_H
#define FAULTPROOF_TRACEBACK_SCAN_H

#include "parse.h"

struct fp_scanner {
    const Py_UCS4 *text;
    int length, at;
    int last_end;  /* of the token that was read last */
    int depth;     /* of nesting */
    Py_UCS4 quote; /* of the formatted string that is being read; 0: none */
};

void fp_scan_blanks(struct fp_scanner *scanner);
Py_UCS4 fp_scan_peek(struct fp_scanner *scanner, int ahead);
bool fp_scan_char(struct fp_scanner *scanner, Py_UCS4 c);
bool fp_scan_word(struct fp_scanner *scanner, const char *word);
int fp_scan_name_length(struct fp_scanner *scanner);
bool fp_scan_name(struct fp_scanner *scanner);
bool fp_scan_number(struct fp_scanner *scanner);
bool fp_scan_string(struct fp_scanner *scanner, bool *bytes);
bool fp_parse_field(struct fp_scanner *scanner); /* parse.c: the expression in a formatted string */

#endif
