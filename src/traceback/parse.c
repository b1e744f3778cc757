/* Recursive descent over the subset of expressions; see parse.h for what its answer means.  Normal context. */
#include "scan.h"

enum { DEEPEST = 60 };

typedef struct fp_expression node;

static bool expression(struct fp_scanner *s, node *result);
static bool factor(struct fp_scanner *s, node *result);

static int here(struct fp_scanner *s)
{
    fp_scan_blanks(s);
    return s->at;
}

static void set(struct fp_scanner *s, node *result, enum fp_shape shape, int start)
{
    *result = (node){.shape = shape, .start = start, .end = s->last_end};
}

/* 'for' name, ... 'in' ... 'if' ...; *present says whether there is one. */
static bool comprehension(struct fp_scanner *s, bool *present);

/* Items up to the closing character: *commas counts, *generator says whether it is a comprehension. */
struct items {
    int count, commas;
    bool starred, generator;
    node first;
};

static bool item(struct fp_scanner *s, struct items *items, Py_UCS4 close)
{
    node node_;
    bool braces = close == '}';
    if (fp_scan_peek(s, 0) == '*') {
        if (braces && fp_scan_peek(s, 1) == '*')
            return false;
        fp_scan_char(s, '*');
        items->starred = true;
        return factor(s, &node_);
    }
    return expression(s, items->count == 0 ? &items->first : &node_);
}

static bool items_until(struct fp_scanner *s, Py_UCS4 close, struct items *items)
{
    *items = (struct items){0};
    while (!fp_scan_char(s, close)) {
        if (items->count > items->commas || items->generator || !item(s, items, close))
            return false;
        items->count++;
        bool generator = false;
        if (items->count == 1 && !items->starred && !comprehension(s, &generator))
            return false;
        items->generator = generator;
        if (!generator && fp_scan_char(s, ','))
            items->commas++;
    }
    return true;
}

static bool parenthesised(struct fp_scanner *s, node *result, int start)
{
    struct items items;
    if (!items_until(s, ')', &items))
        return false;
    if (items.count == 1 && items.commas == 0 && !items.generator) {
        if (items.starred)
            return false;
        *result = items.first;
        return true;
    }
    set(s, result, FP_OTHER, start);
    return true;
}

/* { key: value, **other } or a set */
static bool braced(struct fp_scanner *s, node *result, int start)
{
    node part;
    bool dictionary = false, done = false;
    for (int count = 0; !(done = fp_scan_char(s, '}')); count++) {
        bool unpacked = fp_scan_char(s, '*'), pair = false;
        if (unpacked && (!fp_scan_char(s, '*') || (count > 0 && !dictionary) || !factor(s, &part)))
            return false;
        if (!unpacked) {
            if (!expression(s, &part))
                return false;
            pair = fp_scan_char(s, ':');
            if (pair && !expression(s, &part))
                return false;
        }
        if (count == 0)
            dictionary = unpacked || pair;
        if (dictionary != (unpacked || pair))
            return false;
        bool generator = false;
        if (count == 0 && !unpacked && !comprehension(s, &generator))
            return false;
        if (!fp_scan_char(s, ',') || generator) {
            done = fp_scan_char(s, '}');
            break;
        }
    }
    set(s, result, FP_OTHER, start);
    return done;
}

static bool strings(struct fp_scanner *s, node *result, int start)
{
    bool bytes = false, more = false;
    if (!fp_scan_string(s, &bytes))
        return false;
    for (;;) {
        int length = fp_scan_name_length(s);
        Py_UCS4 next = fp_scan_peek(s, length);
        if ((next != '"' && next != '\'') || (s->quote != 0 && next == s->quote))
            break;
        if (!fp_scan_string(s, &more) || more || bytes)
            return false; /* the two kinds can't be mixed: leave bytes that continue to the interpreter */
    }
    set(s, result, FP_OTHER, start);
    return true;
}

static bool atom(struct fp_scanner *s, node *result)
{
    int start = here(s), length = fp_scan_name_length(s);
    struct items items;
    Py_UCS4 c = fp_scan_peek(s, length);
    if (c == '"' || c == '\'')
        return strings(s, result, start);
    if (length > 0) {
        bool constant = fp_scan_word(s, "None") || fp_scan_word(s, "True") || fp_scan_word(s, "False");
        if (!constant && !fp_scan_name(s))
            return false;
        set(s, result, constant ? FP_OTHER : FP_NAME, start);
        return true;
    }
    bool accepted;
    if (fp_scan_char(s, '('))
        return parenthesised(s, result, start);
    if (fp_scan_char(s, '{'))
        return braced(s, result, start);
    if (fp_scan_char(s, '['))
        accepted = items_until(s, ']', &items);
    else
        accepted = fp_scan_number(s);
    set(s, result, FP_OTHER, start);
    return accepted;
}

