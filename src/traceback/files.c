/* Source lines from the process's linecache, and linecache.checkcache() for a price of one stat() a file.  Normal
 * context.
 *
 * linecache.cache stays the truth: each call looks its entries up.  What is remembered is that checkcache() kept an
 * entry (the size, the time and the name in it, by identity) while the file had a certain size and time; as long as
 * both are the same it would keep it again.  In every other case checkcache() itself is called. */
#include "tb.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

void fp_call_begin(struct fp_call *call, struct fp_tb *tb)
{
    call->tb = tb;
    call->sources = call->inline_sources;
    call->capacity = FP_INLINE_SOURCES;
    call->used = 0;
    call->all_checked = true;
    call->rendering = call->counted = false;
    memset(call->inline_sources, 0, sizeof call->inline_sources);
}

static void drop(struct fp_source *source)
{
    Py_CLEAR(source->filename);
    Py_CLEAR(source->entry);
    Py_CLEAR(source->lines);
    Py_CLEAR(source->path);
}

void fp_call_forget(struct fp_call *call)
{
    for (size_t i = 0; i < call->capacity && call->used > 0; i++) {
        if (call->sources[i].filename == NULL)
            continue;
        drop(&call->sources[i]);
        call->used--;
    }
    call->all_checked = true;
}

void fp_call_end(struct fp_call *call)
{
    fp_call_forget(call);
    if (call->sources != call->inline_sources)
        PyMem_Free(call->sources);
}

static size_t hash(const PyObject *filename)
{
    uintptr_t value = (uintptr_t)filename >> 4;
    return (size_t)(value ^ value >> 12);
}

static struct fp_source *find(struct fp_source *sources, size_t capacity, PyObject *filename)
{
    size_t at = hash(filename) & (capacity - 1);
    while (sources[at].filename != NULL && sources[at].filename != filename)
        at = (at + 1) & (capacity - 1);
    return &sources[at];
}

static int grow(struct fp_call *call)
{
    size_t capacity = call->capacity * 2;
    struct fp_source *sources = PyMem_Calloc(capacity, sizeof *sources);
    if (sources == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < call->capacity; i++)
        if (call->sources[i].filename != NULL)
            *find(sources, capacity, call->sources[i].filename) = call->sources[i];
    if (call->sources != call->inline_sources)
        PyMem_Free(call->sources);
    call->sources = sources;
    call->capacity = capacity;
    return 0;
}

/* linecache has no lines for such names and doesn't look for any. */
static bool is_in_angles(PyObject *filename)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(filename);
    return length == 0 || (PyUnicode_READ_CHAR(filename, 0) == '<' && PyUnicode_READ_CHAR(filename, length - 1) == '>');
}

/* What the cache's entry means for us.  An entry of another form than linecache makes is left to linecache, and so is
 * everything in a cache of another type, which code that ran meanwhile may have put there. */
static int look_up(struct fp_call *call, struct fp_source *source)
{
    PyObject *cache = fp_global(call->tb->linecache_dict, call->tb->s.cache), *entry;
    if (cache == NULL)
        return -1;
    bool foreign = !PyDict_CheckExact(cache);
    int found = foreign ? 0 : fp_dict_get(cache, source->filename, &entry);
    Py_DECREF(cache);
    Py_CLEAR(source->entry);
    Py_CLEAR(source->lines);
    if (found < 0)
        return -1;
    if (foreign) {
        source->how = FP_FOREIGN;
        call->all_checked = false;
        return 0;
    }
    source->how = is_in_angles(source->filename) ? FP_NOTHING : FP_ABSENT;
    if (found == 0)
        return 0;
    source->how = FP_ASK;
    if (PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 4 && PyList_CheckExact(PyTuple_GET_ITEM(entry, 2))) {
        source->lines = Py_NewRef(PyTuple_GET_ITEM(entry, 2));
        source->how = PyTuple_GET_ITEM(entry, 1) == Py_None ? FP_CACHED : FP_UNCHECKED;
        if (source->how == FP_UNCHECKED)
            call->all_checked = false;
    }
    source->entry = entry;
    return 0;
}

