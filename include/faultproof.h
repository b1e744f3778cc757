/* faultproof.h: Python call stacks for profilers and crash trackers, CPython 3.9 and later.  C99 and C++.
 *
 * This text is the reference.  What holds for every function, unless it says otherwise:
 *
 *   - It may be called from any context: a signal handler on an alternate stack, a thread that Python doesn't know,
 *     with or without an attached thread state, with or without the GIL.
 *   - It takes no lock, no reference and no heap memory; it leaves errno as it was.
 *   - It reads the interpreter's memory in a way that can't crash: what can't be read counts as not there.  If the
 *     interpreter is damaged, the result is short or empty, not a second crash.
 *   - Pointers to thread states are looked up, never trusted: a freed one is an error code.  Only the address can be
 *     judged: if a new thread state has been made at the address of a freed one, it is the new one that is meant.
 *   - Before the start (faultproof_import() or faultproof_init()) functions that return int return -1, the others NULL
 *     or 0.
 *   - A stack is exact where the thread stands still: the calling thread's own, or any of an interpreter whose GIL the
 *     caller holds.  Of a thread that runs the stack is read several times until the readings agree, so that it is one
 *     that the thread really had; this takes some microseconds, at most 1 millisecond, and shows at most the 1024 most
 *     recent frames.  Where system calls read memory (see faultproof_install_guard()) it takes 50 to 100 microseconds a
 *     frame, and is certain only if the thread stands still meanwhile: one that runs Python code all the time nearly
 *     always counts as one that changed during each reading.
 *   - Frames that no traceback shows (the interpreter's own entry frames) are left out.
 *
 * How to get the functions, one of two ways:
 *
 *   1. From the installed package.  Python.h is included before this header; faultproof_import() is called once, with
 *      the GIL.  faultproof.get_include() says where the header is.  All files of one extension share what it imported.
 *   2. Compiled in.  The two files faultproof.c and faultproof.h that the package's build makes are added to the
 *      project; faultproof_init() is called once.  Nothing is imported.  FAULTPROOF_LINKED is defined in that header.
 *
 * Structs that the caller hands over begin with struct_size, which the caller sets to sizeof of the struct: later
 * versions may add fields at the end.
 */
#ifndef FAULTPROOF_H
#define FAULTPROOF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAULTPROOF_VERSION_HEX 0x00010000 /* 0.1.0: one byte each for major, minor, patch; then 0 */
#define FAULTPROOF_API_VERSION 1          /* changes only when an older header can't be served any more */

/* Linked in: ordinary functions, hidden so that two copies in one process don't meet; else: inline functions below. */
#ifndef FAULTPROOF_API
#ifdef FAULTPROOF_LINKED
#define FAULTPROOF_API extern __attribute__((visibility("hidden")))
#else
#define FAULTPROOF_API static inline
#endif
#endif

struct _ts; /* PyThreadState, so that this header needs no Python.h */

/* ---- Start ---- */

#ifdef FAULTPROOF_LINKED
/* Finds the interpreter in this process.  Normal context, any thread, GIL or not; after Py_Initialize().  Installs
   nothing.  0, also when called again; -1 if there is no interpreter (any more), or not one that faultproof knows:
   faultproof_status() says why, and a later call tries again. */
FAULTPROOF_API int faultproof_init(void);
#endif

/* Why the functions return -1, as an English text; "ok" if they work.  After Py_Finalize() they don't, until there is
   an interpreter again.  Never NULL; lives as long as the process. */
FAULTPROOF_API const char *faultproof_status(void);

/* FAULTPROOF_VERSION_HEX of the code that runs, which may be newer than the header.  0 before the start. */
FAULTPROOF_API uint32_t faultproof_version(void);

