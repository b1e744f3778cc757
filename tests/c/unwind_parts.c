/* The parts of the unwinder one by one: expressions, rows of hand-written frame information, the map, symbols. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"
#include "trigger/signals.h"
#include "unwind/unwind.h"

static struct fp_unwind unwind;
static struct fp_reader reader;

static void open_reader(void)
{
    fp_guard_require();
    CHECK(fp_reader_open(&reader, FP_READER_GUARD) == FP_OK);
    fp_unwind_open(&unwind, &reader);
}

/* Length, then code; registers hold 1000 + their number, but rsp, which points to `words`. */
static const uint64_t words[] = {11, 0xfedcba9876543210, 33};
static const struct {
    const char *code;
    size_t size;
    uint64_t value;
} expressions[] = {
#define E(code, value) {code, sizeof(code) - 1, value}
    E("\x01\x30", 0),                                                  /* lit0 */
    E("\x01\x4f", 31),                                                 /* lit31 */
    E("\x09\x03\x08\x07\x06\x05\x04\x03\x02\x01", 0x0102030405060708), /* addr */
    E("\x02\x08\xff", 255),                                            /* const1u */
    E("\x02\x09\xff", UINT64_MAX),                                     /* const1s */
    E("\x03\x0a\x34\x12", 0x1234),                                     /* const2u */
    E("\x03\x0b\x00\x80", 0xffffffffffff8000),                         /* const2s */
    E("\x05\x0c\x01\x00\x00\x80", 0x80000001),                         /* const4u */
    E("\x05\x0d\x01\x00\x00\x80", 0xffffffff80000001),                 /* const4s */
    E("\x09\x0e\x01\x00\x00\x00\x00\x00\x00\x80", 0x8000000000000001), /* const8u */
    E("\x03\x10\xe5\x0e", 0x765),                                      /* constu */
    E("\x02\x11\x7f", UINT64_MAX),                                     /* consts */
    E("\x02\x70\x00", 1000),                                           /* breg0 0 */
    E("\x02\x76\x7c", 1002),                                           /* breg6 -4 */
    E("\x03\x92\x10\x08", 1024),                                       /* bregx 16, 8 */
    E("\x03\x77\x00\x06", 11),                                         /* breg7 0, deref */
    E("\x04\x77\x08\x94\x04", 0x76543210),                             /* breg7 8, deref_size 4 */
    E("\x03\x35\x12\x22", 10),                                         /* lit5, dup, plus */
    E("\x03\x31\x32\x13", 1),                                          /* lit1, lit2, drop */
    E("\x03\x31\x32\x14", 1),                                          /* over */
    E("\x05\x31\x32\x33\x15\x02", 1),                                  /* pick 2 */
    E("\x04\x31\x35\x16\x1c", 4),                                      /* lit1, lit5, swap, minus: 5 - 1 */
    E("\x06\x32\x33\x35\x17\x1c\x1e", 0xfffffffffffffffb),             /* 2 3 5 rot: 5 2 3; minus, mul: 5 * -1 */
    E("\x03\x09\xfb\x19", 5),                                          /* abs */
    E("\x03\x3c\x3a\x1a", 8),                                          /* and */
    E("\x04\x09\xf9\x32\x1b", (uint64_t)-3),                           /* -7 div 2 */
    E("\x03\x37\x35\x1d", 2),                                          /* mod */
    E("\x02\x35\x1f", (uint64_t)-5),                                   /* neg */
    E("\x02\x30\x20", UINT64_MAX),                                     /* not */
    E("\x03\x3c\x3a\x21", 14),                                         /* or */
    E("\x04\x31\x23\x80\x01", 129),                                    /* plus_uconst */
    E("\x03\x31\x33\x24", 8),                                          /* shl */
    E("\x04\x09\xf8\x4d\x25", 0x7ffffffffffffff8 >> 28),               /* shr 29 of -8 */
    E("\x04\x09\xf8\x31\x26", (uint64_t)-4),                           /* shra */
    E("\x03\x3c\x3a\x27", 6),                                          /* xor */
    E("\x03\x31\x32\x2d", 1),                                          /* lt */
    E("\x04\x09\xff\x31\x2a", 0),                                      /* -1 ge 1: signed */
    E("\x06\x31\x31\x28\x01\x00\x45", 1),                              /* lit1, lit1, bra over lit21 */
    E("\x06\x31\x30\x28\x01\x00\x45", 21),                             /* not taken */
    E("\x06\x31\x2f\x01\x00\x45\x96", 1),                              /* skip, nop */
#undef E
};

