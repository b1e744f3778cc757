/* faulthandler's text.  Any context: open, read and close for a thread's name (man 7 signal-safety). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "render/text.h"

enum { COMM_SIZE = 16 }; /* TASK_COMM_LEN of Linux, with the newline in place of the terminator */

/* The kernel's name of a thread of this process, as pthread_getname_np() reads it; its length, 0 if there is none. */
static size_t thread_name(uint64_t native_id, char name[COMM_SIZE])
{
    char path[64] = "/proc/self/task/", digits[20];
    size_t at = strlen(path), n = sizeof(digits);
    int saved = errno;

    do {
        digits[--n] = (char)('0' + native_id % 10);
        native_id /= 10;
    } while (native_id != 0);
    memcpy(path + at, digits + n, sizeof(digits) - n);
    memcpy(path + at + sizeof(digits) - n, "/comm", sizeof("/comm"));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, name, COMM_SIZE) : -1;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return got > 0 ? (size_t)got - 1 : 0;
}

void fp_text_thread(struct fp_out *o, const struct fp_thread *t, bool with_name)
{
    char name[COMM_SIZE];
    size_t n = with_name && t->native_id != 0 ? thread_name(t->native_id, name) : 0;

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

static void text(struct fp_out *o, const struct fp_text *t)
{
    fp_out_bytes(o, t->data, t->size);
    if (t->cut)
        FP_OUT_LITERAL(o, "...");
}

void fp_text_frame(struct fp_out *o, const struct fp_frame *f)
{
    FP_OUT_LITERAL(o, "  File ");
    if (f->file.data != NULL) {
        FP_OUT_LITERAL(o, "\"");
        text(o, &f->file);
        FP_OUT_LITERAL(o, "\"");
    }
    else {
        FP_OUT_LITERAL(o, "???");
    }
    FP_OUT_LITERAL(o, ", line ");
    if (f->line >= 0)
        fp_out_decimal(o, (uint64_t)f->line);
    else
        FP_OUT_LITERAL(o, "???");
    FP_OUT_LITERAL(o, " in ");
    if (f->name.data != NULL)
        text(o, &f->name);
    else
        FP_OUT_LITERAL(o, "???");
    FP_OUT_LITERAL(o, "\n");
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
