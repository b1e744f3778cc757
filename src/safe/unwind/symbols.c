/* The nearest symbols of the frames, from the dynamic symbol tables in memory.  Any context.
 *
 * A symbol counts as the loader's own look-up counts it: defined, in memory, not thread-local, and the address inside
 * of its size. One pass over an object's table serves all frames in it. */
#include <elf.h>

#include "unwind/bytes.h"
#include "unwind/unwind.h"

enum { DYNAMIC_MAX = 512, BUCKETS_MAX = 1 << 16, SYMBOLS_MAX = 1 << 18, CHUNK = 32 };

struct table {
    fp_addr symbols, strings, gnu_hash, hash;
    uint64_t strings_size;
};

/* The loader writes absolute addresses here, but not into what it can't write (the vdso). */
static fp_addr place(const struct fp_object *o, uint64_t value)
{
    return value < o->bias ? value + o->bias : value;
}

static void read_dynamic(struct fp_reader *r, const struct fp_object *o, struct table *t)
{
    uint64_t n = o->dynamic_size / sizeof(Elf64_Dyn);
    *t = (struct table){0};
    for (uint64_t i = 0; i < n && i < DYNAMIC_MAX; i++) {
        Elf64_Dyn entry;
        if (!fp_read(r, &entry, o->dynamic + i * sizeof(entry), sizeof(entry)))
            break;
        Elf64_Sxword tag = entry.d_tag;
        uint64_t value = entry.d_un.d_val;
        if (tag == DT_NULL)
            break;
        else if (tag == DT_SYMTAB)
            t->symbols = place(o, value);
        else if (tag == DT_STRTAB)
            t->strings = place(o, value);
        else if (tag == DT_STRSZ)
            t->strings_size = value;
        else if (tag == DT_GNU_HASH)
            t->gnu_hash = place(o, value);
        else if (tag == DT_HASH)
            t->hash = place(o, value);
    }
}

/* The table has buckets that name the first symbol of a chain; the last symbol of the last chain is marked. */
static uint32_t count_by_gnu_hash(struct fp_reader *r, fp_addr at, uint32_t *first)
{
    uint32_t n = fp_load32(r, at), last = 0;
    *first = fp_load32(r, at + 4);
    fp_addr buckets = at + 16 + 8 * (fp_addr)fp_load32(r, at + 8), chains = buckets + 4 * (fp_addr)n;
    if (n > BUCKETS_MAX)
        return 0;
    for (uint32_t i = n; i > 0 && r->fault == 0 && last == 0; i--)
        last = fp_load32(r, buckets + 4 * (fp_addr)(i - 1));
    /* A chain's symbols have rising numbers, so the last bucket in use has the highest. */
    if (last < *first)
        return 0;
    struct fp_bytes b;
    fp_bytes_open(&b, r, chains + 4 * (fp_addr)(last - *first), UINT64_MAX);
    while (last < SYMBOLS_MAX && !b.bad && !(fp_bytes_unsigned(&b, 4) & 1))
        last++;
    return last + 1;
}

static uint32_t count(struct fp_reader *r, const struct table *t, uint32_t *first)
{
    uint32_t n;
    *first = 0;
    if (t->gnu_hash != 0)
        n = count_by_gnu_hash(r, t->gnu_hash, first);
    else
        n = t->hash != 0 ? fp_load32(r, t->hash + 4) : 0;
    if (fp_reader_faulted(r))
        return 0;
    return n < SYMBOLS_MAX ? n : SYMBOLS_MAX;
}

/* The frames of one object, and the addresses between which they all lie. */
struct wanted {
    struct fp_unwind *u;
    struct table table;
    fp_addr key, bias, low, high;
    uint32_t n;
};

static fp_addr looked_up(const struct fp_c_frame *f)
{
    return f->pc - !f->exact;
}

static bool contains(const Elf64_Sym *s, fp_addr start, fp_addr address)
{
    if (s->st_shndx == SHN_UNDEF || s->st_size == 0)
        return address == start;
    return address - start < s->st_size;
}

static void offer(struct wanted *w, const Elf64_Sym *s)
{
    fp_addr start = w->bias + s->st_value;
    if (start > w->high || (w->low > start && w->low - start > s->st_size))
        return;
    if (ELF64_ST_TYPE(s->st_info) == STT_TLS || s->st_shndx == SHN_ABS ||
        (s->st_shndx == SHN_UNDEF && s->st_value == 0))
        return;
    for (uint32_t i = 0; i < w->n; i++) {
        struct fp_c_frame *f = &w->u->frames[i];
        if (f->key != w->key || !contains(s, start, looked_up(f)) || (f->name != 0 && f->symbol >= start))
            continue;
        if (s->st_name >= w->table.strings_size)
            continue;
        f->symbol = start;
        f->name = w->table.strings + s->st_name;
    }
}

static void search(struct wanted *w, const struct fp_object *o)
{
    struct fp_reader *r = w->u->reader;
    const struct table *t = &w->table;
    Elf64_Sym chunk[CHUNK];
    uint32_t first;

    read_dynamic(r, o, &w->table);
    uint32_t n = t->symbols != 0 && t->strings != 0 ? count(r, t, &first) : 0;
    for (uint32_t i = n ? first : 0; i < n; i += CHUNK) {
        uint32_t size = n - i < CHUNK ? n - i : CHUNK;
        if (!fp_read(r, chunk, t->symbols + i * sizeof(Elf64_Sym), size * sizeof(Elf64_Sym)))
            break;
        for (uint32_t k = 0; k < size; k++)
            offer(w, &chunk[k]);
    }
    (void)fp_reader_faulted(r);
}

/* Has an earlier frame led to this object's table already? */
static bool searched(const struct fp_unwind *u, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (u->frames[k].key == u->frames[i].key)
            return true;
    return false;
}

void fp_symbols_find(struct fp_unwind *u, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct fp_c_frame *f = &u->frames[i];
        if (f->key == 0 || searched(u, i))
            continue;
        const struct fp_object *o = fp_object_of(u, looked_up(f));
        if (o == NULL || o->dynamic == 0)
            continue;
        struct wanted w = {.u = u, .key = f->key, .bias = f->bias, .low = UINT64_MAX, .n = n};
        for (uint32_t k = i; k < n; k++)
            if (u->frames[k].key == f->key) {
                fp_addr at = looked_up(&u->frames[k]);
                w.low = at < w.low ? at : w.low;
                w.high = at > w.high ? at : w.high;
            }
        search(&w, o);
    }
}
