/* Captures one exception: its frames' texts, its type, its string and its notes.  Normal context.
 *
 * An attribute is read here only where that runs no code but the interpreter's; else the whole exception is left to the
 * interpreter's module, so that nothing is asked for twice and nothing that such code raises is lost. */
#include "nodes.h"

/* The frames as the interpreter's module extracts them. */
static PyObject *standard_stack(struct fp_tree *tree, PyObject *traceback)
{
    struct fp_tb *tb = tree->call->tb;
    PyObject *extract = tb->has.carets ? tb->s._extract_from_extended_frame_gen : tb->s.extract, *stack = NULL;
    PyObject *walk = fp_global(tb->std_dict, tb->has.carets ? tb->s._walk_tb_with_full_positions : tb->s.walk_tb);
    PyObject *walker =
        walk != NULL ? PyObject_CallFunctionObjArgs(walk, traceback != NULL ? traceback : Py_None, NULL) : NULL;
    PyObject *method = PyObject_GetAttr(tb->StackSummary, extract);
    PyObject *keywords = Py_BuildValue("{OO}", tb->s.limit, tree->limit != NULL ? tree->limit : Py_None);
    PyObject *args = walker != NULL ? PyTuple_Pack(1, walker) : NULL;
    if (method != NULL && keywords != NULL && args != NULL)
        stack = PyObject_Call(method, args, keywords);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    Py_XDECREF(method);
    Py_XDECREF(walker);
    Py_XDECREF(walk);
    fp_call_forget(tree->call);
    return stack;
}

/* The frames' texts into the node.  Making texts of lines that are there is done later by the interpreter's module,
 * when it writes the exception: what fails then is raised then. */
static int capture_stack(struct fp_tree *tree, PyObject *traceback, struct fp_node *node)
{
    struct fp_call *call = tree->call;
    struct fp_items items;
    PyObject *texts = NULL;
    enum fp_answer answer = fp_items_of_traceback(call->tb, traceback, tree->limit, &items);
    call->rendering = false;
    if (answer == FP_DONE && items.count > 0) {
        if ((answer = fp_items_prepare(call, &items)) == FP_DONE && !tree->without_frames) {
            texts = PyList_New(0);
            answer = texts != NULL ? fp_items_format(call, &items, texts) : FP_ERROR;
        }
    }
    fp_items_clear(&items);
    if (answer == FP_DONE && texts != NULL && PyList_GET_SIZE(texts) > 0)
        node->stack = Py_NewRef(texts);
    Py_XDECREF(texts);
    if (answer == FP_ERROR && call->rendering) {
        fp_error_take(&node->failed);
        return 0;
    }
    if (answer == FP_DECLINE)
        node->extracted = standard_stack(tree, traceback);
    return answer == FP_DONE || node->extracted != NULL ? 0 : -1;
}

/* A type's name as it is shown. */
static enum fp_answer type_name(struct fp_tb *tb, PyTypeObject *type, PyObject **result)
{
    PyObject *name = PyObject_GetAttr((PyObject *)type, tb->s.__qualname__);
    PyObject *module = name != NULL ? PyObject_GetAttr((PyObject *)type, tb->s.__module__) : NULL;
    enum fp_answer answer = module != NULL ? FP_DECLINE : FP_ERROR;
    if (module != NULL && PyUnicode_CheckExact(name) && PyUnicode_CheckExact(module)) {
        bool bare = PyUnicode_CompareWithASCIIString(module, "builtins") == 0 ||
                    PyUnicode_CompareWithASCIIString(module, "__main__") == 0;
        *result = bare ? Py_NewRef(name) : PyUnicode_FromFormat("%U.%U", module, name);
        answer = *result != NULL ? FP_DONE : FP_ERROR;
    }
    Py_XDECREF(name);
    Py_XDECREF(module);
    return answer;
}

static bool is_kind_of(PyObject *exc, PyObject *type)
{
    return PyType_IsSubtype(Py_TYPE(exc), (PyTypeObject *)type);
}

/* Whether the attribute isn't None, where it is the base's own; 1 where it isn't.  -1: an exception. */
static int has_value(PyObject *exc, PyObject *base, PyObject *name)
{
    if (!fp_guard_inherits(Py_TYPE(exc), base, name))
        return 1;
    PyObject *value = PyObject_GetAttr(exc, name);
    int has = value == NULL ? -1 : value != Py_None;
    Py_XDECREF(value);
    return has;
}

/* Names that may have been misspelt, modules that may be missing: the interpreter's module finds out. */
static int may_get_hint(struct fp_tb *tb, PyObject *exc)
{
    if (!tb->has.suggest)
        return 0;
    if (is_kind_of(exc, PyExc_ImportError))
        return is_kind_of(exc, PyExc_ModuleNotFoundError) ? 1 : has_value(exc, PyExc_ImportError, tb->s.name_from);
    if (is_kind_of(exc, PyExc_AttributeError))
        return has_value(exc, PyExc_AttributeError, tb->s.name);
    return is_kind_of(exc, PyExc_NameError) ? has_value(exc, PyExc_NameError, tb->s.name) : 0;
}

