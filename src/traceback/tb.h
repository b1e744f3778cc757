/* What the parts of the C traceback share: the module's state, one call's sources, frames and nodes.  Normal context.
 */
#ifndef FAULTPROOF_TRACEBACK_TB_H
#define FAULTPROOF_TRACEBACK_TB_H

#include "compat.h"

/* Names looked up again and again: an interned string each. */
#define FP_STRINGS(X)                                                                                                  \
    X(__bool__)                                                                                                        \
    X(__cause__)                                                                                                       \
    X(__context__)                                                                                                     \
    X(__getattribute__)                                                                                                \
    X(__module__)                                                                                                      \
    X(__name__)                                                                                                        \
    X(__notes__)                                                                                                       \
    X(__qualname__)                                                                                                    \
    X(__suppress_context__)                                                                                            \
    X(__traceback__)                                                                                                   \
    X(_code)                                                                                                           \
    X(_display_width)                                                                                                  \
    X(_extract_from_extended_frame_gen)                                                                                \
    X(_format_final_exc_line)                                                                                          \
    X(_seen)                                                                                                           \
    X(_str)                                                                                                            \
    X(_walk_tb_with_full_positions)                                                                                    \
    X(ast)                                                                                                             \
    X(cache)                                                                                                           \
    X(_interactive_cache)                                                                                              \
    X(capture_locals)                                                                                                  \
    X(chain)                                                                                                           \
    X(checkcache)                                                                                                      \
    X(close)                                                                                                           \
    X(colorize)                                                                                                        \
    X(compact)                                                                                                         \
    X(end_lineno)                                                                                                      \
    X(end_offset)                                                                                                      \
    X(etype)                                                                                                           \
    X(exceptions)                                                                                                      \
    X(extracted_list)                                                                                                  \
    X(extract)                                                                                                         \
    X(f)                                                                                                               \
    X(f_lasti)                                                                                                         \
    X(file)                                                                                                            \
    X(filename)                                                                                                        \
    X(format)                                                                                                          \
    X(format_exception_only)                                                                                           \
    X(format_frame_summary)                                                                                            \
    X(frame_gen)                                                                                                       \
    X(getline)                                                                                                         \
    X(gi_code)                                                                                                         \
    X(gi_frame)                                                                                                        \
    X(gi_running)                                                                                                      \
    X(gi_suspended)                                                                                                    \
    X(lazycache)                                                                                                       \
    X(klass)                                                                                                           \
    X(limit)                                                                                                           \
    X(line)                                                                                                            \
    X(lineno)                                                                                                          \
    X(lookup_lines)                                                                                                    \
    X(msg)                                                                                                             \
    X(name)                                                                                                            \
    X(name_from)                                                                                                       \
    X(offset)                                                                                                          \
    X(parse)                                                                                                           \
    X(print)                                                                                                           \
    X(show_group)                                                                                                      \
    X(stat)                                                                                                            \
    X(stderr)                                                                                                          \
    X(tb)                                                                                                              \
    X(tb_lineno)                                                                                                       \
    X(text)                                                                                                            \
    X(tracebacklimit)                                                                                                  \
    X(value)                                                                                                           \
    X(walk_tb)                                                                                                         \
    X(write)

/* The members of FrameSummary that a version may have: the offset of its slot, or -1. */
#define FP_SLOTS(X)                                                                                                    \
    X(filename)                                                                                                        \
    X(lineno) X(end_lineno) X(colno) X(end_colno) X(name) X(locals) X(_line) X(_lines) X(_lines_dedented) X(_code)

struct fp_names {
#define X(name) PyObject *name;
    FP_STRINGS(X)
#undef X
};

struct fp_slots {
#define X(name) Py_ssize_t name;
    FP_SLOTS(X)
#undef X
};

