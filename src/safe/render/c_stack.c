/* The text of a C stack, in the format of CPython's faulthandler.  Any context. */
#include <string.h>

#include "render/c_stack.h"
#include "unwind/bytes.h"

enum { NAME_MAX_SHOWN = 1024 };

/* Control characters would break the lines of a report. */
static void show_name(struct fp_out *out, struct fp_reader *r, fp_addr name)
{
    struct fp_bytes b;
    char c;
    fp_bytes_open(&b, r, name, name + NAME_MAX_SHOWN);
    while ((c = (char)fp_bytes_u8(&b)) != 0) {
        if ((unsigned char)c < 0x20 || c == 0x7f)
            c = '?';
        fp_out_bytes(out, &c, 1);
    }
    (void)fp_reader_faulted(r);
}

/* The kernel's own object has no file: the loader's name for it is shown, as CPython shows it. */
static void show_file(struct fp_out *out, struct fp_unwind *u, const struct fp_c_frame *f)
{
    static const char vdso[] = "[vdso]";
    size_t size = 0;
    const char *name = f->known ? fp_maps_name(&u->maps, f->pc - !f->exact, &size) : "";

    FP_OUT_LITERAL(out, "  Binary file \"");
    if (size == sizeof(vdso) - 1 && memcmp(name, vdso, size) == 0)
        FP_OUT_LITERAL(out, "linux-vdso.so.1");
    else if (size != 0)
        fp_out_bytes(out, name, size);
    else
        FP_OUT_LITERAL(out, "<unknown>");
    FP_OUT_LITERAL(out, "\"");
}

/* Without a symbol the offset is that in the file, where this differs from the address. */
static void show_frame(struct fp_out *out, struct fp_reader *r, struct fp_unwind *u, const struct fp_c_frame *f)
{
    if (f->guessed)
        FP_OUT_LITERAL(out, "  <the next frame is a guess>\n");
    show_file(out, u, f);
    if (f->name != 0 || f->bias != 0) {
        FP_OUT_LITERAL(out, ", at ");
        if (f->name != 0)
            show_name(out, r, f->name);
        FP_OUT_LITERAL(out, "+");
        fp_out_hex(out, f->pc - (f->name != 0 ? f->symbol : f->bias), 1);
    }
    FP_OUT_LITERAL(out, " [");
    fp_out_hex(out, f->pc, 1);
    FP_OUT_LITERAL(out, "]\n");
}

/* The loader's list has the code of most stacks.  For the rest a file has to be opened, for which a filter may end the
   process: what is known goes out first. */
static uint32_t find_frames(struct fp_out *out, struct fp_reader *r, struct fp_unwind *u,
                            const struct fp_registers *start, uint32_t skip)
{
    fp_unwind_open_loaded(u, r);
    uint32_t n = fp_unwind_frames(u, start, skip);
    if (u->maps.missed) {
        fp_out_flush(out);
        fp_unwind_open(u, r);
        n = fp_unwind_frames(u, start, skip);
    }
    return n;
}

void fp_c_stack_show(struct fp_out *out, struct fp_reader *r, struct fp_unwind *u, const void *ucontext)
{
    struct fp_registers start;
    if (ucontext != NULL)
        fp_registers_of_context(&start, ucontext);
    else
        fp_registers_here(&start);
    FP_OUT_LITERAL(out, "Current thread's C stack trace (most recent call first):\n");
    uint32_t n = find_frames(out, r, u, &start, ucontext == NULL);
    for (uint32_t i = 0; i < n; i++)
        show_frame(out, r, u, &u->frames[i]);
    if (n == FP_C_FRAMES_MAX && u->end == FP_UNWIND_LIMIT)
        FP_OUT_LITERAL(out, "  <truncated rest of calls>\n");
    else if (u->end == FP_UNWIND_LOST)
        FP_OUT_LITERAL(out, "  <caller not found>\n");
}