/* *notes: a list, or NULL for none.  Declines notes of another form. */
static enum fp_answer read_notes(struct fp_tb *tb, PyObject *exc, PyObject **notes)
{
    *notes = NULL;
    if (!tb->has.notes)
        return FP_DONE;
    if (fp_lookup_attr(exc, tb->s.__notes__, notes) < 0)
        return FP_ERROR;
    if (*notes == Py_None)
        Py_CLEAR(*notes);
    if (*notes == NULL || PyList_CheckExact(*notes))
        return FP_DONE;
    Py_CLEAR(*notes);
    return FP_DECLINE;
}

/* Whether reading the attributes of an exception of the type, and of the type, runs no code but the interpreter's. */
static bool is_readable(struct fp_tb *tb, PyTypeObject *type)
{
    PyTypeObject *meta = Py_TYPE(type);
    return type->tp_getattro == PyObject_GenericGetAttr && fp_class_value(type, tb->s.__notes__) == NULL &&
           meta->tp_getattro == PyType_Type.tp_getattro &&
           fp_guard_inherits(meta, (PyObject *)&PyType_Type, tb->s.__qualname__) &&
           fp_guard_inherits(meta, (PyObject *)&PyType_Type, tb->s.__name__) &&
           fp_guard_inherits(meta, (PyObject *)&PyType_Type, tb->s.__module__);
}

/* Declines an exception that takes more than a type, a string and notes to be shown. */
static enum fp_answer is_common(struct fp_tb *tb, struct fp_node *node)
{
    PyObject *exc = node->exc, *notes;
    if (!is_readable(tb, Py_TYPE(exc)))
        return FP_DECLINE;
    int hint = may_get_hint(tb, exc);
    if (hint != 0)
        return hint < 0 ? FP_ERROR : FP_DECLINE;
    enum fp_answer answer = read_notes(tb, exc, &notes);
    Py_XDECREF(notes);
    return answer == FP_DONE ? type_name(tb, Py_TYPE(exc), &node->type) : answer;
}

static PyObject *arguments_of(PyObject *exc)
{
    PyObject *args;
    FP_BEGIN_OBJECT(exc);
    args = Py_XNewRef(((PyBaseExceptionObject *)exc)->args);
    FP_END_OBJECT();
    return args;
}

/* str() of an exception for which that means its only argument, a str, or its repr(); NULL: of another one, or an
 * exception.  PyObject_Str() and PyObject_Repr() would look for signals: what their handlers raise isn't a failure of
 * str(). */
static PyObject *plain_string(PyObject *exc)
{
    reprfunc str = Py_TYPE(exc)->tp_str;
    bool repr = str == ((PyTypeObject *)PyExc_KeyError)->tp_str;
    if (!repr && str != ((PyTypeObject *)PyExc_BaseException)->tp_str)
        return NULL;
    PyObject *args = arguments_of(exc), *text = NULL;
    Py_ssize_t count = args != NULL ? PyTuple_GET_SIZE(args) : -1;
    if (count == 0)
        text = PyUnicode_FromStringAndSize(NULL, 0);
    else if (count == 1 && PyUnicode_CheckExact(PyTuple_GET_ITEM(args, 0)))
        text = repr ? PyUnicode_Type.tp_repr(PyTuple_GET_ITEM(args, 0)) : Py_NewRef(PyTuple_GET_ITEM(args, 0));
    Py_XDECREF(args);
    return text;
}

/* What is shown for an exception whose str() fails. */
static PyObject *replacement(struct fp_tb *tb, PyObject *exc)
{
    if (tb->has.safe_string)
        return PyUnicode_FromString("<exception str() failed>");
    PyObject *name = PyObject_GetAttr((PyObject *)Py_TYPE(exc), tb->s.__name__);
    PyObject *format = PyUnicode_FromString("<unprintable %s object>");
    PyObject *text = name != NULL && format != NULL ? PyUnicode_Format(format, name) : NULL;
    Py_XDECREF(format);
    Py_XDECREF(name);
    return text;
}

/* An object whose str() and repr() are the interpreter's own code. */
static bool is_plain(PyObject *value)
{
    return value == NULL || value == Py_None || PyUnicode_CheckExact(value) || PyLong_CheckExact(value) ||
           PyFloat_CheckExact(value) || PyBool_Check(value) || PyBytes_CheckExact(value);
}

/* Whether no code of others runs in str() of the exception: what it raises comes from a signal then, or is a lack of
 * something. */
