/* The functions of the traceback module that have a fast path.  Normal context.
 *
 * Each binds its arguments, asks for the fast path, and hands the call on to the interpreter's function when the
 * arguments or the exception are of an uncommon form, or when something has been replaced (guard.c). */
#include "tb.h"

enum { MOST_ARGUMENTS = 6 };

struct signature {
    int count, required, positional_only;
    bool colors;       /* colorize is accepted, on each version */
    bool colors_known; /* and the interpreter's function accepts it too */
    PyObject *names[MOST_ARGUMENTS];
};

struct call {
    PyObject *self;
    PyObject *const *args;
    size_t nargsf;
    PyObject *kwnames;
};

#define CALL(self, args, nargsf, kwnames) (&(struct call){self, args, nargsf, kwnames})

static bool is_name(PyObject *a, PyObject *b)
{
    return a == b || PyUnicode_Compare(a, b) == 0;
}

/* False: an error, or something that only the interpreter's function knows how to treat. */
static bool bind(struct fp_tb *tb, const struct signature *signature, const struct call *call, PyObject **values)
{
    Py_ssize_t given = PyVectorcall_NARGS(call->nargsf);
    if (given > signature->count)
        return false;
    for (int i = 0; i < signature->count; i++)
        values[i] = i < given ? call->args[i] : NULL;
    for (Py_ssize_t k = 0; call->kwnames != NULL && k < PyTuple_GET_SIZE(call->kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(call->kwnames, k), *value = call->args[given + k];
        int i = signature->positional_only;
        while (i < signature->count && !is_name(signature->names[i], name))
            i++;
        if (i < signature->count) {
            if (values[i] != NULL)
                return false;
            values[i] = value;
        }
        else if (!signature->colors || !is_name(name, tb->s.colorize) ||
                 (value != Py_False && value != Py_None && signature->colors_known))
            return false;
    }
    for (int i = 0; i < signature->required; i++)
        if (values[i] == NULL)
            return false;
    return true;
}

/* The same, and nothing has been replaced. */
static enum fp_answer bind_intact(struct fp_tb *tb, const struct signature *signature, const struct call *call,
                                  PyObject **values)
{
    return bind(tb, signature, call, values) ? fp_guard_intact(tb) : FP_DECLINE;
}

static PyObject *call_standard(const struct call *call)
{
    return PyObject_Vectorcall(fp_function_standard(call->self), call->args, call->nargsf, call->kwnames);
}

/* The interpreter's function with the same arguments, without the one that is newer than it. */
static PyObject *call_without_colors(struct fp_tb *tb, const struct call *call)
{
    PyObject *standard = fp_function_standard(call->self);
    Py_ssize_t given = PyVectorcall_NARGS(call->nargsf);
    PyObject *args = PyTuple_New(given), *keywords = PyDict_New(), *result = NULL;
    for (Py_ssize_t i = 0; args != NULL && i < given; i++)
        PyTuple_SET_ITEM(args, i, Py_NewRef(call->args[i]));
    for (Py_ssize_t k = 0; keywords != NULL && call->kwnames != NULL && k < PyTuple_GET_SIZE(call->kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(call->kwnames, k);
        if (!is_name(name, tb->s.colorize) && PyDict_SetItem(keywords, name, call->args[given + k]) < 0)
            Py_CLEAR(keywords);
    }
    if (args != NULL && keywords != NULL)
        result = PyObject_Call(standard, args, keywords);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *fall_back(struct fp_tb *tb, const struct signature *signature, const struct call *call)
{
    bool drop = signature->colors && !signature->colors_known && call->kwnames != NULL;
    return drop ? call_without_colors(tb, call) : call_standard(call);
}

/* What the interpreter's function raises in the place of one that has been replaced is its business. */
static enum fp_answer is_print_intact(struct fp_tb *tb)
{
    enum fp_answer answer = fp_guard_intact(tb);
    return answer == FP_DONE ? fp_guard_holds(tb->guard.builtins_dict, tb->s.print, tb->guard.print) : answer;
}

/* Whether we may print; *to: the file, a new reference.  Declines where there is none: what that means is print()'s
 * business. */
static enum fp_answer output_file(struct fp_tb *tb, PyObject *file, PyObject **to)
{
    enum fp_answer answer = is_print_intact(tb);
    *to = NULL;
    if (answer != FP_DONE)
        return answer;
    if (file == NULL || file == Py_None) {
        int found = fp_dict_get(tb->sys_dict, tb->s.stderr, to);
        if (found < 0)
            return FP_ERROR;
        if (found > 0 && *to == Py_None)
            Py_CLEAR(*to);
        return *to != NULL ? FP_DONE : FP_DECLINE;
    }
    *to = Py_NewRef(file);
    return FP_DONE;
}

static PyObject *join(PyObject *texts)
{
    PyObject *empty = PyUnicode_FromStringAndSize(NULL, 0);
    PyObject *text = empty != NULL ? PyUnicode_Join(empty, texts) : NULL;
    Py_XDECREF(empty);
    return text;
}

static int write_each(PyObject *file, PyObject *texts)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(texts); i++)
        if (PyFile_WriteObject(PyList_GET_ITEM(texts, i), file, Py_PRINT_RAW) < 0 || PyFile_WriteString("", file) < 0)
            return -1;
    return 0;
}

/* print(text, file=file, end="") for each; at once where the file is of a type for which that is the same. */
static int write_all(struct fp_tb *tb, PyObject *file, PyObject *texts)
{
    bool at_once = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tb->one_write); i++)
        at_once |= (PyObject *)Py_TYPE(file) == PyTuple_GET_ITEM(tb->one_write, i);
    if (!at_once)
        return write_each(file, texts);
    PyObject *text = join(texts);
    if (text == NULL)
        return -1;
    int result = PyFile_WriteObject(text, file, Py_PRINT_RAW);
    Py_DECREF(text);
    /* nothing has been written then: the lines before the one that can't be encoded come out all the same */
    return result < 0 && fp_clear(PyExc_UnicodeEncodeError) ? write_each(file, texts) : result;
}

