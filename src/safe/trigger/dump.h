/* The one path reader -> walk -> render that every trigger calls.  Any context, signal handlers included. */
#ifndef FP_DUMP_H
#define FP_DUMP_H

#include "render/c_stack.h"
#include "walk/walk.h"

enum {
    FP_DEFAULT_FRAMES = 100,
    FP_DEFAULT_CHARS = 500,
    FP_DEFAULT_THREADS = 100,
};

/* What text the running interpreter writes. */
struct fp_style {
    bool thread_names; /* 3.14 and later */
    bool fpe_hyphen;   /* "Floating-point exception": 3.13 and later; before: "Floating point exception" */
    bool frames_cut;   /* "  ..." after the last frame that max_frames lets through */
    bool gil_note;     /* free-threaded 3.14 and later say in fatal reports that they can't show all threads */
    bool modules;      /* the extension modules line: 3.10 and later */
};

/* What to show. */
struct fp_dump_options {
    int fd;
    bool all_threads;
    bool c_stack; /* the current thread's C stack too */
    uint64_t max_threads, max_frames;
    uint32_t max_chars;
    int64_t budget_ns; /* the report ends when it has taken so long */
    struct fp_style style;
};

/* Who asks. */
struct fp_dump_caller {
    uint64_t thread_id;  /* pthread_self() of the thread whose stack is "current"; 0: no thread is */
    bool is_this_thread; /* that thread is the calling one, so that its stack stands still */
    fp_addr interp;      /* without a current thread: the interpreter whose threads come first; 0: the main one */
    const void *context; /* the third argument of the signal handler that asks; NULL: not in one */
    bool fatal;          /* a fatal report: with the extension modules */
    /* The dump stops between two threads when *stop is no longer stop_if_not; NULL: it doesn't. */
    const uint64_t *stop;
    uint64_t stop_if_not;
};

/* Writes the stacks.  `header` goes first, as it is.  Returns FP_OK, or why there is less than asked for. */
FP_HIDDEN enum fp_status fp_dump(const struct fp_target *target, const struct fp_dump_options *options,
                                 const struct fp_dump_caller *caller, const char *header, size_t header_size);

/* Writes the calling thread's C stack alone.  FP_OK or FP_NO_READER. */
FP_HIDDEN enum fp_status fp_dump_c_stack(const struct fp_target *target, int fd, int64_t budget_ns);

/* A row that was written before, by code object and fp_frame_key(), or fp_frame_evidence() for frames that may run. */
struct fp_shown_row {
    fp_addr code;
    uint64_t key;
    uint32_t at, size; /* in fp_session.row_text; size 0: empty */
};

enum { FP_ROWS = 256, FP_ROW_TEXT = 32 << 10, FP_THREADS_SHOWN = 4096 };

/* A walk and a buffer for other users of the walk (the C API, self-checks): one of a fixed number; NULL if all are in
   use for longer than the budget.  Release it soon: a fatal report may be waiting. */
struct fp_session {
    struct fp_reader reader;
    struct fp_walk walk;
    struct fp_walk_memory memory;
    struct fp_out *out;
    struct fp_unwind unwind;
    struct fp_shown_row rows[FP_ROWS];
    uint32_t row_used;
    char row_text[FP_ROW_TEXT];
    fp_addr threads[FP_THREADS_SHOWN]; /* of the interpreter that is being shown */
    uint64_t evidence[FP_CHAIN_MAX];   /* of a running thread's frames, before they were decoded */
};
FP_HIDDEN struct fp_session *fp_session_acquire(const struct fp_target *target, bool exact, int64_t budget_ns);
FP_HIDDEN void fp_session_release(struct fp_session *session);

/* Is any in use just now? */
FP_HIDDEN bool fp_session_any_in_use(void);

/* Restart what a fork() copied: called in the child, where no other thread can be using a session. */
FP_HIDDEN void fp_session_after_fork(void);

/* fp_dump on a session that is open already. */
FP_HIDDEN enum fp_status fp_dump_on(struct fp_session *session, const struct fp_dump_options *options,
                                    const struct fp_dump_caller *caller, const char *header, size_t header_size);

/* Opens the best reader for this thread.  FP_OK or FP_NO_READER. */
FP_HIDDEN enum fp_status fp_reader_open_best(struct fp_reader *reader) FP_MUST_CHECK;

/* Which reader a dump of this thread would use now; FP_READER_NONE if none works. */
FP_HIDDEN enum fp_reader_kind fp_reader_available(void);

#endif
