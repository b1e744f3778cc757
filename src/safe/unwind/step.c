/* From a frame to its caller: by frame information, else by what else tells where the caller is.  Any context.
 *
 * A return address may lie behind the end of its function, when the call doesn't return: the frame information is looked
 * up one byte before.  An exact pc (the fault itself, what a signal has interrupted) is looked up as it is. */
#define _GNU_SOURCE
#include <ucontext.h>

#include "unwind/unwind.h"

enum { FRAME_MAX = 64 << 20 }; /* bytes between a stack pointer and its frame pointer */

static void take_gregs(struct fp_registers *to, const greg_t *from)
{
    static const uint8_t order[FP_REGISTERS] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
                                                REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                                REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    for (uint32_t i = 0; i < FP_REGISTERS; i++)
        to->r[i] = (uint64_t)from[order[i]];
}

void fp_registers_of_context(struct fp_registers *to, const void *ucontext)
{
    const ucontext_t *context = ucontext;
    take_gregs(to, context->uc_mcontext.gregs);
}

void fp_unwind_open(struct fp_unwind *u, struct fp_reader *reader)
{
    u->reader = reader;
    u->next_object = 0;
    u->maps.loaded = u->maps.partial = false;
    u->maps.n = u->maps.names_used = 0;
    u->maps.spare = (struct fp_mapping){0};
    for (uint32_t i = 0; i < FP_OBJECTS_MAX; i++)
        u->objects[i].key = 0;
}

void fp_unwind_start(struct fp_unwind *u, const struct fp_registers *registers)
{
    u->now = *registers;
    u->exact = true;
    u->end = FP_UNWIND_LIMIT;
    u->function = 0;
}

static bool is_code(struct fp_unwind *u, fp_addr pc)
{
    return fp_maps_find(&u->maps, pc) != NULL;
}

/* The caller's value of one register; false: it can't be had. */
static bool recover(struct fp_unwind *u, const struct fp_rule *rule, fp_addr cfa, uint64_t *value)
{
    fp_addr at = cfa + (fp_addr)rule->value;
    switch (rule->kind) {
    case FP_RULE_OFFSET:
        *value = fp_load64(u->reader, at);
        return true;
    case FP_RULE_VAL_OFFSET:
        *value = at;
        return true;
    case FP_RULE_REGISTER:
        *value = (uint64_t)rule->value < FP_REGISTERS ? u->now.r[rule->value] : 0;
        return true;
    case FP_RULE_EXPRESSION:
        if (!fp_expression(u, (fp_addr)rule->value, &cfa, &at))
            return false;
        *value = fp_load64(u->reader, at);
        return true;
    case FP_RULE_VAL_EXPRESSION:
        return fp_expression(u, (fp_addr)rule->value, &cfa, value);
    default:
        return true; /* the same, or undefined: then nothing good can come of any value */
    }
}

static bool frame_address(struct fp_unwind *u, fp_addr *cfa)
{
    const struct fp_row *row = &u->row;
    if (row->cfa_expression != 0)
        return fp_expression(u, row->cfa_expression, NULL, cfa);
    if (row->cfa_register >= FP_REGISTERS)
        return false;
    *cfa = u->now.r[row->cfa_register] + (fp_addr)row->cfa_offset;
    return true;
}

enum outcome { CALLER, ROOT, UNKNOWN };

/* The stack has to grow towards lower addresses, but for what a signal has interrupted: that may be another stack. */
static enum outcome by_row(struct fp_unwind *u, bool is_signal_frame)
{
    struct fp_registers next = u->now;
    fp_addr cfa;

    if (u->row.rules[FP_REG_PC].kind == FP_RULE_UNDEFINED)
        return ROOT;
    if (u->row.rules[FP_REG_PC].kind == FP_RULE_SAME || !frame_address(u, &cfa))
        return UNKNOWN;
    if (!is_signal_frame && (cfa <= u->now.r[FP_REG_RSP] || (cfa & 7) != 0))
        return UNKNOWN;
    next.r[FP_REG_RSP] = cfa;
    for (uint32_t i = 0; i < FP_REGISTERS; i++)
        if (!recover(u, &u->row.rules[i], cfa, &next.r[i]))
            return UNKNOWN;
    if (fp_reader_faulted(u->reader))
        return UNKNOWN;
    if (next.r[FP_REG_PC] == 0)
        return ROOT;
    if (!is_code(u, next.r[FP_REG_PC] - !is_signal_frame))
        return UNKNOWN;
    u->now = next;
    u->exact = is_signal_frame;
    return CALLER;
}

