/* What the standard faulthandler was enabled with, which it doesn't tell: read from its memory.  Normal context.
 *
 * CPython keeps it in one struct of the same shape from 3.9 to 3.15 (struct fatal_error below; a static variable, or a
 * part of _PyRuntime), in the writable data of the object that its handler's code is in.  The interpreter's address in
 * it, with the values around that such a struct must have, is found in one place only, or the answer is "not found".
 */
#include "ext.h" /* pyconfig.h defines _GNU_SOURCE */

#include <link.h>

/* More descriptors than a process has: a greater number is something else. */
enum { DESCRIPTORS_MAX = 1 << 22 };

/* fatal_error in Modules/faulthandler.c, Include/internal/pycore_faulthandler.h */
struct fatal_error {
    int enabled;
    PyObject *file;
    int fd;
    int all_threads;
    PyInterpreterState *interp;
    int c_stack; /* 3.14 and later; before: whatever comes next */
};

struct search {
    uintptr_t handler;
    PyInterpreterState *interp;
    struct fatal_error found;
    int n_found;
};

static bool plausible(const struct fatal_error *e, const struct search *search)
{
    bool knows_c_stack = PY_VERSION_HEX >= 0x030e0000;
    return e->interp == search->interp && e->enabled == 1 && e->fd >= 0 && e->fd < DESCRIPTORS_MAX &&
           (e->all_threads & ~1) == 0 && (uintptr_t)e->file % sizeof(void *) == 0 &&
           (!knows_c_stack || (e->c_stack & ~1) == 0);
}

static void search_segment(struct search *search, const char *start, size_t size)
{
    struct fatal_error e;
    for (size_t at = 0; at + sizeof(e) <= size; at += sizeof(void *)) {
        memcpy(&e, start + at, sizeof(e));
        if (!plausible(&e, search))
            continue;
        search->found = e;
        search->n_found++;
    }
}

static bool holds(const struct dl_phdr_info *object, uintptr_t address)
{
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &object->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && address - (object->dlpi_addr + p->p_vaddr) < p->p_memsz)
            return true;
    }
    return false;
}

static int search_object(struct dl_phdr_info *object, size_t size, void *context)
{
    struct search *search = context;
    (void)size;
    if (!holds(object, search->handler))
        return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &object->dlpi_phdr[i];
        uintptr_t start = (object->dlpi_addr + p->p_vaddr + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
        uintptr_t end = object->dlpi_addr + p->p_vaddr + p->p_memsz;
        if (p->p_type == PT_LOAD && (p->p_flags & (PF_R | PF_W)) == (PF_R | PF_W) && start < end)
            search_segment(search, (const char *)start, end - start);
    }
    return 1;
}

/* Whether an object is there: its type has a type, whose type is type's own.  Read safely: it may be anything. */
static bool is_object(const void *address)
{
    struct fp_session *s = fp_session_acquire(fp_ext_target(), true, 10000000000);
    fp_addr at = (fp_addr)(uintptr_t)address;
    if (s == NULL)
        return false;
    for (int i = 0; i < 3; i++)
        at = fp_load64(&s->reader, at + offsetof(PyObject, ob_type));
    bool found = !fp_reader_faulted(&s->reader) && at == (fp_addr)(uintptr_t)&PyType_Type;
    fp_session_release(s);
    return found;
}

bool fp_ext_standard_find(uintptr_t handler, struct fp_ext_standard *found)
{
    struct search search = {.handler = handler, .interp = PyInterpreterState_Get()};
    if (dl_iterate_phdr(search_object, &search) == 0 || search.n_found != 1)
        return false;
    if (search.found.file != NULL && !is_object(search.found.file))
        return false;
    *found = (struct fp_ext_standard){
        .file = search.found.file,
        .fd = search.found.fd,
        .all_threads = search.found.all_threads,
        .c_stack = PY_VERSION_HEX >= 0x030e0000 ? search.found.c_stack : 0,
    };
    return true;
}
