/* C stacks by DWARF call frame information, read through a reader: no loader, no malloc, no locks.
 * Any context, signal handlers included; all memory is in struct fp_unwind, every loop is bounded, nothing recurses.
 *
 * What is loaded is read once for all look-ups: from the loader's list, which takes no system call, or from the
 * kernel's memory map, which also has code of no object.  Where there is no frame information (machine code made at run
 * time), guess.c has other ways.
 */
#ifndef FP_UNWIND_H
#define FP_UNWIND_H

#include "reader/reader.h"

enum {
    FP_REGISTERS = 17, /* numbered as DWARF does on x86-64: 16 is the return address, here the pc */
    FP_REG_RBP = 6,
    FP_REG_RSP = 7,
    FP_REG_PC = 16,
    FP_MAPPINGS_MAX = 1024,  /* executable mappings remembered; others are looked up one by one */
    FP_MAP_NAMES = 12 << 10, /* bytes for their paths; likewise */
    FP_MAP_PATH = 4096,      /* a longer path is cut */
    FP_MAP_BUFFER = 4096 + 512,
    FP_OBJECTS_MAX = 32,     /* objects whose headers are remembered */
    FP_ROWS_MAX = 8,         /* nested DW_CFA_remember_state */
    FP_C_FRAMES_MAX = 32,    /* frames that a report shows, as CPython */
    FP_WALK_FRAMES_MAX = 64, /* return addresses that fp_unwind_in_function looks at */
};

struct fp_registers {
    uint64_t r[FP_REGISTERS];
};

/* One executable mapping. */
struct fp_mapping {
    fp_addr start, end;
    fp_addr base; /* where the object's file begins in memory; the mapping's own start for what has no file */
    union {
        struct {
            uint32_t name;      /* offset in fp_maps.names; FP_MAP_NAMES is the spare one */
            uint16_t name_size; /* 0: no name, or it didn't fit: see has_name */
            bool has_name;
        };
        fp_addr name_at; /* in a table from the loader's list: where the loader keeps it */
    };
};

/* The executable mappings of this process, by address. */
struct fp_maps {
    struct fp_reader *reader; /* of names that the loader keeps; NULL: the table is from the kernel's map */
    bool missed;              /* an address wasn't in the loader's list: the kernel's map may have it */
    bool partial;             /* more than fit */
    uint32_t n;
    uint32_t names_used;
    struct fp_mapping spare; /* the last one found by reading the map again */
    struct fp_mapping at[FP_MAPPINGS_MAX];
    char names[FP_MAP_NAMES + FP_MAP_PATH];
    char buffer[FP_MAP_BUFFER];
};

/* What is needed of an ELF object that is in memory. */
struct fp_object {
    fp_addr key;    /* start of the mapping it was found by; 0: unused */
    bool is_elf;    /* else nothing below is set */
    fp_addr bias;   /* what to add to an address of the file */
    fp_addr header; /* .eh_frame_hdr; 0: there is none */
    uint64_t header_size;
    fp_addr dynamic; /* PT_DYNAMIC; 0: there is none */
    uint64_t dynamic_size;
    fp_addr table; /* the sorted table of .eh_frame_hdr; 0: there is none of the usual form */
    uint64_t n_table;
};

/* How the caller's value of a register is found. */
enum fp_rule_kind {
    FP_RULE_SAME,
    FP_RULE_UNDEFINED,
    FP_RULE_OFFSET,         /* saved at CFA + value */
    FP_RULE_VAL_OFFSET,     /* is CFA + value */
    FP_RULE_REGISTER,       /* is in register `value` */
    FP_RULE_EXPRESSION,     /* saved where the expression at address `value` says */
    FP_RULE_VAL_EXPRESSION, /* is what that expression says */
};
struct fp_rule {
    uint64_t kind;
    int64_t value;
};

/* A row of the table that a call frame program describes. */
struct fp_row {
    fp_addr cfa_expression; /* not 0: in place of register and offset */
    uint64_t cfa_register;
    int64_t cfa_offset;
    struct fp_rule rules[FP_REGISTERS];
};

/* One frame of a report. */
struct fp_c_frame {
    fp_addr pc;
    bool exact;     /* pc is the instruction itself; else a return address */
    bool guessed;   /* see fp_unwind.guessed */
    bool known;     /* the pc lies in a mapping */
    fp_addr bias;   /* of the object, 0 if it isn't one */
    fp_addr key;    /* of the object; 0: none */
    fp_addr symbol; /* address of the symbol; only with a name */
    fp_addr name;   /* address of its name; 0: none */
};

enum fp_unwind_end {
    FP_UNWIND_ROOT,  /* the frame information says that there is no caller */
    FP_UNWIND_LIMIT, /* there may be more */
    FP_UNWIND_LOST,  /* the caller can't be found */
};

/* All memory of one unwinding; about 60 KiB, meant for the static session pool. */
struct fp_unwind {
    struct fp_reader *reader;
    struct fp_registers now;
    bool
        exact; /* now.r[FP_REG_PC] is the instruction itself; else a return address, which may lie after its function */
    bool guessed; /* `now` is only the first thing on the stack that looked like a caller */
    enum fp_unwind_end end;
    fp_addr function; /* start of the frame information's range that the last step used; 0: none */
    uint32_t next_object;
    uint32_t n_saved;
    struct fp_row row, initial, saved[FP_ROWS_MAX];
    struct fp_object objects[FP_OBJECTS_MAX];
    struct fp_c_frame frames[FP_C_FRAMES_MAX];
    struct fp_maps maps;
};

