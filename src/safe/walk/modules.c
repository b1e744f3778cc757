/* The extension modules in sys.modules that don't belong to the standard library.  Any context.
 *
 * Dictionaries and sets are read as they lie: Objects/dictobject.c and Objects/setobject.c describe the layouts.
 */
#include <string.h>

#include "walk/walk.h"

enum { MODULES_MAX = 1 << 16, SET_MAX = 1 << 13 };

struct entries {
    fp_addr first;
    uint64_t count;
    unsigned stride, key; /* bytes an entry; byte offset of its key, its value follows */
};

static bool entries_of(struct fp_walk *w, fp_addr dict, struct entries *out)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;
    uint64_t index_bytes;

    if (!fp_type_is(w, dict, w->target->dict_type))
        return false;
    fp_addr keys = fp_load64(r, dict + (fp_addr)l->dict_keys);
    out->count = fp_load64(r, keys + (fp_addr)l->keys_nentries);
    out->stride = 24;
    out->key = 8;
    if (l->keys_size >= 0) {
        uint64_t slots = fp_load64(r, keys + (fp_addr)l->keys_size);
        index_bytes = slots * (slots <= 0xff ? 1 : slots <= 0xffff ? 2 : slots <= 0xffffffff ? 4 : 8);
    }
    else {
        index_bytes = (uint64_t)1 << (fp_load8(r, keys + (fp_addr)l->keys_log2_index_bytes) & 63);
        if (fp_load8(r, keys + (fp_addr)l->keys_kind) != 0) { /* DICT_KEYS_UNICODE: no hash is kept */
            out->stride = 16;
            out->key = 0;
        }
    }
    out->first = keys + (fp_addr)l->keys_indices + index_bytes;
    return !fp_reader_faulted(r) && out->count <= MODULES_MAX && index_bytes <= MODULES_MAX * 16;
}

static bool entry(struct fp_walk *w, const struct entries *e, uint64_t i, fp_addr *key, fp_addr *value)
{
    fp_addr at = e->first + i * e->stride + e->key;
    *key = fp_load64(w->reader, at);
    *value = fp_load64(w->reader, at + 8);
    return !fp_reader_faulted(w->reader) && *key != 0 && *value != 0;
}

/* Subclasses of module count too, as PyModule_Check has it. */
static bool is_module(struct fp_walk *w, fp_addr object)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr type = fp_load64(w->reader, object + (fp_addr)l->object_type);
    for (int depth = 0; depth < 16 && type != 0 && !fp_reader_faulted(w->reader); depth++) {
        if (type == w->target->module_type)
            return true;
        type = fp_load64(w->reader, type + (fp_addr)l->type_base);
    }
    return false;
}

static bool is_extension(struct fp_walk *w, fp_addr module)
{
    const struct fp_layout *l = &w->target->layout;
    if (module % 8 != 0 || !is_module(w, module))
        return false;
    if (l->module_token_is_def >= 0 && fp_load8(w->reader, module + (fp_addr)l->module_token_is_def) == 0)
        return false;
    fp_addr def = fp_load64(w->reader, module + (fp_addr)l->module_def);
    fp_addr methods = def ? fp_load64(w->reader, def + (fp_addr)l->moduledef_methods) : 0;
    return !fp_reader_faulted(w->reader) && methods != 0;
}

static bool equal(const struct fp_text *text, const char *other, size_t size)
{
    return text->size == size && memcmp(text->data, other, size) == 0;
}

static bool equal_prefix(const struct fp_text *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return text->size >= n && memcmp(text->data, prefix, n) == 0;
}

/* Looks through a frozenset's table for a name of `size` bytes. */
static bool in_set(struct fp_walk *w, fp_addr set, const char *name, size_t size)
{
    const struct fp_layout *l = &w->target->layout;
    fp_addr table = fp_load64(w->reader, set + (fp_addr)l->set_table);
    uint64_t mask = fp_load64(w->reader, set + (fp_addr)l->set_mask);
    if (fp_reader_faulted(w->reader) || mask >= SET_MAX)
        return false;
    for (uint64_t i = 0; i <= mask; i++) {
        fp_addr key = fp_load64(w->reader, table + 16 * i);
        if (fp_reader_faulted(w->reader))
            return false;
        if (key == 0 || fp_load64(w->reader, key + (fp_addr)l->str_length) != size)
            continue;
        uint32_t mark = w->arena_used;
        struct fp_text text;
        bool same = fp_text_read(w, key, &text) == FP_OK && equal(&text, name, size);
        w->arena_used = mark;
        if (same)
            return true;
    }
    (void)fp_reader_faulted(w->reader);
    return false;
}

/* sys.stdlib_module_names (3.10 and later) where it is a frozenset; 0 otherwise. */
static fp_addr stdlib_names(struct fp_walk *w, fp_addr interp)
{
    static const char attribute[] = "stdlib_module_names";
    struct entries e;
    fp_addr key, value;
    struct fp_text text;

    fp_addr sysdict = fp_load64(w->reader, interp + (fp_addr)w->target->layout.interp_sysdict);
    if (fp_reader_faulted(w->reader) || !entries_of(w, sysdict, &e))
        return 0;
    for (uint64_t i = 0; i < e.count; i++) {
        if (!entry(w, &e, i, &key, &value) || !fp_type_is(w, value, w->target->frozenset_type))
            continue;
        w->arena_used = 0;
        if (fp_text_read(w, key, &text) == FP_OK && equal(&text, attribute, sizeof(attribute) - 1))
            return value;
    }
    return 0;
}

uint32_t fp_modules_each(struct fp_walk *w, fp_addr interp, void (*show)(void *, const struct fp_text *), void *context)
{
    struct entries e;
    fp_addr key, value;
    uint32_t shown = 0;

    w->exact = false; /* texts come and go here: none is remembered */
    w->generation++;
    fp_addr modules = fp_load64(w->reader, interp + (fp_addr)w->target->layout.interp_modules);
    if (fp_reader_faulted(w->reader) || !entries_of(w, modules, &e))
        return 0;
    fp_addr names = stdlib_names(w, interp);
    for (uint64_t i = 0; i < e.count; i++) {
        struct fp_text text;
        if (!entry(w, &e, i, &key, &value) || !is_extension(w, value))
            continue;
        w->arena_used = 0;
        if (fp_text_read(w, key, &text) != FP_OK)
            continue;
        const char *dot = memchr(text.data, '.', text.size);
        size_t top = dot ? (size_t)(dot - text.data) : text.size;
        if (equal_prefix(&text, "faultproof."))
            continue; /* the reporter itself says nothing about the crash; the standard one is not listed either */
        if (names != 0 && (in_set(w, names, text.data, text.size) || in_set(w, names, text.data, top)))
            continue;
        show(context, &text);
        shown++;
    }
    return shown;
}
