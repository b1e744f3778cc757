/* DWARF expressions, as far as frame information has them: a stack machine over registers and memory.  Any context.
 * Each instruction costs one of a budget, so that a branch back can't hang. */
#include "unwind/bytes.h"
#include "unwind/unwind.h"

enum { STACK = 32, STEPS_MAX = 1024, EXPRESSION_MAX = 4096 };

/* The operators used, numbered by the DWARF standard, section 7.7.1. */
enum {
    OP_ADDR = 0x03,
    OP_DEREF = 0x06,
    OP_CONST1U = 0x08,
    OP_CONST8S = 0x0f,
    OP_CONSTU = 0x10,
    OP_CONSTS = 0x11,
    OP_DUP = 0x12,
    OP_DROP = 0x13,
    OP_OVER = 0x14,
    OP_PICK = 0x15,
    OP_SWAP = 0x16,
    OP_ROT = 0x17,
    OP_ABS = 0x19,
    OP_AND = 0x1a,
    OP_DIV = 0x1b,
    OP_MINUS = 0x1c,
    OP_MOD = 0x1d,
    OP_MUL = 0x1e,
    OP_NEG = 0x1f,
    OP_NOT = 0x20,
    OP_OR = 0x21,
    OP_PLUS = 0x22,
    OP_PLUS_UCONST = 0x23,
    OP_SHL = 0x24,
    OP_SHR = 0x25,
    OP_SHRA = 0x26,
    OP_XOR = 0x27,
    OP_BRA = 0x28,
    OP_EQ = 0x29,
    OP_GE = 0x2a,
    OP_GT = 0x2b,
    OP_LE = 0x2c,
    OP_LT = 0x2d,
    OP_NE = 0x2e,
    OP_SKIP = 0x2f,
    OP_LIT0 = 0x30,
    OP_LIT31 = 0x4f,
    OP_BREG0 = 0x70,
    OP_BREG31 = 0x8f,
    OP_BREGX = 0x92,
    OP_DEREF_SIZE = 0x94,
    OP_NOP = 0x96,
};

struct machine {
    struct fp_unwind *u;
    struct fp_bytes code;
    fp_addr start;
    uint32_t n;
    uint64_t stack[STACK];
};

static void push(struct machine *m, uint64_t value)
{
    if (m->n < STACK)
        m->stack[m->n++] = value;
    else
        m->code.bad = true;
}

static uint64_t pop(struct machine *m)
{
    if (m->n > 0)
        return m->stack[--m->n];
    m->code.bad = true;
    return 0;
}

static uint64_t pick(struct machine *m, uint32_t depth)
{
    if (depth < m->n)
        return m->stack[m->n - 1 - depth];
    m->code.bad = true;
    return 0;
}

static uint64_t register_plus(struct machine *m, uint64_t number)
{
    int64_t offset = fp_bytes_sleb(&m->code);
    if (number < FP_REGISTERS)
        return m->u->now.r[number] + (uint64_t)offset;
    m->code.bad = true;
    return 0;
}

static void dereference(struct machine *m, uint32_t size)
{
    uint64_t value = 0;
    if (size < 1 || size > 8 || !fp_read(m->u->reader, &value, pop(m), size))
        m->code.bad = true;
    push(m, value);
}

/* A branch may lead to any instruction of the expression, or to its end. */
static void branch(struct machine *m, bool taken)
{
    int64_t distance = fp_bytes_signed(&m->code, 2);
    fp_addr to = m->code.at + (fp_addr)distance;
    if (!taken)
        return;
    if (to < m->start || to > m->code.end)
        m->code.bad = true;
    else
        fp_bytes_open(&m->code, m->code.reader, to, m->code.end);
}

static uint64_t binary(struct machine *m, uint8_t op, uint64_t a, uint64_t b)
{
    int64_t sa = (int64_t)a, sb = (int64_t)b;
    switch (op) {
    case OP_AND:
        return a & b;
    case OP_OR:
        return a | b;
    case OP_XOR:
        return a ^ b;
    case OP_PLUS:
        return a + b;
    case OP_MINUS:
        return a - b;
    case OP_MUL:
        return a * b;
    case OP_DIV:
        if (sb == 0 || (sa == INT64_MIN && sb == -1))
            break;
        return (uint64_t)(sa / sb);
    case OP_MOD:
        if (b == 0)
            break;
        return a % b;
    case OP_SHL:
        return b < 64 ? a << b : 0;
    case OP_SHR:
        return b < 64 ? a >> b : 0;
    case OP_SHRA:
        return (uint64_t)(sa >> (b < 64 ? b : 63));
    case OP_EQ:
        return a == b;
    case OP_NE:
        return a != b;
    case OP_GE:
        return sa >= sb;
    case OP_GT:
        return sa > sb;
    case OP_LE:
        return sa <= sb;
    case OP_LT:
        return sa < sb;
    }
    m->code.bad = true;
    return 0;
}

