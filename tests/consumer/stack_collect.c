/* A second file of the consumer: it imports nothing itself, and needs no Python.h.  Any context. */
#include "faultproof.h"

int stack_collect(PyUnstable_FrameInfo *frames, int max);

int stack_collect(PyUnstable_FrameInfo *frames, int max)
{
    return PyUnstable_CollectCallStack(faultproof_current_tstate(), frames, max);
}