static enum outcome by_frame_information(struct fp_unwind *u, fp_addr place)
{
    bool is_signal_frame = false;
    const struct fp_object *o = fp_object_of(u, place);
    fp_addr fde = o != NULL ? fp_object_fde(u, o, place) : 0;
    bool found = fde != 0 && fp_cfi_row(u, fde, place, &is_signal_frame);
    enum outcome outcome = found ? by_row(u, is_signal_frame) : UNKNOWN;
    (void)fp_reader_faulted(u->reader);
    return outcome;
}

/* A signal trampoline without frame information: mov $15, %rax; syscall.  The stack pointer is at a ucontext. */
static bool by_trampoline(struct fp_unwind *u)
{
    static const uint64_t code = 0x0f0000000fc0c748;
    fp_addr at = u->now.r[FP_REG_RSP] + offsetof(ucontext_t, uc_mcontext.gregs);
    greg_t gregs[NGREG];

    if (fp_load64(u->reader, u->now.r[FP_REG_PC]) != code || fp_load8(u->reader, u->now.r[FP_REG_PC] + 8) != 0x05)
        return false;
    if (!fp_read(u->reader, gregs, at, sizeof(gregs)))
        return false;
    take_gregs(&u->now, gregs);
    u->exact = true;
    return true;
}

/* Does a call instruction end at `pc`?  call rel32, or call through a register or memory: ff /2 with or without a prefix. */
static bool follows_call(struct fp_unwind *u, fp_addr pc)
{
    uint8_t code[8]; /* those before pc */
    if (!is_code(u, pc - 1) || !fp_read(u->reader, code, pc - sizeof(code), sizeof(code)))
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

/* The return address on top of the stack: so it is after the call of a bad pointer, and in hand-written code that uses no
   stack. */
static bool by_top_of_stack(struct fp_unwind *u)
{
    fp_addr rsp = u->now.r[FP_REG_RSP];
    return u->exact && go_to(u, fp_load64(u->reader, rsp), rsp + 8, u->now.r[FP_REG_RBP]);
}

static bool by_frame_pointer(struct fp_unwind *u)
{
    fp_addr rsp = u->now.r[FP_REG_RSP], rbp = u->now.r[FP_REG_RBP];
    if ((rbp & 7) != 0 || rbp < rsp || rbp - rsp > FRAME_MAX)
        return false;
    fp_addr saved = fp_load64(u->reader, rbp), pc = fp_load64(u->reader, rbp + 8);
    return go_to(u, pc, rbp + 16, saved);
}

bool fp_unwind_step(struct fp_unwind *u)
{
    fp_addr place = u->now.r[FP_REG_PC] - !u->exact;
    enum outcome outcome = UNKNOWN;
    bool found = false;

    u->function = 0;
    if (is_code(u, place))
        outcome = by_frame_information(u, place);
    if (outcome == UNKNOWN)
        found = by_trampoline(u) || by_top_of_stack(u) || by_frame_pointer(u);
    else
        found = outcome == CALLER;
    (void)fp_reader_faulted(u->reader);
    if (!found)
        u->end = outcome == ROOT ? FP_UNWIND_ROOT : FP_UNWIND_LOST;
    return found;
}

uint32_t fp_unwind(struct fp_unwind *u, const struct fp_registers *start, fp_addr *pcs, uint32_t max)
{
    uint32_t n = 0;
    fp_unwind_start(u, start);
    if (max == 0)
        return 0;
    do
        pcs[n++] = u->now.r[FP_REG_PC];
    while (n < max && fp_unwind_step(u));
    return n;
}

static void describe(struct fp_unwind *u, struct fp_c_frame *frame)
{
    fp_addr pc = u->now.r[FP_REG_PC], place = pc - !u->exact;
    const struct fp_object *o = fp_object_of(u, place);
    *frame = (struct fp_c_frame){.pc = pc, .exact = u->exact, .known = is_code(u, place)};
    if (o != NULL) {
        frame->bias = o->bias;
        frame->key = o->key;
    }
}

uint32_t fp_unwind_frames(struct fp_unwind *u, const struct fp_registers *start, uint32_t skip)
{
    uint32_t n = 0;
    bool more = true;
    fp_unwind_start(u, start);
    for (; skip > 0 && more; skip--)
        more = fp_unwind_step(u);
    for (; more && n < FP_C_FRAMES_MAX; more = fp_unwind_step(u))
        describe(u, &u->frames[n++]);
    if (more)
        u->end = FP_UNWIND_LIMIT;
    fp_symbols_find(u, n);
    return n;
}

bool fp_unwind_in_function(struct fp_unwind *u, const struct fp_registers *start, const fp_addr *functions,
                           uint32_t n_functions)
{
    bool more = true;
    fp_unwind_start(u, start);
    for (uint32_t i = 0; more && i < FP_WALK_FRAMES_MAX; i++) {
        more = fp_unwind_step(u);
        for (uint32_t k = 0; k < n_functions; k++)
            if (u->function != 0 && u->function == functions[k])
                return true;
    }
    return false;
}
