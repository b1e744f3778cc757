/* Chooses the layout: the only place that looks at a version number.  Normal context (nothing here would mind another).
 */
#include <string.h>

#include "layout/layout.h"

struct row {
    uint32_t first, last; /* PY_VERSION_HEX, inclusive */
    bool free_threaded;
    struct fp_layout layout;
};

static const struct row rows[] = {
#define FP_ROW(first, last, free_threaded, ...) {first, last, free_threaded, {__VA_ARGS__}},
#define FP_DEBUG(minor, field, entry, plus)
#include "layout/tables.inc"
#undef FP_ROW
#undef FP_DEBUG
};

/* Which layout field the process's own table gives, and where in that table. */
struct debug_entry {
    int minor;
    size_t field;
    int32_t entry, plus; /* byte offsets in _Py_DebugOffsets; plus: a second entry to add, or -1 */
};

static const struct debug_entry debug_entries[] = {
#define FP_ROW(...)
#define FP_DEBUG(minor, field, entry, plus) {minor, offsetof(struct fp_layout, field), entry, plus},
#include "layout/tables.inc"
#undef FP_ROW
#undef FP_DEBUG
};

/* No struct that the walk reads is larger: PyInterpreterState of 3.13 to 3.15 has some 200 to 500 KB. */
enum { MAX_OFFSET = 1 << 20, DEBUG_OFFSETS_FIRST_MINOR = 13 };

static enum fp_status take_debug_offsets(struct fp_target *t, struct fp_reader *r, int minor)
{
    struct {
        char cookie[8];
        uint64_t version, free_threaded;
    } head;

    if (!fp_read(r, &head, t->runtime, sizeof(head)))
        return FP_UNREADABLE;
    if (memcmp(head.cookie, "xdebugpy", 8) != 0 || head.version != t->version || head.free_threaded != t->free_threaded)
        return FP_BAD_DEBUG_OFFSETS;
    for (size_t i = 0; i < FP_COUNT(debug_entries); i++) {
        const struct debug_entry *e = &debug_entries[i];
        if (e->minor != minor)
            continue;
        uint64_t value = fp_load64(r, t->runtime + (fp_addr)e->entry);
        if (e->plus >= 0)
            value += fp_load64(r, t->runtime + (fp_addr)e->plus);
        if (fp_reader_faulted(r))
            return FP_UNREADABLE;
        if (value >= MAX_OFFSET)
            return FP_BAD_DEBUG_OFFSETS;
        *(int32_t *)((char *)&t->layout + e->field) = (int32_t)value;
    }
    return FP_OK;
}

static const struct row *row_of(const struct fp_target *t)
{
    for (size_t i = 0; i < FP_COUNT(rows); i++)
        if (t->version >= rows[i].first && t->version <= rows[i].last && t->free_threaded == rows[i].free_threaded)
            return &rows[i];
    return NULL;
}

const struct fp_layout *fp_layout_row(const struct fp_target *t)
{
    const struct row *row = row_of(t);
    return row ? &row->layout : NULL;
}

enum fp_status fp_layout_choose(struct fp_target *t, struct fp_reader *r)
{
    const struct row *row = row_of(t);
    int minor = (int)(t->version >> 16 & 0xff);
    if (row == NULL)
        return FP_UNKNOWN_VERSION;
    t->layout = row->layout;
    enum fp_status status = minor >= DEBUG_OFFSETS_FIRST_MINOR ? take_debug_offsets(t, r, minor) : FP_OK;
    bool same = status == FP_OK && memcmp(&t->layout, &row->layout, sizeof(t->layout)) == 0;
    t->row = same ? (unsigned)(row - rows) + 1 : 0;
    return status;
}