/* Prints the texts (which it takes; NULL: none).  The interpreter's functions print line by line: after FP_ERROR what
 * was there before the failure is printed all the same, and the failure raised, whatever becomes of the printing. */
static PyObject *print_texts(struct fp_tb *tb, enum fp_answer answer, PyObject *file, PyObject *texts)
{
    struct fp_error failure;
    if (answer == FP_ERROR)
        fp_error_take(&failure);
    int result = texts != NULL ? write_all(tb, file, texts) : 0;
    Py_XDECREF(texts);
    if (answer == FP_ERROR)
        fp_error_raise(&failure);
    return answer == FP_DONE && result == 0 ? Py_NewRef(Py_None) : NULL;
}

/* The texts, unless they are incomplete. */
static PyObject *complete(enum fp_answer answer, PyObject *texts)
{
    if (answer == FP_ERROR)
        Py_CLEAR(texts);
    return texts;
}

/* What format_exception() and print_exception() take as exception and traceback.  New references. */
static enum fp_answer read_exception(struct fp_tb *tb, PyObject *const *values, PyObject **value, PyObject **traceback)
{
    if (values[1] == NULL && values[2] == NULL) {
        if (!PyExceptionInstance_Check(values[0]))
            return FP_DECLINE;
        *traceback = PyObject_GetAttr(values[0], tb->s.__traceback__);
        if (*traceback == NULL)
            return FP_ERROR;
        *value = Py_NewRef(values[0]);
        return FP_DONE;
    }
    if (values[1] == NULL || values[2] == NULL)
        return FP_DECLINE;
    *value = Py_NewRef(values[1]);
    *traceback = Py_NewRef(values[2]);
    return FP_DONE;
}

static enum fp_answer exception_texts(struct fp_tb *tb, PyObject *const *values, PyObject *limit, PyObject *chain,
                                      PyObject **texts)
{
    PyObject *value, *traceback;
    /* what else counts as true or false is asked when there is something to chain */
    if (chain != NULL && !PyBool_Check(chain))
        return FP_DECLINE;
    enum fp_answer answer = read_exception(tb, values, &value, &traceback);
    if (answer != FP_DONE)
        return answer;
    answer = fp_format_exception(tb, value, traceback, limit, chain == Py_False ? FP_ALONE : FP_CHAIN, texts);
    Py_DECREF(value);
    Py_DECREF(traceback);
    return answer;
}