/* What the running interpreter's module does, asked of it at import (faultproof/traceback.py). */
struct fp_features {
    int pristine;           /* nothing had been replaced already; else the fast path is never taken */
    int carets;             /* 0: none; 1: under one line (3.11, 3.12); 2: also under several (3.13 and later) */
    int display_width;      /* of carets: wide characters count, parentheses before an operator are skipped */
    int compact;            /* chains are built with a queue and without hidden contexts; else recursively (3.9) */
    int truth;              /* an exception that is false has no cause, context or members */
    int notes;              /* __notes__ are shown */
    int suggest;            /* names and imports get hints */
    int safe_string;        /* '<exception str() failed>'; else '<unprintable X object>' */
    int colorize;           /* the keyword is known to the interpreter's functions */
    int print_exc_colorize; /* and to print_exc() */
    int implicit;           /* format_exception(exc) alone is allowed */
    int strip_line;         /* FrameSummary._line is kept stripped (3.9) */
    int typos;              /* misspelt keywords are looked for */
    int code_lines;         /* lines of code without a file are registered by code object */
};

/* A caret; carets from offset to end (3.10); kept inside of the text (3.13); and as wide as it is shown (3.15). */
enum { FP_SYNTAX_POINT = 1, FP_SYNTAX_RANGE, FP_SYNTAX_CLAMPED, FP_SYNTAX_WIDTH };

/* Nothing that the fast path stands for may be replaced: guard.c. */
struct fp_watched {
    PyObject *dict;   /* a namespace */
    PyObject *seen;   /* its items at import: (name, value) pairs in a tuple */
    uint64_t version; /* of the dictionary when it was last compared; unused with watchers */
};

enum { FP_WATCHED = 6, FP_PLAIN_TYPES = 64 };

struct fp_guard {
    struct fp_watched watched[FP_WATCHED];
    int count;
    uint64_t generation; /* of the watched dictionaries when they were last compared */
    int intact;
    int watcher;
    PyObject *os_dict, *stat, *builtins_dict, *print, *ast_parse;
    unsigned plain_types[FP_PLAIN_TYPES]; /* versions of types that replace nothing of BaseException's */
};

/* What is known of a file from the last time linecache.checkcache() kept its entry: files.c. */
struct fp_stamp {
    int64_t size, seconds, nanoseconds;
};

struct fp_file {
    PyObject *filename;                /* the key, compared by identity; NULL: a free place */
    PyObject *size, *mtime, *fullname; /* the members of the entry that checkcache() compares */
    PyObject *path;                    /* fullname as bytes */
    struct fp_stamp stamp;
};

/* A finished text, valid while the code's table and the source lines are the same: memo.c. */
enum fp_kind { FP_PLAIN, FP_CARETS, FP_LINES };

struct fp_memo {
    PyObject *table, *filename, *name; /* of the code; compared by identity; table NULL: a free place */
    PyObject *line, *rest;             /* the first line (NULL: none) and a tuple of the further ones (NULL: none) */
    PyObject *text;
    int firstlineno, kind, at; /* at: the instruction's offset, or the line number where there are no columns */
    int lineno, end_lineno;
};

enum { FP_FILES = 1024, FP_MEMOS = 8192, FP_MEMO_TEXT = 4096 };

struct fp_tb {
    PyObject *module;         /* borrowed: this extension module */
    PyObject *std, *std_dict; /* the interpreter's traceback */
    PyObject *linecache_dict, *sys_dict, *modules;
    PyObject *TracebackException, *StackSummary, *FrameSummary;
    PyObject *summary;      /* a StackSummary to call format_frame_summary() of */
    PyObject *check_carets; /* compares our carets with the interpreter's on a sample */
    int rules;              /* for carets: 0: not known yet; 1: ours are the interpreter's; -1: not */
    int rules_calls;        /* that would have drawn carets while it wasn't known */
    PyObject *show_group;   /* the helper for format_exception_only(show_group=True) where the interpreter has none */
    PyObject *one_write;    /* the types whose write() may be called once for all lines */
    PyObject *cause_message, *context_message, *heading, *group_heading;
    PyObject *syntax_style; /* tells how a SyntaxError shows its place */
    int syntax;             /* what it told: FP_SYNTAX_...; 0: not asked yet; -1: in a way not known here */
    PyObject *walkers;      /* the generators that yield frames: walker.c */
    PyObject *function_type;
    PyObject *functions, *methods; /* by name; NULL before bind() */
    struct fp_names s;
    struct fp_slots slots;
    struct fp_features has;
    struct fp_guard guard;
    struct fp_file *files; /* under FP_LOCK(), and so are the memos */
    struct fp_memo *memos;
};