/* Makes reading fast, from 1 microsecond a read to 1 nanosecond: installs handlers of SIGSEGV and SIGBUS that recover
   faultproof's own faulting reads.  All other faults go to the handlers that were there before, or to the default
   action, as if these were not there.  Without it, in a thread that blocks one of the two signals, and while somebody
   else's handlers are installed, system calls do the reading (process_vm_readv, /proc/self/mem, or a pipe).
   Normal context, any thread; further calls do no harm: they don't put it in front of a handler that somebody has
   installed since, which may call it (faultproof_can_guard() says whether it works).  0, or -1. */
FAULTPROOF_API int faultproof_install_guard(void);

/* Puts back the handlers that were there before faultproof_install_guard(), if nobody has installed others since: else
   it leaves them alone and returns -1 (the code must stay loaded then).  With the package's functions it does nothing
   and returns -1, since others in the process rely on the same handlers.  Normal context; no other call may be under
   way. */
FAULTPROOF_API int faultproof_remove_guard(void);

/* ---- The proposed CPython API (python/cpython#148930) ---- */

#define FAULTPROOF_STRSIZE 501 /* bytes of a string field, the final '\0' included */

/* One frame as text.  Strings are printable ASCII; other characters are written as \xhh, \uhhhh or \Uhhhhhhhh, and no
   such escape is cut in two.  A string that would have more than 500 bytes is cut there. */
typedef struct faultproof_frame_info {
    int lineno;                        /* 1-based; -1: unknown */
    int filename_truncated;            /* 1: filename was cut */
    int name_truncated;                /* 1: name was cut */
    char filename[FAULTPROOF_STRSIZE]; /* co_filename; empty: unavailable */
    char name[FAULTPROOF_STRSIZE];     /* co_name; empty: unavailable */
} faultproof_frame_info;

/* Collects the stack of a thread state, most recent frame first, into frames[0 .. max_frames - 1].  The thread state
   need not be attached.  Returns the number of frames written, 0 to max_frames; the rest of the array has no meaning.
   -1 if frames or tstate is NULL, max_frames is negative, tstate is freed or has no current Python frame.  With
   max_frames 0 the result is 0 or, for those reasons, -1.  Whether tstate is freed is decided in constant time.
   Of another thread that runs: also -1 when all of the fixed scratch memory has been in use for 20 milliseconds (16
   calls at once); what changed during each reading, a frame or all those on top of the others, is one record with empty
   strings and lineno -1.  Such a record also stands for a frame whose code object is damaged, is the last one where the
   chain of frames is, and on 3.11 and 3.12 the only one of a thread that stands still between the instructions that
   link a frame. */
FAULTPROOF_API int faultproof_collect_call_stack(struct _ts *tstate, faultproof_frame_info *frames, int max_frames);

/* Writes frames[0 .. n_frames - 1] to a descriptor, a line each:
       Stack (most recent call first):
         File "foo/bar.py", line 42 in myfunc
   The first line only if write_header isn't 0.  "..." follows what was cut; ??? stands for what is unavailable.  Reads
   nothing but the array; write() is its only I/O; a write that fails (EINTR excepted) ends it silently.  frames NULL or
   n_frames below 1: no frames. */
FAULTPROOF_API void faultproof_print_call_stack(int fd, const faultproof_frame_info *frames, int n_frames,
                                                int write_header);

/* The proposal's own names, unless Python.h has them: then these are CPython's, and faultproof_* stay what they are.
   (Python.h, if it is included at all, is to be included first.) */
#ifndef Py_UNSTABLE_FRAMEINFO_STRSIZE
#define Py_UNSTABLE_FRAMEINFO_STRSIZE FAULTPROOF_STRSIZE
#define PyUnstable_FrameInfo          faultproof_frame_info
#define PyUnstable_CollectCallStack   faultproof_collect_call_stack
#define PyUnstable_PrintCallStack     faultproof_print_call_stack
#endif

/* ---- Sampling: collect now, resolve later ---- */

/* kinds of frames */
#define FAULTPROOF_KIND_FUNCTION  0 /* of a function, method, class body or module */
#define FAULTPROOF_KIND_GENERATOR 1 /* of a generator, coroutine or asynchronous generator */

