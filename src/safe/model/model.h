/* What a walk found: plain records, filled by the walk, read by renderers and collectors.  Any context. */
#ifndef FP_MODEL_H
#define FP_MODEL_H

#include "base/base.h"

/* A string of the interpreter as ASCII: printable characters as they are, all others as \xhh, \uhhhh or \Uhhhhhhhh
   (the form of faulthandler, Python's backslashreplace).  Not terminated; valid until the walk goes to the next frame.
 */
struct fp_text {
    const char *data; /* NULL: unavailable */
    uint32_t size;    /* bytes */
    bool cut;         /* the string had more characters than the limit */
};

/* One frame, most recent first. */
struct fp_frame {
    fp_addr code;  /* its code object */
    int32_t lasti; /* byte offset of the instruction in the code object; negative: not started */
    int32_t line;  /* 1-based; -1: unknown */
    struct fp_text file, name;
    enum fp_status status; /* FP_OK, or why the strings and the line are unavailable */
};

/* One thread state. */
struct fp_thread {
    fp_addr tstate, interp;
    int64_t interp_id;
    uint64_t thread_id; /* pthread_t; 0: not started */
    uint64_t native_id; /* kernel thread id; 0: this version doesn't keep it (3.9, 3.10) */
    bool current;       /* the thread that the walk was told it runs in */
    bool collecting;    /* its interpreter's garbage collector runs */
};

#endif
