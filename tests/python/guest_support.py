"""What the tests of a guest's manners share: programs that run with either module, and somebody else's C library."""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

CC = shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="needs a C compiler for somebody else's handlers")

LIBRARY = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static struct sigaction old[65];
static int times = 1;
typedef void plain(int);
typedef void full(int, siginfo_t *, void *);

static void say(const char *text) { write(1, text, strlen(text)); }

/* Fills the registers with whatever this leaves there. */
static void work(int s)
{
    char b[100];
    write(1, b, snprintf(b, sizeof b, "lib: %d at level %d of %s\n", s, 7, "mylib"));
}

#define ROUNDS for (int n = 0; n < times; n++)
static void by_number(int s) { work(s); ROUNDS ((plain *)old[s].sa_handler)(s); }
static void by_number_as_it_is(int s) { ROUNDS ((plain *)old[s].sa_handler)(s); }
static void with_null(int s, siginfo_t *i, void *c) { work(s); ROUNDS ((full *)old[s].sa_sigaction)(s, i, NULL); (void)c; }
static void with_nulls(int s, siginfo_t *i, void *c) { work(s); ROUNDS ((full *)old[s].sa_sigaction)(s, NULL, NULL); (void)i, (void)c; }
static void with_junk(int s, siginfo_t *i, void *c) { work(s); ROUNDS ((full *)old[s].sa_sigaction)(s, (void *)8, (void *)"junk"); (void)i, (void)c; }
static void with_all(int s, siginfo_t *i, void *c) { work(s); ROUNDS ((full *)old[s].sa_sigaction)(s, i, c); }
static void with_copies(int s, siginfo_t *i, void *c)
{
    siginfo_t info = *i;
    char context[936] __attribute__((aligned(16)));
    memcpy(context, c, 304);
    work(s);
    ROUNDS ((full *)old[s].sa_sigaction)(s, &info, context);
}
static void ends(int s) { work(s); ((plain *)old[s].sa_handler)(s); _exit(3); }
static void exits(int s) { work(s); _exit(3); }

static void *const forms[] = {by_number, by_number_as_it_is, with_null, with_nulls, with_junk, with_all, with_copies,
                              ends, exits};
/* Puts one of these over what is there. */
void take(int s, int form, int flags, int rounds)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = (plain *)forms[form];
    a.sa_flags = flags | (form >= 2 && form <= 6 ? SA_SIGINFO : 0);
    times = rounds;
    sigaction(s, &a, &old[s]);
}
void take_by_signal(int s, int form) { times = 1; old[s].sa_handler = signal(s, (plain *)forms[form]); }

void fault(int s)
{
    char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, fileno(tmpfile()), 0);
    if (s == SIGABRT) abort();
    if (s == SIGSEGV) *(volatile int *)16 = 0;
    if (s == SIGILL) __asm__ volatile("ud2");
    if (s == SIGFPE) __asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx" ::: "eax", "ecx", "edx");
    if (s == SIGBUS) {
        FILE *empty = tmpfile();
        page = mmap(0, 4096, PROT_READ, MAP_SHARED, fileno(empty), 0);
        (void)*(volatile char *)page;
    }
}
void send(int s) { kill(getpid(), s); }

/* Calls the handler of one signal in that of another. */
static int called;
void call(int s) { sigaction(s, NULL, &old[s]); ((plain *)old[s].sa_handler)(s); }
static void calls(int s) { call(called); (void)s; }
void call_on(int s, int other) { called = other; signal(s, calls); }

