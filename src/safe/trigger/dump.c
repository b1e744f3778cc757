/* The dump: which threads, which frames, in faulthandler's text.  Any context. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "render/text.h"
#include "trigger/dump.h"

/* SETTLED: no frame has this evidence. */
enum { CHUNK = 256, ATTEMPTS_NS = 200000, SLOW_ATTEMPTS_NS = 10000000, SETTLED = 0 };

struct dump {
    struct fp_session *session;
    struct fp_walk *walk;
    struct fp_out *out;
    const struct fp_dump_options *options;
    const struct fp_dump_caller *caller;
    fp_addr current;  /* the current thread's state; 0: none */
    fp_addr held_gil; /* interpreters whose GIL is this one stand still; 0: none does */
    bool current_own; /* the current thread is the calling one */
    bool time_is_up;  /* and the report says so */
    uint64_t shown;   /* threads */
    int tasks; /* a descriptor of /proc/self/task for the dump's time, for the names of other threads; -1: none */
    bool tasks_tried; /* opening it */
};

static bool more_frames(struct dump *d, uint64_t shown)
{
    if (shown < d->options->max_frames)
        return true;
    if (d->options->style.frames_cut)
        FP_OUT_LITERAL(d->out, "  ...\n");
    return false;
}

/* Threads of a pool wait at the same places and recursive calls look alike: their rows are written again as they are.
 */
static bool repeat_row(struct dump *d, const struct fp_shown_row *row, fp_addr code, uint64_t key)
{
    if (row->size == 0 || row->code != code || row->key != key)
        return false;
    fp_out_bytes(d->out, d->session->row_text + row->at, row->size);
    return true;
}

static void remember_row(struct dump *d, struct fp_shown_row *row, fp_addr code, uint64_t key, struct fp_out_mark from)
{
    struct fp_session *s = d->session;
    uint32_t size = d->out->used - from.used;
    if (d->out->flushed != from.flushed || size > FP_ROW_TEXT - s->row_used)
        return;
    memcpy(s->row_text + s->row_used, d->out->buffer + from.used, size);
    *row = (struct fp_shown_row){code, key, s->row_used, size};
    s->row_used += size;
}

static void show_frame(struct dump *d, const struct fp_frame *frame)
{
    if (frame->status == FP_NOT_A_CODE || (frame->status == FP_UNREADABLE && frame->file.data == NULL))
        fp_text_end(d->out, FP_UNREADABLE, d->walk->bad_address);
    else
        fp_text_frame(d->out, frame);
}

enum row { REPEATED, DECODED, UNSOUND };

/* Writes one row, remembered or decoded; that of a frame that isn't sound as well. */
static enum row show_row(struct dump *d, const struct fp_raw *raw, uint64_t key)
{
    struct fp_shown_row *row = &d->session->rows[(raw->code >> 4 ^ raw->code >> 12 ^ key >> 1) % FP_ROWS];
    struct fp_out_mark from = fp_out_mark(d->out);
    struct fp_frame frame;

    if (repeat_row(d, row, raw->code, key))
        return REPEATED;
    fp_frame_decode(d->walk, raw, &frame);
    show_frame(d, &frame);
    if (frame.status != FP_OK)
        return UNSOUND;
    remember_row(d, row, raw->code, key, from);
    return DECODED;
}

/* The rows of walk->raw; false when the limit is reached. */
static bool show_rows(struct dump *d, uint64_t *shown)
{
    for (uint32_t i = 0; i < d->walk->n_raw; i++) {
        if (fp_raw_hidden(d->walk, &d->walk->raw[i]))
            continue;
        if (!more_frames(d, *shown))
            return false;
        ++*shown;
        (void)show_row(d, &d->walk->raw[i], fp_frame_key(d->walk, &d->walk->raw[i]));
    }
    return true;
}

