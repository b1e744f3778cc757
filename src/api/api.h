/* What the files of the call-stack API share.  Any context, but where a comment says "normal context". */
#ifndef FP_API_H
#define FP_API_H

#define FAULTPROOF_LINKED
#include "faultproof.h"

#include "walk/walk.h"

enum {
    FP_API_BUDGET_NS = 1000000,    /* for one stack of a thread that runs */
    FP_SCRATCH_WAIT_NS = 20000000, /* for a free scratch */
    FP_LIST_MAX = 10000,           /* threads visited of an interpreter */
};

/* One call: the reader, and a walk that has no memory of its own. */
struct fp_call {
    struct fp_reader reader;
    struct fp_walk walk;
    int saved_errno;
};

/* call.c.  Begins a call: FP_OK, FP_NOT_STARTED (or why the start failed), FP_NO_READER.  End it only after FP_OK. */
FP_HIDDEN enum fp_status fp_call_begin(struct fp_call *call, const faultproof_session *session) FP_MUST_CHECK;
FP_HIDDEN void fp_call_end(struct fp_call *call);
/* Normal context: tells the API what the start found.  The target lives as long as the process. */
FP_HIDDEN void fp_api_start(const struct fp_target *target, enum fp_status status);
FP_HIDDEN enum fp_status fp_api_status(void);          /* of this moment: why calls fail, or FP_OK */
FP_HIDDEN const struct fp_target *fp_api_target(void); /* NULL before a start that succeeded */
FP_HIDDEN int32_t fp_api_tid_offset(void);             /* of the kernel thread id in a pthread_t; FP_ABSENT: unknown */

/* scratch.c: the memory for stacks of threads that run, and for lists of threads.  NULL when all are in use too long.
 */
struct fp_scratch {
    union {
        struct {
            struct fp_raw raw[FP_CHAIN_MAX], known[FP_CHAIN_MAX];
        };
        fp_addr list[FP_LIST_MAX];
    };
    /* the code objects of the reading before, and what told them apart */
    fp_addr codes[FP_CHAIN_MAX];
    uint32_t checks[FP_CHAIN_MAX];
};
FP_HIDDEN struct fp_scratch *fp_scratch_take(void);
FP_HIDDEN void fp_scratch_give(struct fp_scratch *scratch);

/* states.c: a thread state that is in the list of a living interpreter. */
struct fp_state {
    fp_addr tstate, interp;
    uint64_t thread_id;
    bool still; /* nothing moves it: it is the calling thread's, or the caller holds the GIL */
};
/* FP_OK or FP_ENDED.  Constant time but for the number of interpreters. */
FP_HIDDEN enum fp_status fp_state_find(struct fp_walk *walk, fp_addr tstate, struct fp_state *out) FP_MUST_CHECK;
FP_HIDDEN bool fp_state_alive(struct fp_walk *walk, const struct fp_state *state);
/* The calling thread's; 0: none. */
FP_HIDDEN fp_addr fp_state_own(struct fp_walk *walk);

/* collect.c: the stack of a thread that stands still.  The number of frames; FAULTPROOF_TORN: a call is in the making;
   FP_CHAIN_BROKEN: some of it can't be read or is no frame, for that reason or because memory is damaged. */
#define FP_CHAIN_BROKEN (-3)
FP_HIDDEN int fp_collect_still(struct fp_walk *walk, fp_addr tstate, faultproof_frame *frames, int max);

/* check.c: what tells code objects at one address apart: the name (what it says, not where it is: addresses come again
   with a new object within microseconds), the first line, and the version of 3.12 and later, which is another one for
   each code object of an interpreter. */
#define FP_STR_HASH(layout) ((layout)->str_length + 8) /* PyASCIIObject.hash follows its length */
#define FP_NOT_HASHED       UINT32_MAX                 /* the low half of a hash that hasn't been asked for yet */
static inline uint32_t fp_code_mix(uint32_t name_hash, uint32_t first_line, uint32_t version)
{
    return name_hash + 8 * first_line + 0x9e3779b9 * version;
}
/* In place of a hash that isn't there. */
FP_HIDDEN uint32_t fp_name_content(struct fp_reader *reader, const struct fp_layout *layout, fp_addr name);
/* The number of a code object; 0: none is there. */
FP_HIDDEN uint32_t fp_code_check(struct fp_walk *walk, fp_addr code);
/* Is it the one that this number was of?  Its name may have been hashed since. */
FP_HIDDEN bool fp_code_is(struct fp_walk *walk, fp_addr code, uint32_t check);

/* positions.c: where the source of an instruction is; fields are -1 where that is unknown. */
struct fp_position {
    int32_t line, end_line, column, end_column;
};
/* The table is in the format of 3.11 and later. */
FP_HIDDEN void fp_position_find(struct fp_reader *reader, fp_addr table, uint64_t size, int32_t first_line,
                                int32_t offset, struct fp_position *out);

/* The guard's handlers; what these promise stands in trigger/signals.h.  In the package trigger/signals.c has them;
   linked in, api/guard.c does. */
FP_HIDDEN void fp_guard_require(void);
FP_HIDDEN bool fp_guard_ready(void);

#endif
