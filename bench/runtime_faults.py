"""What a fault costs that a runtime resolves (JVM, Go, WebAssembly): alone, with enable() before, and with it after.

Usage: python bench/runtime_faults.py
A small "runtime" in C makes code at run time that reads a bad address; its handler moves the code on.  Needs cc.
"""

from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys
import tempfile

RUNTIME = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

static int (*code)(void);
static void on_fault(int s, siginfo_t *i, void *c)
{
    ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] += 2;
    (void)s, (void)i;
}
void start(void)
{
    static const char bytes[] = "\x48\xc7\xc0\x34\x12\x00\x00\x8b\x00\xb8\x07\x00\x00\x00\xc3";
    struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaction(SIGSEGV, &a, NULL);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, bytes, sizeof(bytes));
    code = (int (*)(void))page;
}
/* nanoseconds a fault */
double measure(int n)
{
    struct timespec a, b;
    int sum = 0;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < n; i++)
        sum += code();
    clock_gettime(CLOCK_MONOTONIC, &b);
    return sum == 7 * n ? ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / n : -1;
}
"""
PROGRAM = """
import ctypes, os, sys
runtime = ctypes.CDLL(sys.argv[1]); runtime.measure.restype = ctypes.c_double
from faultproof import faulthandler
null = os.open(os.devnull, os.O_WRONLY)
if sys.argv[2] == "enable first": faulthandler.enable(null)
runtime.start()
if sys.argv[2] == "enable last": faulthandler.enable(null)
runtime.measure(2)
print(min(runtime.measure(2000) for i in range(10)))
"""


def main() -> None:
    print(sys.version.split()[0])
    with tempfile.TemporaryDirectory() as folder:
        source, library = pathlib.Path(folder, "runtime.c"), pathlib.Path(folder, "runtime.so")
        source.write_text(RUNTIME)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        times: dict[str, list[float]] = {"alone": [], "enable first": [], "enable last": []}
        for _ in range(7):
            for how, of in times.items():
                of.append(float(subprocess.check_output([sys.executable, "-c", PROGRAM, str(library), how])))
    for how, of in times.items():
        print(f"{how:14} {statistics.median(of) / 1e3:8.2f} us a fault")


if __name__ == "__main__":
    main()