/* The first three parameters: the exception alone is enough, and nameless, since 3.10. */
static struct signature exception_signature(struct fp_tb *tb, bool prints)
{
    struct signature signature = {.count = prints ? 6 : 5,
                                  .required = tb->has.implicit ? 1 : 3,
                                  .positional_only = tb->has.implicit,
                                  .colors = true,
                                  .colors_known = tb->has.colorize};
    PyObject *names[] = {tb->s.etype, tb->s.value, tb->s.tb, tb->s.limit, tb->s.file, tb->s.chain};
    int count = 0;
    for (int i = 0; i < 6; i++)
        if (prints || i != 4)
            signature.names[count++] = names[i];
    return signature;
}

static PyObject *format_exception(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = exception_signature(tb, false);
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL;
    enum fp_answer answer = bind_intact(tb, &signature, call, values);
    if (answer == FP_DONE)
        answer = exception_texts(tb, values, values[3], values[4], &texts);
    return answer == FP_DECLINE ? fall_back(tb, &signature, call) : complete(answer, texts);
}

static PyObject *print_exception(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = exception_signature(tb, true);
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL, *file = NULL, *result;
    enum fp_answer answer = FP_DECLINE;
    if (bind(tb, &signature, call, values) && (answer = output_file(tb, values[4], &file)) == FP_DONE)
        answer = exception_texts(tb, values, values[3], values[5], &texts);
    result = answer == FP_DECLINE ? fall_back(tb, &signature, call) : print_texts(tb, answer, file, texts);
    Py_XDECREF(file);
    return result;
}

/* The texts of the exception that is being handled. */
static enum fp_answer handled_texts(struct fp_tb *tb, PyObject *limit, PyObject *chain, PyObject **texts)
{
    PyObject *values[3] = {NULL, NULL, NULL};
    enum fp_answer answer = FP_DECLINE;
    fp_handled(&values[1], &values[2]);
    if (values[1] != NULL && values[1] != Py_None) {
        if (values[2] == NULL)
            values[2] = Py_NewRef(Py_None);
        answer = exception_texts(tb, values, limit, chain, texts);
    }
    Py_XDECREF(values[1]);
    Py_XDECREF(values[2]);
    return answer;
}

static PyObject *format_exc(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 2, .names = {tb->s.limit, tb->s.chain}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL;
    enum fp_answer answer = bind_intact(tb, &signature, call, values);
    if (answer == FP_DONE)
        answer = handled_texts(tb, values[0], values[1], &texts);
    if (answer == FP_DECLINE)
        return call_standard(call);
    PyObject *text = answer == FP_DONE ? join(texts) : NULL;
    Py_XDECREF(texts);
    return text;
}

static PyObject *print_exc(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 3,
                                  .colors = true,
                                  .colors_known = tb->has.print_exc_colorize,
                                  .names = {tb->s.limit, tb->s.file, tb->s.chain}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL, *file = NULL, *result;
    enum fp_answer answer = FP_DECLINE;
    if (bind(tb, &signature, call, values) && (answer = output_file(tb, values[1], &file)) == FP_DONE)
        answer = handled_texts(tb, values[0], values[2], &texts);
    result = answer == FP_DECLINE ? fall_back(tb, &signature, call) : print_texts(tb, answer, file, texts);
    Py_XDECREF(file);
    return result;
}

static bool asks_for_group(struct fp_tb *tb, const struct call *call)
{
    for (Py_ssize_t k = 0; call->kwnames != NULL && k < PyTuple_GET_SIZE(call->kwnames); k++)
        if (is_name(PyTuple_GET_ITEM(call->kwnames, k), tb->s.show_group))
            return true;
    return false;
}

static PyObject *format_exception_only(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 2,
                                  .required = tb->has.implicit ? 1 : 2,
                                  .positional_only = tb->has.implicit,
                                  .colors = true,
                                  .colors_known = tb->has.colorize,
                                  .names = {tb->s.etype, tb->s.value}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL;
    if (tb->show_group != Py_None && asks_for_group(tb, call))
        return PyObject_Vectorcall(tb->show_group, args, nargsf, kwnames);
    enum fp_answer answer = bind_intact(tb, &signature, call, values);
    if (answer == FP_DONE) {
        PyObject *value = values[1] != NULL ? values[1] : values[0];
        /* before 3.10 the type that is given is the one that is shown */
        bool same = tb->has.implicit || values[0] == (PyObject *)Py_TYPE(value);
        answer = same ? fp_format_exception(tb, value, NULL, NULL, FP_ONLY, &texts) : FP_DECLINE;
    }
    return answer == FP_DECLINE ? fall_back(tb, &signature, call) : complete(answer, texts);
}

