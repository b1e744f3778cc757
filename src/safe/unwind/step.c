/* From a frame to its caller: by frame information, else by what else tells where the caller is.  Any context.
 *
 * A return address may lie behind the end of its function, when the call doesn't return: the frame information is
 * looked up one byte before.  An exact pc (the fault itself, what a signal has interrupted) is looked up as it is. */
#define _GNU_SOURCE
#include <ucontext.h>

#include "unwind/unwind.h"

void fp_registers_of_gregs(struct fp_registers *to, const long long *from)
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
    fp_registers_of_gregs(to, context->uc_mcontext.gregs);
}

static void forget(struct fp_unwind *u, struct fp_reader *reader)
{
    u->reader = reader;
    u->next_object = 0;
    for (uint32_t i = 0; i < FP_OBJECTS_MAX; i++)
        u->objects[i].key = 0;
}

void fp_unwind_open(struct fp_unwind *u, struct fp_reader *reader)
{
    forget(u, reader);
    fp_maps_load(&u->maps);
    if (u->maps.n == 0)
        fp_maps_from_loader(u);
}

void fp_unwind_open_loaded(struct fp_unwind *u, struct fp_reader *reader)
{
    forget(u, reader);
    fp_maps_from_loader(u);
}

void fp_unwind_start(struct fp_unwind *u, const struct fp_registers *registers)
{
    u->now = *registers;
    u->exact = true;
    u->guessed = false;
    u->end = FP_UNWIND_LIMIT;
    u->function = 0;
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

/* The stack has to grow towards lower addresses, but for what a signal has interrupted: that may be another stack. */
static enum fp_step by_row(struct fp_unwind *u, bool is_signal_frame)
{
    struct fp_registers next = u->now;
    fp_addr cfa;

    if (u->row.rules[FP_REG_PC].kind == FP_RULE_UNDEFINED)
        return FP_STEP_ROOT;
    if (u->row.rules[FP_REG_PC].kind == FP_RULE_SAME || !frame_address(u, &cfa))
        return FP_STEP_UNKNOWN;
    if (!is_signal_frame && (cfa <= u->now.r[FP_REG_RSP] || (cfa & 7) != 0))
        return FP_STEP_UNKNOWN;
    next.r[FP_REG_RSP] = cfa;
    for (uint32_t i = 0; i < FP_REGISTERS; i++)
        if (!recover(u, &u->row.rules[i], cfa, &next.r[i]))
            return FP_STEP_UNKNOWN;
    if (fp_reader_faulted(u->reader))
        return FP_STEP_UNKNOWN;
    if (next.r[FP_REG_PC] == 0)
        return FP_STEP_ROOT;
    if (!is_signal_frame && !fp_is_code(u, next.r[FP_REG_PC] - 1) && !fp_is_code(u, next.r[FP_REG_PC]))
        return FP_STEP_UNKNOWN;
    u->now = next;
    u->exact = is_signal_frame;
    return FP_STEP_CALLER;
}

enum fp_step fp_step_by_information(struct fp_unwind *u)
{
    bool is_signal_frame = false;
    fp_addr place = u->now.r[FP_REG_PC] - !u->exact;
    const struct fp_object *o = fp_object_of(u, place);
    fp_addr fde = o != NULL ? fp_object_fde(u, o, place) : 0;
    bool found = fde != 0 && fp_cfi_row(u, fde, place, &is_signal_frame);
    enum fp_step step = found ? by_row(u, is_signal_frame) : FP_STEP_UNKNOWN;
    (void)fp_reader_faulted(u->reader);
    return step;
}

bool fp_unwind_step(struct fp_unwind *u)
{
    u->function = 0;
    u->guessed = false;
    enum fp_step step = fp_step_by_information(u);
    fp_addr function = u->function;
    bool found = step == FP_STEP_CALLER || (step == FP_STEP_UNKNOWN && fp_step_by_guess(u));
    u->function = function; /* not that of a caller that was tried */
    (void)fp_reader_faulted(u->reader);
    if (!found)
        u->end = step == FP_STEP_ROOT ? FP_UNWIND_ROOT : FP_UNWIND_LOST;
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
    *frame = (struct fp_c_frame){.pc = pc, .exact = u->exact, .guessed = u->guessed, .known = fp_is_code(u, place)};
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
