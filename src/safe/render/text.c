/* faulthandler's text.  Any context: openat, read and close for a thread's name (man 7 signal-safety), and prctl, a
   bare system call in glibc. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "render/text.h"
#include "walk/walk.h"

_Static_assert(FP_OUT_SIZE > FP_TEXT_ARENA + 64, "a row fits into the buffer");

enum { COMM_SIZE = 16 }; /* TASK_COMM_LEN of Linux, with the newline in place of the terminator */

/* The kernel's name of a thread of this process, as pthread_getname_np() reads it; its length, 0 if there is none. */
static size_t thread_name(int tasks, uint64_t native_id, char name[COMM_SIZE])
{
    char path[32], digits[20];
    size_t n = sizeof(digits);
    int saved = errno;

    do {
        digits[--n] = (char)('0' + native_id % 10);
        native_id /= 10;
    } while (native_id != 0);
    memcpy(path, digits + n, sizeof(digits) - n);
    memcpy(path + sizeof(digits) - n, "/comm", sizeof("/comm"));
    int fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, name, COMM_SIZE) : -1;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return got > 0 ? (size_t)got - 1 : 0;
}

static size_t own_name(char name[COMM_SIZE])
{
    return prctl(PR_GET_NAME, name) == 0 ? strnlen(name, COMM_SIZE) : 0;
}

void fp_text_thread(struct fp_out *o, const struct fp_thread *t, int tasks)
{
    char name[COMM_SIZE];
    size_t n = 0;

    if (tasks == FP_TEXT_OWN_NAME)
        n = own_name(name);
    else if (tasks >= 0 && t->native_id != 0)
        n = thread_name(tasks, t->native_id, name);

    if (t->current)
        FP_OUT_LITERAL(o, "Current thread ");
    else
        FP_OUT_LITERAL(o, "Thread ");
    fp_out_hex(o, t->thread_id, 16);
    if (n > 0) {
        FP_OUT_LITERAL(o, " [");
        fp_out_bytes(o, name, n);
        FP_OUT_LITERAL(o, "]");
    }
    FP_OUT_LITERAL(o, " (most recent call first):\n");
}

static char *put(char *to, const char *data, size_t size)
{
    memcpy(to, data, size);
    return to + size;
}

#define PUT(to, literal) put(to, literal, sizeof(literal) - 1)

static char *put_text(char *to, const struct fp_text *t, const char *quote)
{
    if (t->data == NULL)
        return PUT(to, "???");
    to = put(to, quote, strlen(quote));
    to = put(to, t->data, t->size);
    if (t->cut)
        to = PUT(to, "...");
    return put(to, quote, strlen(quote));
}

static char *put_line(char *to, int32_t line)
{
    char digits[10];
    size_t at = sizeof(digits);
    if (line < 0)
        return PUT(to, "???");
    do {
        digits[--at] = (char)('0' + line % 10);
        line /= 10;
    } while (line != 0);
    return put(to, digits + at, sizeof(digits) - at);
}

/* A row in pieces. */
static void show_in_pieces(struct fp_out *o, const struct fp_frame *f)
{
    char line[32];
    FP_OUT_LITERAL(o, "  File \"");
    fp_out_bytes(o, f->file.data, f->file.size);
    fp_out_bytes(o, "...", f->file.cut ? 3 : 0);
    FP_OUT_LITERAL(o, "\", line ");
    fp_out_bytes(o, line, (size_t)(put_line(line, f->line) - line));
    FP_OUT_LITERAL(o, " in ");
    fp_out_bytes(o, f->name.data, f->name.size);
    fp_out_bytes(o, "...", f->name.cut ? 3 : 0);
    FP_OUT_LITERAL(o, "\n");
}

void fp_text_frame(struct fp_out *o, const struct fp_frame *f)
{
    enum { FIXED = 64 }; /* more than all but the two texts */
    char *to = fp_out_room(o, FIXED + f->file.size + f->name.size);
    if (to == NULL) { /* two texts that are remembered as one, each nearly as large as the buffer */
        show_in_pieces(o, f);
        return;
    }
    to = PUT(to, "  File ");
    to = put_text(to, &f->file, "\"");
    to = PUT(to, ", line ");
    to = put_line(to, f->line);
    to = PUT(to, " in ");
    to = put_text(to, &f->name, "");
    to = PUT(to, "\n");
    fp_out_filled(o, to);
}

void fp_text_end(struct fp_out *o, enum fp_status status, fp_addr bad_address)
{
    if (status == FP_OK)
        return;
    FP_OUT_LITERAL(o, "  <");
    if (status == FP_UNREADABLE) {
        FP_OUT_LITERAL(o, "unreadable: ");
        fp_out_hex(o, bad_address, 1);
    }
    else {
        const char *why = status == FP_NO_FRAME ? "no Python frame" : fp_status_text(status);
        fp_out_bytes(o, why, strlen(why));
    }
    FP_OUT_LITERAL(o, ">\n");
}