/* One frame as numbers. */
typedef struct faultproof_frame {
    uint64_t code;   /* address of the code object: a number to compare, not a pointer to use; it may be freed */
    int32_t offset;  /* byte offset of the current instruction in the code's bytecode; -1: not started, or unknown */
    uint32_t check;  /* tells code objects apart that were at the same address at different times; 0: unknown */
    uint32_t kind;   /* FAULTPROOF_KIND_... */
    uint32_t unused; /* 0 */
} faultproof_frame;

/* Which way of reading works, found out once.  Collecting costs some 100 nanoseconds, finding out as much as 1
   microsecond (three system calls).  Fields are faultproof's. */
typedef struct faultproof_session {
    uint32_t struct_size; /* the caller sets sizeof(faultproof_session) before faultproof_session_begin() */
    uint32_t reader;
    uint64_t unused[4];
} faultproof_session;

/* Begins a session in the calling thread; it is used by this thread only, signal handlers in it included, in as many
   calls as wanted.  0, or -1 if memory can't be read or struct_size is too small.
   The promise of who opens a session, until its end: this thread doesn't block SIGSEGV or SIGBUS, and nobody replaces
   their handlers by ones that don't call the previous handler.  Who can't promise that passes NULL for the session:
   each call then finds out anew. */
FAULTPROOF_API int faultproof_session_begin(faultproof_session *session);
/* Ends it; NULL is allowed. */
FAULTPROOF_API void faultproof_session_end(faultproof_session *session);

#define FAULTPROOF_TORN (-2) /* the chain of frames is in the making, kept changing, or damaged: no stack */

/* Collects a stack as faultproof_collect_call_stack() does, but as numbers, which is 20 to 100 times faster: for
   samplers.  session: of this thread, or NULL.  The result and the reasons for -1 are the same; besides that
   FAULTPROOF_TORN: a thread that stands still does so between the instructions that link a new frame (the calling one,
   in a signal handler, on 3.11 and 3.12), one that runs changed during each reading, or memory is damaged.  Nothing is
   written that could be used; a sampler takes the next sample. */
FAULTPROOF_API int faultproof_collect(const faultproof_session *session, struct _ts *tstate, faultproof_frame *frames,
                                      int max_frames);

/* The same for the calling thread, whose thread state is looked up: see faultproof_current_tstate(). */
FAULTPROOF_API int faultproof_collect_own(const faultproof_session *session, faultproof_frame *frames, int max_frames);

/* What a frame stands for. */
typedef struct faultproof_location {
    uint32_t struct_size; /* the caller sets sizeof(faultproof_location) */
    uint32_t flags;       /* FAULTPROOF_CODE_FREED, ..._TRUNCATED */
    int32_t line;         /* 1-based; -1: unknown */
    int32_t end_line;     /* 1-based line where the instruction's source ends; -1: unknown (3.9, 3.10) */
    int32_t column;       /* 0-based UTF-8 byte offset in the line; -1: unknown (3.9, 3.10) */
    int32_t end_column;   /* of the end, exclusive; -1: unknown (3.9, 3.10) */
    int32_t first_line;   /* co_firstlineno */
    uint32_t code_flags;  /* co_flags */
    char filename[FAULTPROOF_STRSIZE];
    char name[FAULTPROOF_STRSIZE];
    char qualname[FAULTPROOF_STRSIZE]; /* empty: unavailable (3.9, 3.10) */
} faultproof_location;

/* flags of a location; FREED: the code object is gone, what the cache knew of it is given, line and columns aren't */
#define FAULTPROOF_CODE_FREED         1
#define FAULTPROOF_FILENAME_TRUNCATED 2
#define FAULTPROOF_NAME_TRUNCATED     4
#define FAULTPROOF_QUALNAME_TRUNCATED 8

/* Remembers texts by code object in memory that the caller owns.  Bounded: a full cache forgets older entries. */
typedef struct faultproof_cache faultproof_cache;