static int call_lazycache(struct fp_call *call, struct fp_source *source, PyFrameObject *frame)
{
    PyObject *function = fp_global(call->tb->linecache_dict, call->tb->s.lazycache), *globals, *result = NULL;
    if (function == NULL)
        return -1;
    globals = fp_frame_globals(frame);
    if (globals != NULL)
        result = PyObject_CallFunctionObjArgs(function, source->filename, globals, NULL);
    Py_XDECREF(globals);
    Py_DECREF(function);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* Makes the item's file known to the call, as StackSummary.extract() makes it known to linecache. */
int fp_source_add(struct fp_call *call, struct fp_item *item)
{
    PyObject *filename = item->filename;
    struct fp_source *source = find(call->sources, call->capacity, filename);
    if (source->filename == NULL) {
        if (call->used * 2 >= call->capacity) {
            if (grow(call) < 0)
                return -1;
            source = find(call->sources, call->capacity, filename);
        }
        memset(source, 0, sizeof *source);
        source->filename = Py_NewRef(filename);
        call->used++;
        if (look_up(call, source) < 0)
            return -1;
    }
    if (source->how == FP_ABSENT || source->how == FP_FOREIGN)
        return call_lazycache(call, source, item->frame) < 0 || look_up(call, source) < 0 ? -1 : 0;
    return 0;
}

static struct fp_file *file_place(struct fp_tb *tb, PyObject *filename)
{
    return &tb->files[hash(filename) & (FP_FILES - 1)];
}

/* The path to stat and, where the entry is one that checkcache() has kept before, what the file looked like then. */
static void recall(struct fp_tb *tb, struct fp_source *source)
{
    source->known = false;
    FP_LOCK();
    const struct fp_file *file = tb->files != NULL ? file_place(tb, source->filename) : NULL;
    if (file != NULL && file->filename == source->filename && file->size == PyTuple_GET_ITEM(source->entry, 0) &&
        file->mtime == PyTuple_GET_ITEM(source->entry, 1) && file->fullname == PyTuple_GET_ITEM(source->entry, 3)) {
        source->path = Py_NewRef(file->path);
        source->stamp = file->stamp;
        source->known = true;
    }
    FP_UNLOCK();
}

static void remember(struct fp_tb *tb, const struct fp_source *source)
{
    FP_LOCK();
    if (tb->files == NULL)
        tb->files = PyMem_RawCalloc(FP_FILES, sizeof *tb->files);
    if (tb->files != NULL) {
        struct fp_file *file = file_place(tb, source->filename), old = *file;
        *file = (struct fp_file){.filename = Py_NewRef(source->filename),
                                 .size = Py_NewRef(PyTuple_GET_ITEM(source->entry, 0)),
                                 .mtime = Py_NewRef(PyTuple_GET_ITEM(source->entry, 1)),
                                 .fullname = Py_NewRef(PyTuple_GET_ITEM(source->entry, 3)),
                                 .path = Py_NewRef(source->path),
                                 .stamp = source->now};
        Py_XDECREF(old.filename);
        Py_XDECREF(old.size);
        Py_XDECREF(old.mtime);
        Py_XDECREF(old.fullname);
        Py_XDECREF(old.path);
    }
    FP_UNLOCK();
}

void fp_files_clear(struct fp_tb *tb)
{
    for (int i = 0; tb->files != NULL && i < FP_FILES; i++) {
        Py_CLEAR(tb->files[i].filename);
        Py_CLEAR(tb->files[i].size);
        Py_CLEAR(tb->files[i].mtime);
        Py_CLEAR(tb->files[i].fullname);
        Py_CLEAR(tb->files[i].path);
    }
    PyMem_RawFree(tb->files);
    tb->files = NULL;
}

static bool same_stamp(const struct fp_stamp *a, const struct fp_stamp *b)
{
    return a->size == b->size && a->seconds == b->seconds && a->nanoseconds == b->nanoseconds;
}

static bool take_stamp(const char *path, struct fp_stamp *stamp)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return false;
    *stamp = (struct fp_stamp){status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
    return true;
}

static int call_checkcache(struct fp_call *call, struct fp_source *source)
{
    PyObject *function = fp_global(call->tb->linecache_dict, call->tb->s.checkcache), *result;
    if (function == NULL)
        return -1;
    result = PyObject_CallFunctionObjArgs(function, source->filename, NULL);
    Py_DECREF(function);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* Nothing is to be checked any more: it has just been. */
static void settle(struct fp_source *source)
{
    if (source->how == FP_UNCHECKED)
        source->how = FP_CACHED;
    else if (source->how == FP_ABSENT || source->how == FP_FOREIGN)
        source->how = FP_ASK;
}

static bool can_remember(const struct fp_source *source)
{
    return PyFloat_CheckExact(PyTuple_GET_ITEM(source->entry, 1)) &&
           PyLong_CheckExact(PyTuple_GET_ITEM(source->entry, 0)) &&
           PyUnicode_CheckExact(PyTuple_GET_ITEM(source->entry, 3));
}

/* checkcache() decides.  A file that looks the same before and after is the one that it has seen. */
static int check_slowly(struct fp_call *call, struct fp_source *source)
{
    bool able = can_remember(source), before = false;
    if (able && source->path == NULL) {
        source->path = PyUnicode_EncodeFSDefault(PyTuple_GET_ITEM(source->entry, 3));
        if (source->path == NULL && !fp_clear(PyExc_UnicodeEncodeError)) /* a name that no file has */
            return -1;
    }
    able = able && source->path != NULL &&
           strlen(PyBytes_AS_STRING(source->path)) == (size_t)PyBytes_GET_SIZE(source->path);
    if (able)
        before = take_stamp(PyBytes_AS_STRING(source->path), &source->now);
    PyObject *entry = Py_NewRef(source->entry);
    if (call_checkcache(call, source) < 0 || look_up(call, source) < 0) {
        Py_DECREF(entry);
        return -1;
    }
    bool kept = source->entry == entry;
    Py_DECREF(entry);
    struct fp_stamp after;
    if (kept && before && take_stamp(PyBytes_AS_STRING(source->path), &after) && same_stamp(&after, &source->now))
        remember(call->tb, source);
    settle(source);
    return 0;
}

static bool is_to_check(const struct fp_source *source)
{
    return source->filename != NULL && source->how == FP_UNCHECKED;
}

/* Where the cache is of another type. */
static int check_foreign(struct fp_call *call, struct fp_source *source)
{
    if (source->filename == NULL || source->how != FP_FOREIGN)
        return 0;
    source->how = FP_ASK;
    return call_checkcache(call, source);
}

/* linecache.checkcache() for each file of the call that it hasn't been called for. */
int fp_sources_check(struct fp_call *call)
{
    if (call->all_checked)
        return 0;
    size_t count = call->capacity;
    for (size_t i = 0; i < count; i++)
        if (is_to_check(&call->sources[i]))
            recall(call->tb, &call->sources[i]);
    Py_BEGIN_ALLOW_THREADS for (size_t i = 0; i < count; i++)
    {
        struct fp_source *source = &call->sources[i];
        if (is_to_check(source) && source->known)
            source->known =
                take_stamp(PyBytes_AS_STRING(source->path), &source->now) && same_stamp(&source->now, &source->stamp);
    }
    Py_END_ALLOW_THREADS for (size_t i = 0; i < count; i++)
    {
        struct fp_source *source = &call->sources[i];
        if (check_foreign(call, source) < 0)
            return -1;
        if (!is_to_check(source))
            continue;
        if (source->known)
            source->how = FP_CACHED;
        else if (check_slowly(call, source) < 0)
            return -1;
    }
    call->all_checked = true;
    return 0;
}

static int ask(struct fp_call *call, struct fp_source *source, int lineno, PyObject **line)
{
    PyObject *function = fp_global(call->tb->linecache_dict, call->tb->s.getline);
    PyObject *number = function != NULL ? PyLong_FromLong(lineno) : NULL;
    *line = number != NULL ? PyObject_CallFunctionObjArgs(function, source->filename, number, NULL) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(function);
    if (*line != NULL && look_up(call, source) < 0)
        Py_CLEAR(*line);
    settle(source);
    return *line != NULL ? 0 : -1;
}

/* linecache.getline(): NULL for no line.  The line need not be a str. */
int fp_source_line(struct fp_call *call, const struct fp_item *item, int lineno, PyObject **line)
{
    struct fp_source *source = find(call->sources, call->capacity, item->filename);
    *line = NULL;
    if (source->how == FP_ABSENT)
        source->how = FP_ASK;
    if (source->how == FP_CACHED)
        *line = fp_list_get(source->lines, (Py_ssize_t)lineno - 1);
    else if (source->how == FP_ASK && ask(call, source, lineno, line) < 0)
        return -1;
    if (*line != NULL && PyUnicode_CheckExact(*line) && PyUnicode_GET_LENGTH(*line) == 0)
        Py_CLEAR(*line);
    return 0;
}