/* Gets ready for one report: finds out what is loaded by the kernel's map, or the loader's list if that can't be read.
 */
FP_HIDDEN void fp_unwind_open(struct fp_unwind *unwind, struct fp_reader *reader);
/* The same by the loader's list alone, without a system call: unwind->maps.missed says later whether that was enough.
 */
FP_HIDDEN void fp_unwind_open_loaded(struct fp_unwind *unwind, struct fp_reader *reader);

/* The registers at the point that a signal handler's third argument tells of. */
FP_HIDDEN void fp_registers_of_context(struct fp_registers *registers, const void *ucontext);

/* The registers of the function that calls this; its frame has to last as long as the unwinding. */
static inline __attribute__((always_inline)) void fp_registers_here(struct fp_registers *registers)
{
    *registers = (struct fp_registers){{0}};
    __asm__ volatile("movq %%rbx, 24(%[r])\n"
                     "movq %%rbp, 48(%[r])\n"
                     "movq %%rsp, 56(%[r])\n"
                     "movq %%r12, 96(%[r])\n"
                     "movq %%r13, 104(%[r])\n"
                     "movq %%r14, 112(%[r])\n"
                     "movq %%r15, 120(%[r])\n"
                     "leaq 0(%%rip), %%rax\n"
                     "movq %%rax, 128(%[r])\n"
                     :
                     : [r] "r"(registers->r)
                     : "rax", "memory");
}

/* Stands at the frame of these registers. */
FP_HIDDEN void fp_unwind_start(struct fp_unwind *unwind, const struct fp_registers *registers);
/* Goes to the caller; false if there is none: unwind->end says why. */
FP_HIDDEN bool fp_unwind_step(struct fp_unwind *unwind);

/* The pc and then the return addresses of up to `max` frames, starting with these registers; how many. */
FP_HIDDEN uint32_t fp_unwind(struct fp_unwind *unwind, const struct fp_registers *start, fp_addr *pcs, uint32_t max);

/* The frames of a report in unwind->frames, with symbols; how many.  skip: so many of the first are left out. */
FP_HIDDEN uint32_t fp_unwind_frames(struct fp_unwind *unwind, const struct fp_registers *start, uint32_t skip);

/* Is the code at `start`, or one of its callers up to FP_WALK_FRAMES_MAX, inside of a function that begins at one of
   these addresses?  0 in the list matches nothing. */
FP_HIDDEN bool fp_unwind_in_function(struct fp_unwind *unwind, const struct fp_registers *start,
                                     const fp_addr *functions, uint32_t n_functions);

/* What one way of finding the caller has come to. */
enum fp_step {
    FP_STEP_CALLER,  /* unwind->now is the caller */
    FP_STEP_ROOT,    /* there is none */
    FP_STEP_UNKNOWN, /* another way has to be tried; unwind->now is as it was */
};
/* step.c: by the frame information of unwind->now. */
FP_HIDDEN enum fp_step fp_step_by_information(struct fp_unwind *unwind);
/* guess.c: by the other ways; false: none serves. */
FP_HIDDEN bool fp_step_by_guess(struct fp_unwind *unwind);

/* The registers in the kernel's order (REG_R8 and so on, sys/ucontext.h). */
FP_HIDDEN void fp_registers_of_gregs(struct fp_registers *registers, const long long *gregs);

FP_HIDDEN void fp_maps_clear(struct fp_maps *maps);
/* maps.c: reads the kernel's map; an empty table if it can't be opened. */
FP_HIDDEN void fp_maps_load(struct fp_maps *maps);
/* loader.c: fills the table with the code of what is loaded. */
FP_HIDDEN void fp_maps_from_loader(struct fp_unwind *unwind);

/* The executable mapping of an address, NULL if there is none. */
FP_HIDDEN const struct fp_mapping *fp_maps_find(struct fp_maps *maps, fp_addr address);
static inline bool fp_is_code(struct fp_unwind *unwind, fp_addr address)
{
    return fp_maps_find(&unwind->maps, address) != NULL;
}
/* Its path as the kernel shows it; size 0: it has none. */
FP_HIDDEN const char *fp_maps_name(struct fp_maps *maps, fp_addr address, size_t *size);

/* object.c: the ELF object whose code the address is in; NULL if it is in none. */
FP_HIDDEN const struct fp_object *fp_object_of(struct fp_unwind *unwind, fp_addr address);
/* The address of the frame description of a pc; 0 if there is none. */
FP_HIDDEN fp_addr fp_object_fde(struct fp_unwind *unwind, const struct fp_object *object, fp_addr pc);

/* cfi.c: fills unwind->row for a pc from its frame description, and unwind->function; false: damaged, or not for it. */
FP_HIDDEN bool fp_cfi_row(struct fp_unwind *unwind, fp_addr fde, fp_addr pc, bool *is_signal_frame);

/* expression.c: the value of a DWARF expression; `at` points to its length.  initial: what is on the stack first; NULL:
   nothing. */
FP_HIDDEN bool fp_expression(struct fp_unwind *unwind, fp_addr at, const uint64_t *initial, uint64_t *value);

/* symbols.c: finds the symbols of the first n frames. */
FP_HIDDEN void fp_symbols_find(struct fp_unwind *unwind, uint32_t n);

#endif