/* Makes a cache in `size` bytes at `memory`, aligned to 8; about 1.6 KB an entry.  It lives as long as the memory, and
   there is nothing to free.  One thread at a time uses it, and no signal handler that may interrupt such a use.  NULL
   if memory is NULL, not aligned, or has no room for an entry. */
FAULTPROOF_API faultproof_cache *faultproof_cache_init(void *memory, size_t size);

/* Turns a frame into a location.  cache may be NULL.  0: *location is filled.  -1: nothing is known: an argument is
   NULL, struct_size is too small, or the code object has been freed since and the cache doesn't have it.  A code object
   made at the address of a freed one is noticed by frame->check if it has another name or first line; on 3.12 and later
   also if it only is another one of the same interpreter (faultproof_can_identify_code()). */
FAULTPROOF_API int faultproof_resolve(faultproof_cache *cache, const faultproof_frame *frame,
                                      faultproof_location *location);

/* ---- Threads ---- */

/* The calling thread's thread state: of several (subinterpreters) the attached one; NULL if it has none.  Constant time
   when it holds the GIL or has been here before (up to 3.11: and has a frame); else it searches the list of threads.
   Before 3.13 the thread state of a subinterpreter is known only in the thread that made it. */
FAULTPROOF_API struct _ts *faultproof_current_tstate(void);

#define FAULTPROOF_THREAD_HOLDS_GIL 1 /* it holds its interpreter's GIL; not set in free-threaded builds */
#define FAULTPROOF_THREAD_OWN      2 /* it has the calling thread's id (before 3.13: who made it, in subinterpreters) */
#define FAULTPROOF_THREAD_COLLECTS 4 /* its interpreter's garbage collector runs */

typedef struct faultproof_thread {
    uint32_t struct_size;   /* the caller sets sizeof(faultproof_thread) */
    uint32_t flags;         /* FAULTPROOF_THREAD_... */
    struct _ts *tstate;     /* valid until the thread ends: other functions notice if it has */
    uint64_t thread_id;     /* pthread_t, threading.get_ident(); 0: not started */
    uint64_t native_id;     /* the kernel's; 0: unknown */
    int64_t interpreter_id; /* 0: the main interpreter */
} faultproof_thread;

/* Describes the thread of a thread state.  0; -1 if an argument is NULL, struct_size is too small or tstate is freed.
 */
FAULTPROOF_API int faultproof_thread_info(struct _ts *tstate, faultproof_thread *thread);

#define FAULTPROOF_THREAD_NAMESIZE 16 /* bytes of a thread's name, the final '\0' included */

/* The kernel's name of a thread by its native_id, as it is (any bytes): what pthread_setname_np() gave it, and
   since 3.14 the beginning of threading.Thread.name.  Null-terminated, cut to size - 1 bytes.  Three system calls.  Its
   length; -1 if name is NULL, size is 0, or there is no such thread in this process: then name is empty. */
FAULTPROOF_API int faultproof_thread_name(uint64_t native_id, char *name, size_t size);

/* Calls visit(thread, context) for each thread of each interpreter, most recently started first.  *thread lives until
   visit returns; it may call any function of this header.  visit returns 0 to go on, else the visits end.  Returns the
   number of visits, or -1 (no scratch memory, see above).  A thread that starts or ends meanwhile may be missing; of an
   interpreter at most 10,000 threads are visited. */
FAULTPROOF_API int faultproof_each_thread(int (*visit)(const faultproof_thread *thread, void *context), void *context);

/* The thread state that holds the GIL of an interpreter, by its id; NULL if nobody does, there is no such interpreter,
   or the build is free-threaded.  Before 3.12 all interpreters have one GIL. */
FAULTPROOF_API struct _ts *faultproof_gil_holder(int64_t interpreter_id);

/* ---- What works here: 1 or 0 ---- */

