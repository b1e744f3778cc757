/* From collected numbers to names and places, with a cache in the caller's memory.  Any context.
 *
 * A code object is believed to be the collected one if its check is the same before and after it is decoded; on
 * versions where an equal check proves less, the texts are read twice besides.
 */
#include <string.h>

#include "api/api.h"

enum {
    WAYS = 4,
    TRUNCATED = FAULTPROOF_FILENAME_TRUNCATED | FAULTPROOF_NAME_TRUNCATED | FAULTPROOF_QUALNAME_TRUNCATED
};

struct cache_entry {
    uint64_t code; /* 0: free */
    uint32_t check, flags;
    int32_t first_line;
    uint32_t code_flags;
    char filename[FAULTPROOF_STRSIZE], name[FAULTPROOF_STRSIZE], qualname[FAULTPROOF_STRSIZE];
};

/* The entries follow.  A code object may be in any of WAYS entries after its hash. */
struct faultproof_cache {
    uint32_t n, turn; /* entries; which of the WAYS is forgotten next */
    struct cache_entry entries[];
};

faultproof_cache *faultproof_cache_init(void *memory, size_t size)
{
    faultproof_cache *cache = memory;
    if (fp_api_target() == NULL || memory == NULL || (uintptr_t)memory % 8 != 0 ||
        size < sizeof(*cache) + sizeof(struct cache_entry))
        return NULL;
    size_t n = (size - sizeof(*cache)) / sizeof(struct cache_entry);
    cache->n = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
    cache->turn = 0;
    for (uint32_t i = 0; i < cache->n; i++)
        cache->entries[i].code = 0;
    return cache;
}

static struct cache_entry *cache_way(faultproof_cache *cache, uint64_t code, uint32_t way)
{
    uint64_t hash = (code >> 4) * 0x9e3779b97f4a7c15;
    return &cache->entries[((hash >> 32) + way) % cache->n];
}

static struct cache_entry *cache_find(faultproof_cache *cache, const faultproof_frame *frame)
{
    for (uint32_t way = 0; cache != NULL && way < WAYS; way++) {
        struct cache_entry *e = cache_way(cache, frame->code, way);
        if (e->code == frame->code && e->check == frame->check)
            return e;
    }
    return NULL;
}

/* Where a new entry goes: over one of the same address, a free one, or the next in turn. */
static struct cache_entry *cache_place(faultproof_cache *cache, uint64_t code)
{
    for (uint32_t way = 0; way < WAYS; way++) {
        struct cache_entry *e = cache_way(cache, code, way);
        if (e->code == 0 || e->code == code)
            return e;
    }
    return cache_way(cache, code, cache->turn++ % WAYS);
}

static void put_text(char *to, const char *from)
{
    memcpy(to, from, strlen(from) + 1);
}

static void cache_put(faultproof_cache *cache, const faultproof_frame *frame, const faultproof_location *from)
{
    if (cache == NULL)
        return;
    struct cache_entry *e = cache_place(cache, frame->code);
    e->code = frame->code;
    e->check = frame->check;
    e->flags = from->flags & TRUNCATED;
    e->first_line = from->first_line;
    e->code_flags = from->code_flags;
    put_text(e->filename, from->filename);
    put_text(e->name, from->name);
    put_text(e->qualname, from->qualname);
}

static void cache_get(const struct cache_entry *e, faultproof_location *out)
{
    out->flags = e->flags;
    out->first_line = e->first_line;
    out->code_flags = e->code_flags;
    put_text(out->filename, e->filename);
    put_text(out->name, e->name);
    put_text(out->qualname, e->qualname);
}

static bool read_text(struct fp_walk *w, fp_addr at, char *out, uint32_t flag, uint32_t *flags)
{
    bool cut;
    fp_addr str = fp_load64(w->reader, at);
    if (fp_reader_faulted(w->reader) || fp_text_copy(w, str, out, FAULTPROOF_STRSIZE, &cut) != FP_OK)
        return false;
    *flags |= cut ? flag : 0;
    return true;
}

