/* Builds the tree of an exception's causes, contexts and members, in the interpreter's order.  Normal context. */
#include "nodes.h"

#include <string.h>

enum { RECURSION_ALLOWED = 50 }; /* before 3.10 chains are followed recursively, as there */

static size_t place(const struct fp_tree *tree, const void *address)
{
    uintptr_t hash = (uintptr_t)address >> 4;
    size_t at = (size_t)(hash ^ hash >> 16) & (tree->seen_room - 1);
    while (tree->seen[at] != NULL && tree->seen[at] != address)
        at = (at + 1) & (tree->seen_room - 1);
    return at;
}

static int seen_add(struct fp_tree *tree, const void *address)
{
    if (tree->seen_count * 2 >= tree->seen_room) {
        const void **old = tree->seen;
        size_t room = tree->seen_room;
        tree->seen_room = room > 0 ? room * 2 : 16;
        tree->seen = PyMem_Calloc(tree->seen_room, sizeof *tree->seen);
        if (tree->seen == NULL) {
            tree->seen = old;
            tree->seen_room = room;
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < room; i++)
            if (old[i] != NULL)
                tree->seen[place(tree, old[i])] = old[i];
        PyMem_Free(old);
    }
    size_t at = place(tree, address);
    tree->seen_count += tree->seen[at] == NULL;
    tree->seen[at] = address;
    return 0;
}

static bool seen_has(const struct fp_tree *tree, const void *address)
{
    return tree->seen_room > 0 && tree->seen[place(tree, address)] == address;
}

static Py_ssize_t append(struct fp_tree *tree, PyObject *exc)
{
    if (tree->count == tree->room) {
        Py_ssize_t room = tree->room > 0 ? tree->room * 2 : 4;
        struct fp_node *nodes = PyMem_Realloc(tree->nodes, (size_t)room * sizeof *nodes);
        if (nodes == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        tree->nodes = nodes;
        tree->room = room;
    }
    memset(&tree->nodes[tree->count], 0, sizeof *tree->nodes);
    struct fp_node *node = &tree->nodes[tree->count];
    node->exc = Py_NewRef(exc);
    node->cause = node->context = node->members = -1;
    return tree->count++;
}

static Py_ssize_t add(struct fp_tree *tree, PyObject *exc, PyObject *traceback)
{
    Py_ssize_t at = append(tree, exc);
    if (at < 0 || seen_add(tree, exc) < 0 || fp_node_capture(tree, at, traceback) < 0)
        return -1;
    return at;
}

static Py_ssize_t add_with_traceback(struct fp_tree *tree, PyObject *exc)
{
    PyObject *traceback = PyObject_GetAttr(exc, tree->call->tb->s.__traceback__);
    if (traceback == NULL)
        return -1;
    Py_ssize_t at = add(tree, exc, traceback);
    Py_DECREF(traceback);
    return at;
}

/* Where the interpreter asks it: an exception that is false has no neighbours. */
static int is_considered(struct fp_tree *tree, PyObject *exc)
{
    return tree->call->tb->has.truth ? PyObject_IsTrue(exc) : 1;
}

/* Adds exc.<name> unless it is None or has been seen, or isn't wanted.  *place: -1 for none. */
static int add_neighbour(struct fp_tree *tree, PyObject *exc, PyObject *name, bool wanted, Py_ssize_t *place_of)
{
    *place_of = -1;
    int considered = is_considered(tree, exc);
    if (considered <= 0)
        return considered;
    PyObject *other = PyObject_GetAttr(exc, name);
    if (other == NULL)
        return -1;
    int result = 0;
    if (wanted && other != Py_None && !seen_has(tree, other)) {
        *place_of = add_with_traceback(tree, other);
        result = *place_of < 0 ? -1 : 0;
    }
    Py_DECREF(other);
    return result;
}

static int add_members(struct fp_tree *tree, Py_ssize_t at, PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030B0000
    int considered = is_considered(tree, exc);
    if (considered <= 0)
        return considered;
    int group = PyObject_IsInstance(exc, PyExc_BaseExceptionGroup);
    if (group <= 0)
        return group;
    PyObject *attribute = PyObject_GetAttr(exc, tree->call->tb->s.exceptions);
    PyObject *members = attribute != NULL ? PySequence_List(attribute) : NULL;
    Py_XDECREF(attribute);
    if (members == NULL)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(members), first = tree->count;
    int result = 0;
    for (Py_ssize_t i = 0; i < count && result == 0; i++)
        result = add_with_traceback(tree, PyList_GET_ITEM(members, i)) < 0 ? -1 : 0;
    Py_DECREF(members);
    tree->nodes[at].first_member = first;
    tree->nodes[at].members = count;
    return result;
#else
    (void)tree, (void)at, (void)exc;
    return 0;
#endif
}

/* Takes other, if it isn't NULL and hasn't been met. */
static int meet(struct fp_tree *met, PyObject *todo, PyObject *other)
{
    int result = 0;
    if (other != NULL && !seen_has(met, other))
        result = seen_add(met, other) < 0 || PyList_Append(todo, other) < 0 ? -1 : 0;
    Py_XDECREF(other);
    return result;
}

/* A new reference to the context that is captured. */
static PyObject *context_of(struct fp_tb *tb, PyObject *exc)
{
    bool hidden = tb->has.compact && ((PyBaseExceptionObject *)exc)->suppress_context;
    return hidden ? NULL : PyException_GetContext(exc);
}

static int meet_neighbours(struct fp_tb *tb, struct fp_tree *met, PyObject *todo, PyObject *exc)
{
    if (meet(met, todo, PyException_GetCause(exc)) < 0 || meet(met, todo, context_of(tb, exc)) < 0)
        return -1;
#if PY_VERSION_HEX >= 0x030B0000
    if (PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_BaseExceptionGroup)) {
        PyObject *members = ((PyBaseExceptionGroupObject *)exc)->excs;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(members); i++)
            if (meet(met, todo, Py_NewRef(PyTuple_GET_ITEM(members, i))) < 0)
                return -1;
    }