/* Whether the chain of a thread that stands still is whole; a signal may have come while a call was in the making
   (3.11, 3.12).  If not, *from is the frame by whose call the interpreter was entered the last time, from where on it
   is; 0: none is certain. */
static bool chain_stands(struct fp_walk *w, fp_addr tstate, fp_addr *from)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr cframe, top = fp_chain_top(w, tstate, &cframe);

    *from = 0;
    if (l->frame_kind != FP_FRAME_CFRAME || fp_has_no_frame(tstate, top, cframe))
        return true;
    if (top != 0 && (fp_chain_read(w, tstate, 0, CHUNK) != FP_OK || w->n_raw == 0 || fp_chain_fits(w, cframe)))
        return true; /* damage is shown as far as it can be read */
    cframe = fp_load64(w->reader, cframe + (fp_addr)l->cframe_previous);
    *from = fp_load64(w->reader, cframe + (fp_addr)l->cframe_current);
    if (fp_chain_read(w, tstate, *from, CHUNK) != FP_OK || w->n_raw == 0 || !fp_chain_fits(w, cframe))
        *from = 0;
    return false;
}

/* The stack of a thread that stands still, however deep. */
static void show_still(struct dump *d, fp_addr tstate)
{
    struct fp_walk *w = d->walk;
    uint64_t shown = 0, read = 0;
    fp_addr from = 0;
    enum fp_status status;

    if (!chain_stands(w, tstate, &from)) {
        fp_text_end(d->out, FP_CHANGED, 0);
        if (from == 0)
            return;
    }
    do {
        status = fp_chain_read(w, tstate, from, CHUNK);
        read += w->n_raw;
        if (!show_rows(d, &shown))
            return;
        if (w->n_raw > 0)
            from = w->raw[w->n_raw - 1].previous;
        if (status == FP_OK && read > FP_DEPTH_MAX)
            status = FP_CYCLE;
        if (status == FP_OK && fp_now_ns() > w->deadline_ns)
            status = FP_TIME;
    } while (status == FP_OK && !w->raw_complete);
    d->time_is_up |= status == FP_TIME;
    fp_text_end(d->out, status == FP_OK && shown == 0 ? FP_NO_FRAME : status, w->bad_address);
}

/* The evidence of the visible frames of a snapshot, up to the limit; false if a frame has none.  `compare`: false
   unless it is what it was before, where there is something to compare. */
static bool take_evidence(struct dump *d, bool compare)
{
    uint64_t *evidence = d->session->evidence, n = 0;
    for (uint32_t i = 0; i < d->walk->n_raw && n < d->options->max_frames; i++) {
        if (fp_raw_hidden(d->walk, &d->walk->raw[i]))
            continue;
        uint64_t before = evidence[n++];
        if (compare && before == SETTLED)
            continue;
        uint64_t now = fp_frame_evidence(d->walk, &d->walk->raw[i]);
        if (now == 0 || (compare && now != before))
            return false;
        evidence[n - 1] = now;
    }
    return true;
}

/* Writes the frames of a snapshot; true if all that was written was one thing from before to after.  A slow reader
   looks once more whether it is still the same frames: their code objects may have been exchanged before the evidence.
 */
static bool show_confirmed(struct dump *d, fp_addr tstate, enum fp_status status)
{
    uint64_t at = 0;
    if (!take_evidence(d, false))
        return false;
    if (fp_reader_is_slow(d->walk->reader) && !fp_standstill_holds(d->walk, tstate, status))
        return false;
    for (uint32_t i = 0; i < d->walk->n_raw; i++) {
        if (fp_raw_hidden(d->walk, &d->walk->raw[i]))
            continue;
        if (!more_frames(d, at))
            break;
        uint64_t *evidence = &d->session->evidence[at++];
        enum row row = show_row(d, &d->walk->raw[i], *evidence);
        if (row == UNSOUND)
            return false;
        if (row == REPEATED)
            *evidence = SETTLED; /* a row made, and found unchanged, from memory with this evidence */
    }
    if (!take_evidence(d, true))
        return false;
    if (at == 0)
        fp_text_end(d->out, FP_NO_FRAME, 0);
    else if (!d->walk->raw_complete && at < d->options->max_frames)
        FP_OUT_LITERAL(d->out, "  ...\n");
    return true;
}

