/* What the interpreter's module is, told from its functions without running them: whether any has been replaced, what
 * they take, and whether their rules for carets are among those that ours were compared with.  Normal context.
 *
 * In Python the same questions would raise an audit event for each function that is looked at. */
#include "rules.h"

enum { FUNCTIONS_MAX = 64, CALLS_BEFORE_ASKING = 2, DEPTH_MAX = 8 };

/* The fingerprints of the functions that draw carets, of releases for which ours drew the same: tools/gen_rules.py. */
static const uint64_t known[] = {
#define FP_RULES(fingerprint, release) fingerprint,
#include "rules.inc"
#undef FP_RULES
};

/* The function that a method, a property or a decorated function is made of, the interpreter's where ours stands in its
 * place; NULL without an exception: there is none.  A new reference. */
static PyObject *function_in(struct fp_tb *tb, PyObject *value)
{
    PyObject *function = NULL, *wrapped;
    if (Py_TYPE(value) == &PyClassMethod_Type || Py_TYPE(value) == &PyStaticMethod_Type)
        function = PyObject_GetAttrString(value, "__func__");
    else if (Py_TYPE(value) == &PyProperty_Type)
        function = PyObject_GetAttrString(value, "fget");
    else
        function = Py_NewRef(value);
    if (function != NULL && Py_TYPE(function) == (PyTypeObject *)tb->function_type)
        Py_SETREF(function, Py_NewRef(fp_function_standard(function)));
    if (function == NULL || !PyFunction_Check(function)) {
        Py_XDECREF(function);
        return NULL;
    }
    PyObject *dict = ((PyFunctionObject *)function)->func_dict;
    wrapped = dict != NULL ? PyDict_GetItemString(dict, "__wrapped__") : NULL;
    if (wrapped != NULL && PyFunction_Check(wrapped))
        Py_SETREF(function, Py_NewRef(wrapped));
    return function;
}

/* Whether each function of the namespace is of the module that has these globals.  -1: an exception. */
static int is_own(struct fp_tb *tb, PyObject *namespace, PyObject *globals)
{
    PyObject *values = PyDict_Values(namespace);
    int own = values != NULL ? 1 : -1;
    for (Py_ssize_t i = 0; own > 0 && i < PyList_GET_SIZE(values); i++) {
        PyObject *function = function_in(tb, PyList_GET_ITEM(values, i));
        if (function == NULL)
            own = PyErr_Occurred() ? -1 : 1;
        else
            own = PyFunction_GET_GLOBALS(function) == globals;
        Py_XDECREF(function);
    }
    Py_XDECREF(values);
    return own;
}

/* owns(namespace or class, globals) -> whether all its functions are of the module with these globals */
PyObject *fp_rules_owns(PyObject *module, PyObject *args)
{
    PyObject *of, *globals;
    if (!PyArg_ParseTuple(args, "OO!:owns", &of, &PyDict_Type, &globals))
        return NULL;
    PyObject *namespace = PyType_Check(of) ? fp_type_namespace(of) : Py_NewRef(of);
    int own = namespace != NULL && PyDict_Check(namespace) ? is_own(PyModule_GetState(module), namespace, globals) : 0;
    Py_XDECREF(namespace);
    return own < 0 ? NULL : PyBool_FromLong(own);
}

/* takes(function, name) -> whether it has a parameter of that name, or one for all keywords */
PyObject *fp_rules_takes(PyObject *module, PyObject *args)
{
    PyObject *function, *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!U:takes", &PyFunction_Type, &function, &name))
        return NULL;
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(function);
    PyObject *names = fp_code_variables(code);
    if (names == NULL)
        return NULL;
    bool found = (code->co_flags & CO_VARKEYWORDS) != 0;
    for (int i = 0; i < code->co_argcount + code->co_kwonlyargcount; i++)
        found = found || PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name) == 0;
    Py_DECREF(names);
    return PyBool_FromLong(found);
}

static PyObject *generator_in(PyObject *code, int depth)
{
    PyObject *constants = ((PyCodeObject *)code)->co_consts, *found = NULL;
    if ((((PyCodeObject *)code)->co_flags & CO_GENERATOR) != 0)
        return code;
    for (Py_ssize_t i = 0; found == NULL && depth > 0 && i < PyTuple_GET_SIZE(constants); i++)
        if (PyCode_Check(PyTuple_GET_ITEM(constants, i)))
            found = generator_in(PyTuple_GET_ITEM(constants, i), depth - 1);
    return found;
}

