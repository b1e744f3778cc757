/* The unwinder on memory that fails or lies: every report ends, and what is left of it is well-formed. */
#define _GNU_SOURCE
#include <link.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"
#include "render/c_stack.h"
#include "trigger/signals.h"
#include "walk/walk.h"

#define OWN __attribute__((noinline, noclone, noipa))

static struct fp_unwind unwind;
static struct fp_out out;

/* A reader by system calls that fails at some reads, or changes what it has read from some places. */
static struct {
    uint64_t reads;
    uint64_t fail_first, fail_last; /* which reads fail, counted from 1 */
    fp_addr start, end;             /* only these addresses are changed */
    uint32_t flip_one_of;           /* of so many bytes one is changed; 0: none */
    uint64_t seed;
    const uint8_t *image; /* not NULL: in place of start to end */
} plan;

enum { READS_MAX = 4000000 };

/* The same byte is changed in the same way whenever it is read: by a hash of its address. */
static uint8_t lie(fp_addr address, uint8_t byte)
{
    uint64_t h = (address ^ plan.seed * 0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd;
    h ^= h >> 29;
    h *= 0xc4ceb9fe1a85ec53;
    h ^= h >> 32;
    return (uint32_t)h % plan.flip_one_of == 0 ? (uint8_t)(byte ^ (h >> 40 | 1)) : byte;
}

static int copy(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    struct iovec local = {to, n}, remote = {(void *)(uintptr_t)from, n};
    uint8_t *bytes = to;
    (void)r;
    plan.reads++;
    CHECK(plan.reads < READS_MAX);
    if (plan.reads >= plan.fail_first && plan.reads <= plan.fail_last)
        return -1;
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != (ssize_t)n)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (from + i < plan.start || from + i >= plan.end)
            continue;
        if (plan.image != NULL)
            bytes[i] = plan.image[from + i - plan.start];
        if (plan.flip_one_of != 0)
            bytes[i] = lie(from + i, bytes[i]);
    }
    return 0;
}

/* Some frames of this file and of the C library below the report. */
static volatile int after;
static char text[FP_OUT_SIZE + 1];

/* What the report writes before it asks the kernel goes here too. */
static int report_fd(void)
{
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("report", MFD_CLOEXEC);
    return fd;
}

static OWN void report(void)
{
    int fd = report_fd();
    struct fp_reader reader = {.kind = FP_READER_TEST, .fds = {-1, -1}, .copy = copy};
    CHECK(fd >= 0 && ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
    fp_out_init(&out, fd, fp_now_ns() + 1000000000);
    fp_c_stack_show(&out, &reader, &unwind, NULL);
    fp_out_close(&out);
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    CHECK(n > 0);
    text[n] = 0;
}

static OWN int compare(const void *a, const void *b)
{
    if (after++ == 0)
        report();
    return *(const char *)a - *(const char *)b;
}

static OWN void sorts(void)
{
    char letters[] = "damage";
    after = 0;
    qsort(letters, 6, 1, compare);
    after = letters[0];
}

static void check_text(void)
{
    char *line = strtok(text, "\n");
    CHECK(line != NULL && strcmp(line, "Current thread's C stack trace (most recent call first):") == 0);
    uint32_t lines = 0;
    while ((line = strtok(NULL, "\n")) != NULL) {
        size_t n = strlen(line);
        CHECK(strncmp(line, "  <", 3) == 0 ? line[n - 1] == '>' : strncmp(line, "  Binary file \"", 15) == 0);
        CHECK(line[2] == '<' || line[n - 1] == ']');
        lines++;
    }
    CHECK(lines < 2 * FP_C_FRAMES_MAX + 2);
}

static void undamaged(void)
{
    sorts();
    CHECK(unwind.end == FP_UNWIND_ROOT);
    CHECK(strstr(text, "unwind_damage\", at ") != NULL);
    CHECK(strstr(text, "libc.so.6\", at ") != NULL);
    CHECK(strstr(text, ", at __libc_start_main+0x") != NULL);
    check_text();
}

static uint64_t count_reads(void)
{
    sorts();
    return plan.reads;
}

static void each_read_fails_once(void)
{
    uint64_t n = count_reads();
    CHECK(n > 100);
    for (uint64_t i = 1; i <= n; i++) {
        plan.reads = 0;
        plan.fail_first = plan.fail_last = i;
        sorts();
        check_text();
    }
}

static void all_reads_fail_from_one_on(void)
{
    uint64_t n = count_reads();
    for (uint64_t i = 1; i <= n; i++) {
        plan.reads = 0;
        plan.fail_first = i;
        plan.fail_last = UINT64_MAX;
        sorts();
        check_text();
    }
}

static void everything_flipped(void)
{
    for (uint32_t i = 0; i < 1000; i++) {
        plan.reads = 0;
        plan.seed = i;
        plan.flip_one_of = 2u << i % 12;
        plan.start = 0;
        plan.end = UINT64_MAX;
        sorts();
        check_text();
    }
}

/* The loader's list in place of the kernel's map. */
static void without_descriptors(void)
{
    const struct rlimit none = {0, 0};
    CHECK(report_fd() >= 0 && setrlimit(RLIMIT_NOFILE, &none) == 0);
    undamaged();
    plan.reads = 0;
    each_read_fails_once();
    plan.fail_first = plan.fail_last = plan.reads = 0;
    all_reads_fail_from_one_on();
    plan.fail_first = plan.fail_last = 0;
    everything_flipped();
}

/* The parts of this program and of the C library that the unwinder reads. */
struct part {
    uint32_t type; /* of the program header */
    fp_addr start, end;
};
static struct part parts[32];
static uint32_t n_parts;

static int add_parts(struct dl_phdr_info *info, size_t size, void *wanted)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == *(uint32_t *)wanted && n_parts < 32)
            parts[n_parts++] =
                (struct part){p->p_type, info->dlpi_addr + p->p_vaddr, info->dlpi_addr + p->p_vaddr + p->p_memsz};
    }
    return 0;
}