/* The arguments of a call after the parenthesis, in an order that the grammar allows. */
static bool arguments(struct fp_scanner *s)
{
    node part;
    bool keywords = false, unpacked = false;
    for (int count = 0; !fp_scan_char(s, ')'); count++) {
        if (fp_scan_char(s, '*')) {
            bool two = s->at < s->length && s->text[s->at] == '*' && fp_scan_char(s, '*');
            if ((!two && unpacked) || !expression(s, &part))
                return false;
            unpacked |= two;
        }
        else {
            struct fp_scanner before = *s;
            bool named =
                fp_scan_name(s) && fp_scan_peek(s, 0) == '=' && fp_scan_peek(s, 1) != '=' && fp_scan_char(s, '=');
            if (!named) {
                *s = before;
                if (keywords || unpacked)
                    return false;
            }
            keywords |= named;
            bool generator = false;
            if (!expression(s, &part) || (!named && count == 0 && !comprehension(s, &generator)))
                return false;
            if (generator)
                return fp_scan_char(s, ')');
        }
        if (!fp_scan_char(s, ','))
            return fp_scan_char(s, ')');
    }
    return true;
}

/* One place between the commas of a subscript. */
static bool slice(struct fp_scanner *s, node *result)
{
    int start = here(s);
    Py_UCS4 c = fp_scan_peek(s, 0);
    if (c != ':' && !expression(s, result))
        return false;
    if (fp_scan_peek(s, 0) != ':')
        return true;
    if (fp_scan_peek(s, 1) == '=')
        return false;
    for (int i = 0; i < 2 && fp_scan_char(s, ':'); i++) {
        node part;
        c = fp_scan_peek(s, 0);
        if (c != ':' && c != ',' && c != ']' && !expression(s, &part))
            return false;
    }
    set(s, result, FP_OTHER, start);
    return true;
}

static bool subscript(struct fp_scanner *s, int *end)
{
    node part;
    if (!slice(s, &part))
        return false;
    *end = part.end;
    while (fp_scan_char(s, ',')) {
        *end = s->last_end;
        if (fp_scan_peek(s, 0) == ']')
            break;
        if (!slice(s, &part))
            return false;
        *end = s->last_end;
    }
    return fp_scan_char(s, ']');
}

static bool primary(struct fp_scanner *s, node *result)
{
    int start = here(s);
    if (!atom(s, result))
        return false;
    for (;;) {
        node before = *result;
        int mark = here(s), end = 0;
        if (fp_scan_peek(s, 0) == '.' && fp_scan_char(s, '.')) {
            if (!fp_scan_name(s))
                return false;
            set(s, result, FP_OTHER, start);
        }
        else if (fp_scan_char(s, '(')) {
            if (!arguments(s))
                return false;
            set(s, result, FP_CALL, start);
        }
        else if (fp_scan_char(s, '[')) {
            if (!subscript(s, &end))
                return false;
            set(s, result, FP_SUBSCRIPT, start);
        }
        else
            return true;
        result->left_end = before.end;
        result->mark = mark;
        result->slice_end = end;
        result->of_name = before.shape == FP_NAME;
    }
}

static void join(struct fp_scanner *s, node *left, const node *right, int start, int mark)
{
    node both = {.shape = FP_BINARY, .start = start, .end = s->last_end, .left_end = left->end, .mark = mark};
    both.right_start = right->start;
    *left = both;
}

static bool power(struct fp_scanner *s, node *result)
{
    node right;
    int start = here(s);
    bool awaited = fp_scan_word(s, "await");
    if (!primary(s, result))
        return false;
    if (awaited)
        set(s, result, FP_OTHER, start);
    int mark = here(s);
    if (fp_scan_peek(s, 0) != '*' || fp_scan_peek(s, 1) != '*' || fp_scan_peek(s, 2) == '=')
        return true;
    s->at += 2;
    if (!factor(s, &right))
        return false;
    join(s, result, &right, start, mark);
    return true;
}

static bool factor(struct fp_scanner *s, node *result)
{
    int start = here(s);
    Py_UCS4 c = fp_scan_peek(s, 0);
    if (++s->depth > DEEPEST)
        return false;
    bool accepted;
    if (c == '-' || c == '+' || c == '~') {
        fp_scan_char(s, c);
        accepted = factor(s, result);
        set(s, result, FP_OTHER, start);
    }
    else
        accepted = power(s, result);
    s->depth--;
    return accepted;
}

/* The length of a binary operator of that level, 0 for none.  What assigns is none. */
static int binary_operator(struct fp_scanner *s, int level)
{
    Py_UCS4 c = fp_scan_peek(s, 0), next = fp_scan_peek(s, 1);
    int length = 0;
    if (level == 0)
        length = c == '*' ? next != '*' : c == '/' ? 1 + (next == '/') : c == '%' || c == '@';
    else if (level == 1)
        length = c == '+' || c == '-';
    else if (level == 2)
        length = (c == '<' || c == '>') && next == c ? 2 : 0;
    else
        length = c == (level == 3 ? '&' : level == 4 ? '^' : '|');
    return length > 0 && fp_scan_peek(s, length) != '=' ? length : 0;
}

/* Levels from the multiplications (0) to the bitwise or (5). */
static bool binary(struct fp_scanner *s, node *result, int level)
{
    node right;
    int start = here(s), length;
    if (!(level == 0 ? factor(s, result) : binary(s, result, level - 1)))
        return false;
    while ((length = binary_operator(s, level)) > 0) {
        int mark = here(s);
        s->at += length;
        if (!(level == 0 ? factor(s, &right) : binary(s, &right, level - 1)))
            return false;
        join(s, result, &right, start, mark);
    }
    return true;
}

