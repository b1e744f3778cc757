/* Whether anything that the fast path stands for has been replaced: a comparison of versions on the way.  Normal
 * context.
 *
 * The namespaces of traceback, linecache and of the three classes are recorded at import.  A change of one of them
 * (seen by a dictionary watcher, or by the dictionary's version number before there were watchers) makes the next call
 * compare all recorded values by identity; while one differs, every call goes to the interpreter's own module. */
#include "tb.h"

#include <stdatomic.h>
#include <string.h>

#if FP_HAS_WATCHERS
/* One for the process: a change in one interpreter makes the others compare once more, which is harmless. */
static _Atomic uint64_t generation = 1;

static int changed(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event, (void)dict, (void)key, (void)value;
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
    return 0;
}
#endif

/* Values that come and go without a meaning for the text: what the module system keeps, and imports that are still
 * lazy. */
static bool is_of_interest(PyObject *key, PyObject *value, bool of_class)
{
    if (!PyUnicode_Check(key))
        return false;
    if (!of_class && PyUnicode_GET_LENGTH(key) > 1 && PyUnicode_READ_CHAR(key, 0) == '_' &&
        PyUnicode_READ_CHAR(key, 1) == '_')
        return false;
    return PyUnicode_CompareWithASCIIString(key, "_colorize") != 0 && strstr(Py_TYPE(value)->tp_name, "lazy") == NULL;
}

static int watch(struct fp_tb *tb, PyObject *dict, bool of_class)
{
    struct fp_guard *guard = &tb->guard;
    struct fp_watched *watched = &guard->watched[guard->count];
    PyObject *pairs = PyList_New(0), *copy = PyDict_Copy(dict), *key, *value;
    Py_ssize_t at = 0;
    while (pairs != NULL && copy != NULL && PyDict_Next(copy, &at, &key, &value)) {
        if (!is_of_interest(key, value, of_class))
            continue;
        if (PyList_Append(pairs, key) < 0 || PyList_Append(pairs, value) < 0)
            Py_CLEAR(pairs);
    }
    Py_XDECREF(copy);
    if (pairs == NULL)
        return -1;
    watched->dict = Py_NewRef(dict);
    watched->seen = PyList_AsTuple(pairs);
    Py_DECREF(pairs);
    guard->count++;
#if FP_HAS_WATCHERS
    if (guard->watcher >= 0 && PyDict_Watch(guard->watcher, dict) < 0)
        return -1;
#endif
    return watched->seen != NULL ? 0 : -1;
}

static int watch_class(struct fp_tb *tb, PyObject *type)
{
    PyObject *dict = fp_type_namespace(type);
    int result = dict != NULL ? watch(tb, dict, true) : -1;
    Py_XDECREF(dict);
    return result;
}

static PyObject *module_dict(const char *name)
{
    PyObject *module = PyImport_ImportModule(name);
    PyObject *dict = module != NULL ? Py_NewRef(PyModule_GetDict(module)) : NULL;
    Py_XDECREF(module);
    return dict;
}

/* Records ast.parse, unless it has been replaced already: then it isn't defined in ast. */
static enum fp_answer take_parser(struct fp_tb *tb, PyObject *ast)
{
    PyObject *parse, *dict = PyModule_Check(ast) ? PyModule_GetDict(ast) : NULL;
    int found = dict != NULL ? fp_dict_get(dict, tb->s.parse, &parse) : 0;
    if (found <= 0)
        return found < 0 ? FP_ERROR : FP_DECLINE;
    bool own = PyFunction_Check(parse) && PyFunction_GET_GLOBALS(parse) == dict;
    if (own && tb->guard.ast_parse == NULL)
        tb->guard.ast_parse = Py_NewRef(parse);
    Py_DECREF(parse);
    return own ? FP_DONE : FP_DECLINE;
}

