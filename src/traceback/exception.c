/* Captures one exception: its frames' texts, its type, its string and its notes.  Normal context. */
#include "nodes.h"

static PyObject *standard_stack(struct fp_tree *tree, PyObject *traceback)
{
    struct fp_tb *tb = tree->call->tb;
    PyObject *extract = tb->has.carets ? tb->s._extract_from_extended_frame_gen : tb->s.extract, *walk, *walker = NULL;
    PyObject *stack = NULL, *texts = NULL;
    if (fp_dict_get(tb->std_dict, tb->has.carets ? tb->s._walk_tb_with_full_positions : tb->s.walk_tb, &walk) <= 0)
        return NULL;
    PyObject *method = PyObject_GetAttr(tb->StackSummary, extract);
    PyObject *keywords = Py_BuildValue("{OO}", tb->s.limit, tree->limit != NULL ? tree->limit : Py_None);
    walker = PyObject_CallFunctionObjArgs(walk, traceback != NULL ? traceback : Py_None, NULL);
    PyObject *args = walker != NULL ? PyTuple_Pack(1, walker) : NULL;
    if (method != NULL && keywords != NULL && args != NULL)
        stack = PyObject_Call(method, args, keywords);
    if (stack != NULL)
        texts = PyObject_CallMethodObjArgs(stack, tb->s.format, NULL);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    Py_XDECREF(method);
    Py_XDECREF(walker);
    Py_XDECREF(stack);
    Py_DECREF(walk);
    fp_call_forget(tree->call);
    if (texts != NULL && !PyList_CheckExact(texts))
        Py_SETREF(texts, PySequence_List(texts));
    return texts;
}

/* The frames' texts; *stack stays NULL for no frames. */
static int capture_stack(struct fp_tree *tree, PyObject *traceback, PyObject **stack)
{
    struct fp_call *call = tree->call;
    struct fp_items items;
    PyObject *texts = NULL;
    enum fp_answer answer = fp_items_of_traceback(call->tb, traceback, tree->limit, &items);
    if (answer == FP_DONE && items.count > 0) {
        if ((answer = fp_items_prepare(call, &items)) == FP_DONE && !tree->without_frames) {
            texts = PyList_New(0);
            answer = texts != NULL ? fp_items_format(call, &items, texts) : FP_ERROR;
        }
    }
    fp_items_clear(&items);
    if (answer == FP_DECLINE)
        Py_XSETREF(texts, standard_stack(tree, traceback));
    if (answer == FP_ERROR || PyErr_Occurred()) {
        Py_XDECREF(texts);
        return -1;
    }
    if (texts != NULL && PyList_GET_SIZE(texts) == 0)
        Py_CLEAR(texts);
    *stack = texts;
    return 0;
}

/* A type's name as it is shown; NULL without an exception where it takes more to say it. */
static PyObject *type_name(struct fp_tb *tb, PyTypeObject *type)
{
    PyObject *name = PyObject_GetAttr((PyObject *)type, tb->s.__qualname__), *module = NULL, *result = NULL;
    if (name != NULL)
        module = PyObject_GetAttr((PyObject *)type, tb->s.__module__);
    if (module != NULL && PyUnicode_CheckExact(name) && PyUnicode_CheckExact(module)) {
        if (PyUnicode_CompareWithASCIIString(module, "builtins") == 0 ||
            PyUnicode_CompareWithASCIIString(module, "__main__") == 0)
            result = Py_NewRef(name);
        else
            result = PyUnicode_FromFormat("%U.%U", module, name);
    }
    Py_XDECREF(name);
    Py_XDECREF(module);
    PyErr_Clear();
    return result;
}

static bool is_kind_of(PyObject *exc, PyObject *type)
{
    return PyType_IsSubtype(Py_TYPE(exc), (PyTypeObject *)type);
}

/* Whether the attribute is there and isn't None.  Anything unexpected counts as there. */
static bool has_value(PyObject *exc, PyObject *name)
{
    PyObject *value;
    int found = fp_lookup_attr(exc, name, &value);
    PyErr_Clear();
    bool has = found < 0 || (found > 0 && value != Py_None);
    if (found > 0)
        Py_DECREF(value);
    return has;
}

