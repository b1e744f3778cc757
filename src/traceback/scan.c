/* The tokens of the expression parser: names, numbers and strings of a form that is certain.  Normal context. */
#include "scan.h"

#include <string.h>

static Py_UCS4 at(const struct fp_scanner *scanner, int place)
{
    return place < scanner->length ? scanner->text[place] : 0;
}

void fp_scan_blanks(struct fp_scanner *scanner)
{
    while (at(scanner, scanner->at) == ' ' || at(scanner, scanner->at) == '\t' || at(scanner, scanner->at) == '\n')
        scanner->at++;
}

/* The character that many places behind the next token's first one. */
Py_UCS4 fp_scan_peek(struct fp_scanner *scanner, int ahead)
{
    fp_scan_blanks(scanner);
    return at(scanner, scanner->at + ahead);
}

bool fp_scan_char(struct fp_scanner *scanner, Py_UCS4 c)
{
    if (fp_scan_peek(scanner, 0) != c)
        return false;
    scanner->last_end = ++scanner->at;
    return true;
}

static bool is_name_start(Py_UCS4 c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 128;
}

static bool is_digit(Py_UCS4 c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_part(Py_UCS4 c)
{
    return is_name_start(c) || is_digit(c);
}

int fp_scan_name_length(struct fp_scanner *scanner)
{
    int length = 0;
    if (is_name_start(fp_scan_peek(scanner, 0)))
        while (is_name_part(at(scanner, scanner->at + length)))
            length++;
    return length;
}

static bool equals(const Py_UCS4 *text, int length, const char *word)
{
    if ((int)strlen(word) != length)
        return false;
    for (int i = 0; i < length; i++)
        if (text[i] != (Py_UCS4)word[i])
            return false;
    return true;
}

/* A keyword as a whole word. */
bool fp_scan_word(struct fp_scanner *scanner, const char *word)
{
    int length = fp_scan_name_length(scanner);
    if (length == 0 || !equals(scanner->text + scanner->at, length, word))
        return false;
    scanner->last_end = scanner->at += length;
    return true;
}

bool fp_is_keyword(const Py_UCS4 *word, int length)
{
    static const char *const keywords[] = {
        "False", "None",     "True",  "and",    "as",   "assert", "async",  "await",    "break",
        "class", "continue", "def",   "del",    "elif", "else",   "except", "finally",  "for",
        "from",  "global",   "if",    "import", "in",   "is",     "lambda", "nonlocal", "not",
        "or",    "pass",     "raise", "return", "try",  "while",  "with",   "yield",    "__debug__"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (equals(word, length, keywords[i]))
            return true;
    return false;
}

static bool is_identifier(const Py_UCS4 *word, int length)
{
    bool ascii = true;
    for (int i = 0; i < length; i++)
        ascii &= word[i] < 128;
    if (ascii)
        return true;
    PyObject *name = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, word, length);
    if (name == NULL)
        PyErr_Clear(); /* no memory: it isn't known to be one, and the interpreter's parser is asked */
    bool valid = name != NULL && PyUnicode_IsIdentifier(name) == 1;
    Py_XDECREF(name);
    return valid;
}

/* An identifier that isn't a keyword. */
bool fp_scan_name(struct fp_scanner *scanner)
{
    int length = fp_scan_name_length(scanner);
    const Py_UCS4 *word = scanner->text + scanner->at;
    if (length == 0 || fp_is_keyword(word, length) || !is_identifier(word, length))
        return false;
    scanner->last_end = scanner->at += length;
    return true;
}

static int digits(const struct fp_scanner *scanner, int place, bool hexadecimal)
{
    int count = 0;
    Py_UCS4 c = at(scanner, place);
    while (is_digit(c) || (c == '_' && count > 0 && is_digit(at(scanner, place + count + 1))) ||
           (hexadecimal && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))))
        c = at(scanner, place + ++count);
    return count;
}

/* A decimal or hexadecimal number not run together with a name. */
bool fp_scan_number(struct fp_scanner *scanner)
{
    int place = (fp_scan_blanks(scanner), scanner->at), count = digits(scanner, place, false);
    bool fraction = at(scanner, place + count) == '.';
    if (count == 0 && !(fraction && digits(scanner, place + 1, false) > 0))
        return false;
    if (count == 1 && at(scanner, place) == '0' && at(scanner, place + 1) == 'x') {
        count = digits(scanner, place + 2, true);
        if (count == 0)
            return false;
        place += 2 + count;
    }
    else {
        if (count > 1 && at(scanner, place) == '0')
            return false;
        if (count > 4000)
            return false; /* beyond what int() converts */
        place += count;
        if (fraction)
            place += 1 + digits(scanner, place + 1, false);
        Py_UCS4 e = at(scanner, place), sign = at(scanner, place + 1);
        int skip = e == 'e' || e == 'E' ? 1 + (sign == '+' || sign == '-') : 0;
        count = skip > 0 ? digits(scanner, place + skip, false) : 0;
        if (count > 0)
            place += skip + count;
    }
    if (is_name_part(at(scanner, place)) || at(scanner, place) == '.')
        return false;
    scanner->last_end = scanner->at = place;
    return true;
}

