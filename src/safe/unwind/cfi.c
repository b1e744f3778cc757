/* One row of an object's frame information: reads a frame description and runs its program up to a pc.  Any context. */
#include "unwind/bytes.h"
#include "unwind/unwind.h"

enum { RECORD_MAX = 1 << 20, AUGMENTATION_MAX = 8 };

/* Call frame instructions, numbered by the DWARF standard, section 7.24, and by GNU. */
enum {
    CFA_ADVANCE_LOC = 0x40, /* these three have an operand in their low 6 bits */
    CFA_OFFSET = 0x80,
    CFA_RESTORE = 0xc0,
    CFA_NOP = 0x00,
    CFA_SET_LOC = 0x01,
    CFA_ADVANCE_LOC1 = 0x02,
    CFA_ADVANCE_LOC2 = 0x03,
    CFA_ADVANCE_LOC4 = 0x04,
    CFA_OFFSET_EXTENDED = 0x05,
    CFA_RESTORE_EXTENDED = 0x06,
    CFA_UNDEFINED = 0x07,
    CFA_SAME_VALUE = 0x08,
    CFA_REGISTER = 0x09,
    CFA_REMEMBER_STATE = 0x0a,
    CFA_RESTORE_STATE = 0x0b,
    CFA_DEF_CFA = 0x0c,
    CFA_DEF_CFA_REGISTER = 0x0d,
    CFA_DEF_CFA_OFFSET = 0x0e,
    CFA_DEF_CFA_EXPRESSION = 0x0f,
    CFA_EXPRESSION = 0x10,
    CFA_OFFSET_EXTENDED_SF = 0x11,
    CFA_DEF_CFA_SF = 0x12,
    CFA_DEF_CFA_OFFSET_SF = 0x13,
    CFA_VAL_OFFSET = 0x14,
    CFA_VAL_OFFSET_SF = 0x15,
    CFA_VAL_EXPRESSION = 0x16,
    CFA_GNU_ARGS_SIZE = 0x2e,
    CFA_GNU_NEGATIVE_OFFSET_EXTENDED = 0x2f,
};

/* What a common information entry says. */
struct common {
    uint64_t code_align;
    int64_t data_align;
    uint8_t pointers; /* how its frame descriptions write addresses */
    bool sized;       /* its frame descriptions have augmentation data, with their size before them */
    bool signal_frame;
    fp_addr program, end;
};

struct program {
    struct fp_unwind *u;
    const struct common *common;
    struct fp_bytes code;
    fp_addr location, pc;
};

/* A record starts with its size; 64-bit ones aren't in use.  0 ends the list: not a record. */
static bool open_record(struct fp_unwind *u, fp_addr at, struct fp_bytes *b)
{
    uint32_t size = fp_load32(u->reader, at);
    if (fp_reader_faulted(u->reader) || size < 4 || size > RECORD_MAX)
        return false;
    fp_bytes_open(b, u->reader, at + 4, at + 4 + size);
    return true;
}

/* The letters of the augmentation and the data that each has.  Without a leading "z" the data has no known size. */
static void read_augmentation(struct fp_bytes *b, struct common *c, const char *letters)
{
    if (letters[0] == 0)
        return;
    uint64_t size = letters[0] == 'z' ? fp_bytes_uleb(b) : 0;
    fp_addr end = b->at + size;
    if (letters[0] != 'z' || size > RECORD_MAX) {
        b->bad = true;
        return;
    }
    c->sized = true;
    for (const char *p = letters + 1; *p != 0; p++) {
        if (*p == 'R')
            c->pointers = fp_bytes_u8(b);
        else if (*p == 'S')
            c->signal_frame = true;
        else if (*p == 'L')
            (void)fp_bytes_u8(b);
        else if (*p == 'P')
            (void)fp_bytes_pointer(b, fp_bytes_u8(b) & 0x0f, 0); /* its value isn't needed */
        else
            break; /* unknown data is skipped with the rest */
    }
    if (b->at <= end)
        fp_bytes_skip(b, end - b->at);
    else
        b->bad = true;
}

