/* The guarded reader: the copy routine, the exception table, and the look-up for the signal handler.  Any context. */
#include "reader/reader.h"

/* Where a guarded instruction lies and where to go on after its fault, each relative to its own field. */
struct extable_entry {
    int32_t instruction;
    int32_t fixup;
};

/* The linker sets these two around the section (GNU ld manual, "orphan sections"). */
extern const struct extable_entry __start_fp_extable[] __attribute__((visibility("hidden")));
extern const struct extable_entry __stop_fp_extable[] __attribute__((visibility("hidden")));

uintptr_t fp_guard_fixup(uintptr_t pc)
{
    for (const struct extable_entry *e = __start_fp_extable; e < __stop_fp_extable; e++)
        if ((uintptr_t)&e->instruction + (intptr_t)e->instruction == pc)
            return (uintptr_t)&e->fixup + (intptr_t)e->fixup;
    return 0;
}

/* int fp_guard_copy(void *to, const void *from, size_t n): rdi, rsi, rdx.  Each load that may fault is labelled; all
   share one fix-up.  16 bytes at a time, then the last 16 again (overlapping); short copies by size. */
__asm__(".pushsection .text\n"
        ".globl fp_guard_copy\n"
        ".hidden fp_guard_copy\n"
        ".type fp_guard_copy, @function\n"
        ".balign 16\n"
        "fp_guard_copy:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "cmpq $16, %rdx\n"
        "jb 20f\n"
        "leaq -16(%rdx), %rcx\n"
        "xorl %eax, %eax\n"
        "10: cmpq %rcx, %rax\n"
        "jae 12f\n"
        "11: movdqu (%rsi,%rax), %xmm0\n"
        "movdqu %xmm0, (%rdi,%rax)\n"
        "addq $16, %rax\n"
        "jmp 10b\n"
        "12: movdqu (%rsi,%rcx), %xmm0\n"
        "movdqu %xmm0, (%rdi,%rcx)\n"
        "xorl %eax, %eax\n"
        "ret\n"
        "20: cmpq $8, %rdx\n"
        "jb 30f\n"
        "21: movq (%rsi), %rax\n"
        "22: movq -8(%rsi,%rdx), %rcx\n"
        "movq %rax, (%rdi)\n"
        "movq %rcx, -8(%rdi,%rdx)\n"
        "xorl %eax, %eax\n"
        "ret\n"
        "30: cmpq $4, %rdx\n"
        "jb 40f\n"
        "31: movl (%rsi), %eax\n"
        "32: movl -4(%rsi,%rdx), %ecx\n"
        "movl %eax, (%rdi)\n"
        "movl %ecx, -4(%rdi,%rdx)\n"
        "xorl %eax, %eax\n"
        "ret\n"
        "40: testq %rdx, %rdx\n"
        "jz 43f\n"
        "41: movzbl -1(%rsi,%rdx), %eax\n"
        "movb %al, -1(%rdi,%rdx)\n"
        "decq %rdx\n"
        "jmp 40b\n"
        "43: xorl %eax, %eax\n"
        "ret\n"
        "9: movl $-1, %eax\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size fp_guard_copy, . - fp_guard_copy\n"
        ".pushsection fp_extable, \"a\", @progbits\n"
        ".balign 4\n"
        ".long 11b - .\n.long 9b - .\n"
        ".long 12b - .\n.long 9b - .\n"
        ".long 21b - .\n.long 9b - .\n"
        ".long 22b - .\n.long 9b - .\n"
        ".long 31b - .\n.long 9b - .\n"
        ".long 32b - .\n.long 9b - .\n"
        ".long 41b - .\n.long 9b - .\n"
        ".popsection\n"
        ".popsection\n");
