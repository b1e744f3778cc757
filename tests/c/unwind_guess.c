/* The unwinder where code has no frame information.  Built with several sets of flags. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>

#include "look.h"

/* Hand-written code without frame information, in an object that has it. */
void without_information(void (*)(void));
__asm__(".pushsection .text\n"
        ".type without_information, @function\n"
        "without_information:\n"
        "pushq %rbp\n"
        "movq %rsp, %rbp\n"
        "call *%rdi\n"
        "popq %rbp\n"
        "ret\n"
        ".size without_information, . - without_information\n"
        ".popsection\n");

static OWN void calls_without_information(void)
{
    without_information(look_here);
    after = 1;
}

static void gap_in_the_information(void)
{
    calls_without_information();
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_without_information), AT(gap_in_the_information));
    CHECK(!guessed);
}

/* Machine code made at run time, without frame information.  call *%rdi in a frame of its own. */
static const unsigned char with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
static const unsigned char without_frame_pointer[] = {0x48, 0x83, 0xec, 0x28, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x28, 0xc3};

static void *make_code(const void *code, size_t size)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page, code, size);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    return page;
}

static OWN void calls_made_code(const void *code, size_t size)
{
    void *page = make_code(code, size);
    ((void (*)(void (*)(void)))(uintptr_t)page)(look_here);
    after = 1;
}

static void made_code_with_frame_pointer(void)
{
    calls_made_code(with_frame_pointer, sizeof(with_frame_pointer));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_made_code), AT(made_code_with_frame_pointer));
    CHECK(!guessed);
}

static void made_code_without_frame_pointer(void)
{
    calls_made_code(without_frame_pointer, sizeof(without_frame_pointer));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_made_code), AT(made_code_without_frame_pointer));
}

/* The same, and each word of its frame looks like a return address: of a function that would lead on to the next word.
 */
static const unsigned char with_decoys[] = {
    0x48, 0x83, 0xec, 0x48, 0x48, 0x89, 0x34, 0x24, 0x48, 0x89, 0x74, 0x24, 0x08, 0x48, 0x89, 0x74, 0x24,
    0x10, 0x48, 0x89, 0x74, 0x24, 0x18, 0x48, 0x89, 0x74, 0x24, 0x20, 0x48, 0x89, 0x74, 0x24, 0x28, 0x48,
    0x89, 0x74, 0x24, 0x30, 0x48, 0x89, 0x74, 0x24, 0x38, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x48, 0xc3};

void decoy(void);
__asm__(".pushsection .text\n"
        ".type decoy, @function\n"
        "decoy:\n"
        ".cfi_startproc\n"
        "call *%rdi\n"
        "1: ret\n"
        ".cfi_endproc\n"
        ".size decoy, . - decoy\n"
        ".popsection\n");

/* Its caller has a frame pointer, so that the end of the frame is known. */
static OWN __attribute__((optimize("no-omit-frame-pointer"))) void calls_with_decoys(void *page)
{
    ((void (*)(void (*)(void), uintptr_t))(uintptr_t)page)(look_here, (uintptr_t)decoy + 2);
    after = 1;
}

static void made_code_with_decoys(void)
{
    calls_with_decoys(make_code(with_decoys, sizeof(with_decoys)));
    CHECK_CHAIN(0, AT(look_here), 0, AT(calls_with_decoys), AT(made_code_with_decoys));
    CHECK(!guessed);
}

/* A signal trampoline of its own making, as other languages' runtimes have: mov $15, %rax; syscall. */
static void made_trampoline(void)
{
    static const unsigned char code[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action = {on_signal_look_here, SA_SIGINFO | 0x04000000 /* SA_RESTORER */, make_code(code, sizeof(code)), 0};
    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, sizeof(action.mask)) == 0);
    raises();
    CHECK_CHAIN(0, AT(look_here), AT(on_signal_look_here), 0);
    check_raised(made_trampoline);
}

static const struct check_case cases[] = {
    {"gap in the information", gap_in_the_information},
    {"made code with a frame pointer", made_code_with_frame_pointer},
    {"made code without a frame pointer", made_code_without_frame_pointer},
    {"made code with decoys", made_code_with_decoys},
    {"made trampoline", made_trampoline},
};
CHECK_MAIN(cases)