static bool comparing_operator(struct fp_scanner *s)
{
    Py_UCS4 c = fp_scan_peek(s, 0), next = fp_scan_peek(s, 1);
    if (((c == '<' || c == '>') && next != c) || ((c == '=' || c == '!') && next == '=')) {
        s->at += 1 + (next == '=');
        return true;
    }
    if (fp_scan_word(s, "is")) {
        fp_scan_word(s, "not");
        return true;
    }
    struct fp_scanner before = *s;
    if (fp_scan_word(s, "in") || (fp_scan_word(s, "not") && fp_scan_word(s, "in")))
        return true;
    *s = before;
    return false;
}

static bool comparison(struct fp_scanner *s, node *result)
{
    node part;
    int start = here(s);
    bool negated = false;
    while (fp_scan_word(s, "not"))
        negated = true;
    if (!binary(s, result, 5))
        return false;
    while (comparing_operator(s)) {
        if (!binary(s, &part, 5))
            return false;
        set(s, result, FP_OTHER, start);
    }
    if (negated)
        set(s, result, FP_OTHER, start);
    return true;
}

static bool disjunction(struct fp_scanner *s, node *result)
{
    node part;
    int start = here(s);
    if (!comparison(s, result))
        return false;
    while (fp_scan_word(s, "or") || fp_scan_word(s, "and")) {
        if (!comparison(s, &part))
            return false;
        set(s, result, FP_OTHER, start);
    }
    return true;
}

static bool expression(struct fp_scanner *s, node *result)
{
    node part;
    int start = here(s);
    if (++s->depth > DEEPEST || !disjunction(s, result))
        return false;
    if (fp_scan_word(s, "if")) {
        if (!disjunction(s, &part) || !fp_scan_word(s, "else") || !expression(s, &part))
            return false;
        set(s, result, FP_OTHER, start);
    }
    s->depth--;
    return true;
}

static bool targets(struct fp_scanner *s)
{
    bool parenthesis = fp_scan_char(s, '(');
    do {
        if (parenthesis && fp_scan_peek(s, 0) == ')')
            break;
        if (!fp_scan_name(s))
            return false;
    } while (fp_scan_char(s, ','));
    return !parenthesis || fp_scan_char(s, ')');
}

static bool comprehension(struct fp_scanner *s, bool *present)
{
    node part;
    while (fp_scan_word(s, "for")) {
        *present = true;
        if (!targets(s) || !fp_scan_word(s, "in") || !disjunction(s, &part))
            return false;
        while (fp_scan_word(s, "if"))
            if (!disjunction(s, &part))
                return false;
    }
    return true;
}

bool fp_parse_field(struct fp_scanner *s)
{
    node part;
    if (fp_scan_peek(s, 0) == '{' || !expression(s, &part))
        return false;
    Py_UCS4 c = fp_scan_peek(s, 0);
    return c == '!' || c == ':' || c == '}';
}

/* Whether the text begins with a word that none of the expressions with a mark begins with. */
static bool starts_statement(struct fp_scanner *s)
{
    static const char *const words[] = {"raise",    "return", "import",   "from",  "assert", "del",    "with", "for",
                                        "while",    "if",     "def",      "class", "try",    "except", "pass", "global",
                                        "nonlocal", "break",  "continue", "async", "yield",  "lambda"};
    struct fp_scanner copy = *s;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (fp_scan_word(&copy, words[i]))
            return true;
    return false;
}

/* An assignment, an annotation or a comprehension has no mark, whatever follows, or isn't valid. */
static bool goes_on(struct fp_scanner *s)
{
    Py_UCS4 c = fp_scan_peek(s, 0), next = fp_scan_peek(s, 1), third = fp_scan_peek(s, 2);
    if (c == '=' || c == ':')
        return next != '=' || c == ':';
    if (fp_scan_word(s, "for"))
        return true;
    bool one = c == '+' || c == '-' || c == '*' || c == '/' || c == '%' || c == '@' || c == '&' || c == '|' || c == '^';
    bool two = (c == '*' || c == '/' || c == '<' || c == '>') && next == c;
    return (one && next == '=') || (two && third == '=');
}

bool fp_parse(const Py_UCS4 *text, int length, struct fp_expression *result)
{
    struct fp_scanner scanner = {.text = text, .length = length};
    *result = (node){.shape = FP_UNMARKED};
    if (here(&scanner) == length || starts_statement(&scanner))
        return true;
    if (!expression(&scanner, result))
        return false;
    if (goes_on(&scanner)) {
        *result = (node){.shape = FP_UNMARKED};
        return true;
    }
    while (here(&scanner) < length) { /* a tuple without parentheses */
        node part;
        if (!fp_scan_char(&scanner, ','))
            return false;
        if (here(&scanner) < length && !expression(&scanner, &part))
            return false;
        set(&scanner, result, FP_OTHER, 0);
    }
    return true;
}