#endif
    return 0;
}

/* Whether there is only one exception, as usually. */
static bool is_alone(struct fp_tb *tb, PyObject *exc)
{
    PyObject *cause = PyException_GetCause(exc), *context = context_of(tb, exc);
    bool alone = cause == NULL && context == NULL;
#if PY_VERSION_HEX >= 0x030B0000
    alone = alone && !PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_BaseExceptionGroup);
#endif
    Py_XDECREF(cause);
    Py_XDECREF(context);
    return alone;
}

/* Declines a tree with exceptions whose class has causes, contexts or tracebacks of its own making; asked before any
 * code of others has run. */
static enum fp_answer is_plain(struct fp_tb *tb, PyObject *exc)
{
    if (!fp_guard_type(tb, Py_TYPE(exc)))
        return FP_DECLINE;
    if (is_alone(tb, exc))
        return FP_DONE;
    struct fp_tree met = {.call = NULL};
    PyObject *todo = PyList_New(0);
    enum fp_answer answer = todo != NULL && meet(&met, todo, Py_NewRef(exc)) == 0 ? FP_DONE : FP_ERROR;
    for (Py_ssize_t i = 0; answer == FP_DONE && i < PyList_GET_SIZE(todo); i++) {
        PyObject *one = PyList_GET_ITEM(todo, i);
        if (!fp_guard_type(tb, Py_TYPE(one)))
            answer = FP_DECLINE;
        else if (meet_neighbours(tb, &met, todo, one) < 0)
            answer = FP_ERROR;
    }
    PyMem_Free(met.seen);
    Py_XDECREF(todo);
    return answer;
}