typedef enum fp_answer items_maker(struct fp_tb *tb, PyObject *object, PyObject *limit, struct fp_items *items);

enum product { TEXTS, SUMMARIES, LAZY_SUMMARIES };

/* The frames of a traceback or a stack, as texts or as a StackSummary. */
static enum fp_answer produce(struct fp_tb *tb, items_maker *make, PyObject *object, PyObject *limit,
                              enum product product, PyObject **result)
{
    struct fp_items items;
    struct fp_call call;
    *result = NULL;
    enum fp_answer answer = make(tb, object, limit, &items);
    if (answer == FP_DONE) {
        fp_call_begin(&call, tb);
        answer = fp_items_prepare(&call, &items);
        if (answer == FP_DONE && product != TEXTS)
            answer = fp_summaries(&call, &items, product == LAZY_SUMMARIES, result);
        else if (answer == FP_DONE) {
            *result = PyList_New(0);
            answer = *result != NULL ? fp_items_format(&call, &items, *result) : FP_ERROR;
        }
        fp_call_end(&call);
    }
    fp_items_clear(&items);
    if (answer != FP_DONE)
        Py_CLEAR(*result);
    return answer;
}

/* A function that makes something of the items of an object; bound: its arguments are of a common form. */
static PyObject *make_of(const struct call *call, bool bound, items_maker *make, PyObject *object, PyObject *limit,
                         enum product product)
{
    struct fp_tb *tb = fp_function_state(call->self);
    PyObject *result = NULL;
    enum fp_answer answer = bound ? fp_guard_intact(tb) : FP_DECLINE;
    if (answer == FP_DONE)
        answer = produce(tb, make, object, limit, product, &result);
    return answer == FP_DECLINE ? call_standard(call) : result;
}

/* A function that prints them. */
static PyObject *print_of(const struct call *call, bool bound, items_maker *make, PyObject *object, PyObject *limit,
                          PyObject *to)
{
    struct fp_tb *tb = fp_function_state(call->self);
    PyObject *texts = NULL, *file = NULL, *result;
    enum fp_answer answer = bound ? output_file(tb, to, &file) : FP_DECLINE;
    if (answer == FP_DONE)
        answer = produce(tb, make, object, limit, TEXTS, &texts);
    result = answer == FP_DECLINE ? call_standard(call) : print_texts(tb, answer, file, texts);
    Py_XDECREF(file);
    return result;
}

static PyObject *of_traceback(const struct call *call, enum product product)
{
    struct fp_tb *tb = fp_function_state(call->self);
    struct signature signature = {.count = 2, .required = 1, .names = {tb->s.tb, tb->s.limit}};
    PyObject *values[MOST_ARGUMENTS] = {NULL};
    bool bound = bind(tb, &signature, call, values);
    return make_of(call, bound, fp_items_of_traceback, values[0], values[1], product);
}

static PyObject *format_tb(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return of_traceback(CALL(self, args, nargsf, kwnames), TEXTS);
}

static PyObject *extract_tb(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return of_traceback(CALL(self, args, nargsf, kwnames), SUMMARIES);
}

static PyObject *print_tb(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 3, .required = 1, .names = {tb->s.tb, tb->s.limit, tb->s.file}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS] = {NULL};
    bool bound = bind(tb, &signature, call, values);
    return print_of(call, bound, fp_items_of_traceback, values[0], values[1], values[2]);
}

/* The interpreter's function would take itself for the caller: the caller's frame is given to it. */
static PyObject *call_standard_with_frame(const struct call *call, PyObject *const *values, int count, bool bound)
{
    PyObject *frame = (PyObject *)PyEval_GetFrame();
    if (!bound || frame == NULL || (values[0] != NULL && values[0] != Py_None))
        return call_standard(call);
    PyObject *args[MOST_ARGUMENTS] = {frame};
    for (int i = 1; i < count; i++)
        args[i] = values[i] != NULL ? values[i] : Py_None;
    return PyObject_Vectorcall(fp_function_standard(call->self), args, (size_t)count, NULL);
}

static PyObject *start_frame(PyObject *frame)
{
    return frame != NULL && frame != Py_None ? frame : (PyObject *)PyEval_GetFrame();
}