static void flip(uint32_t type, fp_addr before, fp_addr behind, uint32_t rounds)
{
    n_parts = 0;
    dl_iterate_phdr(add_parts, &type);
    CHECK(n_parts > 1);
    for (uint32_t i = 0; i < rounds; i++) {
        const struct part *p = &parts[i % n_parts];
        plan.reads = 0;
        plan.seed = i;
        plan.flip_one_of = 2u << i / 4 % 8;
        plan.start = p->start - before;
        plan.end = p->end + behind;
        sorts();
        check_text();
    }
}

static void flipped_frame_information(void)
{
    /* .eh_frame comes behind its header. */
    flip(PT_GNU_EH_FRAME, 0, 1 << 19, 1500);
}

static void flipped_headers(void)
{
    flip(PT_PHDR, 64, 0, 500);
    flip(PT_LOAD, 0, 0, 500);
}

static void flipped_symbols(void)
{
    flip(PT_DYNAMIC, 0, 0, 300);
}

static void flipped_stack(void)
{
    for (uint32_t i = 0; i < 1000; i++) {
        plan.reads = 0;
        plan.seed = i;
        plan.flip_one_of = 2u << i % 8;
        plan.start = (fp_addr)(uintptr_t)__builtin_frame_address(0) - 8192;
        plan.end = plan.start + 65536;
        sorts();
        check_text();
    }
}

/* The frame description of sorts() in a copied image is made unusable: then its caller can't be told, but nothing
 * worse. */
static void damaged_description(void)
{
    static uint8_t image[4096];
    struct fp_reader reader = {.kind = FP_READER_TEST, .fds = {-1, -1}, .copy = copy};
    fp_addr pc = (fp_addr)(uintptr_t)sorts + 8;
    bool is_signal_frame;

    fp_unwind_open(&unwind, &reader);
    const struct fp_object *o = fp_object_of(&unwind, pc);
    CHECK(o != NULL);
    fp_addr fde = fp_object_fde(&unwind, o, pc);
    CHECK(fde != 0 && fp_cfi_row(&unwind, fde, pc, &is_signal_frame));
    CHECK_EQUAL(unwind.function, (uintptr_t)sorts);
    uint32_t size = 4 + fp_load32(&reader, fde);
    CHECK(size < sizeof(image));
    for (uint32_t at = 0; at < size; at++) {
        for (uint32_t bit = 0; bit < 8; bit++) {
            CHECK(fp_read(&reader, image, fde, size));
            image[at] ^= (uint8_t)(1 << bit);
            plan.image = image;
            plan.start = fde;
            plan.end = fde + size;
            plan.reads = 0;
            sorts();
            check_text();
            plan.image = NULL;
        }
    }
}

static const struct check_case cases[] = {
    {"undamaged", undamaged},
    {"each read fails once", each_read_fails_once},
    {"all reads fail from one on", all_reads_fail_from_one_on},
    {"damaged description", damaged_description},
    {"flipped frame information", flipped_frame_information},
    {"flipped headers", flipped_headers},
    {"flipped symbols", flipped_symbols},
    {"flipped stack", flipped_stack},
    {"everything flipped", everything_flipped},
    {"without descriptors", without_descriptors},
};
CHECK_MAIN(cases)
