/* The whole dump over images of an interpreter's memory that are damaged: every n-th read fails, bytes and pointers are
 * changed.  Each walk must end, and read nothing but the image.  And lists of threads as each version makes them.
 * Normal context.
 *
 * Usage: core_images [NUMBER of damaged images a layout, default 3000; under 100: also fewer failing reads] [SEED]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include "api/api.h"
#include "check.h"
#include "dump_all.h"

enum { SIZE = 1 << 16, THREADS = 3, FRAMES = 40, BASE_SHIFT = 44 };

/* The image lies at an address of its own, so that a stray pointer can't hit it by chance. */
#define BASE ((fp_addr)5 << BASE_SHIFT)

static struct {
    unsigned char bytes[SIZE];
    uint32_t used;
    uint64_t reads, fail_at; /* fail_at: this read fails; 0: none */
} image;
static struct fp_target target;

static int copy(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    (void)r;
    if (++image.reads == image.fail_at || from < BASE || from - BASE > SIZE || n > SIZE - (from - BASE))
        return -1;
    memcpy(to, image.bytes + (from - BASE), n);
    return 0;
}

static fp_addr allocate(uint32_t size)
{
    fp_addr at = BASE + image.used;
    image.used += (size + 15) & ~15u;
    CHECK(image.used <= SIZE);
    return at;
}

static void put(fp_addr object, int32_t offset, uint64_t value, size_t size)
{
    if (offset >= 0)
        memcpy(image.bytes + (object - BASE) + offset, &value, size);
}

static uint64_t low_bit(int32_t mask)
{
    return (uint32_t)mask & -(uint32_t)mask;
}

static fp_addr object_of(fp_addr type, uint32_t size)
{
    fp_addr o = allocate(size);
    put(o, target.layout.object_type, type, 8);
    put(o, target.layout.object_refcnt, 1, 8);
    return o;
}

static fp_addr str_of(const char *text)
{
    const struct fp_layout *l = &target.layout;
    uint32_t n = (uint32_t)strlen(text);
    fp_addr s = object_of(target.str_type, (uint32_t)l->str_ascii_data + n + 1);
    uint64_t state = low_bit(l->str_state_kind) | (uint32_t)l->str_state_compact | (uint32_t)l->str_state_ascii;
    put(s, l->str_state, state, 4);
    put(s, l->str_length, n, 8);
    memcpy(image.bytes + (s - BASE) + l->str_ascii_data, text, n);
    return s;
}

static fp_addr bytes_of(const void *data, uint32_t n)
{
    fp_addr b = object_of(target.bytes_type, (uint32_t)target.layout.bytes_data + n + 1);
    put(b, target.layout.var_size, n, 8);
    memcpy(image.bytes + (b - BASE) + target.layout.bytes_data, data, n);
    return b;
}

/* Line tables that give line 7 at the start, in each format. */
static fp_addr code_of(const char *name)
{
    static const unsigned char lnotab[] = {0, 0}, pairs[] = {200, 0},
                               locations[] = {0x87, 0, 0x87, 0, 0xf1, 1, 0, 0, 0};
    const struct fp_layout *l = &target.layout;
    fp_addr code = object_of(target.code_type, 512);
    put(code, l->code_name, str_of(name), 8);
    put(code, l->code_filename, str_of("file.py"), 8);
    put(code, l->code_firstlineno, 7, 4);
    put(code, l->code_size, 20, 8);
    if (l->code_bytes >= 0)
        put(code, l->code_bytes, bytes_of(locations, 9), 8);
    if (l->code_tlbc >= 0)
        put(code, l->code_tlbc, allocate(16), 8);
    fp_addr table = l->line_format == FP_LINES_LNOTAB ? bytes_of(lnotab, 2)
                    : l->line_format == FP_LINES_310  ? bytes_of(pairs, 2)
                                                      : bytes_of(locations, 9);
    put(code, l->code_linetable, table, 8);
    return code;
}

static fp_addr frame_of(fp_addr code, fp_addr previous, bool entry)
{
    const struct fp_layout *l = &target.layout;
    fp_addr f = allocate(128);
    put(f, l->frame_previous, previous, 8);
    put(f, l->frame_code, code, 8);
    put(f, l->frame_instr, l->instr_kind == FP_INSTR_POINTER ? code + (fp_addr)l->code_adaptive + 4 : 4,
        l->instr_kind == FP_INSTR_POINTER ? 8 : 4);
    if (l->instr_kind == FP_INSTR_BYTES) /* an offset in bytes has to be even */
        put(f, l->frame_instr, 4, 4);
    put(f, l->frame_owner, entry && l->owner_entry >= 0 ? (uint64_t)l->owner_entry : 0, 1);
    put(f, l->frame_is_entry, entry, 1);
    return f;
}

