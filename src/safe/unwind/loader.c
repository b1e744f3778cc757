/* What is loaded, from the loader's list in memory.  Any context.
 *
 * A process crashes too when it has used up its descriptors, or where a filter ends it for opening a file.  The list is
 * read through the reader and without the loader's lock, so that it may be in the middle of a change: then objects are
 * missing.  Code outside of objects isn't in it.
 * getauxval() only reads what the kernel has put on the first stack. */
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#include "unwind/unwind.h"

enum { OBJECTS_MAX = 4096, HEADERS_MAX = 128, PAGE = 4096 };

static fp_addr page_of(fp_addr address)
{
    return address & ~(fp_addr)(PAGE - 1);
}

/* Keeps the table in order. */
static void insert(struct fp_unwind *u, const struct fp_mapping *mapping)
{
    struct fp_maps *m = &u->maps;
    uint32_t i;
    m->partial |= m->n == FP_MAPPINGS_MAX;
    if (m->partial)
        return;
    for (i = m->n++; i > 0 && m->at[i - 1].start > mapping->start; i--)
        m->at[i] = m->at[i - 1];
    m->at[i] = *mapping;
}

static void add_object(struct fp_unwind *u, fp_addr bias, fp_addr base, fp_addr name)
{
    Elf64_Ehdr e;
    if (!fp_read(u->reader, &e, base, sizeof(e)) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_phnum > HEADERS_MAX)
        return;
    for (uint32_t i = 0; i < e.e_phnum; i++) {
        Elf64_Phdr p;
        if (!fp_read(u->reader, &p, base + e.e_phoff + i * sizeof(p), sizeof(p)))
            return;
        if (p.p_type != PT_LOAD || !(p.p_flags & PF_X))
            continue;
        struct fp_mapping mapping = {.start = page_of(bias + p.p_vaddr), .base = base, .name_at = name};
        mapping.end = page_of(bias + p.p_vaddr + p.p_memsz + PAGE - 1);
        if (mapping.start < mapping.end)
            insert(u, &mapping);
    }
}

void fp_maps_from_loader(struct fp_unwind *u)
{
    fp_addr at = (fp_addr)(uintptr_t)_r_debug.r_map, program = page_of(getauxval(AT_PHDR));
    fp_maps_clear(&u->maps);
    u->maps.reader = u->reader;
    for (uint32_t i = 0; at != 0 && i < OBJECTS_MAX; i++) {
        struct link_map map;
        if (!fp_read(u->reader, &map, at, sizeof(map)))
            break;
        /* The first is the program: it may be loaded where it was linked to be, and the list doesn't name it. */
        fp_addr base = i == 0 ? program : map.l_addr;
        add_object(u, map.l_addr, base, i == 0 ? getauxval(AT_EXECFN) : (fp_addr)(uintptr_t)map.l_name);
        at = (fp_addr)(uintptr_t)map.l_next;
    }
    (void)fp_reader_faulted(u->reader);
}
