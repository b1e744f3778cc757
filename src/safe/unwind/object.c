/* The headers of ELF objects as they lie in memory, and the sorted table of their frame descriptions.  Any context. */
#include <elf.h>
#include <string.h>

#include "unwind/bytes.h"
#include "unwind/unwind.h"

enum { HEADERS_MAX = 128, PAGE = 4096, TABLE_ENTRY = 8, HEADER_SIZE_MAX = 1 << 28 };

static bool read_header(struct fp_reader *r, fp_addr base, Elf64_Ehdr *e)
{
    if (!fp_read(r, e, base, sizeof(*e)))
        return false;
    return memcmp(e->e_ident, ELFMAG, SELFMAG) == 0 && e->e_ident[EI_CLASS] == ELFCLASS64 &&
           e->e_ident[EI_DATA] == ELFDATA2LSB && e->e_machine == EM_X86_64 && e->e_phentsize == sizeof(Elf64_Phdr) &&
           e->e_phnum <= HEADERS_MAX && e->e_phoff < HEADER_SIZE_MAX;
}

/* Does the segment cover the mapping, seen in whole pages? */
static bool covers(const Elf64_Phdr *p, fp_addr bias, const struct fp_mapping *m)
{
    fp_addr start = (bias + p->p_vaddr) & ~(fp_addr)(PAGE - 1);
    return p->p_type == PT_LOAD && (p->p_flags & PF_X) && p->p_memsz < INT64_MAX && m->start >= start &&
           m->end - start <= ((p->p_vaddr & (PAGE - 1)) + p->p_memsz + PAGE - 1) / PAGE * PAGE;
}

static void remember(struct fp_object *o, const Elf64_Phdr *p)
{
    if (p->p_type == PT_GNU_EH_FRAME && p->p_memsz < HEADER_SIZE_MAX) {
        o->header = o->bias + p->p_vaddr;
        o->header_size = p->p_memsz;
    }
    else if (p->p_type == PT_DYNAMIC) {
        o->dynamic = o->bias + p->p_vaddr;
        o->dynamic_size = p->p_memsz;
    }
}

/* The segment that has the beginning of the file gives the bias; then the others can be placed. */
static bool read_segments(struct fp_reader *r, struct fp_object *o, const Elf64_Ehdr *e, const struct fp_mapping *m)
{
    fp_addr at = m->base + e->e_phoff;
    bool placed = false, covered = false;
    Elf64_Phdr p;

    for (uint32_t i = 0; i < e->e_phnum && !placed; i++) {
        if (!fp_read(r, &p, at + i * sizeof(p), sizeof(p)))
            return false;
        placed = p.p_type == PT_LOAD && p.p_offset < PAGE;
    }
    o->bias = m->base + p.p_offset - p.p_vaddr;
    for (uint32_t i = 0; placed && i < e->e_phnum; i++) {
        if (!fp_read(r, &p, at + i * sizeof(p), sizeof(p)))
            return false;
        covered |= covers(&p, o->bias, m);
        remember(o, &p);
    }
    return covered;
}

/* .eh_frame_hdr: version, three encodings, the address of .eh_frame, the number of entries, the entries.  Every linker
   writes the entries as pairs of 32-bit offsets from the header. */
static void read_table(struct fp_reader *r, struct fp_object *o)
{
    struct fp_bytes b;
    fp_bytes_open(&b, r, o->header, o->header + o->header_size);
    uint8_t version = fp_bytes_u8(&b), frame = fp_bytes_u8(&b), count = fp_bytes_u8(&b), table = fp_bytes_u8(&b);
    (void)fp_bytes_pointer(&b, frame, o->header);
    uint64_t n = fp_bytes_pointer(&b, count, o->header);
    uint64_t room = (o->header + o->header_size - b.at) / TABLE_ENTRY;
    if (b.bad || version != 1 || table != (FP_PE_DATAREL | FP_PE_SDATA4))
        return;
    o->table = b.at;
    o->n_table = n < room ? n : room;
}

static void load(struct fp_unwind *u, struct fp_object *o, const struct fp_mapping *m)
{
    Elf64_Ehdr e;
    *o = (struct fp_object){.key = m->start};
    o->is_elf = m->base != 0 && read_header(u->reader, m->base, &e) && read_segments(u->reader, o, &e, m);
    if (o->is_elf && o->header != 0)
        read_table(u->reader, o);
    (void)fp_reader_faulted(u->reader);
}

const struct fp_object *fp_object_of(struct fp_unwind *u, fp_addr address)
{
    const struct fp_mapping *m = fp_maps_find(&u->maps, address);
    if (m == NULL)
        return NULL;
    for (uint32_t i = 0; i < FP_OBJECTS_MAX; i++)
        if (u->objects[i].key == m->start)
            return u->objects[i].is_elf ? &u->objects[i] : NULL;
    struct fp_object *o = &u->objects[u->next_object++ % FP_OBJECTS_MAX];
    const struct fp_mapping mapping = *m;
    load(u, o, &mapping);
    return o->is_elf ? o : NULL;
}

static fp_addr entry(struct fp_reader *r, const struct fp_object *o, uint64_t i, uint32_t half)
{
    return o->header + (fp_addr)(int64_t)(int32_t)fp_load32(r, o->table + i * TABLE_ENTRY + 4 * (fp_addr)half);
}

fp_addr fp_object_fde(struct fp_unwind *u, const struct fp_object *o, fp_addr pc)
{
    uint64_t low = 0, high = o->n_table; /* the entry wanted is the last one at or below pc: in [low - 1, high - 1] */
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (entry(u->reader, o, middle, 0) <= pc)
            low = middle + 1;
        else
            high = middle;
    }
    fp_addr fde = low == 0 ? 0 : entry(u->reader, o, low - 1, 1);
    return fp_reader_faulted(u->reader) ? 0 : fde;
}