static fp_addr thread_of(fp_addr interp, fp_addr prev, uint64_t id, const fp_addr *codes)
{
    const struct fp_layout *l = &target.layout;
    fp_addr t = allocate(512), top = 0;
    bool hidden = l->owner_entry >= 0;
    for (int i = 0; i < FRAMES; i++)
        top = frame_of(codes[i % 3], top, i == 0 && (hidden || l->frame_is_entry >= 0));
    put(t, l->tstate_prev, prev, 8);
    put(t, l->tstate_interp, interp, 8);
    put(t, l->tstate_thread_id, id, 8);
    put(t, l->tstate_native_id, id + 1000, 8);
    if (l->frame_kind == FP_FRAME_CFRAME) {
        fp_addr cframe = allocate(64), root = allocate(64);
        put(cframe, l->cframe_current, top, 8);
        put(cframe, l->cframe_previous, root, 8);
        top = cframe;
    }
    put(t, l->tstate_frame, top, 8);
    if (prev)
        put(prev, l->tstate_next, t, 8);
    return t;
}

/* A dictionary of one module with a definition, to have the module line too. */
static void modules_of(fp_addr interp)
{
    const struct fp_layout *l = &target.layout;
    fp_addr dict = object_of(target.dict_type, 64), keys = allocate(256), module = object_of(target.module_type, 128);
    fp_addr def = allocate(256);
    put(dict, l->dict_keys, keys, 8);
    put(keys, l->keys_size, 8, 8);
    put(keys, l->keys_log2_size, 3, 1);
    put(keys, l->keys_log2_index_bytes, 3, 1);
    put(keys, l->keys_nentries, 1, 8);
    put(keys, l->keys_indices + 8 + 8, str_of("extension"), 8);
    put(keys, l->keys_indices + 8 + 16, module, 8);
    put(module, l->module_def, def, 8);
    put(module, l->module_token_is_def, 1, 1);
    put(def, l->moduledef_methods, def, 8);
    put(interp, l->interp_modules, dict, 8);
}

static void build(uint32_t version, bool free_threaded)
{
    memset(&image, 0, sizeof(image));
    target = (struct fp_target){.version = version, .free_threaded = free_threaded};
    const struct fp_layout *row = fp_layout_row(&target);
    CHECK(row != NULL);
    target.layout = *row;
    const struct fp_layout *l = &target.layout;
    target.runtime = allocate(2048);
    fp_addr *types[] = {&target.code_type, &target.str_type,       &target.bytes_type,
                        &target.dict_type, &target.frozenset_type, &target.module_type};
    for (size_t i = 0; i < FP_COUNT(types); i++)
        *types[i] = allocate(512);
    fp_addr interp = allocate(8192), thread = 0;
    const fp_addr codes[] = {code_of("alpha"), code_of("beta"), code_of("gamma")};
    put(target.runtime, l->runtime_interpreters_head, interp, 8);
    for (uint64_t i = 0; i < THREADS; i++) {
        thread = thread_of(interp, thread, 0x1000 + i, codes);
        if (i == 0)
            put(interp, l->interp_threads_head, thread, 8);
    }
    modules_of(interp);
}

static bool gil_note; /* as free-threaded 3.14 and later */

/* One dump of all threads into `fd`; returns how many reads it took. */
static uint64_t dump(int fd, bool still)
{
    image.reads = 0;
    dump_all(fd, &(struct dump_all){&target, copy, &image, 0x1000, still, gil_note});
    return image.reads;
}

static const struct {
    uint32_t version;
    bool free_threaded;
} layouts[] = {{0x03090000, 0}, {0x030a0000, 0}, {0x030b0000, 0}, {0x030c0000, 0}, {0x030d0000, 0},
               {0x030d0000, 1}, {0x030e0000, 0}, {0x030e0000, 1}, {0x030f0000, 0}, {0x030f0000, 1}};

static int null_fd;
static uint64_t seed = 1, images = 3000, longest;