static void expression_values(void)
{
    open_reader();
    for (uint32_t i = 0; i < FP_REGISTERS; i++)
        unwind.now.r[i] = 1000 + i;
    unwind.now.r[FP_REG_RSP] = (uintptr_t)words;
    for (size_t i = 0; i < FP_COUNT(expressions); i++) {
        uint64_t value = 0;
        CHECK_EQUAL(expressions[i].code[0] + 1, expressions[i].size);
        if (!fp_expression(&unwind, (uintptr_t)expressions[i].code, NULL, &value) || value != expressions[i].value)
            fprintf(stderr, "expression %zu\n", i);
        CHECK_EQUAL(value, expressions[i].value);
    }
    uint64_t value, initial = 40;
    CHECK(fp_expression(&unwind, (uintptr_t)"\x02\x32\x22", &initial, &value));
    CHECK_EQUAL(value, 42);
}

static void bad_expressions(void)
{
    static const char *const codes[] = {
        "\x01\x22",                 /* plus of nothing */
        "\x03\x31\x30\x1b",         /* division by 0 */
        "\x03\x31\x30\x1d",         /* modulo 0 */
        "\x02\x30\x06",             /* deref of 0 */
        "\x03\x2f\xfd\xff",         /* an endless loop */
        "\x03\x2f\xf0\x7f",         /* a branch out of the expression */
        "\x04\x31\x2f\xfc\xff",     /* pushes for ever */
        "\x01\xff",                 /* no such instruction */
        "\x01\x08",                 /* ends in the operand */
        "\x03\x92\x11\x00",         /* no such register */
        "\xff\xff\xff\xff\xff\x7f", /* a length out of bounds */
    };
    open_reader();
    for (size_t i = 0; i < FP_COUNT(codes); i++) {
        uint64_t value;
        if (fp_expression(&unwind, (uintptr_t)codes[i], NULL, &value))
            fprintf(stderr, "expression %zu\n", i);
        CHECK(!fp_expression(&unwind, (uintptr_t)codes[i], NULL, &value));
    }
}