static bool read_common(struct fp_unwind *u, fp_addr at, struct common *c)
{
    struct fp_bytes b;
    char letters[AUGMENTATION_MAX + 1] = {0};

    *c = (struct common){.pointers = FP_PE_ABSPTR};
    if (!open_record(u, at, &b))
        return false;
    uint64_t id = fp_bytes_unsigned(&b, 4);
    uint8_t version = fp_bytes_u8(&b);
    for (uint32_t i = 0; (letters[i] = (char)fp_bytes_u8(&b)) != 0; i++)
        if (i == AUGMENTATION_MAX - 1)
            return false;
    c->code_align = fp_bytes_uleb(&b);
    c->data_align = fp_bytes_sleb(&b);
    uint64_t return_register = version == 1 ? fp_bytes_u8(&b) : fp_bytes_uleb(&b);
    read_augmentation(&b, c, letters);
    c->program = b.at;
    c->end = b.end;
    return !b.bad && id == 0 && (version == 1 || version == 3) && return_register == FP_REG_PC;
}

/* Vector registers and the like are passed over. */
static void set(struct program *p, uint64_t number, enum fp_rule_kind kind, int64_t value)
{
    if (number < FP_REGISTERS)
        p->u->row.rules[number] = (struct fp_rule){kind, value};
}

static void restore(struct program *p, uint64_t number)
{
    if (number < FP_REGISTERS)
        p->u->row.rules[number] = p->u->initial.rules[number];
}

static void remember_state(struct program *p)
{
    struct fp_unwind *u = p->u;
    if (u->n_saved < FP_ROWS_MAX)
        u->saved[u->n_saved++] = u->row;
    else
        p->code.bad = true;
}

static void restore_state(struct program *p)
{
    struct fp_unwind *u = p->u;
    if (u->n_saved > 0)
        u->row = u->saved[--u->n_saved];
    else
        p->code.bad = true;
}

/* The address of an expression's length; the program goes on behind the expression. */
static fp_addr skip_expression(struct program *p)
{
    fp_addr at = p->code.at;
    uint64_t size = fp_bytes_uleb(&p->code);
    fp_bytes_skip(&p->code, size);
    return at;
}

static int64_t factored(struct program *p)
{
    return (int64_t)(fp_bytes_uleb(&p->code) * (uint64_t)p->common->data_align);
}

static int64_t factored_signed(struct program *p)
{
    return (int64_t)((uint64_t)fp_bytes_sleb(&p->code) * (uint64_t)p->common->data_align);
}

static void define_cfa(struct program *p, uint8_t op)
{
    struct fp_row *row = &p->u->row;
    if (op == CFA_DEF_CFA_EXPRESSION) {
        row->cfa_expression = skip_expression(p);
        return;
    }
    if (op == CFA_DEF_CFA || op == CFA_DEF_CFA_SF || op == CFA_DEF_CFA_REGISTER) {
        row->cfa_expression = 0;
        row->cfa_register = fp_bytes_uleb(&p->code);
    }
    if (op == CFA_DEF_CFA || op == CFA_DEF_CFA_OFFSET)
        row->cfa_offset = (int64_t)fp_bytes_uleb(&p->code);
    if (op == CFA_DEF_CFA_SF || op == CFA_DEF_CFA_OFFSET_SF)
        row->cfa_offset = factored_signed(p);
}

