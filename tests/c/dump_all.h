/* One dump of all threads through a test's own reader.  Normal context. */
#ifndef FP_DUMP_ALL_H
#define FP_DUMP_ALL_H

#include <string.h>

#include "trigger/dump.h"

struct dump_all {
    const struct fp_target *target;
    int (*copy)(struct fp_reader *reader, void *to, fp_addr from, size_t n);
    void *context; /* of the reader, and of the signal that a fatal report pretends to come from */
    uint64_t thread_id;
    bool still; /* that thread's stack stands still, as its GIL is held; else all are read as if they ran */
    bool gil_note;
};

static inline void dump_all(int fd, const struct dump_all *of)
{
    static struct fp_session session;
    static struct fp_out out;
    const struct fp_dump_options options = {.fd = fd,
                                            .all_threads = true,
                                            .max_threads = 100,
                                            .max_frames = 100,
                                            .max_chars = 500,
                                            .budget_ns = 10000000000,
                                            .style = {.modules = true, .frames_cut = true, .gil_note = of->gil_note}};
    const struct fp_dump_caller caller = {
        .thread_id = of->thread_id, .is_this_thread = of->still, .fatal = true, .context = of->context};

    session.out = &out;
    session.reader =
        (struct fp_reader){.kind = FP_READER_TEST, .fds = {-1, -1}, .copy = of->copy, .context = of->context};
    memset(session.rows, 0, sizeof(session.rows));
    session.row_used = 0;
    fp_walk_lend(&session.walk, &session.memory);
    fp_walk_init(&session.walk, &session.reader, of->target, true);
    (void)fp_dump_on(&session, &options, &caller, "", 0);
}

#endif
