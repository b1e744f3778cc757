/* faultproof_init(): finds the interpreter by the names that every CPython exports.  Normal context.
 *
 * The package doesn't have this file: there src/ext/target.c does it with Python.h.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

static struct fp_target linked_target;
static pthread_mutex_t init_control = PTHREAD_MUTEX_INITIALIZER;

/* The first loaded object that has the interpreter, by the handle that dlopen gives for it. */
static int look_into(struct dl_phdr_info *info, size_t size, void *found)
{
    (void)size;
    const char *name = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : NULL;
    void *handle = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == NULL)
        return 0;
    if (dlsym(handle, "_PyRuntime") != NULL && dlsym(handle, "Py_GetVersion") != NULL) {
        *(void **)found = handle;
        return 1;
    }
    dlclose(handle);
    return 0;
}

/* RTLD_DEFAULT if the interpreter's names are global; else (an embedder's dlopen with RTLD_LOCAL) its own handle. */
static void *interpreter_handle(void)
{
    void *found = NULL;
    if (dlsym(RTLD_DEFAULT, "_PyRuntime") == NULL)
        dl_iterate_phdr(look_into, &found);
    return found;
}

static fp_addr address_of(void *handle, const char *name)
{
    return (fp_addr)(uintptr_t)dlsym(handle, name);
}

/* "3.13.1+ experimental free-threading build (main, ...) [GCC ...]" as PY_VERSION_HEX, level and serial left out. */
static uint32_t parse_version(const char *text, bool *free_threaded)
{
    uint32_t hex = 0;
    char *end = (char *)(uintptr_t)text;
    *free_threaded = strstr(text, "free-threading build") != NULL;
    for (int shift = 24; shift >= 8; shift -= 8) {
        hex |= (uint32_t)strtoul(end, &end, 10) << shift;
        if (*end == '.')
            end++;
    }
    return hex;
}

static void version_of(void *handle, struct fp_target *t)
{
    void *get = dlsym(handle, "Py_GetVersion"), *exact = dlsym(handle, "Py_Version"); /* 3.11 and later */
    const char *(*get_version)(void);
    unsigned long hex;

    memcpy(&get_version, &get, sizeof(get_version));
    t->version = get ? parse_version(get_version(), &t->free_threaded) : 0;
    if (exact != NULL) {
        memcpy(&hex, exact, sizeof(hex));
        t->version = (uint32_t)hex;
    }
}

/* An initialised interpreter has a first interpreter state, whose threads point back at it. */
static enum fp_status look_at_interpreter(struct fp_reader *r, const struct fp_target *t)
{
    struct fp_walk w = {.raw = NULL};
    struct fp_thread thread;

    fp_walk_init(&w, r, t, true);
    fp_addr interp = fp_interp_first(&w), tstate = interp ? fp_thread_first(&w, interp) : 0;
    if (interp == 0 || tstate == 0)
        return FP_NO_INTERPRETER;
    if (fp_thread_read(&w, tstate, &thread) != FP_OK || thread.interp != interp)
        return FP_SELF_CHECK;
    for (fp_addr i = interp; i != 0; i = fp_interp_next(&w, i))
        interp = i; /* the main interpreter is the last one */
    int64_t id = (int64_t)fp_load64(r, interp + (fp_addr)t->layout.interp_id);
    return !fp_reader_faulted(r) && id == 0 ? FP_OK : FP_SELF_CHECK;
}

static enum fp_status find_interpreter(struct fp_target *t)
{
    void *handle = interpreter_handle();
    struct fp_reader r;

    *t = (struct fp_target){
        .runtime = address_of(handle, "_PyRuntime"),
        .code_type = address_of(handle, "PyCode_Type"),
        .str_type = address_of(handle, "PyUnicode_Type"),
        .bytes_type = address_of(handle, "PyBytes_Type"),
    };
    if (t->runtime == 0 || t->code_type == 0 || t->str_type == 0 || t->bytes_type == 0)
        return FP_NO_INTERPRETER;
    version_of(handle, t);
    enum fp_status status = fp_reader_open_fallback(&r);
    if (status != FP_OK)
        return status;
    status = fp_layout_choose(t, &r);
    if (status == FP_OK)
        status = look_at_interpreter(&r, t);
    fp_reader_close(&r);
    return status;
}

/* What was found before is replaced only by what works: a handler may be reading it. */
static int start(void)
{
    struct fp_target found;
    if (fp_api_status() == FP_OK)
        return 0;
    enum fp_status status = find_interpreter(&found);
    if (status != FP_OK && fp_api_target() != NULL)
        return -1;
    linked_target = found;
    fp_api_start(&linked_target, status);
    return status == FP_OK ? 0 : -1;
}

int faultproof_init(void)
{
    int saved = errno;
    pthread_mutex_lock(&init_control);
    int result = start();
    pthread_mutex_unlock(&init_control);
    errno = saved;
    return result;
}