/* generator_code(function) -> (the code of it or in it that is a generator's, its first variable's name), or None */
PyObject *fp_rules_generator(PyObject *module, PyObject *function)
{
    (void)module;
    if (!PyFunction_Check(function))
        Py_RETURN_NONE;
    PyObject *code = generator_in(PyFunction_GET_CODE(function), DEPTH_MAX);
    PyObject *names = code != NULL ? fp_code_variables((PyCodeObject *)code) : NULL, *result = NULL;
    if (code == NULL)
        Py_RETURN_NONE;
    if (names != NULL && PyTuple_GET_SIZE(names) > 0)
        result = PyTuple_Pack(2, code, PyTuple_GET_ITEM(names, 0));
    Py_XDECREF(names);
    return result;
}

/* FNV-1a. */
static uint64_t mix(uint64_t hash, const void *bytes, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3;
    return hash;
}

static int mix_code(uint64_t *hash, PyObject *code, int depth);
static int mix_constant(uint64_t *hash, PyObject *constant, int depth);

static int mix_all(uint64_t *hash, PyObject *tuple, int depth)
{
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(tuple); i++)
        result = mix_constant(hash, PyTuple_GET_ITEM(tuple, i), depth);
    return result;
}

/* By what it says, not by where it stands; sets have no order. */
static int mix_constant(uint64_t *hash, PyObject *constant, int depth)
{
    const char *type = Py_TYPE(constant)->tp_name;
    *hash = mix(*hash, type, (Py_ssize_t)strlen(type));
    if (PyUnicode_CheckExact(constant)) {
        *hash = mix(*hash, PyUnicode_DATA(constant), PyUnicode_GET_LENGTH(constant) * PyUnicode_KIND(constant));
    }
    else if (PyBytes_CheckExact(constant)) {
        *hash = mix(*hash, PyBytes_AS_STRING(constant), PyBytes_GET_SIZE(constant));
    }
    else if (PyLong_CheckExact(constant) || PyFloat_CheckExact(constant) || PyBool_Check(constant)) {
        Py_hash_t value = PyObject_Hash(constant);
        *hash = mix(*hash, &value, sizeof value);
    }
    else if (PyTuple_CheckExact(constant) && depth > 0) {
        return mix_all(hash, constant, depth - 1);
    }
    else if (PyCode_Check(constant) && depth > 0) {
        return mix_code(hash, constant, depth - 1);
    }
    return 0;
}

static int mix_code(uint64_t *hash, PyObject *code, int depth)
{
    PyObject *bytes = fp_code_instructions((PyCodeObject *)code);
    if (bytes == NULL)
        return -1;
    *hash = mix(*hash, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    if (mix_all(hash, ((PyCodeObject *)code)->co_names, depth) < 0)
        return -1;
    return mix_all(hash, ((PyCodeObject *)code)->co_consts, depth);
}

/* The functions of the module and of the classes of frames that one of them leads to. */
struct reached {
    struct fp_tb *tb;
    PyObject *namespaces[3];
    PyObject *functions[FUNCTIONS_MAX]; /* a reference each */
    int count;
};

/* Takes the function; too many of them are no rules that we know. */
static void reach(struct reached *reached, PyObject *function)
{
    for (int i = 0; i < reached->count; i++)
        if (reached->functions[i] == function) {
            Py_DECREF(function);
            return;
        }
    if (reached->count < FUNCTIONS_MAX)
        reached->functions[reached->count++] = function;
    else
        Py_DECREF(function);
}

static int reach_names(struct reached *reached, PyObject *code, int depth)
{
    PyObject *names = ((PyCodeObject *)code)->co_names, *constants = ((PyCodeObject *)code)->co_consts;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++)
        for (int at = 0; at < 3; at++) {
            PyObject *value;
            int found = fp_dict_get(reached->namespaces[at], PyTuple_GET_ITEM(names, i), &value);
            PyObject *function = found > 0 ? function_in(reached->tb, value) : NULL;
            if (found > 0)
                Py_DECREF(value);
            if (found < 0 || (function == NULL && PyErr_Occurred()))
                return -1;
            if (function != NULL)
                reach(reached, function);
        }
    for (Py_ssize_t i = 0; depth > 0 && i < PyTuple_GET_SIZE(constants); i++)
        if (PyCode_Check(PyTuple_GET_ITEM(constants, i)) &&
            reach_names(reached, PyTuple_GET_ITEM(constants, i), depth - 1) < 0)
            return -1;
    return 0;
}

