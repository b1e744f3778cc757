/* Finished texts, by the place in the code they belong to; a table of fixed size in which new texts replace old ones.
 * Normal context.
 *
 * No code object is kept alive: an entry holds the objects that its text is made of (the position table, the file's and
 * the function's name), and is valid for a code object that has the same ones.  The source lines are compared by the
 * caller. */
#include "tb.h"

#include <string.h>

#ifdef Py_GIL_DISABLED
/* One for the process: nothing but copies of references is done under it. */
pthread_mutex_t fp_memory_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock(void)
{
    FP_LOCK();
}

static void unlock(void)
{
    FP_UNLOCK();
}

static void start(void)
{
    pthread_atfork(lock, unlock, unlock);
}

int fp_memory_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    return pthread_once(&once, start) == 0 ? 0 : -1;
}
#else
int fp_memory_start(void)
{
    return 0;
}
#endif

static size_t place(const struct fp_item *item, int kind)
{
    uintptr_t hash = (uintptr_t)FP_CODE_TABLE(item->code) >> 4;
    hash = (hash ^ ((uintptr_t)item->code->co_firstlineno << 16)) + (uintptr_t)item->at * 0x9E3779B1u + (uintptr_t)kind;
    hash ^= hash >> 15;
    hash *= (uintptr_t)0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 40) & (FP_MEMOS - 1);
}

static bool matches(const struct fp_memo *memo, const struct fp_item *item, int kind)
{
    return memo->table == FP_CODE_TABLE(item->code) && memo->at == item->at && memo->kind == kind &&
           memo->filename == item->code->co_filename && memo->name == item->code->co_name &&
           memo->firstlineno == item->code->co_firstlineno;
}

/* An entry's second place is the neighbour: two that meet need not push each other out. */
static struct fp_memo *find(struct fp_tb *tb, const struct fp_item *item, int kind)
{
    struct fp_memo *memo = &tb->memos[place(item, kind)];
    for (int i = 0; i < 2; i++)
        if (matches(&memo[i], item, kind))
            return &memo[i];
    return NULL;
}

/* On success the caller holds what found holds, until fp_memo_release(). */
bool fp_memo_find(struct fp_tb *tb, const struct fp_item *item, int kind, struct fp_memo *found)
{
    FP_LOCK();
    const struct fp_memo *memo = tb->memos != NULL ? find(tb, item, kind) : NULL;
    if (memo != NULL) {
        *found = *memo;
        Py_XINCREF(found->line);
        Py_XINCREF(found->rest);
        Py_INCREF(found->text);
    }
    FP_UNLOCK();
    return memo != NULL;
}

void fp_memo_release(struct fp_memo *found)
{
    Py_XDECREF(found->line);
    Py_XDECREF(found->rest);
    Py_DECREF(found->text);
}

static void drop(struct fp_memo *memo)
{
    Py_CLEAR(memo->table);
    Py_CLEAR(memo->filename);
    Py_CLEAR(memo->name);
    Py_CLEAR(memo->line);
    Py_CLEAR(memo->rest);
    Py_CLEAR(memo->text);
}

/* The place for a new entry: the one with the same key, a free one, else the first, after it has moved to the second.
 */
static struct fp_memo *make_room(struct fp_tb *tb, const struct fp_item *item, int kind)
{
    struct fp_memo *memo = find(tb, item, kind);
    if (memo != NULL)
        return memo;
    memo = &tb->memos[place(item, kind)];
    if (memo[0].table == NULL)
        return &memo[0];
    drop(&memo[1]);
    memo[1] = memo[0];
    memset(&memo[0], 0, sizeof memo[0]);
    return &memo[0];
}

void fp_memo_store(struct fp_tb *tb, const struct fp_item *item, int kind, PyObject *line, PyObject *rest,
                   PyObject *text)
{
    if (PyUnicode_GET_LENGTH(text) > FP_MEMO_TEXT || (line != NULL && PyUnicode_GET_LENGTH(line) > FP_MEMO_TEXT))
        return;
    FP_LOCK();
    if (tb->memos == NULL)
        tb->memos = PyMem_RawCalloc(FP_MEMOS + 1, sizeof *tb->memos);
    if (tb->memos != NULL) {
        struct fp_memo *memo = make_room(tb, item, kind);
        drop(memo); /* strings, bytes and tuples of strings: no code runs */
        *memo = (struct fp_memo){.table = Py_NewRef(FP_CODE_TABLE(item->code)),
                                 .filename = Py_NewRef(item->code->co_filename),
                                 .name = Py_NewRef(item->code->co_name),
                                 .line = Py_XNewRef(line),
                                 .rest = Py_XNewRef(rest),
                                 .text = Py_NewRef(text),
                                 .firstlineno = item->code->co_firstlineno,
                                 .kind = kind,
                                 .at = item->at,
                                 .lineno = item->lineno,
                                 .end_lineno = item->end_lineno};
    }
    FP_UNLOCK();
}

void fp_memos_clear(struct fp_tb *tb)
{
    for (int i = 0; tb->memos != NULL && i <= FP_MEMOS; i++)
        drop(&tb->memos[i]);
    PyMem_RawFree(tb->memos);
    tb->memos = NULL;
}
