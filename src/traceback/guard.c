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
    const char *name = PyUnicode_AsUTF8(key);
    if (name == NULL) {
        PyErr_Clear();
        return false;
    }
    if (!of_class && name[0] == '_' && name[1] == '_')
        return false;
    return strcmp(name, "_colorize") != 0 && strstr(Py_TYPE(value)->tp_name, "lazy") == NULL;
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
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *dict = PyType_GetDict((PyTypeObject *)type);
#else
    PyObject *dict = Py_XNewRef(((PyTypeObject *)type)->tp_dict);
#endif
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
static bool take_parser(struct fp_tb *tb, PyObject *ast)
{
    PyObject *parse, *dict = PyModule_Check(ast) ? PyModule_GetDict(ast) : NULL;
    if (dict == NULL || fp_dict_get(dict, tb->s.parse, &parse) <= 0) {
        PyErr_Clear();
        return false;
    }
    bool own = PyFunction_Check(parse) && PyFunction_GET_GLOBALS(parse) == dict;
    if (own && tb->guard.ast_parse == NULL)
        tb->guard.ast_parse = Py_NewRef(parse);
    Py_DECREF(parse);
    return own;
}

int fp_guard_init(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
    guard->watcher = -1;
#if FP_HAS_WATCHERS
    guard->watcher = PyDict_AddWatcher(changed);
    if (guard->watcher < 0)
        PyErr_Clear(); /* all taken: then each call compares everything */
#endif
    if ((guard->os_dict = module_dict("os")) == NULL || (guard->builtins_dict = module_dict("builtins")) == NULL)
        return -1;
    if (fp_dict_get(guard->os_dict, tb->s.stat, &guard->stat) <= 0 ||
        fp_dict_get(guard->builtins_dict, tb->s.print, &guard->print) <= 0)
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
        PyErr_Clear();
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

static bool same_class_method(struct fp_tb *tb, PyObject *found, PyObject *seen);

/* Our own function in the place of the interpreter's is no replacement: install() puts it there. */
static bool same(struct fp_tb *tb, PyObject *found, PyObject *seen)
{
    return found == seen ||
           (Py_TYPE(found) == (PyTypeObject *)tb->function_type && fp_function_standard(found) == seen) ||
           same_class_method(tb, found, seen);
}

static bool same_class_method(struct fp_tb *tb, PyObject *found, PyObject *seen)
{
    if (Py_TYPE(found) != &PyClassMethod_Type || Py_TYPE(seen) != &PyClassMethod_Type)
        return false;
    PyObject *now = PyObject_GetAttrString(found, "__func__"), *then = PyObject_GetAttrString(seen, "__func__");
    bool result = now != NULL && then != NULL && same(tb, now, then);
    Py_XDECREF(now);
    Py_XDECREF(then);
    PyErr_Clear();
    return result;
}

static bool compare(struct fp_tb *tb)
{
    for (int i = 0; i < tb->guard.count; i++) {
        const struct fp_watched *watched = &tb->guard.watched[i];
        for (Py_ssize_t pair = 0; pair < PyTuple_GET_SIZE(watched->seen); pair += 2) {
            PyObject *found;
            if (fp_dict_get(watched->dict, PyTuple_GET_ITEM(watched->seen, pair), &found) <= 0) {
                PyErr_Clear();
                return false;
            }
            bool equal = same(tb, found, PyTuple_GET_ITEM(watched->seen, pair + 1));
            Py_DECREF(found);
            if (!equal)
                return false;
        }
    }
    return true;
}

static bool recorded(struct fp_tb *tb)
{
    struct fp_guard *guard = &tb->guard;
#if FP_HAS_WATCHERS
    uint64_t now = atomic_load_explicit(&generation, memory_order_relaxed);
    if (guard->watcher < 0)
        return compare(tb);
    if (now == __atomic_load_n(&guard->generation, __ATOMIC_ACQUIRE))
        return __atomic_load_n(&guard->intact, __ATOMIC_RELAXED);
    bool intact = compare(tb);
    __atomic_store_n(&guard->intact, intact, __ATOMIC_RELAXED);
    __atomic_store_n(&guard->generation, now, __ATOMIC_RELEASE);
    return intact;
#else
    bool equal = true;
    for (int i = 0; i < guard->count; i++)
        equal &= guard->watched[i].version == ((PyDictObject *)guard->watched[i].dict)->ma_version_tag;
    if (equal)
        return guard->intact;
    guard->intact = compare(tb);
    for (int i = 0; i < guard->count; i++)
        guard->watched[i].version = ((PyDictObject *)guard->watched[i].dict)->ma_version_tag;
    return guard->intact;
#endif
}

static bool holds(PyObject *dict, PyObject *name, PyObject *value)
{
    PyObject *found;
    if (fp_dict_get(dict, name, &found) <= 0) {
        PyErr_Clear();
        return false;
    }
    Py_DECREF(found);
    return found == value;
}

/* The parser is the one that we have seen; one that isn't imported any more has been replaced too. */
static bool has_same_parser(struct fp_tb *tb)
{
    PyObject *ast;
    if (tb->has.carets == 0)
        return true;
    if (fp_dict_get(tb->modules, tb->s.ast, &ast) <= 0) {
        PyErr_Clear();
        return tb->guard.ast_parse == NULL;
    }
    bool same_one = tb->guard.ast_parse == NULL
                        ? take_parser(tb, ast)
                        : PyModule_Check(ast) && holds(PyModule_GetDict(ast), tb->s.parse, tb->guard.ast_parse);
    Py_DECREF(ast);
    return same_one;
}

bool fp_guard_intact(struct fp_tb *tb)
{
    return tb->has.pristine && recorded(tb) && holds(tb->guard.os_dict, tb->s.stat, tb->guard.stat) &&
           has_same_parser(tb);
}

/* The parser that carets come from is imported when it is first needed, as the interpreter's module does it. */
bool fp_guard_ast(struct fp_tb *tb)
{
    if (tb->guard.ast_parse == NULL) {
        PyObject *ast = PyImport_Import(tb->s.ast);
        PyErr_Clear();
        Py_XDECREF(ast);
    }
    return has_same_parser(tb) && tb->guard.ast_parse != NULL;
}

static bool is_own(PyObject *type, PyObject *base, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(type, name), *own = found != NULL ? PyObject_GetAttr(base, name) : NULL;
    bool same_one = own != NULL && found == own;
    Py_XDECREF(found);
    Py_XDECREF(own);
    PyErr_Clear();
    return same_one;
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
        if (!is_own((PyObject *)type, PyExc_BaseException, names[i]))
            return false;
#if PY_VERSION_HEX >= 0x030B0000
    if (PyType_IsSubtype(type, (PyTypeObject *)PyExc_BaseExceptionGroup) &&
        !is_own((PyObject *)type, PyExc_BaseExceptionGroup, tb->s.exceptions))
        return false;
#endif
    if (version != 0 && version == fp_type_version(type))
        __atomic_store_n(known, version, __ATOMIC_RELAXED);
    return true;
}
