/* Reading interpreters, threads, frames, code objects and strings through a reader: bounded, cycle-proof, checked.
 * Any context, signal handlers included; no allocation: all memory is in struct fp_walk.
 */
#ifndef FP_WALK_H
#define FP_WALK_H

#include "layout/layout.h"
#include "model/model.h"

enum {
    FP_CHAIN_MAX = 1024,      /* frames read as one consistent piece */
    FP_TEXT_ARENA = 48 << 10, /* bytes for the texts of the frames being shown */
    FP_TEXT_SLOTS = 128,      /* remembered texts; a power of 2 */
    FP_THREADS_MAX = 1 << 20, /* links followed in a thread list before it counts as a cycle */
    FP_INTERPS_MAX = 1 << 12,
    FP_DEPTH_MAX = 1 << 24, /* links followed in a frame chain before it counts as a cycle */
};

/* Whether a chain has more hidden frames (the interpreter's own) than it can have: then it runs in a cycle.  One or two
   stand between two shown ones, two where a frame is being left and its last references run code. */
static inline bool fp_hidden_too_many(uint32_t hidden, uint32_t shown)
{
    return hidden > 4 * shown + 16;
}

/* A frame as read, before its code object is looked at. */
struct fp_raw {
    fp_addr frame, previous, code, instr;
    uint8_t owner;
    uint8_t is_entry;
};

/* A text remembered by the address of its str object; only while nothing can change (fp_walk.exact). */
struct fp_text_slot {
    fp_addr object;
    uint32_t generation; /* of the walk when it was filled */
    struct fp_text text;
};

/* The large parts of a walk.  A reading that needs no texts, or no chain, does without: see fp_walk_lend. */
struct fp_walk_memory {
    struct fp_raw raw[FP_CHAIN_MAX], known[FP_CHAIN_MAX];
    struct fp_text_slot slots[FP_TEXT_SLOTS];
    char arena[FP_TEXT_ARENA];
};

struct fp_walk {
    struct fp_reader *reader;
    const struct fp_target *target;
    bool exact;          /* the threads that are read stand still: the GIL is held, or it is the calling thread */
    uint32_t max_chars;  /* characters of a string */
    int64_t deadline_ns; /* CLOCK_MONOTONIC; a walk that reaches it ends with FP_TIME */
    fp_addr bad_address; /* what could not be read, for the report */

    /* The chain of the thread that is read: raw[0] is the most recent frame. */
    uint32_t n_raw;
    bool raw_complete;    /* the chain's root is in raw; else more frames follow after raw[n_raw - 1] */
    struct fp_raw *raw;   /* FP_CHAIN_MAX of them */
    struct fp_raw *known; /* as many: the first reading, see snapshot.c */
    uint32_t n_known;

    uint32_t arena_used;
    uint32_t generation;        /* slots of another one are empty; goes up when the arena is used for other texts */
    struct fp_text_slot *slots; /* FP_TEXT_SLOTS of them */
    char *arena;                /* FP_TEXT_ARENA bytes */
};

/* Lends a walk its memory, before or after fp_walk_init. */
static inline void fp_walk_lend(struct fp_walk *walk, struct fp_walk_memory *memory)
{
    walk->raw = memory->raw;
    walk->known = memory->known;
    walk->slots = memory->slots;
    walk->arena = memory->arena;
}

/* Gets a walk ready: forgets all texts. */
FP_HIDDEN void fp_walk_init(struct fp_walk *walk, struct fp_reader *reader, const struct fp_target *target, bool exact);

/* threads.c */
FP_HIDDEN fp_addr fp_interp_first(struct fp_walk *walk);
FP_HIDDEN fp_addr fp_interp_next(struct fp_walk *walk, fp_addr interp);
FP_HIDDEN fp_addr fp_thread_first(struct fp_walk *walk, fp_addr interp);
FP_HIDDEN fp_addr fp_thread_next(struct fp_walk *walk, fp_addr tstate);
/* The thread states of an interpreter, newest first, in one quick pass: a list that changes meanwhile is read again.
   Returns how many; *whole: the list is proven (each is linked with its neighbours) and complete. */