int fp_guard_init(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
    guard->watcher = -1;
#if FP_HAS_WATCHERS
    guard->watcher = PyDict_AddWatcher(changed);
    if (guard->watcher < 0 && !fp_clear(PyExc_RuntimeError)) /* all taken: then each call compares everything */
        return -1;
#endif
    if ((guard->os_dict = module_dict("os")) == NULL || (guard->builtins_dict = module_dict("builtins")) == NULL)
        return -1;
    if ((guard->stat = fp_global(guard->os_dict, tb->s.stat)) == NULL ||
        (guard->print = fp_global(guard->builtins_dict, tb->s.print)) == NULL)
        return -1;
    if (watch(tb, tb->std_dict, false) < 0 || watch(tb, tb->linecache_dict, false) < 0 ||
        watch_class(tb, tb->TracebackException) < 0 || watch_class(tb, tb->StackSummary) < 0 ||
        watch_class(tb, tb->FrameSummary) < 0)
        return -1;
    return 0;
}

void fp_guard_clear(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
#if FP_HAS_WATCHERS
    if (guard->watcher >= 0 && PyDict_ClearWatcher(guard->watcher) < 0)
        PyErr_WriteUnraisable(NULL);
    guard->watcher = -1;
#endif
    for (int i = 0; i < guard->count; i++) {
        Py_CLEAR(guard->watched[i].dict);
        Py_CLEAR(guard->watched[i].seen);
    }
    guard->count = 0;
    Py_CLEAR(guard->os_dict);
    Py_CLEAR(guard->stat);
    Py_CLEAR(guard->builtins_dict);
    Py_CLEAR(guard->print);
    Py_CLEAR(guard->ast_parse);
}

static int same_class_method(struct fp_tb *tb, PyObject *found, PyObject *seen);

/* Our own function in the place of the interpreter's is no replacement: install() puts it there.  -1: an exception. */
static int same(struct fp_tb *tb, PyObject *found, PyObject *seen)
{
    if (found == seen || (Py_TYPE(found) == (PyTypeObject *)tb->function_type && fp_function_standard(found) == seen))
        return 1;
    return Py_TYPE(found) == &PyClassMethod_Type && Py_TYPE(seen) == &PyClassMethod_Type
               ? same_class_method(tb, found, seen)
               : 0;
}

static int same_class_method(struct fp_tb *tb, PyObject *found, PyObject *seen)
{
    PyObject *now = PyObject_GetAttrString(found, "__func__");
    PyObject *then = now != NULL ? PyObject_GetAttrString(seen, "__func__") : NULL;
    int result = then != NULL ? same(tb, now, then) : -1;
    Py_XDECREF(now);
    Py_XDECREF(then);
    return result;
}

/* Whether each recorded name still has its value. */
static enum fp_answer compare_one(struct fp_tb *tb, const struct fp_watched *watched)
{
    for (Py_ssize_t pair = 0; pair < PyTuple_GET_SIZE(watched->seen); pair += 2) {
        PyObject *value;
        int found = fp_dict_get(watched->dict, PyTuple_GET_ITEM(watched->seen, pair), &value);
        if (found > 0) {
            found = same(tb, value, PyTuple_GET_ITEM(watched->seen, pair + 1));
            Py_DECREF(value);
        }
        if (found <= 0)
            return found < 0 ? FP_ERROR : FP_DECLINE;
    }
    return FP_DONE;
}

static enum fp_answer compare(struct fp_tb *tb)
{
    enum fp_answer answer = FP_DONE;
    for (int i = 0; i < tb->guard.count && answer == FP_DONE; i++)
        answer = compare_one(tb, &tb->guard.watched[i]);
    return answer;
}

#if FP_HAS_WATCHERS
static enum fp_answer recorded(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
    uint64_t now = atomic_load_explicit(&generation, memory_order_relaxed);
    if (guard->watcher < 0)
        return compare(tb);
    if (now == __atomic_load_n(&guard->generation, __ATOMIC_ACQUIRE))
        return __atomic_load_n(&guard->intact, __ATOMIC_RELAXED) ? FP_DONE : FP_DECLINE;
    enum fp_answer answer = compare(tb);
    if (answer != FP_ERROR) {
        __atomic_store_n(&guard->intact, answer == FP_DONE, __ATOMIC_RELAXED);
        __atomic_store_n(&guard->generation, now, __ATOMIC_RELEASE);
    }
    return answer;
}
#else
static uint64_t version_of(const struct fp_watched *watched)
{
    return ((PyDictObject *)watched->dict)->ma_version_tag;
}