/* Names that may have been misspelt, modules that may be missing: the interpreter's module finds out. */
static bool may_get_hint(struct fp_tb *tb, PyObject *exc)
{
    if (!tb->has.suggest)
        return false;
    if (is_kind_of(exc, PyExc_ImportError))
        return is_kind_of(exc, PyExc_ModuleNotFoundError) || has_value(exc, tb->s.name_from);
    if (is_kind_of(exc, PyExc_AttributeError) || is_kind_of(exc, PyExc_NameError))
        return has_value(exc, tb->s.name);
    return false;
}

/* *notes: a list, or NULL for none.  False: notes of another form. */
static bool read_notes(struct fp_tb *tb, PyObject *exc, PyObject **notes)
{
    *notes = NULL;
    if (!tb->has.notes)
        return true;
    if (fp_lookup_attr(exc, tb->s.__notes__, notes) < 0) {
        PyErr_Clear();
        return false;
    }
    if (*notes == Py_None)
        Py_CLEAR(*notes);
    if (*notes == NULL || PyList_CheckExact(*notes))
        return true;
    Py_CLEAR(*notes);
    return false;
}

static bool is_common(struct fp_tb *tb, struct fp_node *node)
{
    PyObject *exc = node->exc, *notes;
    if (Py_TYPE(exc)->tp_getattro != PyObject_GenericGetAttr || may_get_hint(tb, exc) || !read_notes(tb, exc, &notes))
        return false;
    Py_XDECREF(notes);
    node->type = type_name(tb, Py_TYPE(exc));
    return node->type != NULL;
}

/* Whether str() of the exception runs no code but the interpreter's. */
static bool is_quiet(PyObject *exc)
{
    reprfunc str = Py_TYPE(exc)->tp_str;
    if (str != ((PyTypeObject *)PyExc_BaseException)->tp_str && str != ((PyTypeObject *)PyExc_KeyError)->tp_str)
        return false;
    PyObject *args = ((PyBaseExceptionObject *)exc)->args;
    return args != NULL && PyTuple_GET_SIZE(args) <= 1 &&
           (PyTuple_GET_SIZE(args) == 0 || PyUnicode_CheckExact(PyTuple_GET_ITEM(args, 0)));
}

static PyObject *string_of(struct fp_tree *tree, PyObject *exc)
{
    bool quiet = is_quiet(exc);
    PyObject *text = PyObject_Str(exc);
    if (text == NULL) {
        PyErr_Clear();
        if (tree->call->tb->has.safe_string)
            text = PyUnicode_FromString("<exception str() failed>");
        else {
            PyObject *name = PyObject_GetAttr((PyObject *)Py_TYPE(exc), tree->call->tb->s.__name__);
            PyObject *format = PyUnicode_FromString("<unprintable %s object>");
            text = name != NULL && format != NULL ? PyUnicode_Format(format, name) : NULL;
            Py_XDECREF(format);
            Py_XDECREF(name);
        }
    }
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

/* The node's own part, in the order of TracebackException: frames, string, notes, __suppress_context__. */
int fp_node_capture(struct fp_tree *tree, Py_ssize_t at, PyObject *traceback)
{
    struct fp_tb *tb = tree->call->tb;
    struct fp_node node = tree->nodes[at]; /* the array may move meanwhile only by us: one copy is enough */
    bool suppress = false;
    int result = capture_stack(tree, traceback, &node.stack);
    if (result == 0 && is_common(tb, &node)) {
        node.str = string_of(tree, node.exc);
        enum fp_answer answer = FP_DONE;
        if (node.str != NULL && is_kind_of(node.exc, PyExc_SyntaxError))
            answer = fp_syntax_lines(tb, node.exc, node.type, &node.lines);
        if (node.str == NULL || answer == FP_ERROR)
            result = -1;
        else if (answer == FP_DECLINE)
            Py_CLEAR(node.type);
        else if (!read_notes(tb, node.exc, &node.notes))
            Py_CLEAR(node.type);
    }
    if (result == 0 && node.type == NULL) {
        node.standard = standard_exception(tree, node.exc, traceback);
        result = node.standard != NULL ? 0 : -1;
    }
    if (result == 0)
        result = read_suppress(tb, node.exc, &suppress);
    node.suppress_context = suppress;
    tree->nodes[at] = node;
    return result;
}
