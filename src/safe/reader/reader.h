/* Reading memory that may be gone: one contract, several ways.  Any context, signal handlers included.
 *
 * A reader copies n bytes from an address of the process that is looked at, or says that it can't.  The walk takes a
 * reader as a parameter and never dereferences an address itself.  A failed load yields 0 and sets `fault`, which stays
 * set until the caller clears it: a chain of loads is checked once, at its end.
 */
#ifndef FP_READER_H
#define FP_READER_H

#include "base/base.h"

enum fp_reader_kind {
    FP_READER_NONE,
    FP_READER_GUARD, /* plain loads; our SIGSEGV/SIGBUS handler recovers the ones that fault */
    FP_READER_MASK,  /* plain loads, each after a system call without effect has found the address good: for memory that
                        nobody unmaps meanwhile */
    FP_READER_VM,    /* process_vm_readv() */
    FP_READER_MEM,   /* pread() on /proc/self/mem */
    FP_READER_PIPE,  /* write() into a pipe, which fails with EFAULT instead of faulting */
    FP_READER_TEST,  /* a test's own copy function */
};

struct fp_reader {
    enum fp_reader_kind kind;
    bool guarded;          /* kind == FP_READER_GUARD: loads are inlined */
    uint32_t fault;        /* not 0: a load has failed since the caller last cleared it */
    fp_addr fault_address; /* of the last failed copy or load by the readers other than the guard */
    int fds[2];            /* open only while a dump runs: the memory file, or the pipe's two ends; else -1 */
    void *context;         /* for FP_READER_TEST */
    /* Copies n bytes to `to`.  0, or -1 with nothing promised about `to`. */
    int (*copy)(struct fp_reader *reader, void *to, fp_addr from, size_t n);
};

/* Opens the reader of one kind for this process, and proves it by a read.  FP_OK or FP_NO_READER.
   FP_READER_GUARD: the caller has made sure that the handler is in place and the signals are unblocked. */
FP_HIDDEN enum fp_status fp_reader_open(struct fp_reader *reader, enum fp_reader_kind kind) FP_MUST_CHECK;

/* Opens the best of the readers that need no handler and read what others may unmap: VM, MEM, PIPE.  FP_OK or
   FP_NO_READER. */
FP_HIDDEN enum fp_status fp_reader_open_fallback(struct fp_reader *reader) FP_MUST_CHECK;

/* arrival.c: can the 8 bytes at a multiple of 8 be read?  By a system call that every filter lets through, without
   effect on anything, errno included. */
FP_HIDDEN bool fp_word_readable(fp_addr address);

/* Says that a filter looks at this process's system calls and may end it for one that is not in its list: from now on
   PIPE comes first, whose calls are in more lists than the others'. */
FP_HIDDEN void fp_reader_expect_filter(void);

/* Is it so slow that a thread may run on between two of its reads?  (A test's memory stands still.) */
static inline bool fp_reader_is_slow(const struct fp_reader *reader)
{
    return reader->kind > FP_READER_GUARD && reader->kind < FP_READER_TEST;
}

/* Closes what open opened.  errno is preserved. */
FP_HIDDEN void fp_reader_close(struct fp_reader *reader);

/* Is `pc` one of the guarded instructions?  Then the address to continue at, else 0.  For the signal handler. */
FP_HIDDEN uintptr_t fp_guard_fixup(uintptr_t pc);

/* The copy routine, in assembler: 0, or -1 after a fault.  Only while the guard's handler is in place. */
__attribute__((visibility("hidden"))) int fp_guard_copy(void *to, const void *from, size_t n);

/* One guarded load instruction: `mov` reads into `value`; when it faults, the value becomes 0 and *fault 1.
   The exception table entry pairs the instruction with its fix-up, both relative to the entry. */
#define FP_GUARD_LOAD(mov, constraint, value, address, fault)                                                          \
    __asm__ volatile("1: " mov "\n"                                                                                    \
                     "2:\n"                                                                                            \
                     ".pushsection .text.fp_fixup, \"ax\", @progbits\n"                                                \
                     "3: movl $1, %[f]\n"                                                                              \
                     "xorl %k[v], %k[v]\n"                                                                             \
                     "jmp 2b\n"                                                                                        \
                     ".popsection\n"                                                                                   \
                     ".pushsection fp_extable, \"a\", @progbits\n"                                                     \
                     ".balign 4\n"                                                                                     \
                     ".long 1b - .\n"                                                                                  \
                     ".long 3b - .\n"                                                                                  \
                     ".popsection"                                                                                     \
                     : [v] constraint(value), [f] "+m"(*(fault))                                                       \
                     : [p] "m"(*(const char *)(uintptr_t)(address)))

static inline uint64_t fp_guard_load64(uint32_t *fault, fp_addr address)
{
    uint64_t value;
    FP_GUARD_LOAD("movq %[p], %q[v]", "=r", value, address, fault);
    return value;
}

static inline uint32_t fp_guard_load32(uint32_t *fault, fp_addr address)
{
    uint32_t value;
    FP_GUARD_LOAD("movl %[p], %k[v]", "=r", value, address, fault);
    return value;
}

static inline uint8_t fp_guard_load8(uint32_t *fault, fp_addr address)
{
    uint32_t value;
    FP_GUARD_LOAD("movzbl %[p], %k[v]", "=r", value, address, fault);
    return (uint8_t)value;
}

/* Copies n bytes; false and `fault` set if that failed. */
static inline bool fp_read(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    int failed = r->guarded ? fp_guard_copy(to, (const void *)(uintptr_t)from, n) : r->copy(r, to, from, n);
    if (FP_UNLIKELY(failed)) {
        r->fault = 1;
        r->fault_address = from;
    }
    return !failed;
}

static inline uint64_t fp_load_slow(struct fp_reader *r, fp_addr address, size_t size)
{
    uint64_t value = 0;
    return fp_read(r, &value, address, size) ? value : 0;
}

static inline uint64_t fp_load64(struct fp_reader *r, fp_addr address)
{
    return FP_LIKELY(r->guarded) ? fp_guard_load64(&r->fault, address) : fp_load_slow(r, address, 8);
}

static inline uint32_t fp_load32(struct fp_reader *r, fp_addr address)
{
    return FP_LIKELY(r->guarded) ? fp_guard_load32(&r->fault, address) : (uint32_t)fp_load_slow(r, address, 4);
}

static inline uint8_t fp_load8(struct fp_reader *r, fp_addr address)
{
    return FP_LIKELY(r->guarded) ? fp_guard_load8(&r->fault, address) : (uint8_t)fp_load_slow(r, address, 1);
}

/* Forgets earlier faults; returns whether there was one. */
static inline bool fp_reader_faulted(struct fp_reader *r)
{
    bool faulted = r->fault != 0;
    r->fault = 0;
    return faulted;
}

#endif