/* What is the same for all instructions of a code object. */
static bool read_code(struct fp_walk *w, fp_addr code, faultproof_location *out)
{
    const struct fp_layout *l = &w->target->layout;
    out->flags = 0;
    out->first_line = (int32_t)fp_load32(w->reader, code + (fp_addr)l->code_firstlineno);
    out->code_flags = fp_load32(w->reader, code + (fp_addr)l->code_flags);
    out->qualname[0] = '\0';
    return read_text(w, code + (fp_addr)l->code_filename, out->filename, FAULTPROOF_FILENAME_TRUNCATED, &out->flags) &&
           read_text(w, code + (fp_addr)l->code_name, out->name, FAULTPROOF_NAME_TRUNCATED, &out->flags) &&
           (l->code_qualname < 0 ||
            read_text(w, code + (fp_addr)l->code_qualname, out->qualname, FAULTPROOF_QUALNAME_TRUNCATED, &out->flags));
}

static bool read_code_twice(struct fp_walk *w, fp_addr code, faultproof_location *out)
{
    faultproof_location again;
    return read_code(w, code, out) && read_code(w, code, &again) && strcmp(out->filename, again.filename) == 0 &&
           strcmp(out->name, again.name) == 0 && strcmp(out->qualname, again.qualname) == 0 &&
           out->first_line == again.first_line;
}

static void no_position(faultproof_location *out)
{
    out->line = out->end_line = out->column = out->end_column = -1;
}

static void read_position(struct fp_walk *w, fp_addr code, int32_t offset, faultproof_location *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_position p = {-1, -1, -1, -1};
    fp_addr table = fp_load64(w->reader, code + (fp_addr)l->code_linetable);

    no_position(out);
    if (!fp_type_is(w, table, w->target->bytes_type))
        return;
    uint64_t size = fp_load64(w->reader, table + (fp_addr)l->var_size);
    fp_addr data = table + (fp_addr)l->bytes_data;
    if (fp_reader_faulted(w->reader) || size > INT32_MAX)
        return;
    if (offset < 0)
        p.line = out->first_line;
    else if (l->line_format == FP_LINES_LOCATION)
        fp_position_find(w->reader, data, size, out->first_line, offset, &p);
    else
        p.line = fp_line_find(w, data, size, out->first_line, offset);
    out->line = p.line > 0 ? p.line : -1;
    out->end_line = p.end_line;
    out->column = p.column;
    out->end_column = p.end_column;
}

static bool is_collected(struct fp_walk *w, const faultproof_frame *frame)
{
    return fp_code_is(w, frame->code, frame->check);
}

static int resolve_frame(struct fp_walk *w, faultproof_cache *cache, const faultproof_frame *frame,
                         faultproof_location *out)
{
    const struct cache_entry *hit = cache_find(cache, frame);
    bool alive = is_collected(w, frame);

    if (hit != NULL)
        cache_get(hit, out);
    else if (!alive || !read_code_twice(w, frame->code, out) || !is_collected(w, frame))
        return -1;
    else
        cache_put(cache, frame, out);
    if (alive)
        read_position(w, frame->code, frame->offset, out);
    if (!alive || !is_collected(w, frame)) {
        no_position(out);
        out->flags |= FAULTPROOF_CODE_FREED;
    }
    return 0;
}

int faultproof_resolve(faultproof_cache *cache, const faultproof_frame *frame, faultproof_location *location)
{
    struct fp_call c;
    if (frame == NULL || location == NULL || location->struct_size < sizeof(*location) || frame->check == 0 ||
        fp_call_begin(&c, NULL) != FP_OK)
        return -1;
    int result = resolve_frame(&c.walk, cache, frame, location);
    fp_call_end(&c);
    return result;
}