/* What a function that may decline answers.  FP_DECLINE: no exception is set; ask the interpreter's module. */
enum fp_answer { FP_ERROR = -1, FP_DECLINE = 0, FP_DONE = 1 };

/* FP_FOREIGN: linecache.cache is no plain dictionary (any more): linecache itself is asked for everything. */
enum fp_how { FP_NOTHING, FP_ABSENT, FP_UNCHECKED, FP_CACHED, FP_ASK, FP_FOREIGN };

/* A source file as one call sees it. */
struct fp_source {
    PyObject *filename;
    PyObject *entry; /* of linecache.cache */
    PyObject *lines;
    PyObject *path;
    enum fp_how how;
    bool known; /* path and stamp come from the file table */
    struct fp_stamp stamp, now;
    int stat_failed;
};

enum { FP_INLINE_SOURCES = 16 };

struct fp_call {
    struct fp_tb *tb;
    struct fp_source *sources; /* an open hash table, by the filename's address */
    size_t capacity, used;
    bool all_checked;
    bool counted;   /* in tb->rules_calls */
    bool rendering; /* the lines are there: what fails now fails when a text is made of them */
    struct fp_source inline_sources[FP_INLINE_SOURCES];
};

struct fp_item {
    PyCodeObject *code;   /* NULL: the item is a FrameSummary, located, and its lines are known to it */
    PyFrameObject *frame; /* with the code */
    PyObject *summary;
    PyObject *filename, *name; /* the code's, or the summary's */
    size_t source;             /* place in the call's table; it is looked up again when the table has grown */
    int kind, at;
    int tb_lineno;                              /* -1: not known yet */
    int lineno, end_lineno, column, end_column; /* columns -1: none */
    bool located, exact;
};

struct fp_items {
    struct fp_item *items;
    Py_ssize_t count;
};

/* guard.c */
int fp_guard_init(struct fp_tb *tb);
void fp_guard_clear(struct fp_tb *tb);
enum fp_answer fp_guard_intact(struct fp_tb *tb); /* FP_DECLINE: something has been replaced */
/* FP_DECLINE: the namespace has another value of that name, or none. */
enum fp_answer fp_guard_holds(PyObject *dict, PyObject *name, const PyObject *value);
bool fp_guard_type(struct fp_tb *tb, PyTypeObject *type);
/* Whether the name means for objects of the type what it means for those of the base. */
bool fp_guard_inherits(PyTypeObject *type, PyObject *base, PyObject *name);
/* A global of that namespace, a new reference; NULL with the NameError that code there would raise. */
PyObject *fp_global(PyObject *dict, PyObject *name);

/* files.c */
void fp_call_begin(struct fp_call *call, struct fp_tb *tb);
void fp_call_forget(struct fp_call *call); /* code that may change anything has run */
void fp_call_end(struct fp_call *call);
int fp_source_add(struct fp_call *call, struct fp_item *item);
int fp_sources_check(struct fp_call *call);
int fp_source_line(struct fp_call *call, const struct fp_item *item, int lineno, PyObject **line);
void fp_files_clear(struct fp_tb *tb);