/* A function that calls its argument on a stack of its own making, with frame information of the rarer kinds. */
#define CALLER(name, body)                                                                                             \
    void name(void (*)(void));                                                                                         \
    __asm__(".pushsection .text\n.type " #name ", @function\n" #name ":\n.cfi_startproc\n" body                        \
            ".cfi_endproc\n.size " #name ", . - " #name "\n.popsection\n")

/* The frame address by an expression: breg7 24 + 8 */
CALLER(by_expression, "subq $24, %rsp\n.cfi_escape 0x0f, 4, 0x77, 24, 0x23, 8\ncall *%rdi\naddq $24, %rsp\nret\n");
/* rbx is saved where an expression says (the frame address on the stack first): minus 24 */
CALLER(saved_by_expression, "subq $24, %rsp\n.cfi_def_cfa_offset 32\nmovq %rbx, 8(%rsp)\n"
                            ".cfi_escape 0x10, 3, 3, 0x09, 0xe8, 0x22\nmovl $7, %ebx\ncall *%rdi\n"
                            "movq 8(%rsp), %rbx\naddq $24, %rsp\nret\n");
/* rbx is the frame address plus a number (val_offset), kept as such by its caller below */
CALLER(by_value, "pushq %rbx\n.cfi_def_cfa_offset 16\n.cfi_val_offset %rbx, -8\n"
                 "call *%rdi\npopq %rbx\n.cfi_same_value %rbx\n.cfi_def_cfa_offset 8\nret\n");
/* rbx moved to r12 */
CALLER(by_register, "pushq %r12\n.cfi_def_cfa_offset 16\n.cfi_offset %r12, -16\nmovq %rbx, %r12\n"
                    ".cfi_register %rbx, %r12\nmovl $9, %ebx\ncall *%rdi\n"
                    "movq %r12, %rbx\npopq %r12\nret\n");
/* remember and restore, nested, with advances of each size before the call */
CALLER(by_states,
       "pushq %rbp\n.cfi_def_cfa_offset 16\n.cfi_offset %rbp, -16\nmovq %rsp, %rbp\n.cfi_def_cfa_register %rbp\n"
       ".cfi_remember_state\nnop\n.cfi_def_cfa %rsp, 800\n.cfi_remember_state\n.fill 100, 1, 0x90\n"
       ".cfi_def_cfa %rsp, 900\n.fill 300, 1, 0x90\n.cfi_restore_state\n.fill 70000, 1, 0x90\n"
       ".cfi_restore_state\nsubq $64, %rsp\ncall *%rdi\nleave\n.cfi_def_cfa %rsp, 8\nret\n");
/* rbx was saved and is back in its register; where it was saved is something else */
CALLER(by_restore, "pushq %rbx\n.cfi_def_cfa_offset 16\n.cfi_offset %rbx, -16\npopq %rbx\n.cfi_restore %rbx\n"
                   ".cfi_def_cfa_offset 8\npushq %rdi\n.cfi_def_cfa_offset 16\ncall *%rdi\n"
                   "addq $8, %rsp\n.cfi_def_cfa_offset 8\nret\n");
/* a frame of no size: its return address would be found again and again */
CALLER(without_progress, "subq $8, %rsp\n.cfi_def_cfa %rsp, 0\ncall *%rdi\naddq $8, %rsp\nret\n");
/* a return address of 0, as some runtimes mark the root */
CALLER(called_by_zero, "subq $24, %rsp\nmovq $0, 8(%rsp)\n.cfi_def_cfa %rsp, 16\ncall *%rdi\naddq $24, %rsp\nret\n");
/* the caller can't be known: the root */
CALLER(without_caller, "subq $8, %rsp\n.cfi_def_cfa_offset 16\n.cfi_undefined %rip\ncall *%rdi\naddq $8, %rsp\nret\n");

#define OWN __attribute__((noinline, noclone, noipa))
static fp_addr functions[3];
static uint64_t rbx[3], frame_address;
static uint32_t n_seen;

static OWN void see(void)
{
    struct fp_registers start;
    fp_registers_here(&start);
    open_reader();
    fp_unwind_start(&unwind, &start);
    bool more = true;
    for (n_seen = 0; more && n_seen < 3; n_seen++) {
        rbx[n_seen] = unwind.now.r[3];
        frame_address = unwind.now.r[FP_REG_RSP];
        more = fp_unwind_step(&unwind);
        functions[n_seen] = unwind.function;
    }
}

static OWN void through(void (*function)(void (*)(void)))
{
    uint64_t mark = 0x1234567;
    (void)getpid(); /* a call that the compiler sees: so the stack is aligned, and there is no red zone */
    __asm__ volatile("movq %0, %%rbx\nmovq %1, %%rdi\nmovq %2, %%rax\ncall *%%rax\n"
                     :
                     : "r"(mark), "r"(see), "r"(function)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

static void rare_rules(void)
{
    void (*const all[])(void (*)(void)) = {by_expression, saved_by_expression, by_register, by_states, by_restore};
    for (size_t i = 0; i < FP_COUNT(all); i++) {
        through(all[i]);
        CHECK_EQUAL(n_seen, 3);
        CHECK_EQUAL(functions[0], (uintptr_t)see);
        CHECK_EQUAL(functions[1], (uintptr_t)all[i]);
        CHECK_EQUAL(functions[2], (uintptr_t)through);
        CHECK_EQUAL(rbx[2], 0x1234567);
    }
    through(by_value);
    CHECK_EQUAL(functions[2], (uintptr_t)through);
    CHECK_EQUAL(rbx[2], frame_address - 8);
    through(without_caller);
    CHECK_EQUAL(n_seen, 2);
    CHECK(unwind.end == FP_UNWIND_ROOT);
}

static fp_addr pcs[64];
static uint32_t n_pcs;

static OWN void see_all(void)
{
    struct fp_registers start;
    fp_registers_here(&start);
    open_reader();
    n_pcs = fp_unwind(&unwind, &start, pcs, 64);
}

static void frames_that_lead_nowhere(void)
{
    without_progress(see_all);
    CHECK(n_pcs >= 2 && n_pcs < 64);
    for (uint32_t i = 1; i < n_pcs; i++)
        CHECK(pcs[i] != pcs[i - 1]);
    called_by_zero(see_all);
    CHECK_EQUAL(n_pcs, 2);
    CHECK(unwind.end == FP_UNWIND_ROOT);
}

/* Every code address of this program and its libraries is found, and nothing else. */
static int check_object(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size, (void)data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD)
            continue;
        fp_addr first = info->dlpi_addr + p->p_vaddr, last = first + p->p_memsz - 1;
        const struct fp_object *o = fp_object_of(&unwind, first);
        CHECK((o != NULL) == ((p->p_flags & PF_X) != 0));
        if (o == NULL)
            continue;
        CHECK_EQUAL(o->bias, info->dlpi_addr);
        CHECK(o == fp_object_of(&unwind, last));
        CHECK(o->n_table > 0);
    }
    return 0;
}

static void objects(void)
{
    open_reader();
    CHECK(dl_iterate_phdr(check_object, NULL) == 0);
    CHECK(fp_object_of(&unwind, 0) == NULL);
    CHECK(fp_object_of(&unwind, UINT64_MAX) == NULL);
}

/* More executable mappings than the table holds, all with names of the longest kind. */
static void many_mappings(void)
{
    enum { N = FP_MAPPINGS_MAX + 50, PAGE = 4096 };
    char path[] = "/tmp/fp_unwind_XXXXXX", folder[sizeof(path) + 300];
    CHECK(mkdtemp(path) != NULL);
    snprintf(folder, sizeof(folder), "%s/%0200d", path, 1);
    int fd = open(folder, O_RDWR | O_CREAT | O_CLOEXEC, 0700);
    CHECK(fd >= 0 && ftruncate(fd, 2 * PAGE) == 0);
    char *area = mmap(NULL, 2 * N * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(area != MAP_FAILED);
    for (int i = 0; i < N; i++)
        CHECK(mmap(area + 2 * i * PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
    CHECK(unlink(folder) == 0 && rmdir(path) == 0);
    open_reader();
    for (int i = 0; i < N; i += i < 20 || i > N - 60 ? 1 : 50) {
        fp_addr at = (uintptr_t)area + 2 * (uint32_t)i * PAGE;
        const struct fp_mapping *m = fp_maps_find(&unwind.maps, at + 5);
        CHECK(m != NULL && m->start == at && m->end == at + PAGE && m->base == at);
        CHECK(fp_maps_find(&unwind.maps, at + PAGE) == NULL);
        size_t size;
        const char *name = fp_maps_name(&unwind.maps, at, &size);
        CHECK(size > strlen(folder) && memcmp(name, folder, strlen(folder)) == 0);
    }
    CHECK(unwind.maps.partial);
    CHECK(fp_maps_find(&unwind.maps, (uintptr_t)see) != NULL);
    CHECK(fp_object_of(&unwind, (uintptr_t)malloc) != NULL);
}

/* dladdr() is what CPython's own report uses. */
static void check_symbols(fp_addr from, uint32_t step, bool exact)
{
    for (uint32_t j = 0; j < FP_C_FRAMES_MAX; j++) {
        fp_addr pc = from + j * step;
        const struct fp_object *o = fp_object_of(&unwind, pc - !exact);
        CHECK(o != NULL);
        unwind.frames[j] = (struct fp_c_frame){.pc = pc, .exact = exact, .bias = o->bias, .key = o->key};
    }
    fp_symbols_find(&unwind, FP_C_FRAMES_MAX);
    for (uint32_t j = 0; j < FP_C_FRAMES_MAX; j++) {
        const struct fp_c_frame *f = &unwind.frames[j];
        Dl_info info;
        CHECK(dladdr((void *)(uintptr_t)(f->pc - !exact), &info) != 0);
        CHECK((f->name != 0) == (info.dli_sname != NULL));
        CHECK_EQUAL(f->symbol, (uintptr_t)info.dli_saddr);
        CHECK(f->name == 0 || strcmp((const char *)(uintptr_t)f->name, info.dli_sname) == 0);
    }
}

static void symbols_as_dladdr(void)
{
    static const char *const around[] = {"malloc", "qsort", "printf", "__libc_start_main", "pthread_create"};
    open_reader();
    for (size_t i = 0; i < FP_COUNT(around); i++) {
        fp_addr middle = (uintptr_t)dlsym(RTLD_DEFAULT, around[i]);
        for (uint32_t k = 0; k < 40; k++) {
            check_symbols(middle - 2000 + 13 * FP_C_FRAMES_MAX * k, 13, true);
            check_symbols(middle - 2000 + 5 * FP_C_FRAMES_MAX * k, 5, false);
        }
    }
}

/* The kernel's object: its table of symbols isn't relocated. */
static void symbols_of_the_vdso(void)
{
    uint32_t named = 0;
    open_reader();
    fp_addr base = getauxval(AT_SYSINFO_EHDR);
    CHECK(base != 0);
    for (uint32_t k = 0; k < 4096 / FP_C_FRAMES_MAX; k++) {
        check_symbols(base + FP_C_FRAMES_MAX * k, 1, true);
        for (uint32_t j = 0; j < FP_C_FRAMES_MAX; j++)
            named += unwind.frames[j].name != 0;
    }
    CHECK(named > 100);
}

static void size_of_the_memory(void)
{
    CHECK(sizeof(struct fp_unwind) <= 64 << 10);
}

static const struct check_case cases[] = {
    {"expressions", expression_values},
    {"bad expressions", bad_expressions},
    {"rare rules", rare_rules},
    {"frames that lead nowhere", frames_that_lead_nowhere},
    {"symbols of the vdso", symbols_of_the_vdso},
    {"objects", objects},
    {"many mappings", many_mappings},
    {"symbols as dladdr()", symbols_as_dladdr},
    {"size", size_of_the_memory},
};
CHECK_MAIN(cases)
