/* The callables that stand for functions of the traceback module: they look like the interpreter's.  Normal context.
 *
 * A callable holds the function that it stands for, answers for it (name, signature, documentation), hands calls of an
 * uncommon form on to it, and is pickled as it, so that the pickle loads where faultproof isn't installed. */
#include "tb.h"

struct function {
    PyObject ob_base;
    vectorcallfunc vectorcall;
    struct fp_tb *tb;
    PyObject *module; /* keeps tb alive */
    PyObject *standard;
    PyObject *dict;
    PyObject *weak_references;
};

struct fp_tb *fp_function_state(PyObject *function)
{
    return ((struct function *)function)->tb;
}

PyObject *fp_function_standard(PyObject *function)
{
    return ((struct function *)function)->standard;
}

PyObject *fp_function_new(struct fp_tb *tb, PyObject *standard, vectorcallfunc call)
{
    PyTypeObject *type = (PyTypeObject *)tb->function_type;
    struct function *function = (struct function *)type->tp_alloc(type, 0);
    if (function == NULL)
        return NULL;
    function->vectorcall = call;
    function->tb = tb;
    function->module = Py_NewRef(tb->module);
    function->standard = Py_NewRef(standard);
    return (PyObject *)function;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    struct function *function = (struct function *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(function->module);
    Py_VISIT(function->standard);
    Py_VISIT(function->dict);
    return 0;
}

static int clear(PyObject *self)
{
    Py_CLEAR(((struct function *)self)->dict);
    return 0;
}

static void dealloc(PyObject *self)
{
    struct function *function = (struct function *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (function->weak_references != NULL)
        PyObject_ClearWeakRefs(self);
    Py_CLEAR(function->dict);
    Py_CLEAR(function->standard);
    Py_CLEAR(function->module);
    type->tp_free(self);
    Py_DECREF(type);
}

/* What describes a function is the interpreter's; everything else is ours first. */
static PyObject *get(PyObject *self, PyObject *name)
{
    static const char *const described[] = {"__module__", "__doc__", "__name__", "__qualname__", "__annotations__"};
    struct function *function = (struct function *)self;
    PyObject *value = NULL;
    if (function->dict != NULL && fp_dict_get(function->dict, name, &value) != 0)
        return value;
    for (size_t i = 0; i < sizeof described / sizeof *described; i++)
        if (PyUnicode_CompareWithASCIIString(name, described[i]) == 0)
            return PyObject_GetAttr(function->standard, name);
    value = PyObject_GenericGetAttr(self, name);
    if (value != NULL || !fp_clear(PyExc_AttributeError))
        return value;
    return PyObject_GetAttr(function->standard, name);
}

static PyObject *bind(PyObject *self, PyObject *object, PyObject *type)
{
    (void)type;
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static PyObject *represent(PyObject *self)
{
    PyObject *name = PyObject_GetAttrString(((struct function *)self)->standard, "__qualname__");
    PyObject *text = name != NULL ? PyUnicode_FromFormat("<faultproof function traceback.%U>", name) : NULL;
    Py_XDECREF(name);
    return text;
}

/* By name where the name means us, else as something that yields the interpreter's function. */
static PyObject *reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct function *function = (struct function *)self;
    PyObject *name = NULL, *module, *found = NULL;
    if (function->dict != NULL && PyDict_GetItemString(function->dict, "__module__") != NULL)
        return PyObject_GetAttrString(self, "__qualname__"); /* ours alone */
    if ((name = PyObject_GetAttrString(function->standard, "__qualname__")) == NULL)
        return NULL;
    module = PyImport_ImportModule("traceback");
    if (module != NULL)
        found = PyObject_GetAttr(module, name);
    Py_XDECREF(module);
    Py_XDECREF(found);
    if (found == self)
        return name;
    Py_DECREF(name);
    if (found == NULL && !fp_clear(PyExc_AttributeError) && !fp_clear(PyExc_ImportError))
        return NULL;
    PyObject *operators = PyImport_ImportModule("operator"), *getter = NULL, *result = NULL;
    if (operators != NULL)
        getter = PyObject_CallMethod(operators, "itemgetter", "i", 0);
    if (getter != NULL)
        result = Py_BuildValue("O((O))", getter, function->standard);
    Py_XDECREF(operators);
    Py_XDECREF(getter);
    return result;
}

static PyObject *reduce_ex(PyObject *self, PyObject *protocol)
{
    (void)protocol;
    return reduce(self, NULL);
}

static PyObject *itself(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

static PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, NULL},
                                {"__reduce_ex__", reduce_ex, METH_O, NULL},
                                {"__copy__", itself, METH_NOARGS, NULL},
                                {"__deepcopy__", itself, METH_O, NULL},
                                {NULL, NULL, 0, NULL}};

static PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(struct function, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(struct function, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct function, weak_references), READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(struct function, standard), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyGetSetDef properties[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
                                   {NULL, NULL, NULL, NULL, NULL}};

static PyObject *refuse(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    (void)type, (void)args, (void)keywords;
    PyErr_SetString(PyExc_TypeError, "functions of faultproof.traceback can't be created");
    return NULL;
}

static PyType_Slot slots[] = {{Py_tp_new, refuse},      {Py_tp_traverse, traverse},      {Py_tp_clear, clear},
                              {Py_tp_dealloc, dealloc}, {Py_tp_getattro, get},           {Py_tp_descr_get, bind},
                              {Py_tp_repr, represent},  {Py_tp_call, PyVectorcall_Call}, {Py_tp_methods, methods},
                              {Py_tp_members, members}, {Py_tp_getset, properties},      {0, NULL}};

static PyType_Spec spec = {.name = "faultproof._traceback.function",
                           .basicsize = sizeof(struct function),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                                    Py_TPFLAGS_METHOD_DESCRIPTOR,
                           .slots = slots};

int fp_function_type(PyObject *module, struct fp_tb *tb)
{
    tb->function_type = PyType_FromModuleAndSpec(module, &spec, NULL);
    return tb->function_type != NULL ? 0 : -1;
}