static int mix_reached(struct reached *reached, uint64_t *hash)
{
    int result = 0;
    for (int i = 0; result == 0 && i < reached->count; i++) {
        PyObject *code = PyFunction_GET_CODE(reached->functions[i]);
        result = reach_names(reached, code, DEPTH_MAX);
        if (result == 0)
            result = mix_code(hash, code, DEPTH_MAX);
    }
    return result;
}

/* Of all code that a frame's text comes from.  0: it has no such function. */
static int fingerprint(struct fp_tb *tb, uint64_t *hash)
{
    struct reached reached = {.tb = tb, .namespaces = {tb->std_dict, NULL, NULL}};
    PyObject *start = NULL;
    int result = -1;
    *hash = 0xcbf29ce484222325;
    reached.namespaces[1] = fp_type_namespace(tb->StackSummary);
    reached.namespaces[2] = fp_type_namespace(tb->FrameSummary);
    if (reached.namespaces[1] != NULL && reached.namespaces[2] != NULL)
        result = fp_dict_get(reached.namespaces[1], tb->s.format_frame_summary, &start);
    if (result == 0)
        *hash = 0;
    if (result > 0) {
        PyObject *function = function_in(tb, start);
        Py_DECREF(start);
        if (function != NULL)
            reach(&reached, function);
        result = function == NULL && PyErr_Occurred() ? -1 : mix_reached(&reached, hash);
    }
    for (int i = 0; i < reached.count; i++)
        Py_DECREF(reached.functions[i]);
    Py_XDECREF(reached.namespaces[1]);
    Py_XDECREF(reached.namespaces[2]);
    return result;
}

/* fingerprint() -> a number for the rules, and whether it is one of those that we know.  For tests and tools. */
PyObject *fp_rules_fingerprint(struct fp_tb *tb)
{
    uint64_t hash;
    if (fingerprint(tb, &hash) < 0)
        return NULL;
    return Py_BuildValue("KO", (unsigned long long)hash, fp_rules_listed(hash) ? Py_True : Py_False);
}

bool fp_rules_listed(uint64_t hash)
{
    bool listed = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        listed |= known[i] == hash;
    return listed;
}

/* The question on a sample goes deeper than the interpreter's module would for one frame: a RecursionError says nothing
 * of the rules.  Everything else that it raises is raised. */
static enum fp_answer ask_sample(struct fp_tb *tb, int *value)
{
    PyObject *same = PyObject_CallObject(tb->check_carets, NULL);
    int truth = same != NULL ? PyObject_IsTrue(same) : -1;
    Py_XDECREF(same);
    if (truth < 0)
        return fp_clear(PyExc_RecursionError) ? FP_DECLINE : FP_ERROR;
    *value = truth ? 1 : -1;
    return FP_DONE;
}

enum fp_answer fp_rules_known(struct fp_call *call)
{
    struct fp_tb *tb = call->tb;
    int value = __atomic_load_n(&tb->rules, __ATOMIC_ACQUIRE);
    uint64_t hash;
    if (value != 0)
        return value > 0 ? FP_DONE : FP_DECLINE;
    if (tb->rules_calls == 0) {
        if (fingerprint(tb, &hash) < 0)
            return FP_ERROR;
        value = fp_rules_listed(hash);
    }
    if (value == 0) { /* the interpreter's module draws for the first ones: most processes have no more */
        if (!call->counted)
            __atomic_fetch_add(&tb->rules_calls, 1, __ATOMIC_RELAXED);
        call->counted = true;
        enum fp_answer answer = tb->rules_calls > CALLS_BEFORE_ASKING ? ask_sample(tb, &value) : FP_DECLINE;
        if (answer != FP_DONE)
            return answer;
    }
    __atomic_store_n(&tb->rules, value, __ATOMIC_RELEASE);
    return value > 0 ? FP_DONE : FP_DECLINE;
}