/* memo.c */
bool fp_memo_find(struct fp_tb *tb, const struct fp_item *item, int kind, struct fp_memo *found);
void fp_memo_store(struct fp_tb *tb, const struct fp_item *item, int kind, PyObject *line, PyObject *rest,
                   PyObject *text);
void fp_memo_release(struct fp_memo *found);
void fp_memos_clear(struct fp_tb *tb);
int fp_memory_start(void); /* once an interpreter, first: fork() is safe from then on */

/* frames.c */
enum fp_answer fp_items_of_traceback(struct fp_tb *tb, PyObject *traceback, PyObject *limit, struct fp_items *items);
enum fp_answer fp_items_of_lines(struct fp_tb *tb, PyObject *traceback, PyObject *limit, struct fp_items *items);
enum fp_answer fp_items_of_frames(struct fp_tb *tb, PyObject *frame, PyObject *limit, struct fp_items *items);
enum fp_answer fp_items_of_stack(struct fp_tb *tb, PyObject *frame, PyObject *limit, struct fp_items *items);
void fp_items_clear(struct fp_items *items);
enum fp_answer fp_items_prepare(struct fp_call *call, struct fp_items *items);
int fp_may_have_code_lines(struct fp_call *call, const struct fp_item *item); /* -1: an exception */
enum fp_answer fp_items_format(struct fp_call *call, struct fp_items *items, PyObject *list);

/* locate.c */
enum fp_answer fp_locate(struct fp_item *item);
enum fp_answer fp_fetch_lines(struct fp_call *call, const struct fp_item *item, PyObject **line, PyObject **rest);

/* rules.c: whether our carets are the interpreter's */
enum fp_answer fp_rules_known(struct fp_call *call);

/* render.c */
enum fp_answer fp_render_own(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                             PyObject **text);
/* *lasts becomes false where the text depends on more than the lines. */
enum fp_answer fp_render(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                         PyObject **text, bool *lasts);
PyObject *fp_strip(PyObject *text, bool left);

/* carets.c */
enum fp_answer fp_carets(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                         PyObject **text);

/* summary.c */
enum fp_answer fp_items_of_summaries(struct fp_tb *tb, PyObject *list, PyObject *limit, struct fp_items *items);
enum fp_answer fp_summary_text(struct fp_call *call, const struct fp_item *item, PyObject **text);
int fp_summary_init(struct fp_tb *tb);
PyObject *fp_summary_new(struct fp_tb *tb, const struct fp_item *item, PyObject *lines);
PyObject *fp_summary_lines(struct fp_tb *tb, PyObject *line, PyObject *rest);
enum fp_answer fp_summaries(struct fp_call *call, struct fp_items *items, bool lazy, PyObject **stack);

/* walker.c */
enum fp_walk { FP_WALK_STACK, FP_WALK_TB, FP_WALK_POSITIONS }; /* as in faultproof/traceback.py */
int fp_walkers_init(struct fp_tb *tb, PyObject *walkers);
enum fp_answer fp_walker_read(struct fp_tb *tb, PyObject *generator, enum fp_walk *kind, PyObject **start);
enum fp_answer fp_walker_finish(struct fp_tb *tb, PyObject *generator, Py_ssize_t taken, bool all);

/* nodes.c: the texts of an exception with its chain, alone, or its own lines without frames */
enum fp_scope { FP_CHAIN, FP_ALONE, FP_ONLY };
enum fp_answer fp_format_exception(struct fp_tb *tb, PyObject *value, PyObject *traceback, PyObject *limit,
                                   enum fp_scope scope, PyObject **list);

/* calls.c, function.c */
PyObject *fp_functions_new(struct fp_tb *tb);
PyObject *fp_methods_new(struct fp_tb *tb);
PyObject *fp_function_new(struct fp_tb *tb, PyObject *standard, vectorcallfunc call);
int fp_function_type(PyObject *module, struct fp_tb *tb);
struct fp_tb *fp_function_state(PyObject *function);
PyObject *fp_function_standard(PyObject *function);

#endif
