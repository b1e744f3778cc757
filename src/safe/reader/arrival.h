/* What a signal handler of ours was called with, by whom, and inside of what.  Signal handler.
 *
 * A handler isn't only called by the kernel: somebody who took the signal after us may call ours as the one that was
 * there before, with the kernel's arguments, with NULL, or, as old C code does, with a number alone, so that the other
 * two are whatever the registers held.  And it may be called while it runs: by a fault of its own, or in a circle.
 */
#ifndef FP_ARRIVAL_H
#define FP_ARRIVAL_H

#include <signal.h>
#include <ucontext.h>

#include "base/base.h"

struct fp_arrival {
    int signo;
    siginfo_t *info;     /* NULL: not known */
    ucontext_t *context; /* NULL: not known; never without info */
    uintptr_t frame;     /* of the handler, as __builtin_frame_address(0) gives it */
    bool by_kernel;      /* else by another handler */
    /* set by fp_arrival_begin */
    int thread;       /* the kernel's id of the calling thread */
    bool nested;      /* our own code, in an earlier call of the handler, was interrupted */
    int nested_in;    /* the signal of that call */
    unsigned circles; /* how often a handler that we have called for this signal has called us, or raised it */
    int mark;         /* the place in the table of marks; -1: none */
    uint64_t seal;    /* of this arrival alone: the mark is of one that is still here if it still finds it */
};

/* The first thing in a handler: the kernel leaves EFLAGS.AC as it was, with which unaligned accesses, which compilers
   are free to make, fault. */
static inline __attribute__((always_inline)) void fp_flags_clear(void)
{
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n" /* over the red zone */
                     "pushfq\n"
                     "andl $0xfffbffff, (%%rsp)\n"
                     "popfq\n"
                     "leaq 128(%%rsp), %%rsp\n"
                     :
                     :
                     : "cc", "memory");
}

/* What the handler with this frame was called with.  Reads nothing but a frame that the kernel has just made. */
FP_HIDDEN struct fp_arrival fp_arrival_of(int signo, siginfo_t *info, void *context, const void *frame);
/* Of what another handler has handed over only that is left that holds together.  One system call for each 8 bytes that
   are probed, none if the kernel has called. */
FP_HIDDEN void fp_arrival_check(struct fp_arrival *arrival);
/* The same; then, if it is the fault of a guarded read, lets that go on at its fix-up: true. */
FP_HIDDEN bool fp_arrival_recovers(struct fp_arrival *arrival);

/* Sent by a process or thread (kill, tgkill, sigqueue, abort), not raised by an instruction: man 2 sigaction, si_code.
   Where nothing is known: only SIGABRT is never raised by an instruction. */
static inline bool fp_was_sent(const struct fp_arrival *a)
{
    return a->info != NULL ? a->info->si_code <= 0 : a->signo == SIGABRT;
}

/* Marks that the calling thread is in our code, and looks for earlier marks of it.  fp_arrival_end() takes the mark
   away.  *arrival stays where it is until then. */
FP_HIDDEN void fp_arrival_begin(struct fp_arrival *arrival);
FP_HIDDEN void fp_arrival_end(const struct fp_arrival *arrival);
/* Is any thread in our own code just now?  What it goes by it has read after its mark was set. */
FP_HIDDEN bool fp_arrival_any(void);

/* Calls somebody's handler as the kernel would: with the signals blocked that it asked for.  It must be a function.
   Between begin and end; it may never come back (siglongjmp). */
FP_HIDDEN void fp_arrival_call(const struct fp_arrival *arrival, const struct sigaction *handler);
/* Can it be called: does it take what isn't known? */
static inline bool fp_arrival_serves(const struct fp_arrival *a, const struct sigaction *handler)
{
    return a->info != NULL || !(handler->sa_flags & SA_SIGINFO);
}

/* Sends the signal again, to the calling thread; with_info: as what it was, if that is known. */
FP_HIDDEN void fp_arrival_resend(const struct fp_arrival *arrival, bool with_info);

/* Ends the process by the default action of a signal.  Relies on nothing that may be broken: bare system calls. */
FP_HIDDEN void fp_die_of(int signo) __attribute__((noreturn));

/* In the child of a fork: the other threads that were in a handler don't exist. */
FP_HIDDEN void fp_arrival_after_fork(void);

static inline bool fp_is_function(const struct sigaction *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/* The calling thread is ours, and takes no signal that was sent until fp_sent_requeue(): what comes meanwhile is put
   off.  One thread at a time.  The thread blocks the signals before and after. */
FP_HIDDEN void fp_sent_put_off(void);
/* Gives what came to the process as a whole, as if it had been blocked here all the time. */
FP_HIDDEN void fp_sent_requeue(void);
/* For the handler: was it put off? */
FP_HIDDEN bool fp_sent_is_put_off(const struct fp_arrival *arrival);

#endif