static PyObject *of_stack(const struct call *call, enum product product)
{
    struct fp_tb *tb = fp_function_state(call->self);
    struct signature signature = {.count = 2, .names = {tb->s.f, tb->s.limit}};
    PyObject *values[MOST_ARGUMENTS], *result = NULL;
    bool bound = bind(tb, &signature, call, values);
    enum fp_answer answer = bound ? fp_guard_intact(tb) : FP_DECLINE;
    if (answer == FP_DONE)
        answer = produce(tb, fp_items_of_stack, start_frame(values[0]), values[1], product, &result);
    return answer == FP_DECLINE ? call_standard_with_frame(call, values, 2, bound) : result;
}

static PyObject *format_stack(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return of_stack(CALL(self, args, nargsf, kwnames), TEXTS);
}

static PyObject *extract_stack(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return of_stack(CALL(self, args, nargsf, kwnames), SUMMARIES);
}

static PyObject *print_stack(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 3, .names = {tb->s.f, tb->s.limit, tb->s.file}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS], *texts = NULL, *file = NULL, *result;
    bool bound = bind(tb, &signature, call, values);
    enum fp_answer answer = bound ? output_file(tb, values[2], &file) : FP_DECLINE;
    if (answer == FP_DONE)
        answer = produce(tb, fp_items_of_stack, start_frame(values[0]), values[1], TEXTS, &texts);
    result =
        answer == FP_DECLINE ? call_standard_with_frame(call, values, 3, bound) : print_texts(tb, answer, file, texts);
    Py_XDECREF(file);
    return result;
}

/* format_exc() as UTF-8; what UTF-8 can't say is written as an escape.  It stands for format_exc(). */
static PyObject *format_exc_bytes(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyObject *text = format_exc(self, args, nargsf, kwnames);
    PyObject *bytes = text != NULL ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
    Py_XDECREF(text);
    return bytes;
}

static PyObject *format_list(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 1, .required = 1, .names = {tb->s.extracted_list}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS] = {NULL};
    bool bound = bind(tb, &signature, call, values);
    return make_of(call, bound, fp_items_of_summaries, values[0], NULL, TEXTS);
}

static PyObject *print_list(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 2, .required = 1, .names = {tb->s.extracted_list, tb->s.file}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS] = {NULL};
    bool bound = bind(tb, &signature, call, values);
    return print_of(call, bound, fp_items_of_summaries, values[0], NULL, values[1]);
}

/* StackSummary.format() */
static PyObject *format_summaries(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct fp_tb *tb = fp_function_state(self);
    struct signature signature = {.count = 1,
                                  .required = 1,
                                  .positional_only = 1,
                                  .colors = tb->has.colorize,
                                  .colors_known = tb->has.colorize,
                                  .names = {tb->s.klass}};
    const struct call *call = CALL(self, args, nargsf, kwnames);
    PyObject *values[MOST_ARGUMENTS] = {NULL};
    bool bound = bind(tb, &signature, call, values) && (PyObject *)Py_TYPE(values[0]) == tb->StackSummary;
    return make_of(call, bound, fp_items_of_summaries, values[0], NULL, TEXTS);
}

/* StackSummary.extract(frame_gen), of a generator that can be read. */
static enum fp_answer extract_fast(struct fp_tb *tb, PyObject *const *values, bool positions, PyObject **result)
{
    items_maker *const makers[] = {fp_items_of_frames, fp_items_of_lines, fp_items_of_traceback};
    PyObject *generator = values[1], *limit = values[2], *lookup = values[3], *start = NULL;
    enum fp_walk kind = FP_WALK_STACK;
    if (values[0] != tb->StackSummary || (lookup != NULL && !PyBool_Check(lookup)) ||
        (values[4] != NULL && values[4] != Py_False))
        return FP_DECLINE;
    enum fp_answer answer = fp_guard_intact(tb);
    if (answer == FP_DONE)
        answer = fp_walker_read(tb, generator, &kind, &start);
    if (answer == FP_DONE && (kind == FP_WALK_POSITIONS) != positions)
        answer = FP_DECLINE;
    if (answer == FP_DONE)
        answer = produce(tb, makers[kind], start, limit, lookup == Py_False ? LAZY_SUMMARIES : SUMMARIES, result);
    Py_XDECREF(start);
    if (answer == FP_DONE) {
        Py_ssize_t taken = PyList_GET_SIZE(*result);
        bool cut = limit != NULL && limit != Py_None && PyLong_AsSsize_t(limit) == taken;
        answer = fp_walker_finish(tb, generator, taken, !cut);
    }
    if (answer != FP_DONE)
        Py_CLEAR(*result);
    return answer;
}