static bool is_binary(uint8_t op)
{
    return op == OP_AND || (op >= OP_DIV && op <= OP_MUL) || op == OP_OR || op == OP_PLUS ||
           (op >= OP_SHL && op <= OP_XOR) || (op >= OP_EQ && op <= OP_NE);
}

static void exchange(struct machine *m, uint8_t op)
{
    uint64_t first = pop(m), second = pop(m);
    if (op == OP_SWAP) {
        push(m, first);
        push(m, second);
        return;
    }
    uint64_t third = pop(m); /* OP_ROT */
    push(m, first);
    push(m, third);
    push(m, second);
}

static void unary(struct machine *m, uint8_t op)
{
    uint64_t value = pop(m);
    switch (op) {
    case OP_ABS:
        push(m, (int64_t)value < 0 ? 0 - value : value);
        break;
    case OP_NEG:
        push(m, 0 - value);
        break;
    case OP_NOT:
        push(m, ~value);
        break;
    default: /* OP_PLUS_UCONST */
        push(m, value + fp_bytes_uleb(&m->code));
    }
}

/* OP_CONST1U, 1S, 2U, 2S, ... 8S */
static void constant(struct machine *m, uint8_t op)
{
    uint32_t size = 1u << ((op - OP_CONST1U) / 2);
    bool is_signed = (op - OP_CONST1U) % 2;
    push(m, is_signed ? (uint64_t)fp_bytes_signed(&m->code, size) : fp_bytes_unsigned(&m->code, size));
}

static void stack_operation(struct machine *m, uint8_t op)
{
    switch (op) {
    case OP_DUP:
        push(m, pick(m, 0));
        break;
    case OP_DROP:
        (void)pop(m);
        break;
    case OP_OVER:
        push(m, pick(m, 1));
        break;
    case OP_PICK:
        push(m, pick(m, fp_bytes_u8(&m->code)));
        break;
    default: /* OP_SWAP, OP_ROT */
        exchange(m, op);
    }
}

static void other(struct machine *m, uint8_t op)
{
    switch (op) {
    case OP_ADDR:
        push(m, fp_bytes_unsigned(&m->code, 8));
        break;
    case OP_CONSTU:
        push(m, fp_bytes_uleb(&m->code));
        break;
    case OP_CONSTS:
        push(m, (uint64_t)fp_bytes_sleb(&m->code));
        break;
    case OP_DEREF:
        dereference(m, 8);
        break;
    case OP_DEREF_SIZE:
        dereference(m, fp_bytes_u8(&m->code));
        break;
    case OP_BREGX:
        push(m, register_plus(m, fp_bytes_uleb(&m->code)));
        break;
    case OP_SKIP:
        branch(m, true);
        break;
    case OP_BRA:
        branch(m, pop(m) != 0);
        break;
    case OP_NOP:
        break;
    default:
        m->code.bad = true;
    }
}

static void execute(struct machine *m, uint8_t op)
{
    if (op >= OP_LIT0 && op <= OP_LIT31)
        push(m, op - OP_LIT0);
    else if (op >= OP_BREG0 && op <= OP_BREG31)
        push(m, register_plus(m, op - OP_BREG0));
    else if (op >= OP_CONST1U && op <= OP_CONST8S)
        constant(m, op);
    else if (op >= OP_DUP && op <= OP_ROT)
        stack_operation(m, op);
    else if (op == OP_ABS || op == OP_NEG || op == OP_NOT || op == OP_PLUS_UCONST)
        unary(m, op);
    else if (is_binary(op)) {
        uint64_t b = pop(m), a = pop(m);
        push(m, binary(m, op, a, b));
    }
    else
        other(m, op);
}

bool fp_expression(struct fp_unwind *u, fp_addr at, const uint64_t *initial, uint64_t *value)
{
    struct machine m = {.u = u};
    fp_bytes_open(&m.code, u->reader, at, at + 10 + EXPRESSION_MAX);
    uint64_t size = fp_bytes_uleb(&m.code);
    if (m.code.bad || size > EXPRESSION_MAX)
        return false;
    m.start = m.code.at;
    fp_bytes_open(&m.code, u->reader, m.start, m.start + size);
    if (initial != NULL)
        push(&m, *initial);
    for (uint32_t steps = 0; m.code.at < m.code.end && !m.code.bad; steps++) {
        if (steps == STEPS_MAX)
            return false;
        execute(&m, fp_bytes_u8(&m.code));
    }
    *value = pop(&m);
    return !m.code.bad;
}