static int push(struct fp_tree *tree, Py_ssize_t at)
{
    if (tree->todo_count == tree->todo_room) {
        Py_ssize_t room = tree->todo_room > 0 ? tree->todo_room * 2 : 8;
        Py_ssize_t *todo = PyMem_Realloc(tree->todo, (size_t)room * sizeof *todo);
        if (todo == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        tree->todo = todo;
        tree->todo_room = room;
    }
    tree->todo[tree->todo_count++] = at;
    return 0;
}

/* Causes, contexts and members of one node; those found are put on the stack of nodes to do. */
static int expand(struct fp_tree *tree, Py_ssize_t at)
{
    struct fp_tb *tb = tree->call->tb;
    PyObject *exc = tree->nodes[at].exc;
    Py_ssize_t cause, context = -1;
    if (add_neighbour(tree, exc, tb->s.__cause__, true, &cause) < 0)
        return -1;
    bool wanted = false;
    if (cause < 0) {
        PyObject *suppress = PyObject_GetAttr(exc, tb->s.__suppress_context__);
        int truth = suppress != NULL ? PyObject_IsTrue(suppress) : -1;
        Py_XDECREF(suppress);
        if (truth < 0)
            return -1;
        wanted = truth == 0;
    }
    if (add_neighbour(tree, exc, tb->s.__context__, wanted, &context) < 0)
        return -1;
    if (add_members(tree, at, exc) < 0)
        return -1;
    struct fp_node *node = &tree->nodes[at];
    node->cause = cause;
    node->context = context;
    Py_ssize_t next[2] = {cause, context};
    for (int i = 0; i < 2; i++)
        if (next[i] >= 0 && push(tree, next[i]) < 0)
            return -1;
    for (Py_ssize_t i = 0; i < node->members; i++)
        if (push(tree, node->first_member + i) < 0)
            return -1;
    return 0;
}

static int build(struct fp_tree *tree, PyObject *exc, PyObject *traceback)
{
    Py_ssize_t at = add(tree, exc, traceback);
    if (at < 0 || push(tree, at) < 0)
        return -1;
    while (tree->todo_count > 0)
        if (expand(tree, tree->todo[--tree->todo_count]) < 0)
            return -1;
    return 0;
}

/* Before 3.10: neighbours first, and contexts are captured even when a cause hides them. */
static enum fp_answer build_recursively(struct fp_tree *tree, PyObject *exc, PyObject *traceback, int depth,
                                        Py_ssize_t *result)
{
    struct fp_tb *tb = tree->call->tb;
    PyObject *names[] = {tb->s.__cause__, tb->s.__context__};
    Py_ssize_t places[2] = {-1, -1}, at = append(tree, exc);
    if (at < 0 || seen_add(tree, exc) < 0)
        return FP_ERROR;
    if (depth > RECURSION_ALLOWED)
        return FP_DECLINE;
    for (int i = 0; i < 2; i++) {
        int considered = is_considered(tree, exc);
        PyObject *other = considered > 0 ? PyObject_GetAttr(exc, names[i]) : NULL, *tb_of = NULL;
        if (considered == 0)
            continue;
        if (other == NULL || (other != Py_None && (tb_of = PyObject_GetAttr(other, tb->s.__traceback__)) == NULL)) {
            Py_XDECREF(other);
            return FP_ERROR;
        }
        enum fp_answer answer = FP_DONE;
        if (other != Py_None && !seen_has(tree, other))
            answer = build_recursively(tree, other, tb_of, depth + 1, &places[i]);
        Py_DECREF(other);
        Py_XDECREF(tb_of);
        if (answer != FP_DONE)
            return answer;
    }
    if (fp_node_capture(tree, at, traceback) < 0)
        return FP_ERROR;
    tree->nodes[at].cause = places[0];
    tree->nodes[at].context = places[1];
    *result = at;
    return FP_DONE;
}

static void clear(struct fp_tree *tree)
{
    for (Py_ssize_t i = 0; i < tree->count; i++) {
        struct fp_node *node = &tree->nodes[i];
        Py_XDECREF(node->exc);
        Py_XDECREF(node->stack);
        Py_XDECREF(node->extracted);
        Py_XDECREF(node->failed.type);
        Py_XDECREF(node->failed.value);
        Py_XDECREF(node->failed.traceback);
        Py_XDECREF(node->type);
        Py_XDECREF(node->str);
        Py_XDECREF(node->lines);
        Py_XDECREF(node->notes);
        Py_XDECREF(node->standard);
    }
    PyMem_Free(tree->nodes);
    PyMem_Free(tree->todo);
    PyMem_Free(tree->seen);
}

/* Whether the first exception's frames can be walked at all: asked before any foreign code has run. */
static enum fp_answer is_walkable(struct fp_tb *tb, PyObject *value, PyObject *traceback, PyObject *limit)
{
    struct fp_items items;
    if (!PyExceptionInstance_Check(value))
        return FP_DECLINE;
    bool limited = limit != NULL && limit != Py_None;
    if (traceback != NULL && traceback != Py_None && !PyTraceBack_Check(traceback))
        return FP_DECLINE;
    enum fp_answer answer = fp_items_of_traceback(tb, limited ? traceback : NULL, limit, &items);
    fp_items_clear(&items);
    return answer;
}

/* Of two failures the first one is raised: it may come from a signal.  False: there was none before. */
static bool raise_first(struct fp_tree *tree)
{
    for (Py_ssize_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].failed.type != NULL) {
            fp_error_raise(&tree->nodes[i].failed);
            return true;
        }
    return false;
}

/* format_exception(): *list is a new list; after FP_ERROR it may hold what was written until then, or be NULL. */
enum fp_answer fp_format_exception(struct fp_tb *tb, PyObject *value, PyObject *traceback, PyObject *limit,
                                   enum fp_scope scope, PyObject **list)
{
    enum fp_answer answer = is_walkable(tb, value, traceback, limit);
    if (answer == FP_DONE)
        answer = is_plain(tb, value);
    if (answer != FP_DONE)
        return answer;
    struct fp_call call;
    struct fp_tree tree = {.call = &call, .limit = limit, .without_frames = scope == FP_ONLY};
    Py_ssize_t root = 0;
    fp_call_begin(&call, tb);
    if (tb->has.compact)
        answer = build(&tree, value, traceback) < 0 ? FP_ERROR : FP_DONE;
    else
        answer = build_recursively(&tree, value, traceback, 0, &root);
    if (answer != FP_DONE && raise_first(&tree))
        answer = FP_ERROR;
    *list = answer == FP_DONE ? PyList_New(0) : NULL;
    if (answer == FP_DONE && (*list == NULL || fp_tree_emit(&tree, scope, *list) < 0))
        answer = FP_ERROR;
    clear(&tree);
    fp_call_end(&call);
    return answer;
}
