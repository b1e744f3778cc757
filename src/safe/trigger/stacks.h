/* The list of alternate stacks, which altstack.c and given.c share.  Included by these two files only. */
#ifndef FP_STACKS_H
#define FP_STACKS_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "trigger/altstack.h"

enum fp_stack_state {
    FP_STACK_FREE,
    FP_STACK_CLAIMED,   /* in the making */
    FP_STACK_EXPECTED,  /* the thread has none yet; base is NULL */
    FP_STACK_INSTALLED, /* the thread has it */
    FP_STACK_FOREIGN,   /* the thread has one of somebody else's, or could get none; base is NULL or unused */
    FP_STACK_PENDING,   /* on its way to the thread by a signal */
    FP_STACK_REFUSED,   /* came to a thread that had one */
};

/* One thread's.  Nodes are never freed, only used again, so that a signal handler may walk the list. */
struct fp_stack {
    struct fp_stack *next;
    _Atomic(enum fp_stack_state) state;
    _Atomic(uint64_t) thread; /* pthread_t; 0: not known, or it has ended */
    atomic_bool given;        /* by a signal, and the thread hasn't come to ensure() since */
    pid_t tid;                /* the kernel's number of the thread; 0 while it is expected */
    char *base;               /* of the mapping; the lowest page is the guard; NULL: there is none */
    size_t size;              /* of the mapping */
};

FP_HIDDEN extern _Atomic(struct fp_stack *) fp_stacks;
/* Held by whoever changes nodes of other threads. */
FP_HIDDEN extern pthread_mutex_t fp_stacks_lock;

/* A node for the caller alone, without a mapping; NULL: no memory. */
FP_HIDDEN struct fp_stack *fp_stack_claim(void);
FP_HIDDEN bool fp_stack_map(struct fp_stack *stack);
/* Unmaps it and lets go of the node. */
FP_HIDDEN void fp_stack_free(struct fp_stack *stack);
FP_HIDDEN stack_t fp_stack_descriptor(const struct fp_stack *stack);

#endif
