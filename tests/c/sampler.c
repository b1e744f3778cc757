/* Preloaded by bench/c_stack_vs_gdb.py: unwinds its process on each SIGPROF and writes the addresses.  Signal handler.
 *
 * FP_SAMPLER_OUT: the file for the records; FP_SAMPLER_US: CPU time between samples.  A record is a line: rip, rsp,
 * then the frames, in hexadecimal. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

#include "render/out.h"
#include "trigger/signals.h"
#include "unwind/unwind.h"
#include "walk/walk.h"

enum { FRAMES = 256 };

static struct fp_unwind unwind;
static struct fp_out out;
static int fd = -1;

static void on_sample(int signo, siginfo_t *info, void *context)
{
    struct fp_registers start;
    struct fp_reader reader;
    fp_addr pcs[FRAMES];
    (void)signo, (void)info;

    if (fp_reader_open(&reader, FP_READER_GUARD) != FP_OK)
        abort();
    fp_registers_of_context(&start, context);
    fp_unwind_open(&unwind, &reader);
    uint32_t n = fp_unwind(&unwind, &start, pcs, FRAMES);
    fp_out_init(&out, fd, fp_now_ns() + 1000000000);
    fp_out_hex(&out, start.r[FP_REG_PC], 1);
    FP_OUT_LITERAL(&out, " ");
    fp_out_hex(&out, start.r[FP_REG_RSP], 1);
    for (uint32_t i = 0; i < n; i++) {
        FP_OUT_LITERAL(&out, " ");
        fp_out_hex(&out, pcs[i], 1);
    }
    FP_OUT_LITERAL(&out, "\n");
    fp_out_flush(&out);
    fp_reader_close(&reader);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FP_SAMPLER_OUT"), *interval = getenv("FP_SAMPLER_US");
    struct sigaction action = {.sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (path == NULL || interval == NULL)
        return;
    unsetenv("LD_PRELOAD");
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const struct itimerval timer = {{0, atoi(interval)}, {0, atoi(interval)}};
    fp_guard_require();
    if (fd < 0 || sigaction(SIGPROF, &action, NULL) != 0 || setitimer(ITIMER_PROF, &timer, NULL) != 0)
        abort();
}