static PyObject *extract_any(const struct call *call, bool positions)
{
    struct fp_tb *tb = fp_function_state(call->self);
    struct signature signature = {
        .count = 5,
        .required = 2,
        .names = {tb->s.klass, tb->s.frame_gen, tb->s.limit, tb->s.lookup_lines, tb->s.capture_locals}};
    PyObject *values[MOST_ARGUMENTS], *result = NULL;
    enum fp_answer answer = FP_DECLINE;
    if (PyVectorcall_NARGS(call->nargsf) == 2 && bind(tb, &signature, call, values))
        answer = extract_fast(tb, values, positions, &result);
    return answer == FP_DECLINE ? call_standard(call) : result;
}

static PyObject *extract(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return extract_any(CALL(self, args, nargsf, kwnames), false);
}

static PyObject *extract_positions(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return extract_any(CALL(self, args, nargsf, kwnames), true);
}

static const struct {
    const char *name;
    const char *stands_for;
    vectorcallfunc call;
} functions[] = {
    {"format_exception", NULL, format_exception},
    {"print_exception", NULL, print_exception},
    {"format_exc", NULL, format_exc},
    {"print_exc", NULL, print_exc},
    {"format_exception_only", NULL, format_exception_only},
    {"format_tb", NULL, format_tb},
    {"extract_tb", NULL, extract_tb},
    {"print_tb", NULL, print_tb},
    {"format_stack", NULL, format_stack},
    {"extract_stack", NULL, extract_stack},
    {"print_stack", NULL, print_stack},
    {"format_list", NULL, format_list},
    {"print_list", NULL, print_list},
    {"format_exc_bytes", "format_exc", format_exc_bytes},
};

/* Methods of StackSummary, which install() puts there; those with __func__ are class methods. */
static const struct {
    const char *name;
    vectorcallfunc call;
} methods[] = {
    {"extract", extract}, {"_extract_from_extended_frame_gen", extract_positions}, {"format", format_summaries}};

/* The function of a method or class method of StackSummary; NULL, perhaps without an exception: there is none. */
static PyObject *method_function(struct fp_tb *tb, const char *name)
{
    PyObject *bound = PyObject_GetAttrString(tb->StackSummary, name);
    if (bound == NULL) {
        fp_clear(PyExc_AttributeError);
        return NULL;
    }
    if (!PyMethod_Check(bound))
        return bound;
    PyObject *function = Py_NewRef(PyMethod_GET_FUNCTION(bound));
    Py_DECREF(bound);
    return function;
}

/* A dictionary of the functions for methods that this version has, by name. */
PyObject *fp_methods_new(struct fp_tb *tb)
{
    PyObject *result = PyDict_New();
    for (size_t i = 0; result != NULL && i < sizeof methods / sizeof *methods; i++) {
        PyObject *standard = method_function(tb, methods[i].name);
        PyObject *function = standard != NULL ? fp_function_new(tb, standard, methods[i].call) : NULL;
        if ((standard == NULL && PyErr_Occurred()) ||
            (standard != NULL && (function == NULL || PyDict_SetItemString(result, methods[i].name, function) < 0)))
            Py_CLEAR(result);
        Py_XDECREF(standard);
        Py_XDECREF(function);
    }
    return result;
}

/* A dictionary of the functions by name. */
PyObject *fp_functions_new(struct fp_tb *tb)
{
    PyObject *result = PyDict_New();
    for (size_t i = 0; result != NULL && i < sizeof functions / sizeof *functions; i++) {
        const char *name = functions[i].stands_for != NULL ? functions[i].stands_for : functions[i].name;
        PyObject *standard = PyObject_GetAttrString(tb->std, name);
        PyObject *function = standard != NULL ? fp_function_new(tb, standard, functions[i].call) : NULL;
        if (function == NULL || PyDict_SetItemString(result, functions[i].name, function) < 0)
            Py_CLEAR(result);
        Py_XDECREF(standard);
        Py_XDECREF(function);
    }
    return result;
}
