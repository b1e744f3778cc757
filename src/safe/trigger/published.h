/* A piece of configuration that handlers read while it is replaced.  Reading: any context; writing: normal context,
 * under the control lock.
 *
 * Two slots: the one that is current is never written.  A reader that was overtaken by two writings sees it by the
 * slot's version and reads again; words are copied one by one, so that nothing is undefined meanwhile.
 */
#ifndef FP_PUBLISHED_H
#define FP_PUBLISHED_H

#include <stdatomic.h>
#include <string.h>

#include "base/base.h"

enum { FP_PUBLISHED_WORDS = 64, FP_PUBLISHED_TRIES = 1000 };

struct fp_published {
    atomic_uint current; /* 0: nothing; else 1 + the slot */
    struct {
        atomic_uint version; /* odd: being written */
        _Atomic(uint64_t) words[FP_PUBLISHED_WORDS];
    } slots[2];
};

/* Makes `size` bytes current, at most FP_PUBLISHED_WORDS of 8. */
static inline void fp_publish(struct fp_published *p, const void *value, size_t size)
{
    unsigned slot = atomic_load(&p->current) == 1;
    uint64_t words[FP_PUBLISHED_WORDS] = {0};

    memcpy(words, value, size);
    atomic_fetch_add(&p->slots[slot].version, 1);
    for (size_t i = 0; i < (size + 7) / 8; i++)
        atomic_store(&p->slots[slot].words[i], words[i]);
    atomic_fetch_add(&p->slots[slot].version, 1);
    atomic_store(&p->current, slot + 1);
}

/* Was anything current? */
static inline bool fp_unpublish(struct fp_published *p)
{
    return atomic_exchange(&p->current, 0) != 0;
}

static inline bool fp_is_published(const struct fp_published *p)
{
    return atomic_load(&p->current) != 0;
}

/* Copies what is current; false: nothing is. */
static inline bool fp_published_read(const struct fp_published *p, void *value, size_t size)
{
    uint64_t words[FP_PUBLISHED_WORDS];

    for (int tries = 0; tries < FP_PUBLISHED_TRIES; tries++) {
        unsigned current = atomic_load(&p->current);
        if (current == 0)
            return false;
        unsigned version = atomic_load(&p->slots[current - 1].version);
        for (size_t i = 0; i < (size + 7) / 8; i++)
            words[i] = atomic_load(&p->slots[current - 1].words[i]);
        if (version % 2 == 0 && atomic_load(&p->slots[current - 1].version) == version) {
            memcpy(value, words, size);
            return true;
        }
    }
    return false;
}

#endif