FP_HIDDEN uint32_t fp_threads_list(struct fp_walk *walk, fp_addr interp, fp_addr *list, uint32_t max, bool *whole);
/* Fills the record of a thread state; FP_OK, FP_UNREADABLE, or FP_ENDED if its links don't fit. */
FP_HIDDEN enum fp_status fp_thread_read(struct fp_walk *walk, fp_addr tstate, struct fp_thread *out) FP_MUST_CHECK;
/* Is the thread state still in its interpreter's list, with the same thread?  Constant time. */
FP_HIDDEN bool fp_thread_alive(struct fp_walk *walk, const struct fp_thread *thread);
/* Is the id of a thread state that is alive that of its own thread?  Up to 3.11 false also of one without a frame. */
FP_HIDDEN bool fp_thread_started(struct fp_walk *walk, fp_addr tstate);
/* Does the id of an interpreter's thread states tell which thread runs them?  Before 3.13 a subinterpreter's keep the
   id of the thread that made them. */
FP_HIDDEN bool fp_thread_id_tells(struct fp_walk *walk, fp_addr interp);
/* The thread state of an OS thread: of several the attached one; 0 if there is none. */
FP_HIDDEN fp_addr fp_thread_of(struct fp_walk *walk, uint64_t thread_id);
/* The address of an interpreter's GIL, which stops its threads; before 3.12 there is one for all.  0: free-threaded. */
FP_HIDDEN fp_addr fp_gil_of(struct fp_walk *walk, fp_addr interp);
/* The thread state that holds the GIL of an interpreter; 0: nobody, or a free-threaded build. */
FP_HIDDEN fp_addr fp_gil_holder(struct fp_walk *walk, fp_addr interp);

/* frames.c: reads the chain of a thread that stands still into walk->raw, from its top (from == 0) or from a frame. */
FP_HIDDEN enum fp_status fp_chain_read(struct fp_walk *walk, fp_addr tstate, fp_addr from, uint32_t max) FP_MUST_CHECK;
/* The top frame as the thread state says; 0: none.  *cframe: where that stood (FP_FRAME_CFRAME), else 0. */
FP_HIDDEN fp_addr fp_chain_top(struct fp_walk *walk, fp_addr tstate, fp_addr *cframe);
/* Whether a thread whose top that is runs no Python code.  3.11 and 3.12 have no top either between the instructions
   that enter the interpreter or leave a generator; but then the _PyCFrame isn't the first one, which is in the thread
   state.
 */
FP_HIDDEN bool fp_has_no_frame(fp_addr tstate, fp_addr top, fp_addr cframe);
/* frames.c: reads one frame record in one system call. */
FP_HIDDEN void fp_raw_read_slowly(struct fp_walk *walk, fp_addr frame, struct fp_raw *out);
/* Reads one frame record; the caller asks the reader whether that failed.  Inline: the loads of several frames must not
   wait for each other. */
static inline void fp_raw_read(struct fp_walk *w, fp_addr frame, struct fp_raw *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    if (FP_UNLIKELY(fp_reader_is_slow(r))) {
        fp_raw_read_slowly(w, frame, out);
        return;
    }
    out->frame = frame;
    out->previous = fp_load64(r, frame + (fp_addr)l->frame_previous);
    out->code = fp_load64(r, frame + (fp_addr)l->frame_code) & ~(fp_addr)l->frame_code_tag;
    if (l->instr_kind == FP_INSTR_POINTER) {
        out->instr = fp_load64(r, frame + (fp_addr)l->frame_instr);
        out->owner = fp_load8(r, frame + (fp_addr)l->frame_owner);
        out->is_entry = l->frame_is_entry >= 0 ? fp_load8(r, frame + (fp_addr)l->frame_is_entry) : 0;
    }
    else {
        out->instr = fp_load32(r, frame + (fp_addr)l->frame_instr);
        out->owner = out->is_entry = 0;
    }
}
/* Two readings of a frame: was it the same?  but_instr: its instruction may differ. */
static inline bool fp_raw_same(const struct fp_raw *a, const struct fp_raw *b, bool but_instr)
{
    return a->frame == b->frame && a->previous == b->previous && a->code == b->code && a->owner == b->owner &&
           a->is_entry == b->is_entry && (but_instr || a->instr == b->instr);
}
/* Is this frame the interpreter's own, which no traceback shows? */
FP_HIDDEN bool fp_raw_hidden(const struct fp_walk *walk, const struct fp_raw *raw);

/* snapshot.c: whether walk->raw, read from the top, is linked as a chain is between two instructions of Python code.  A
   signal may come, or a thread be stopped, while a call or a return is in the making. */