/* A row may have been made from memory that changed meanwhile. */
static void forget_rows(struct dump *d)
{
    memset(d->session->rows, 0, sizeof(d->session->rows));
    d->session->row_used = 0;
}

/* The stack of a thread that may run: only what is confirmed, else marked. */
static void show_running(struct dump *d, const struct fp_thread *thread)
{
    struct fp_walk *w = d->walk;
    if (d->out->used > FP_OUT_SIZE / 4)
        fp_out_flush(d->out); /* an attempt can be taken back only while it is in the buffer */
    struct fp_out_mark mark = fp_out_mark(d->out);
    bool slow = fp_reader_is_slow(w->reader);
    int64_t start = fp_now_ns(), most = slow ? SLOW_ATTEMPTS_NS : ATTEMPTS_NS;
    enum fp_status status, read;

    do {
        status = read = fp_snapshot_read(w, thread->tstate);
        if (status == FP_NO_FRAME)
            break;
        if (status == FP_OK && show_confirmed(d, thread->tstate, FP_OK) && fp_thread_alive(w, thread))
            return;
        forget_rows(d);
        status = fp_thread_alive(w, thread) ? FP_CHANGED : FP_ENDED;
        if (!fp_out_rewind(d->out, mark))
            break;
        if (slow && read == FP_CHANGED)
            break; /* that was many readings already */
    } while (status == FP_CHANGED && fp_now_ns() - start < most);
    fp_text_end(d->out, status, w->bad_address);
    /* Then the frames that stood still, which the snapshot has left; not those of a stack whose decoding failed. */
    if (status == FP_CHANGED && read == FP_CHANGED && w->n_raw > 0) {
        mark = fp_out_mark(d->out);
        if (!show_confirmed(d, thread->tstate, FP_CHANGED)) {
            forget_rows(d);
            (void)fp_out_rewind(d->out, mark);
        }
    }
}

static void show_frames(struct dump *d, const struct fp_thread *thread)
{
    bool own = d->current_own && thread->tstate == d->current;
    bool still = own || (d->held_gil != 0 && fp_gil_of(d->walk, thread->interp) == d->held_gil);
    d->walk->exact = still;
    if (still)
        show_still(d, thread->tstate);
    else
        show_running(d, thread);
}

/* Where the name of a thread comes from.  A filter may end the process for opening files: what is known goes out first.
 */
