/* The extension module _traceback: its state, bound once to the interpreter's traceback module.  Normal context. */
#include "rules.h"

static struct fp_tb *state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

static int intern_names(struct fp_tb *tb)
{
#define X(name)                                                                                                        \
    if ((tb->s.name = PyUnicode_InternFromString(#name)) == NULL)                                                      \
        return -1;
    FP_STRINGS(X)
#undef X
    return 0;
}

/* A number of the dictionary that faultproof/traceback.py has found out. */
static int read_feature(PyObject *features, const char *name, int *value)
{
    PyObject *number = PyMapping_GetItemString(features, name);
    *value = number != NULL ? (int)PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

static int read_features(struct fp_tb *tb, PyObject *features)
{
    struct fp_features *has = &tb->has;
    const struct {
        const char *name;
        int *value;
    } rows[] = {{"pristine", &has->pristine},
                {"carets", &has->carets},
                {"compact", &has->compact},
                {"truth", &has->truth},
                {"notes", &has->notes},
                {"suggest", &has->suggest},
                {"safe_string", &has->safe_string},
                {"colorize", &has->colorize},
                {"print_exc_colorize", &has->print_exc_colorize},
                {"implicit", &has->implicit},
                {"strip_line", &has->strip_line},
                {"typos", &has->typos},
                {"code_lines", &has->code_lines},
                {"display_width", &has->display_width}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (read_feature(features, rows[i].name, rows[i].value) < 0)
            return -1;
    return 0;
}

static int take_attribute(PyObject *object, const char *name, PyObject **value)
{
    *value = PyObject_GetAttrString(object, name);
    return *value != NULL ? 0 : -1;
}

static int take_modules(struct fp_tb *tb, PyObject *standard)
{
    PyObject *linecache = PyObject_GetAttrString(standard, "linecache"), *sys = PyImport_ImportModule("sys");
    tb->std = Py_NewRef(standard);
    tb->std_dict = Py_XNewRef(PyModule_GetDict(standard));
    tb->linecache_dict = linecache != NULL ? Py_XNewRef(PyModule_GetDict(linecache)) : NULL;
    tb->sys_dict = sys != NULL ? Py_XNewRef(PyModule_GetDict(sys)) : NULL;
    tb->modules = Py_XNewRef(PyImport_GetModuleDict());
    Py_XDECREF(linecache);
    Py_XDECREF(sys);
    return tb->linecache_dict != NULL && tb->sys_dict != NULL && tb->modules != NULL ? 0 : -1;
}

static int take_texts(struct fp_tb *tb)
{
    tb->heading = PyUnicode_FromString("Traceback (most recent call last):\n");
    tb->group_heading = PyUnicode_FromString("Exception Group Traceback (most recent call last):\n");
    return tb->heading != NULL && tb->group_heading != NULL &&
                   take_attribute(tb->std, "_cause_message", &tb->cause_message) == 0 &&
                   take_attribute(tb->std, "_context_message", &tb->context_message) == 0
               ? 0
               : -1;
}

static PyObject *bound(struct fp_tb *tb)
{
    PyObject *functions = PyDict_Copy(tb->functions), *methods = PyDict_Copy(tb->methods);
    return functions != NULL && methods != NULL ? Py_BuildValue("(NN)", functions, methods) : NULL;
}

/* bind(standard, features, show_group, one_write, check_carets, syntax_style, walkers)
   -> ({name: function}, {name: method}) */
static PyObject *bind_standard(PyObject *module, PyObject *args)
{
    struct fp_tb *tb = state_of(module);
    PyObject *standard, *features, *show_group, *one_write, *check_carets, *syntax_style, *walkers;
    if (!PyArg_ParseTuple(args, "O!O!OO!OOO!:bind", &PyModule_Type, &standard, &PyDict_Type, &features, &show_group,
                          &PyTuple_Type, &one_write, &check_carets, &syntax_style, &PyTuple_Type, &walkers))
        return NULL;
    if (tb->functions != NULL)
        return bound(tb); /* the Python module has been imported again */
    if (tb->std != NULL) {
        PyErr_SetString(PyExc_ImportError, "faultproof: traceback could not be bound before");
        return NULL;
    }
    tb->show_group = Py_NewRef(show_group);
    tb->one_write = Py_NewRef(one_write);
    tb->check_carets = Py_NewRef(check_carets);
    tb->syntax_style = Py_NewRef(syntax_style);
    if (read_features(tb, features) < 0 || take_modules(tb, standard) < 0 || take_texts(tb) < 0 ||
        take_attribute(standard, "TracebackException", &tb->TracebackException) < 0 ||
        take_attribute(standard, "StackSummary", &tb->StackSummary) < 0 ||
        take_attribute(standard, "FrameSummary", &tb->FrameSummary) < 0 || fp_summary_init(tb) < 0 ||
        fp_walkers_init(tb, walkers) < 0)
        return NULL;
    tb->summary = PyObject_CallObject(tb->StackSummary, NULL);
    if (tb->summary == NULL || fp_guard_init(tb) < 0)
        return NULL;
    tb->functions = fp_functions_new(tb);
    tb->methods = fp_methods_new(tb);
    return tb->functions != NULL && tb->methods != NULL ? bound(tb) : NULL;
}

/* caret_text(code, offset) -> the frame's text; None: left to the interpreter's module.  For tests, and for
 * check_carets. */
static PyObject *caret_text(PyObject *module, PyObject *args)
{
    struct fp_tb *tb = state_of(module);
    struct fp_item item = {.kind = FP_CARETS, .exact = true};
    struct fp_call call;
    PyObject *line = NULL, *rest = NULL, *text = NULL;
    if (!PyArg_ParseTuple(args, "O!i:caret_text", &PyCode_Type, &item.code, &item.at))
        return NULL;
    item.frame = PyEval_GetFrame();
    item.filename = item.code->co_filename;
    item.name = item.code->co_name;
    fp_call_begin(&call, tb);
    enum fp_answer answer =
        fp_source_add(&call, &item) < 0 || fp_sources_check(&call) < 0 ? FP_ERROR : fp_locate(&item);
    if (answer == FP_DONE && item.column < 0)
        answer = FP_DECLINE;
    if (answer == FP_DONE && (answer = fp_fetch_lines(&call, &item, &line, &rest)) == FP_DONE)
        answer = line != NULL ? fp_carets(&call, &item, line, rest, &text) : FP_DECLINE;
    Py_XDECREF(line);
    Py_XDECREF(rest);
    fp_call_end(&call);
    return answer == FP_DECLINE ? Py_NewRef(Py_None) : text;
}

/* forget(): drops what is remembered of texts and files.  For benchmarks and tests. */
static PyObject *forget(PyObject *module, PyObject *unused)
{
    struct fp_tb *tb = state_of(module);
    (void)unused;
    FP_LOCK();
    fp_memos_clear(tb);
    fp_files_clear(tb);
    FP_UNLOCK();
    Py_RETURN_NONE;
}

static PyObject *rules_fingerprint(PyObject *module, PyObject *unused)
{
    (void)unused;
    return fp_rules_fingerprint(state_of(module));
}

static int execute(PyObject *module)
{
    struct fp_tb *tb = state_of(module);
    tb->module = module;
    tb->guard.watcher = -1;
    return fp_memory_start() < 0 || intern_names(tb) < 0 || fp_function_type(module, tb) < 0 ? -1 : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    struct fp_tb *tb = state_of(module);
    PyObject *owned[] = {tb->std,          tb->std_dict,     tb->linecache_dict, tb->sys_dict,
                         tb->modules,      tb->show_group,   tb->one_write,      tb->TracebackException,
                         tb->StackSummary, tb->FrameSummary, tb->function_type,  tb->summary,
                         tb->check_carets, tb->functions,    tb->methods,        tb->walkers};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        Py_VISIT(owned[i]);
    for (int i = 0; i < tb->guard.count; i++) {
        Py_VISIT(tb->guard.watched[i].dict);
        Py_VISIT(tb->guard.watched[i].seen);
    }
    Py_VISIT(tb->guard.os_dict);
    Py_VISIT(tb->guard.builtins_dict);
    return 0;
}

static int clear(PyObject *module)
{
    struct fp_tb *tb = state_of(module);
    fp_guard_clear(tb);
    fp_memos_clear(tb);
    fp_files_clear(tb);
    PyObject **owned[] = {&tb->std,           &tb->std_dict,        &tb->linecache_dict, &tb->sys_dict,
                          &tb->modules,       &tb->show_group,      &tb->one_write,      &tb->TracebackException,
                          &tb->StackSummary,  &tb->FrameSummary,    &tb->function_type,  &tb->summary,
                          &tb->cause_message, &tb->context_message, &tb->heading,        &tb->group_heading,
                          &tb->check_carets,  &tb->functions,       &tb->methods,        &tb->walkers,
                          &tb->syntax_style};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        Py_CLEAR(*owned[i]);
#define X(name) Py_CLEAR(tb->s.name);
    FP_STRINGS(X)
#undef X
    return 0;
}

static void destroy(void *module)
{
    clear(module);
}

static PyMethodDef methods[] = {
    {"bind", bind_standard, METH_VARARGS, NULL},          {"forget", forget, METH_NOARGS, NULL},
    {"caret_text", caret_text, METH_VARARGS, NULL},       {"fingerprint", rules_fingerprint, METH_NOARGS, NULL},
    {"owns", fp_rules_owns, METH_VARARGS, NULL},          {"takes", fp_rules_takes, METH_VARARGS, NULL},
    {"generator_code", fp_rules_generator, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute},
#if PY_VERSION_HEX >= 0x030C0000
                                   {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
                                   {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
                                   {0, NULL}};

static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "faultproof._traceback",
                                        .m_size = sizeof(struct fp_tb),
                                        .m_methods = methods,
                                        .m_slots = slots,
                                        .m_traverse = traverse,
                                        .m_clear = clear,
                                        .m_free = destroy};

PyMODINIT_FUNC PyInit__traceback(void);

PyMODINIT_FUNC PyInit__traceback(void)
{
    return PyModuleDef_Init(&definition);
}
