/* The words every stage of the safe core uses: addresses, status codes, small macros.  Any context. */
#ifndef FP_BASE_H
#define FP_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* An address in the process that is looked at.  An integer, so that it can't be dereferenced by mistake: all reading
   goes through a reader. */
typedef uint64_t fp_addr;

#define FP_LIKELY(x)   __builtin_expect(!!(x), 1)
#define FP_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FP_MUST_CHECK  __attribute__((warn_unused_result))
#ifndef FP_HIDDEN /* the amalgamation, which is one file, makes these functions static */
#define FP_HIDDEN __attribute__((visibility("hidden")))
#endif
#define FP_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A multiplicative hash, 8 bytes at a time: tells whether two readings of the same memory gave the same. */
static inline uint64_t fp_mix(uint64_t hash, const void *data, size_t size)
{
    const char *bytes = (const char *)data;
    uint64_t word;
    for (; size >= 8; size -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 29;
    }
    word = 0;
    memcpy(&word, bytes, size);
    hash = (hash ^ word ^ (uint64_t)size << 56) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 32;
}

/* FP_STATUS(name, text): why a step went no further; the text is what a report or a Python error shows. */
#define FP_STATUSES(FP_STATUS)                                                                                         \
    FP_STATUS(OK, "ok")                                                                                                \
    FP_STATUS(UNREADABLE, "memory can't be read")                                                                      \
    FP_STATUS(CHANGED, "frames changed while reading")                                                                 \
    FP_STATUS(ENDED, "the thread ended while reading")                                                                 \
    FP_STATUS(NO_FRAME, "no Python frame")                                                                             \
    FP_STATUS(NOT_A_FRAME, "not a frame")                                                                              \
    FP_STATUS(NOT_A_CODE, "not a code object")                                                                         \
    FP_STATUS(CYCLE, "the chain doesn't end")                                                                          \
    FP_STATUS(LIMIT, "limit reached")                                                                                  \
    FP_STATUS(TIME, "time budget used up")                                                                             \
    FP_STATUS(NO_READER, "no way to read memory safely")                                                               \
    FP_STATUS(UNKNOWN_VERSION, "this CPython version isn't in the layout tables")                                      \
    FP_STATUS(BAD_DEBUG_OFFSETS, "_Py_DebugOffsets is damaged or of another version")                                  \
    FP_STATUS(NO_THREAD, "no thread state of this thread was found")                                                   \
    FP_STATUS(SELF_CHECK, "the walker's reading of this thread differs from the interpreter's own")                    \
    FP_STATUS(NOT_STARTED, "not initialised")                                                                          \
    FP_STATUS(NO_INTERPRETER, "there is no Python interpreter in this process")

enum fp_status {
#define FP_STATUS(name, text) FP_##name,
    FP_STATUSES(FP_STATUS)
#undef FP_STATUS
};

/* The text of a status; never NULL. */
FP_HIDDEN const char *fp_status_text(enum fp_status status);

#endif