static enum fp_answer recorded(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
    bool equal = true;
    for (int i = 0; i < guard->count; i++)
        equal &= guard->watched[i].version == version_of(&guard->watched[i]);
    if (equal)
        return guard->intact ? FP_DONE : FP_DECLINE;
    enum fp_answer answer = compare(tb);
    guard->intact = answer == FP_DONE;
    for (int i = 0; i < guard->count && answer != FP_ERROR; i++)
        guard->watched[i].version = version_of(&guard->watched[i]);
    return answer;
}
#endif

PyObject *fp_global(PyObject *dict, PyObject *name)
{
    PyObject *value;
    if (fp_dict_get(dict, name, &value) == 0)
        PyErr_Format(PyExc_NameError, "name '%U' is not defined", name);
    return value;
}

enum fp_answer fp_guard_holds(PyObject *dict, PyObject *name, const PyObject *value)
{
    PyObject *found;
    int has = fp_dict_get(dict, name, &found);
    if (has <= 0)
        return has < 0 ? FP_ERROR : FP_DECLINE;
    Py_DECREF(found);
    return found == value ? FP_DONE : FP_DECLINE;
}

/* The parser is the one that we have seen; one that isn't imported any more has been replaced too.  One that hasn't
 * been imported yet can't have been. */
static enum fp_answer has_same_parser(struct fp_tb *tb)
{
    PyObject *ast;
    if (tb->has.carets == 0)
        return FP_DONE;
    int found = fp_dict_get(tb->modules, tb->s.ast, &ast);
    if (found < 0)
        return FP_ERROR;
    if (found == 0)
        return tb->guard.ast_parse == NULL ? FP_DONE : FP_DECLINE;
    enum fp_answer answer = FP_DECLINE;
    if (tb->guard.ast_parse == NULL)
        answer = take_parser(tb, ast);
    else if (PyModule_Check(ast))
        answer = fp_guard_holds(PyModule_GetDict(ast), tb->s.parse, tb->guard.ast_parse);
    Py_DECREF(ast);
    return answer;
}

enum fp_answer fp_guard_intact(struct fp_tb *tb)
{
    enum fp_answer answer = tb->has.pristine ? recorded(tb) : FP_DECLINE;
    if (answer == FP_DONE)
        answer = fp_guard_holds(tb->guard.os_dict, tb->s.stat, tb->guard.stat);
    return answer == FP_DONE ? has_same_parser(tb) : answer;
}

bool fp_guard_inherits(PyTypeObject *type, PyObject *base, PyObject *name)
{
    return fp_class_value(type, name) == fp_class_value((PyTypeObject *)base, name);
}

/* Whether exceptions of the type say by BaseException's own means what they hang together with. */
bool fp_guard_type(struct fp_tb *tb, PyTypeObject *type)
{
    PyObject *names[] = {tb->s.__cause__, tb->s.__context__, tb->s.__suppress_context__, tb->s.__traceback__,
                         tb->s.__getattribute__};
    unsigned version = fp_type_version(type);
    unsigned *known = &tb->guard.plain_types[version % FP_PLAIN_TYPES];
    if (version != 0 && __atomic_load_n(known, __ATOMIC_RELAXED) == version)
        return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!fp_guard_inherits(type, PyExc_BaseException, names[i]))
            return false;
#if PY_VERSION_HEX >= 0x030B0000
    if (PyType_IsSubtype(type, (PyTypeObject *)PyExc_BaseExceptionGroup) &&
        !fp_guard_inherits(type, PyExc_BaseExceptionGroup, tb->s.exceptions))
        return false;
#endif
    if (version != 0 && version == fp_type_version(type))
        __atomic_store_n(known, version, __ATOMIC_RELAXED);
    return true;
}