static sigjmp_buf back;
static void jumps(int s) { siglongjmp(back, s); }
void take_and_jump(int s, int flags)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = jumps;
    a.sa_flags = flags;
    sigaction(s, &a, &old[s]);
}
/* Whether a fault is survived by way of jumps(). */
int survives(int s)
{
    if (sigsetjmp(back, 1) == 0) fault(s);
    return 1;
}
/* The thread's pointer to its own memory is lost: errno and pthread_self() fault. */
void lose_thread_and_fault(void)
{
    syscall(SYS_arch_prctl, 0x1002, 0L);
    __asm__ volatile("ud2");
}
/* A handler that wants all three. */
static void tells(int s, siginfo_t *i, void *c)
{
    char b[100];
    ucontext_t *uc = c;
    write(1, b, snprintf(b, sizeof b, "got %d from %s\n", i->si_signo, i->si_pid == getpid() && uc->uc_mcontext.gregs[REG_RSP] ? "here" : "?"));
    (void)s;
}
void take_and_tell(int s) { struct sigaction a; memset(&a, 0, sizeof a); a.sa_sigaction = tells; a.sa_flags = SA_SIGINFO | SA_RESTART; sigaction(s, &a, &old[s]); }
int errno_after(int s) { errno = 77; kill(getpid(), s); return errno; }
/* Real-time signals, of which none is one with another: how many arrive while something else goes on. */
static volatile int arrived;
static void counts(int s) { __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST); (void)s; }
void take_and_count(int s) { struct sigaction a; memset(&a, 0, sizeof a); a.sa_handler = counts; a.sa_flags = SA_RESTART; sigaction(s, &a, &old[s]); }
void send_many(int s, int n) { for (int i = 0; i < n; i++) while (kill(getpid(), s) != 0) usleep(100); }
int has_arrived(void) { return arrived; }
/* A handler for one call, which tells. */
static void once(int s) { say("once\n"); (void)s; }
void take_once(int s) { struct sigaction a; memset(&a, 0, sizeof a); a.sa_handler = once; a.sa_flags = SA_RESETHAND; sigaction(s, &a, &old[s]); }
"""
FORMS = ["by number", "by number, as it is", "null context", "null", "junk", "all", "copies", "ends", "exits"]
NODEFER, ONSTACK, RESETHAND, RESTART = 0x40000000, 0x08000000, 0x80000000, 0x10000000
FATAL = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL]

PRELUDE = """
import ctypes, os, resource, signal, sys, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.argv[1] == "standard": import faulthandler as fh
else: import faultproof.faulthandler as fh
if len(sys.argv) > 2:
    lib = ctypes.PyDLL(sys.argv[2])
    other = ctypes.PyDLL(sys.argv[2].replace("lib.so", "other.so"))  # faults there aren't those of the handlers' own object
libc = ctypes.CDLL(None, use_errno=True)
null = os.open(os.devnull, os.O_WRONLY)
def handler_of(signo):
    now = ctypes.create_string_buffer(256)
    libc.sigaction(int(signo), None, now)
    return now.raw[:8]
"""


AMALGAMATE = pathlib.Path(__file__).parents[2] / "tools/amalgamate.py"
COMPILED_IN = """
#include "faultproof.h"
int guard(void) { return faultproof_init() == 0 && faultproof_install_guard() == 0 && faultproof_can_guard(); }
"""
# Whose guard is on, with nothing enabled.
GUARDS = {
    "the package": "fh.dump_traceback(null)",
    "compiled in": "assert ctypes.CDLL(sys.argv[2].replace('lib.so', 'copy.so')).guard() == 1",
}


def build(folder: pathlib.Path) -> str:
    """Compiles LIBRARY and a copy of the C API; the path of the library for the programs."""
    (folder / "lib.c").write_text(LIBRARY)
    (folder / "copy.c").write_text(COMPILED_IN)
    subprocess.run([sys.executable, str(AMALGAMATE), str(folder)], check=True)
    shared = [CC, "-std=gnu11", "-O1", "-w", "-shared", "-fPIC", "-pthread", "-o"]
    subprocess.run([*shared, "lib.so", "lib.c"], check=True, cwd=folder)
    subprocess.run([*shared, "copy.so", "copy.c", "faultproof.c", "-ldl"], check=True, cwd=folder)
    shutil.copy(folder / "lib.so", folder / "other.so")
    return str(folder / "lib.so")


def run(module: str, code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A program that hangs fails by the time limit."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, module, *arguments],
        capture_output=True,
        encoding="ascii",
        errors="backslashreplace",
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def reports(done: subprocess.CompletedProcess[str]) -> int:
    return done.stderr.count("Fatal Python error: ")


def compared(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ours, after status and standard output were found to be the standard module's."""
    standard, ours = run("standard", code, *arguments), run("ours", code, *arguments)
    assert (ours.returncode, ours.stdout) == (standard.returncode, standard.stdout), (standard, ours)
    assert min(reports(standard), 1) == reports(ours), (standard, ours)
    return ours