FAULTPROOF_API int faultproof_can_collect(void);       /* faultproof_status() says "ok" */
FAULTPROOF_API int faultproof_can_guard(void);         /* reading is fast in this thread now, see install_guard */
FAULTPROOF_API int faultproof_can_columns(void);       /* end_line, column, end_column: 3.11 and later */
FAULTPROOF_API int faultproof_can_qualnames(void);     /* 3.11 and later */
FAULTPROOF_API int faultproof_can_native_ids(void);    /* native_id of any thread */
FAULTPROOF_API int faultproof_can_gil_holder(void);    /* not in free-threaded builds */
FAULTPROOF_API int faultproof_can_identify_code(void); /* frame->check is unique in an interpreter: 3.12 and later */

/* ---- The package's functions, by a capsule ---- */

/* The capsule's contents: append only.  */
struct faultproof_functions {
    uint32_t struct_size;
    uint32_t api_version;
    const char *(*status)(void);
    uint32_t (*version)(void);
    int (*install_guard)(void);
    int (*remove_guard)(void);
    int (*collect_call_stack)(struct _ts *, faultproof_frame_info *, int);
    void (*print_call_stack)(int, const faultproof_frame_info *, int, int);
    int (*session_begin)(faultproof_session *);
    void (*session_end)(faultproof_session *);
    int (*collect)(const faultproof_session *, struct _ts *, faultproof_frame *, int);
    int (*collect_own)(const faultproof_session *, faultproof_frame *, int);
    faultproof_cache *(*cache_init)(void *, size_t);
    int (*resolve)(faultproof_cache *, const faultproof_frame *, faultproof_location *);
    struct _ts *(*current_tstate)(void);
    int (*thread_info)(struct _ts *, faultproof_thread *);
    int (*thread_name)(uint64_t, char *, size_t);
    int (*each_thread)(int (*)(const faultproof_thread *, void *), void *);
    struct _ts *(*gil_holder)(int64_t);
    int (*can_collect)(void);
    int (*can_guard)(void);
    int (*can_columns)(void);
    int (*can_qualnames)(void);
    int (*can_native_ids)(void);
    int (*can_gil_holder)(void);
    int (*can_identify_code)(void);
};
#define FAULTPROOF_CAPSULE "faultproof.faulthandler._C_API"

#ifndef FAULTPROOF_LINKED

/* Weak, so that the files of one extension share it; hidden, so that extensions don't. */
__attribute__((weak, visibility("hidden"))) const struct faultproof_functions *faultproof_imported_;