static uint64_t chance(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void sound_images(void)
{
    char text[1 << 15];
    for (size_t i = 0; i < FP_COUNT(layouts); i++) {
        int fd = memfd_create("text", 0), rows = 0;
        build(layouts[i].version, layouts[i].free_threaded);
        dump(fd, true);
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        CHECK(n > 0);
        text[n] = 0;
        for (const char *at = text; (at = strstr(at, "  File \"file.py\", line 7 in ")) != NULL; at++)
            rows++;
        if (rows != THREADS * (FRAMES - (target.layout.owner_entry >= 0)) || strstr(text, "<") != NULL ||
            strstr(text, "Extension modules: extension (total: 1)\n") == NULL) {
            fprintf(stderr, "%#x: %d rows\n%s\n", layouts[i].version, rows, text);
            _exit(1);
        }
        close(fd);
    }
}

/* The line that free-threaded 3.14 asks for, then the current stack, then the other threads. */
static void the_note_of_free_threading(void)
{
    static const char start[] =
        "<Cannot show all threads while the GIL is disabled>\nStack (most recent call first):\n";
    char text[1 << 15] = {0};
    int fd = memfd_create("text", 0), threads = 0;
    build(0x030e0000, true);
    gil_note = true;
    dump(fd, true);
    gil_note = false;
    CHECK(pread(fd, text, sizeof(text) - 1, 0) > 0);
    CHECK(memcmp(text, start, sizeof(start) - 1) == 0);
    for (const char *at = text; (at = strstr(at, "\n\nThread 0x")) != NULL; at++)
        threads++;
    CHECK_EQUAL(threads, THREADS - 1);
    CHECK(strstr(text, "Current thread") == NULL);
    close(fd);
}

/* A walk over the image, for questions about its threads. */
static struct fp_walk *walk_image(void)
{
    static struct fp_walk walk;
    static struct fp_reader reader;
    reader = (struct fp_reader){.kind = FP_READER_TEST, .fds = {-1, -1}, .copy = copy, .context = &image};
    fp_walk_init(&walk, &reader, &target, true);
    return &walk;
}

/* Puts a thread state without frames at the list's head. */
static fp_addr new_head(uint64_t id)
{
    const struct fp_layout *l = &target.layout;
    struct fp_walk *w = walk_image();
    fp_addr interp = fp_interp_first(w), next = fp_thread_first(w, interp), t = allocate(512);
    put(t, l->tstate_interp, interp, 8);
    put(t, l->tstate_thread_id, id, 8);
    put(t, l->tstate_next, next, 8);
    put(next, l->tstate_prev, t, 8);
    put(interp, l->interp_threads_head, t, 8);
    return t;
}

/* Up to 3.11 the states of threads that have not started have the id of who made them. */
static void states_with_their_makers_id(void)
{
    fp_addr threads[THREADS + 3];
    bool whole;
    for (size_t i = 0; i < FP_COUNT(layouts); i++) {
        build(layouts[i].version, layouts[i].free_threaded);
        new_head(0x1001);
        new_head(0x2000);
        fp_addr newest = new_head(0x2000);
        struct fp_walk *w = walk_image();
        CHECK_EQUAL(fp_threads_list(w, fp_interp_first(w), threads, FP_COUNT(threads), &whole), THREADS + 3);
        CHECK(whole);
        bool maker = layouts[i].version < 0x030c0000;
        CHECK_EQUAL(fp_thread_of(w, 0x1000), threads[3]);
        CHECK_EQUAL(fp_thread_of(w, 0x1001), threads[maker ? 4 : 2]);
        CHECK_EQUAL(fp_thread_of(w, 0x2000), maker ? threads[1] : newest);
        CHECK_EQUAL(fp_thread_of(w, 0x3000), 0);
        CHECK(fp_thread_started(w, threads[4]) && fp_thread_started(w, newest) == !maker);
    }
}

/* Where a thread was found last is no longer believed once its memory is the state of one that it has just made. */
static void a_remembered_state_is_anothers(void)
{
    uint64_t self = (uint64_t)pthread_self();
    for (size_t i = 0; i < FP_COUNT(layouts); i++) {
        build(layouts[i].version, layouts[i].free_threaded);
        const struct fp_layout *l = &target.layout;
        bool maker = layouts[i].version < 0x030c0000;
        struct fp_walk *w = walk_image();
        fp_addr first = fp_thread_first(w, fp_interp_first(w)), second = fp_thread_next(w, first);
        put(first, l->tstate_thread_id, self, 8);
        CHECK_EQUAL(fp_state_own(w), first);
        put(second, l->tstate_thread_id, self, 8);
        CHECK_EQUAL(fp_state_own(w), first);
        put(first, l->tstate_frame, 0, 8);
        CHECK_EQUAL(fp_state_own(w), maker ? second : first);
    }
}

/* 3.11: the new head has neither its link nor its thread yet; the others may be there. */
static void a_head_without_its_link(void)
{
    fp_addr threads[THREADS + 1];
    bool whole;
    build(0x030b0000, false);
    fp_addr t = new_head(0);
    put(t, target.layout.tstate_next, 0, 8);
    struct fp_walk *w = walk_image();
    CHECK_EQUAL(fp_threads_list(w, fp_interp_first(w), threads, FP_COUNT(threads), &whole), 1);
    CHECK(!whole);
    put(t, target.layout.tstate_thread_id, 0x2000, 8);
    CHECK_EQUAL(fp_threads_list(w, fp_interp_first(w), threads, FP_COUNT(threads), &whole), 1);
    CHECK(whole);
}

/* A list that leads back to one of its states ends there, whichever it is. */
static void a_list_that_goes_round(void)
{
    fp_addr threads[100];
    bool whole;
    build(0x030c0000, false);
    struct fp_walk *w = walk_image();
    fp_addr t = fp_thread_first(w, fp_interp_first(w)), last = t;
    while (fp_thread_next(w, last) != 0)
        last = fp_thread_next(w, last);
    for (; t != 0; t = t != last ? fp_thread_next(w, t) : 0) {
        put(last, target.layout.tstate_next, t, 8);
        image.reads = 0;
        CHECK_EQUAL(fp_thread_of(w, 0x3000), 0);
        CHECK(fp_threads_list(w, fp_interp_first(w), threads, FP_COUNT(threads), &whole) < 3 * THREADS);
        CHECK(!whole && image.reads < 10000);
    }
}

static void each_read_fails(void)
{
    for (size_t i = 0; i < FP_COUNT(layouts); i++) {
        build(layouts[i].version, layouts[i].free_threaded);
        uint64_t n = dump(null_fd, true);
        for (uint64_t k = 1; k <= n; k += images < 100 ? 23 : 1) {
            image.fail_at = k;
            dump(null_fd, true);
        }
        image.fail_at = 0;
    }
}

/* A change of one place: a random byte, or a pointer to somewhere that matters. */
static void damage_once(void)
{
    uint32_t at = (uint32_t)(chance() % image.used);
    uint64_t value = chance();
    switch (chance() % 4) {
    case 0:
        image.bytes[at] = (unsigned char)value;
        break;
    case 1: /* another object */
        put(BASE, (int32_t)(at & ~7u) % (SIZE - 8), BASE + value % image.used, 8);
        break;
    case 2: /* an aligned one */
        put(BASE, (int32_t)(at & ~7u) % (SIZE - 8), (BASE + value % image.used) & ~(fp_addr)15, 8);
        break;
    default: /* a length, a count */
        put(BASE, (int32_t)(at & ~7u) % (SIZE - 8), value >> (chance() % 64), 8);
    }
}

static void damaged_images(void)
{
    static unsigned char sound[SIZE];
    for (size_t i = 0; i < FP_COUNT(layouts); i++) {
        build(layouts[i].version, layouts[i].free_threaded);
        uint32_t used = image.used;
        memcpy(sound, image.bytes, SIZE);
        for (uint64_t k = 0; k < images; k++) {
            memcpy(image.bytes, sound, used);
            for (uint64_t changes = 1 + chance() % 8; changes > 0; changes--)
                damage_once();
            uint64_t reads = dump(null_fd, k % 4 != 0);
            longest = reads > longest ? reads : longest;
        }
    }
    printf("longest walk: %llu reads\n", (unsigned long long)longest);
}

static const struct check_case cases[] = {
    {"sound images", sound_images},
    {"the note of free-threading", the_note_of_free_threading},
    {"states with their maker's id", states_with_their_makers_id},
    {"a remembered state is another's", a_remembered_state_is_anothers},
    {"a head without its link", a_head_without_its_link},
    {"a list that goes round", a_list_that_goes_round},
    {"each read fails", each_read_fails},
    {"damaged images", damaged_images},
};

int main(int argc, char **argv)
{
    if (argc > 1)
        images = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    null_fd = open("/dev/null", O_WRONLY);
    return check_all(cases, FP_COUNT(cases));
}