FP_HIDDEN bool fp_chain_fits(struct fp_walk *walk, fp_addr cframe);
/* One part of that: whether the top frame's link isn't written yet. */
FP_HIDDEN bool fp_link_is_stale(struct fp_walk *walk, const struct fp_raw *top);

/* snapshot.c: reads the chain of a thread that runs; FP_OK, FP_CHANGED (raw holds the part that is certain), ... */
FP_HIDDEN enum fp_status fp_snapshot_read(struct fp_walk *walk, fp_addr tstate) FP_MUST_CHECK;
/* standstill.c: fp_snapshot_read by a reader that is too slow for it. */
FP_HIDDEN enum fp_status fp_standstill_read(struct fp_walk *walk, fp_addr tstate) FP_MUST_CHECK;
/* Looks again after that said `status`: are these frames still certain?  Then what was alike of their code objects
   before and after this is theirs. */
FP_HIDDEN bool fp_standstill_holds(struct fp_walk *walk, fp_addr tstate, enum fp_status status);

/* What tells a frame's row apart from others with the same code object: the instruction, and a line of its own. */
FP_HIDDEN uint64_t fp_frame_key(struct fp_walk *walk, const struct fp_raw *raw);

/* code.c: byte offset of a frame's instruction in its code object; false if it lies outside of it. */
FP_HIDDEN bool fp_frame_offset(struct fp_walk *walk, const struct fp_raw *raw, int32_t *lasti);
/* The line of that instruction; -1: unknown. */
FP_HIDDEN int32_t fp_frame_line(struct fp_walk *walk, const struct fp_raw *raw, int32_t lasti);
/* code.c: a hash over all the memory that fp_frame_decode reads; 0: not a code object with sound parts.  Equal before
   and after a decoding: what was decoded was one thing. */
FP_HIDDEN uint64_t fp_frame_evidence(struct fp_walk *walk, const struct fp_raw *raw);
/* text.c: the part of it for a str object, going on from `hash`. */
FP_HIDDEN uint64_t fp_text_evidence(struct fp_walk *walk, fp_addr str, uint64_t hash);

/* code.c: file, line and name of a frame; out->status says what is missing.  Texts live until the next call. */
FP_HIDDEN void fp_frame_decode(struct fp_walk *walk, const struct fp_raw *raw, struct fp_frame *out);

/* text.c */
FP_HIDDEN enum fp_status fp_text_read(struct fp_walk *walk, fp_addr str, struct fp_text *out) FP_MUST_CHECK;
/* A str, escaped, as a terminated string in `out` of `size` bytes (8 or more); no escape is cut in two.  *cut: there
   was more.  Needs no memory lent.  FP_OK, or FP_UNREADABLE and an empty string. */
FP_HIDDEN enum fp_status fp_text_copy(struct fp_walk *walk, fp_addr str, char *out, size_t size,
                                      bool *cut) FP_MUST_CHECK;

/* Is this an object of that type, and alive?  A freed object has a free list's pointer, or 0, where its reference count
   was.  A live count has no bit between 40 and 47: a small number, or 3.14's flags from bit 48 on. */
static inline bool fp_type_is(struct fp_walk *w, fp_addr object, fp_addr type)
{
    const struct fp_layout *l = &w->target->layout;
    if (object == 0 || object % 8 != 0)
        return false;
    fp_addr seen = fp_load64(w->reader, object + (fp_addr)l->object_type);
    uint64_t count = l->object_refcnt < 0 ? 1 : fp_load64(w->reader, object + (fp_addr)l->object_refcnt);
    return !fp_reader_faulted(w->reader) && seen == type && count != 0 && (count & 0x0000ff0000000000) == 0;
}

/* lines.c: the line of the instruction at byte offset `lasti` in a line table of `size` bytes at `table`; -1: none. */
FP_HIDDEN int32_t fp_line_find(struct fp_walk *walk, fp_addr table, uint64_t size, int32_t first_line, int32_t lasti);

/* modules.c: calls `show` with each extension module outside of the standard library; returns how many. */
FP_HIDDEN uint32_t fp_modules_each(struct fp_walk *walk, fp_addr interp,
                                   void (*show)(void *context, const struct fp_text *name), void *context);

/* CLOCK_MONOTONIC in nanoseconds (the vDSO call of man 7 signal-safety's list). */
FP_HIDDEN int64_t fp_now_ns(void);

#endif
