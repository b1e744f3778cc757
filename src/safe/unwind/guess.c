/* Finding the caller where no frame information tells of it.  Any context.
 *
 * Every way ends in a return address that is behind a call instruction; the registers that it can't recover stay as
 * they are. */
#define _GNU_SOURCE
#include <ucontext.h>

#include "unwind/unwind.h"

enum {
    FRAME_MAX = 64 << 20, /* bytes between a stack pointer and its frame pointer */
    SCAN_MAX = 64,        /* words of the stack that are looked at */
};

/* A signal trampoline without frame information: mov $15, %rax; syscall.  The stack pointer is at a ucontext. */
static bool by_trampoline(struct fp_unwind *u)
{
    static const uint64_t code = 0x0f0000000fc0c748;
    fp_addr at = u->now.r[FP_REG_RSP] + offsetof(ucontext_t, uc_mcontext.gregs);
    greg_t gregs[NGREG];

    bool found = fp_load64(u->reader, u->now.r[FP_REG_PC]) == code &&
                 fp_load8(u->reader, u->now.r[FP_REG_PC] + 8) == 0x05 && fp_read(u->reader, gregs, at, sizeof(gregs));
    if (fp_reader_faulted(u->reader) || !found)
        return false;
    fp_registers_of_gregs(&u->now, gregs);
    u->exact = true;
    return true;
}

/* Does a call instruction end at `pc`?  call rel32, or call through a register or memory: ff /2 with or without a
 * prefix. */
static bool follows_call(struct fp_unwind *u, fp_addr pc)
{
    uint8_t code[8]; /* those before pc */
    if (!fp_is_code(u, pc - 1) || !fp_read(u->reader, code, pc - sizeof(code), sizeof(code)))
        return false;
    if (code[3] == 0xe8)
        return true;
    for (uint32_t size = 2; size <= 7; size++) {
        uint8_t modrm = code[8 - size + 1], mod = modrm >> 6, rm = modrm & 7;
        uint32_t expected = 2 + (mod != 3 && rm == 4) + (mod == 1) + 4 * (mod == 2 || (mod == 0 && rm == 5));
        if (code[8 - size] == 0xff && (modrm >> 3 & 7) == 2 && size == expected)
            return true;
    }
    return false;
}

static bool go_to(struct fp_unwind *u, fp_addr pc, fp_addr rsp, fp_addr rbp)
{
    if (u->reader->fault != 0 || !follows_call(u, pc)) {
        (void)fp_reader_faulted(u->reader);
        return false;
    }
    u->now.r[FP_REG_PC] = pc;
    u->now.r[FP_REG_RSP] = rsp;
    u->now.r[FP_REG_RBP] = rbp;
    u->exact = false;
    return true;
}

/* The return address on top of the stack: so it is after the call of a bad pointer, and in hand-written code that uses
   no stack. */
static bool by_top_of_stack(struct fp_unwind *u)
{
    fp_addr rsp = u->now.r[FP_REG_RSP];
    return u->exact && go_to(u, fp_load64(u->reader, rsp), rsp + 8, u->now.r[FP_REG_RBP]);
}

/* Where the chain of frame pointers leads to: the caller's stack pointer; 0 if this is no frame pointer. */
static fp_addr frame_end(struct fp_unwind *u)
{
    fp_addr rsp = u->now.r[FP_REG_RSP], rbp = u->now.r[FP_REG_RBP];
    if ((rbp & 7) != 0 || rbp < rsp || rbp - rsp > FRAME_MAX)
        return 0;
    fp_addr pc = fp_load64(u->reader, rbp + 8);
    return !fp_reader_faulted(u->reader) && follows_call(u, pc) ? rbp + 16 : 0;
}

static bool by_frame_pointer(struct fp_unwind *u)
{
    fp_addr rbp = u->now.r[FP_REG_RBP];
    return frame_end(u) != 0 && go_to(u, fp_load64(u->reader, rbp + 8), rbp + 16, fp_load64(u->reader, rbp));
}

/* Can the call before `pc` have led to `place`?  A direct one leads to code of the same mapping, or by the linkage
   table of an object to another object. */
static bool can_have_called(struct fp_unwind *u, fp_addr pc, fp_addr place)
{
    if (fp_load8(u->reader, pc - 5) != 0xe8 || fp_object_of(u, place) != NULL)
        return true;
    const struct fp_mapping *called =
        fp_maps_find(&u->maps, pc + (fp_addr)(int64_t)(int32_t)fp_load32(u->reader, pc - 4));
    return called != NULL && place >= called->start && place < called->end;
}

/* Is the word at `slot` the return address into a function with frame information, which leads on to another call, and
   to the stack pointer `end` if that isn't 0?  Then goes to that function. */
static bool try_slot(struct fp_unwind *u, fp_addr slot, fp_addr end)
{
    const struct fp_registers before = u->now;
    const bool exact = u->exact;
    fp_addr place = u->now.r[FP_REG_PC] - !exact;
    if (!go_to(u, fp_load64(u->reader, slot), slot + 8, u->now.r[FP_REG_RBP]))
        return false;
    const struct fp_registers candidate = u->now;
    bool good = can_have_called(u, candidate.r[FP_REG_PC], place) && fp_step_by_information(u) == FP_STEP_CALLER &&
                follows_call(u, u->now.r[FP_REG_PC]) && (end == 0 || u->now.r[FP_REG_RSP] == end);
    u->now = good ? candidate : before;
    u->exact = good ? false : exact;
    return good;
}

/* Code without frame pointers leaves that register to its caller, so the chain passes over the caller.  The caller's
   return address is then between here and the end of the frame, and its frame information leads to that end.  Without a
   chain the first word that leads on is taken. */
static bool by_scan(struct fp_unwind *u, fp_addr end)
{
    fp_addr rsp = u->now.r[FP_REG_RSP];
    if ((rsp & 7) != 0)
        return false;
    for (uint32_t i = 0; i < SCAN_MAX; i++)
        if (try_slot(u, rsp + 8 * i, end)) {
            u->guessed = end == 0;
            return true;
        }
    return false;
}

bool fp_step_by_guess(struct fp_unwind *u)
{
    if (by_trampoline(u) || by_top_of_stack(u))
        return true;
    fp_addr end = frame_end(u);
    return by_scan(u, end) || (end != 0 && by_frame_pointer(u));
}