static int source_of_name(struct dump *d, const struct fp_thread *thread)
{
    if (!d->options->all_threads || !d->options->style.thread_names)
        return FP_TEXT_NO_NAME;
    if (thread->current && d->current_own)
        return FP_TEXT_OWN_NAME;
    if (!d->tasks_tried) {
        d->tasks_tried = true;
        fp_out_flush(d->out);
        d->tasks = open("/proc/self/task", O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    return d->tasks >= 0 ? d->tasks : FP_TEXT_NO_NAME;
}

/* One thread with its header; one that has ended since the list was read is left out: false. */
static bool show_thread(struct dump *d, fp_addr tstate)
{
    struct fp_thread thread;
    enum fp_status status = fp_thread_read(d->walk, tstate, &thread);

    if (status == FP_ENDED && d->held_gil == 0)
        return false;
    thread.current = tstate == d->current;
    if (d->shown++ != 0)
        FP_OUT_LITERAL(d->out, "\n");
    if (status == FP_UNREADABLE) {
        fp_text_end(d->out, status, tstate);
        return true;
    }
    fp_text_thread(d->out, &thread, source_of_name(d, &thread));
    if (thread.current && thread.collecting)
        FP_OUT_LITERAL(d->out, "  Garbage-collecting\n");
    show_frames(d, &thread);
    return true;
}

/* Is the current thread among the first max_threads of its interpreter's list? */
static bool current_in_reach(struct dump *d, fp_addr interp)
{
    uint64_t n = 0;
    for (fp_addr t = fp_thread_first(d->walk, interp); t != 0 && n < d->options->max_threads; n++) {
        if (t == d->current)
            return true;
        t = fp_thread_next(d->walk, t);
    }
    return false;
}

static bool told_to_stop(struct dump *d)
{
    const struct fp_dump_caller *c = d->caller;
    if (c->stop != NULL && __atomic_load_n(c->stop, __ATOMIC_RELAXED) != c->stop_if_not)
        return true;
    if (fp_now_ns() <= d->walk->deadline_ns && !d->time_is_up)
        return false;
    if (!d->time_is_up) {
        FP_OUT_LITERAL(d->out, "\n");
        fp_text_end(d->out, FP_TIME, 0);
    }
    d->time_is_up = true;
    return true;
}

/* The threads of one interpreter; false when the report is at its end. */
static bool show_interp(struct dump *d, fp_addr interp, bool skip_current, uint64_t *budget)
{
    bool whole;
    fp_addr *threads = d->session->threads;
    uint32_t n = fp_threads_list(d->walk, interp, threads, FP_THREADS_SHOWN, &whole);
    for (uint32_t i = 0; i < n; i++) {
        if (skip_current && threads[i] == d->current)
            continue;
        if (*budget == 0) {
            FP_OUT_LITERAL(d->out, "\n...\n");
            return false;
        }
        if (told_to_stop(d))
            return false;
        *budget -= show_thread(d, threads[i]);
    }
    if (n == FP_THREADS_SHOWN)
        FP_OUT_LITERAL(d->out, "\n...\n");
    else if (!whole)
        FP_OUT_LITERAL(d->out, "\n<threads changed while reading>\n");
    return true;
}

static fp_addr interp_of(struct fp_walk *w, fp_addr tstate)
{
    fp_addr interp = tstate ? fp_load64(w->reader, tstate + (fp_addr)w->target->layout.tstate_interp) : 0;
    return fp_reader_faulted(w->reader) ? 0 : interp;
}

/* Whose threads come first: the current thread's interpreter, the caller's, the main one (the oldest, last listed). */
static fp_addr first_interp(struct dump *d)
{
    fp_addr own = interp_of(d->walk, d->current), last = 0;
    int interps = 0;
    for (fp_addr i = fp_interp_first(d->walk); i != 0 && interps++ < FP_INTERPS_MAX; i = fp_interp_next(d->walk, i)) {
        if (i == d->caller->interp && own == 0)
            own = i;
        last = i;
    }
    return own ? own : last;
}

/* That interpreter first, then the others. */
static void show_all(struct dump *d, bool without_current)
{
    uint64_t budget = d->options->max_threads;
    fp_addr own = first_interp(d);
    bool first = !without_current && d->current != 0 && !current_in_reach(d, own);
    bool skip = without_current || first;
    int interps = 0;

    if (own == 0)
        fp_text_end(d->out, FP_UNREADABLE, d->walk->target->runtime);
    if (first)
        (void)show_thread(d, d->current);
    if (own != 0 && !show_interp(d, own, skip, &budget))
        return;
    for (fp_addr i = fp_interp_first(d->walk); i != 0 && interps++ < FP_INTERPS_MAX; i = fp_interp_next(d->walk, i))
        if (i != own && !show_interp(d, i, false, &budget))
            return;
}

static void show_one(struct dump *d)
{
    struct fp_thread thread;
    if (d->current == 0)
        return;
    FP_OUT_LITERAL(d->out, "Stack (most recent call first):\n");
    if (fp_thread_read(d->walk, d->current, &thread) == FP_UNREADABLE)
        fp_text_end(d->out, FP_UNREADABLE, d->current);
    else
        show_frames(d, &thread);
}

/* What free-threaded 3.14 and later write in a fatal report: this line and the current stack.  The others follow. */
static void show_after_note(struct dump *d)
{
    FP_OUT_LITERAL(d->out, "<Cannot show all threads while the GIL is disabled>\n");
    show_one(d);
    d->shown++;
    show_all(d, true);
}

struct module_list {
    struct fp_out *out;
    uint32_t n;
};

static void show_module(void *context, const struct fp_text *name)
{
    struct module_list *list = context;
    if (list->n++ == 0)
        FP_OUT_LITERAL(list->out, "\nExtension modules: ");
    else
        FP_OUT_LITERAL(list->out, ", ");
    fp_out_bytes(list->out, name->data, name->size);
}

static void show_modules(struct dump *d)
{
    struct module_list list = {d->out, 0};
    fp_addr interp = first_interp(d);
    if (interp == 0)
        return;
    fp_modules_each(d->walk, interp, show_module, &list);
    if (list.n == 0)
        return;
    FP_OUT_LITERAL(d->out, " (total: ");
    fp_out_decimal(d->out, list.n);
    FP_OUT_LITERAL(d->out, ")\n");
}

enum fp_status fp_dump_on(struct fp_session *s, const struct fp_dump_options *options,
                          const struct fp_dump_caller *caller, const char *header, size_t header_size)
{
    struct dump d = {.session = s, .walk = &s->walk, .out = s->out, .options = options, .caller = caller, .tasks = -1};
    int saved = errno;
    s->walk.deadline_ns = fp_now_ns() + options->budget_ns;
    s->walk.max_chars = options->max_chars;
    fp_out_init(d.out, options->fd, s->walk.deadline_ns);
    fp_out_bytes(d.out, header, header_size);
    d.current = caller->thread_id ? fp_thread_of(&s->walk, caller->thread_id) : 0;
    fp_addr interp = interp_of(&s->walk, d.current);
    d.current_own = caller->is_this_thread && (interp == 0 || fp_thread_id_tells(&s->walk, interp));
    if (interp != 0 && d.current_own && fp_gil_holder(&s->walk, interp) == d.current)
        d.held_gil = fp_gil_of(&s->walk, interp);
    if (options->all_threads && options->style.gil_note && caller->fatal)
        show_after_note(&d);
    else if (options->all_threads)
        show_all(&d, false);
    else
        show_one(&d);
    if (options->c_stack) {
        FP_OUT_LITERAL(d.out, "\n");
        fp_c_stack_show(d.out, &s->reader, &s->unwind, caller->context);
    }
    if (caller->fatal && options->style.modules)
        show_modules(&d);
    fp_out_close(d.out);
    if (d.tasks >= 0)
        close(d.tasks);
    errno = saved;
    return d.out->error ? FP_LIMIT : FP_OK;
}

enum fp_status fp_dump(const struct fp_target *target, const struct fp_dump_options *options,
                       const struct fp_dump_caller *caller, const char *header, size_t header_size)
{
    struct fp_session *s = fp_session_acquire(target, true, options->budget_ns);
    if (s == NULL)
        return FP_NO_READER;
    enum fp_status status = fp_dump_on(s, options, caller, header, header_size);
    fp_session_release(s);
    return status;
}

enum fp_status fp_dump_c_stack(const struct fp_target *target, int fd, int64_t budget_ns)
{
    struct fp_session *s = fp_session_acquire(target, true, budget_ns);
    if (s == NULL)
        return FP_NO_READER;
    fp_out_init(s->out, fd, fp_now_ns() + budget_ns);
    fp_c_stack_show(s->out, &s->reader, &s->unwind, NULL);
    fp_out_close(s->out);
    fp_session_release(s);
    return FP_OK;
}