struct prefix {
    bool raw, bytes, formatted, valid;
    int length;
};

static struct prefix read_prefix(const struct fp_scanner *scanner)
{
    struct prefix prefix = {.valid = true};
    for (;; prefix.length++) {
        Py_UCS4 c = at(scanner, scanner->at + prefix.length) | 0x20;
        Py_UCS4 whole = at(scanner, scanner->at + prefix.length);
        if (whole == '"' || whole == '\'')
            break;
        bool *flag = c == 'r' ? &prefix.raw : c == 'b' ? &prefix.bytes : c == 'f' ? &prefix.formatted : NULL;
        if (prefix.length == 2 || flag == NULL || *flag) {
            prefix.valid = false;
            break;
        }
        *flag = true;
    }
    if (prefix.bytes && prefix.formatted)
        prefix.valid = false;
    return prefix;
}

static bool is_hexadecimal(const struct fp_scanner *scanner, int place, int count)
{
    for (int i = 0; i < count; i++) {
        Py_UCS4 c = at(scanner, place + i), lower = c | 0x20;
        if (!is_digit(c) && !(lower >= 'a' && lower <= 'f'))
            return false;
    }
    return true;
}

/* Only escapes that every version reads without a warning. */
static int escape_length(const struct fp_scanner *scanner, int place, struct prefix prefix)
{
    Py_UCS4 c = at(scanner, place + 1);
    if (prefix.raw)
        return c != 0 && c != '\n' ? 2 : 0;
    if (c != 0 && c < 128 && strchr("ntrabfv\\'\"", (int)c) != NULL)
        return 2;
    if (c == 'x' && is_hexadecimal(scanner, place + 2, 2))
        return 4;
    if (c == 'u' && !prefix.bytes && is_hexadecimal(scanner, place + 2, 4))
        return 6;
    return c == '0' && !is_digit(at(scanner, place + 2)) ? 2 : 0;
}

/* A replacement field of a formatted string; the brace is the next character. */
static bool scan_field(struct fp_scanner *scanner, Py_UCS4 quote)
{
    struct fp_scanner inner = *scanner;
    inner.at++;
    inner.quote = quote;
    if (scanner->quote != 0 || !fp_parse_field(&inner))
        return false;
    Py_UCS4 c = fp_scan_peek(&inner, 0);
    if (c == '!') {
        Py_UCS4 conversion = at(&inner, inner.at + 1);
        if (conversion != 'r' && conversion != 's' && conversion != 'a')
            return false;
        inner.at += 2;
        c = at(&inner, inner.at);
    }
    if (c == ':')
        do
            c = at(&inner, ++inner.at);
        while (c != 0 && c != '{' && c != '}' && c != '\\' && c != '\n' && c != quote);
    if (c != '}')
        return false;
    for (int i = scanner->at; i < inner.at; i++)
        if (scanner->text[i] == '\n')
            return false; /* allowed since 3.12 only */
    scanner->at = inner.at + 1;
    return true;
}

/* A string literal; *bytes says of which kind. */
bool fp_scan_string(struct fp_scanner *scanner, bool *bytes)
{
    fp_scan_blanks(scanner);
    struct prefix prefix = read_prefix(scanner);
    struct fp_scanner inner = *scanner;
    Py_UCS4 quote = at(scanner, scanner->at + prefix.length);
    if (!prefix.valid || quote == scanner->quote)
        return false;
    inner.at += prefix.length;
    bool triple = at(&inner, inner.at + 1) == quote && at(&inner, inner.at + 2) == quote;
    if (triple && (prefix.formatted || scanner->quote != 0))
        return false;
    inner.at += triple ? 3 : 1;
    for (;;) {
        Py_UCS4 c = at(&inner, inner.at);
        if (c == 0 || (c == '\n' && !triple) || (c >= 128 && prefix.bytes))
            return false;
        if (c == quote && (!triple || (at(&inner, inner.at + 1) == quote && at(&inner, inner.at + 2) == quote)))
            break;
        if (c == '\\') {
            int length = scanner->quote == 0 ? escape_length(&inner, inner.at, prefix) : 0;
            if (length == 0)
                return false;
            inner.at += length;
        }
        else if (prefix.formatted && (c == '{' || c == '}')) {
            if (at(&inner, inner.at + 1) == c)
                inner.at += 2;
            else if (c == '}' || !scan_field(&inner, quote))
                return false;
        }
        else
            inner.at++;
    }
    scanner->last_end = scanner->at = inner.at + (triple ? 3 : 1);
    *bytes = prefix.bytes;
    return true;
}