static void define_register(struct program *p, uint8_t op)
{
    uint64_t number = fp_bytes_uleb(&p->code);
    switch (op) {
    case CFA_OFFSET_EXTENDED:
        set(p, number, FP_RULE_OFFSET, factored(p));
        break;
    case CFA_OFFSET_EXTENDED_SF:
        set(p, number, FP_RULE_OFFSET, factored_signed(p));
        break;
    case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
        set(p, number, FP_RULE_OFFSET, (int64_t)(0 - (uint64_t)factored(p)));
        break;
    case CFA_RESTORE_EXTENDED:
        restore(p, number);
        break;
    case CFA_UNDEFINED:
        set(p, number, FP_RULE_UNDEFINED, 0);
        break;
    case CFA_SAME_VALUE:
        set(p, number, FP_RULE_SAME, 0);
        break;
    case CFA_REGISTER:
        set(p, number, FP_RULE_REGISTER, (int64_t)fp_bytes_uleb(&p->code));
        break;
    case CFA_VAL_OFFSET:
        set(p, number, FP_RULE_VAL_OFFSET, factored(p));
        break;
    case CFA_VAL_OFFSET_SF:
        set(p, number, FP_RULE_VAL_OFFSET, factored_signed(p));
        break;
    case CFA_EXPRESSION:
        set(p, number, FP_RULE_EXPRESSION, (int64_t)skip_expression(p));
        break;
    case CFA_VAL_EXPRESSION:
        set(p, number, FP_RULE_VAL_EXPRESSION, (int64_t)skip_expression(p));
        break;
    default:
        p->code.bad = true;
    }
}

static void execute_extended(struct program *p, uint8_t op)
{
    switch (op) {
    case CFA_NOP:
        break;
    case CFA_SET_LOC:
        p->location = fp_bytes_pointer(&p->code, p->common->pointers, 0);
        break;
    case CFA_ADVANCE_LOC1:
    case CFA_ADVANCE_LOC2:
    case CFA_ADVANCE_LOC4:
        p->location += fp_bytes_unsigned(&p->code, 1u << (op - CFA_ADVANCE_LOC1)) * p->common->code_align;
        break;
    case CFA_REMEMBER_STATE:
        remember_state(p);
        break;
    case CFA_RESTORE_STATE:
        restore_state(p);
        break;
    case CFA_DEF_CFA:
    case CFA_DEF_CFA_SF:
    case CFA_DEF_CFA_REGISTER:
    case CFA_DEF_CFA_OFFSET:
    case CFA_DEF_CFA_OFFSET_SF:
    case CFA_DEF_CFA_EXPRESSION:
        define_cfa(p, op);
        break;
    case CFA_GNU_ARGS_SIZE:
        (void)fp_bytes_uleb(&p->code);
        break;
    default:
        define_register(p, op);
    }
}

/* Runs until the location passes the pc. */
static bool run(struct program *p, fp_addr start, fp_addr end)
{
    fp_bytes_open(&p->code, p->u->reader, start, end);
    while (p->code.at < p->code.end && !p->code.bad && p->location <= p->pc) {
        uint8_t op = fp_bytes_u8(&p->code), low = op & 0x3f;
        switch (op & 0xc0) {
        case CFA_ADVANCE_LOC:
            p->location += low * p->common->code_align;
            break;
        case CFA_OFFSET:
            set(p, low, FP_RULE_OFFSET, factored(p));
            break;
        case CFA_RESTORE:
            restore(p, low);
            break;
        default:
            execute_extended(p, op);
        }
    }
    return !p->code.bad;
}

bool fp_cfi_row(struct fp_unwind *u, fp_addr fde, fp_addr pc, bool *is_signal_frame)
{
    struct fp_bytes b;
    struct common c;

    if (!open_record(u, fde, &b))
        return false;
    uint64_t distance = fp_bytes_unsigned(&b, 4);
    if (b.bad || distance == 0 || !read_common(u, fde + 4 - distance, &c))
        return false;
    fp_addr start = fp_bytes_pointer(&b, c.pointers, 0);
    uint64_t size = fp_bytes_pointer(&b, c.pointers & 0x0f, 0);
    if (c.sized)
        fp_bytes_skip(&b, fp_bytes_uleb(&b));
    if (b.bad || pc - start >= size)
        return false;

    struct program p = {.u = u, .common = &c, .location = start, .pc = pc};
    u->n_saved = 0;
    u->row = (struct fp_row){.cfa_register = FP_REGISTERS};
    if (!run(&p, c.program, c.end))
        return false;
    u->initial = u->row;
    p.location = start;
    if (!run(&p, b.at, b.end))
        return false;
    u->function = start;
    *is_signal_frame = c.signal_frame;
    return true;
}
