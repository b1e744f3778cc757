/* A program that loads the interpreter with dlopen(RTLD_LOCAL), so that its names are not global: argv[1] is libpython.
 * on_signal runs as a signal handler, all else in normal context. */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "faultproof.h"

static faultproof_frame_info frames[8];
static volatile int n_frames;

static void on_signal(int signo)
{
    (void)signo;
    n_frames = faultproof_collect_call_stack(faultproof_current_tstate(), frames, 8);
}

int main(int argc, char **argv)
{
    void (*initialize)(int);
    int (*run)(const char *);
    void *python = dlopen(argv[argc - 1], RTLD_NOW | RTLD_LOCAL), *symbol;

    if (python == NULL) {
        printf("%s\n", dlerror());
        return 4;
    }
    if (faultproof_init() != -1) /* there is no interpreter before Py_Initialize */
        return 2;
    symbol = dlsym(python, "Py_InitializeEx");
    memcpy(&initialize, &symbol, sizeof(symbol));
    symbol = dlsym(python, "PyRun_SimpleString");
    memcpy(&run, &symbol, sizeof(symbol));
    initialize(0);
    if (faultproof_init() != 0) {
        printf("%s\n", faultproof_status());
        return 3;
    }
    signal(SIGUSR1, on_signal);
    run("import os\ndef inner(): os.kill(os.getpid(), 10)\ninner()");
    faultproof_print_call_stack(1, frames, n_frames, 0);
    return 0;
}
