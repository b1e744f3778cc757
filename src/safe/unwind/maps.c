/* The executable mappings of this process, from the kernel.  Any context: open, read and close are in man 7
 * signal-safety.
 *
 * The kernel's text is read a buffer at a time.  What doesn't fit in the table is found later by reading it again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "unwind/unwind.h"

/* A line of the map, and what the lines before it say about the file that it belongs to. */
struct line {
    fp_addr start, end;
    uint64_t offset, inode;
    bool executable;
    const char *name;
    size_t name_size;
};

struct scan {
    struct fp_maps *maps;
    fp_addr wanted; /* 0: all go to the table; else the mapping of this address goes to the spare place */
    bool done;
    fp_addr base; /* of the file of the last lines that have one; 0: its beginning isn't mapped before them */
    fp_addr last_end;
    uint64_t inode;
    uint64_t device;
};

static const char *hex(const char *p, const char *end, uint64_t *value)
{
    uint64_t v = 0;
    for (; p < end; p++) {
        char c = *p;
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    *value = v;
    return p < end ? p + 1 : end; /* and the character that ends it */
}

/* start-end perms offset major:minor inode   path */
static bool parse(const char *p, const char *end, struct line *l, uint64_t *device)
{
    uint64_t major, minor;
    p = hex(p, end, &l->start);
    p = hex(p, end, &l->end);
    if (end - p < 5)
        return false;
    l->executable = p[2] == 'x';
    p = hex(p + 5, end, &l->offset);
    p = hex(p, end, &major);
    p = hex(p, end, &minor);
    *device = major << 32 | minor;
    p = hex(p, end, &l->inode); /* decimal, but only compared */
    while (p < end && *p == ' ')
        p++;
    l->name = p;
    l->name_size = (size_t)(end - p);
    return l->start < l->end;
}

static void set_name(struct fp_maps *m, struct fp_mapping *to, const struct line *l, bool spare)
{
    size_t size = l->name_size < FP_MAP_PATH ? l->name_size : FP_MAP_PATH - 1;
    to->has_name = l->name_size != 0;
    to->name_size = 0;
    to->name = spare ? FP_MAP_NAMES : m->names_used;
    if (!spare && size > FP_MAP_NAMES - m->names_used)
        return;
    memcpy(m->names + to->name, l->name, size);
    to->name_size = (uint16_t)size;
    if (!spare)
        m->names_used += (uint32_t)size;
}

static void take(struct scan *s, const struct line *l, fp_addr base)
{
    struct fp_maps *m = s->maps;
    struct fp_mapping *to = &m->spare;

    if (s->wanted != 0) {
        if (s->wanted < l->start || s->wanted >= l->end)
            return;
        s->done = true;
    }
    else if (m->n == FP_MAPPINGS_MAX) {
        m->partial = true;
        s->done = true;
        return;
    }
    else {
        to = &m->at[m->n++];
    }
    to->start = l->start;
    to->end = l->end;
    to->base = base;
    set_name(m, to, l, s->wanted != 0);
}

/* A file's mappings follow one another, and the first shows the beginning of the file.  Anonymous memory right after
   them may be code of that file moved to huge pages; object.c checks it. */
static void line_seen(struct scan *s, const char *text, const char *end)
{
    struct line l;
    uint64_t device;
    fp_addr base;

    if (!parse(text, end, &l, &device))
        return;
    if (l.inode != 0) {
        if (l.offset == 0)
            s->base = l.start;
        else if (l.inode != s->inode || device != s->device)
            s->base = 0;
        s->inode = l.inode;
        s->device = device;
        base = s->base;
    }
    else {
        base = s->base != 0 && l.start == s->last_end && l.name_size == 0 ? s->base : l.start;
    }
    if (l.inode != 0 || base == s->base)
        s->last_end = l.end;
    if (l.executable)
        take(s, &l, base);
}

/* Hands on the complete lines in the buffer and moves the rest to its start; returns the rest's size.  A line longer
   than the buffer is handed on once, cut; *skip: its rest is to be dropped. */
static size_t split(struct scan *s, size_t used, bool *skip)
{
    char *p = s->maps->buffer, *end = p + used;
    while (!s->done) {
        char *newline = memchr(p, '\n', (size_t)(end - p));
        if (newline == NULL)
            break;
        if (!*skip)
            line_seen(s, p, newline);
        *skip = false;
        p = newline + 1;
    }
    size_t rest = (size_t)(end - p);
    if (rest == FP_MAP_BUFFER) {
        if (!*skip)
            line_seen(s, p, end);
        *skip = true;
        rest = 0;
    }
    memmove(s->maps->buffer, p, rest);
    return rest;
}

/* The thread's own map: the process's is empty once the main thread has ended. */
static int open_map(void)
{
    int fd = open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
}

static void scan_map(struct scan *s)
{
    int saved = errno, fd = open_map();
    size_t used = 0;
    bool skip = false;

    while (fd >= 0 && !s->done) {
        ssize_t n = read(fd, s->maps->buffer + used, FP_MAP_BUFFER - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used = split(s, used + (size_t)n, &skip);
    }
    if (fd >= 0)
        close(fd);
    errno = saved;
}

static const struct fp_mapping *scan_for(struct fp_maps *m, fp_addr address)
{
    struct scan s = {.maps = m, .wanted = address};
    if (address < m->spare.start || address >= m->spare.end)
        scan_map(&s);
    return address >= m->spare.start && address < m->spare.end ? &m->spare : NULL;
}

void fp_maps_clear(struct fp_maps *m)
{
    m->reader = NULL;
    m->missed = m->partial = false;
    m->n = m->names_used = 0;
    m->spare = (struct fp_mapping){0};
}

void fp_maps_load(struct fp_maps *m)
{
    struct scan s = {.maps = m};
    fp_maps_clear(m);
    scan_map(&s);
}

const struct fp_mapping *fp_maps_find(struct fp_maps *m, fp_addr address)
{
    uint32_t low = 0, high;
    for (high = m->n; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        if (address < m->at[middle].start)
            high = middle;
        else if (address >= m->at[middle].end)
            low = middle + 1;
        else
            return &m->at[middle];
    }
    m->missed |= m->reader != NULL;
    return m->partial && m->reader == NULL && address != 0 ? scan_for(m, address) : NULL;
}

/* Control characters would break the lines of a report; the kernel's map escapes them. */
static const char *read_name(struct fp_maps *m, fp_addr at, size_t *size)
{
    char *name = m->names + FP_MAP_NAMES;
    size_t n = 0;
    while (n < FP_MAP_PATH && (name[n] = (char)fp_load8(m->reader, at + n)) != 0) {
        if ((unsigned char)name[n] < 0x20 || name[n] == 0x7f)
            name[n] = '?';
        n++;
    }
    (void)fp_reader_faulted(m->reader);
    *size = n;
    return name;
}

const char *fp_maps_name(struct fp_maps *m, fp_addr address, size_t *size)
{
    const struct fp_mapping *found = fp_maps_find(m, address);
    if (found != NULL && m->reader != NULL)
        return read_name(m, found->name_at, size);
    if (found != NULL && found->has_name && found->name_size == 0)
        found = scan_for(m, address);
    *size = found != NULL ? found->name_size : 0;
    return found != NULL ? m->names + found->name : "";
}