static inline const char *faultproof_status(void)
{
    return faultproof_imported_ ? faultproof_imported_->status() : "faultproof_import() hasn't been called";
}
static inline uint32_t faultproof_version(void)
{
    return faultproof_imported_ ? faultproof_imported_->version() : 0;
}
static inline int faultproof_install_guard(void)
{
    return faultproof_imported_ ? faultproof_imported_->install_guard() : -1;
}
static inline int faultproof_remove_guard(void)
{
    return faultproof_imported_ ? faultproof_imported_->remove_guard() : -1;
}
static inline int faultproof_collect_call_stack(struct _ts *tstate, faultproof_frame_info *frames, int max_frames)
{
    return faultproof_imported_ ? faultproof_imported_->collect_call_stack(tstate, frames, max_frames) : -1;
}
static inline void faultproof_print_call_stack(int fd, const faultproof_frame_info *frames, int n_frames,
                                               int write_header)
{
    if (faultproof_imported_)
        faultproof_imported_->print_call_stack(fd, frames, n_frames, write_header);
}
static inline int faultproof_session_begin(faultproof_session *session)
{
    return faultproof_imported_ ? faultproof_imported_->session_begin(session) : -1;
}
static inline void faultproof_session_end(faultproof_session *session)
{
    if (faultproof_imported_)
        faultproof_imported_->session_end(session);
}
static inline int faultproof_collect(const faultproof_session *session, struct _ts *tstate, faultproof_frame *frames,
                                     int max_frames)
{
    return faultproof_imported_ ? faultproof_imported_->collect(session, tstate, frames, max_frames) : -1;
}
static inline int faultproof_collect_own(const faultproof_session *session, faultproof_frame *frames, int max_frames)
{
    return faultproof_imported_ ? faultproof_imported_->collect_own(session, frames, max_frames) : -1;
}
static inline faultproof_cache *faultproof_cache_init(void *memory, size_t size)
{
    return faultproof_imported_ ? faultproof_imported_->cache_init(memory, size) : NULL;
}
static inline int faultproof_resolve(faultproof_cache *cache, const faultproof_frame *frame,
                                     faultproof_location *location)
{
    return faultproof_imported_ ? faultproof_imported_->resolve(cache, frame, location) : -1;
}
static inline struct _ts *faultproof_current_tstate(void)
{
    return faultproof_imported_ ? faultproof_imported_->current_tstate() : NULL;
}
static inline int faultproof_thread_info(struct _ts *tstate, faultproof_thread *thread)
{
    return faultproof_imported_ ? faultproof_imported_->thread_info(tstate, thread) : -1;
}
static inline int faultproof_thread_name(uint64_t native_id, char *name, size_t size)
{
    return faultproof_imported_ ? faultproof_imported_->thread_name(native_id, name, size) : -1;
}
static inline int faultproof_each_thread(int (*visit)(const faultproof_thread *thread, void *context), void *context)
{
    return faultproof_imported_ ? faultproof_imported_->each_thread(visit, context) : -1;
}
static inline struct _ts *faultproof_gil_holder(int64_t interpreter_id)
{
    return faultproof_imported_ ? faultproof_imported_->gil_holder(interpreter_id) : NULL;
}
static inline int faultproof_can_collect(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_collect() : 0;
}
static inline int faultproof_can_guard(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_guard() : 0;
}
static inline int faultproof_can_columns(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_columns() : 0;
}
static inline int faultproof_can_qualnames(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_qualnames() : 0;
}
static inline int faultproof_can_native_ids(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_native_ids() : 0;
}
static inline int faultproof_can_gil_holder(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_gil_holder() : 0;
}
static inline int faultproof_can_identify_code(void)
{
    return faultproof_imported_ ? faultproof_imported_->can_identify_code() : 0;
}

#endif /* !FAULTPROOF_LINKED */

#ifdef __cplusplus
}
#endif

#endif /* FAULTPROOF_H */

/* ---- The import: here as soon as Python.h is, which may come between two inclusions of this header ---- */

#if defined(Py_PYTHON_H) && !defined(FAULTPROOF_LINKED) && !defined(FAULTPROOF_IMPORT)
#define FAULTPROOF_IMPORT

#ifdef __cplusplus
extern "C" {
#endif

/* Imports the package and its functions.  Needs the GIL; once for each extension, further calls do no harm.  0, or -1
   with an exception set: ImportError without the package or with one too old for this header; RuntimeError on an
   interpreter that faultproof doesn't know (the message says why). */
static inline int faultproof_import(void)
{
    const struct faultproof_functions *found = NULL;
    PyObject *module = PyImport_ImportModule("faultproof.faulthandler");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "_C_API") : NULL;

    if (capsule != NULL)
        found = (const struct faultproof_functions *)PyCapsule_GetPointer(capsule, FAULTPROOF_CAPSULE);
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (found == NULL) {
        if (module != NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_SetString(PyExc_ImportError, "the installed faultproof has no C API");
        return -1;
    }
    if (found->api_version != FAULTPROOF_API_VERSION || found->struct_size < sizeof(*found)) {
        PyErr_SetString(PyExc_ImportError, "the installed faultproof is too old for the faultproof.h compiled with");
        return -1;
    }
    if (!found->can_collect()) {
        PyErr_Format(PyExc_RuntimeError, "faultproof can't collect stacks: %s", found->status());
        return -1;
    }
    faultproof_imported_ = found;
    return 0;
}

#ifdef __cplusplus
}
#endif

#endif /* FAULTPROOF_IMPORT */