static bool is_quiet(PyObject *exc)
{
    reprfunc str = Py_TYPE(exc)->tp_str;
    bool of_system = str == ((PyTypeObject *)PyExc_OSError)->tp_str;
    if (str != ((PyTypeObject *)PyExc_BaseException)->tp_str && str != ((PyTypeObject *)PyExc_KeyError)->tp_str &&
        !of_system)
        return false;
    PyObject *args = arguments_of(exc);
    bool quiet = args != NULL;
    for (Py_ssize_t i = 0; quiet && i < PyTuple_GET_SIZE(args); i++)
        quiet = is_plain(PyTuple_GET_ITEM(args, i));
    Py_XDECREF(args);
    const PyOSErrorObject *error = (const PyOSErrorObject *)exc;
    return quiet && (!of_system || (is_plain(error->myerrno) && is_plain(error->strerror) &&
                                    is_plain(error->filename) && is_plain(error->filename2)));
}

/* By PyObject_Str(), which looks for signals: where that is all that can fail, it is no failure of str(). */
static int quiet_string(PyObject *exc, PyObject **text)
{
    *text = NULL;
    if (PyErr_CheckSignals() < 0)
        return -1;
    *text = PyObject_Str(exc);
    return *text != NULL || fp_clear(PyExc_MemoryError) || fp_clear(PyExc_RecursionError) ? 0 : -1;
}

static PyObject *string_of(struct fp_tree *tree, PyObject *exc)
{
    PyObject *text = plain_string(exc);
    if (text != NULL || PyErr_Occurred())
        return text;
    bool quiet = is_quiet(exc);
    if ((quiet ? quiet_string(exc, &text) : fp_str(exc, &text)) == 0 && text == NULL)
        text = replacement(tree->call->tb, exc);
    if (!quiet)
        fp_call_forget(tree->call);
    return text;
}

/* The ids that keep a TracebackException from capturing more than the exception itself. */
static PyObject *neighbours(struct fp_tb *tb, PyObject *exc)
{
    PyObject *seen = PySet_New(NULL), *names[] = {tb->s.__cause__, tb->s.__context__};
    for (int i = 0; seen != NULL && i < 2; i++) {
        PyObject *other = PyObject_GetAttr(exc, names[i]);
        PyObject *id = other != NULL ? PyLong_FromVoidPtr(other) : NULL;
        if (id == NULL || PySet_Add(seen, id) < 0)
            Py_CLEAR(seen);
        Py_XDECREF(other);
        Py_XDECREF(id);
    }
    return seen;
}

/* TracebackException(type(exc), exc, traceback, limit=0): everything but frames and chain. */
static PyObject *standard_exception(struct fp_tree *tree, PyObject *exc, PyObject *traceback)
{
    struct fp_tb *tb = tree->call->tb;
    PyObject *seen = neighbours(tb, exc), *result = NULL, *zero = PyLong_FromLong(0);
    PyObject *args = PyTuple_Pack(3, (PyObject *)Py_TYPE(exc), exc, traceback != NULL ? traceback : Py_None);
    PyObject *keywords =
        seen != NULL && zero != NULL ? Py_BuildValue("{OOOO}", tb->s._seen, seen, tb->s.limit, zero) : NULL;
    if (args != NULL && keywords != NULL)
        result = PyObject_Call(tb->TracebackException, args, keywords);
    if (result != NULL && PyObject_SetAttr(result, tb->s.exceptions, Py_None) < 0)
        Py_CLEAR(result);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    Py_XDECREF(seen);
    Py_XDECREF(zero);
    fp_call_forget(tree->call);
    return result;
}

static int read_suppress(struct fp_tb *tb, PyObject *exc, bool *suppress)
{
    PyObject *value = PyObject_GetAttr(exc, tb->s.__suppress_context__);
    int truth = value != NULL ? PyObject_IsTrue(value) : -1;
    Py_XDECREF(value);
    *suppress = truth > 0;
    return truth < 0 ? -1 : 0;
}

/* type, str, notes, and the lines of a SyntaxError.  Declines an exception that takes more. */
static enum fp_answer capture_own(struct fp_tree *tree, struct fp_node *node)
{
    struct fp_tb *tb = tree->call->tb;
    enum fp_answer answer = is_common(tb, node);
    if (answer != FP_DONE)
        return answer;
    node->str = string_of(tree, node->exc);
    if (node->str == NULL)
        return FP_ERROR;
    if (is_kind_of(node->exc, PyExc_SyntaxError))
        answer = fp_syntax_lines(tb, node->exc, node->type, &node->lines);
    return answer == FP_DONE ? read_notes(tb, node->exc, &node->notes) : answer;
}

/* The node's own part, in the order of TracebackException: frames, string, notes, __suppress_context__. */
int fp_node_capture(struct fp_tree *tree, Py_ssize_t at, PyObject *traceback)
{
    struct fp_node node = tree->nodes[at]; /* the array may move meanwhile only by us: one copy is enough */
    enum fp_answer answer = capture_stack(tree, traceback, &node) < 0 ? FP_ERROR : capture_own(tree, &node);
    if (answer == FP_DECLINE) {
        node.standard = standard_exception(tree, node.exc, traceback);
        answer = node.standard != NULL ? FP_DONE : FP_ERROR;
    }
    int result = answer == FP_DONE ? read_suppress(tree->call->tb, node.exc, &node.suppress_context) : -1;
    tree->nodes[at] = node;
    return result;
}
