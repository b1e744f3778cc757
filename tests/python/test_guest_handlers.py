"""Signals and handlers of the program: what it sees is what it sees beside the standard module.

Where the standard module is right the same program runs with both, and status and output are compared.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig

import pytest
from helpers import child

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


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("library")
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


# --- Our handler, called by somebody else's


@needs_cc
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("signo", FATAL)
@pytest.mark.parametrize("form", FORMS)
def test_somebody_calls_our_handler(library, form, signo, how):
    """In each form: one report of the right stack, and the status of the standard module."""
    done = compared(
        f"fh.enable()\nlib.take({int(signo)}, {FORMS.index(form)}, 0, 1)\n"
        f"signal.alarm(20)\ndef f(): lib.{how}({int(signo)}); time.sleep(60)\nf()"
        if form != "exits"
        else f"lib.take({int(signo)}, {FORMS.index(form)}, 0, 1)\nfh.enable()\n"
        f"def f(): lib.send({int(signo)}); os._exit(4)\nf()",
        library,
    )
    assert reports(done) == 1 and " in f\n" in done.stderr


@needs_cc
@pytest.mark.parametrize("flags", [0, NODEFER, RESETHAND, ONSTACK, NODEFER | RESETHAND])
@pytest.mark.parametrize("form", ["by number", "null", "copies", "ends"])
def test_somebodys_handler_has_flags(library, form, flags):
    code = f"fh.enable()\nlib.take(11, {FORMS.index(form)}, ctypes.c_int({flags}), 1)\nsignal.alarm(20)\nlib.fault(11)"
    assert reports(compared(code, library)) == 1


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_somebody_calls_our_handler_twice(library, form):
    """The standard module reports twice then; the status is the same."""
    code = f"fh.enable()\nlib.take(11, {FORMS.index(form)}, 0, 2)\nsignal.alarm(20)\nlib.fault(11)"
    standard, ours = run("standard", code, library), run("ours", code, library)
    assert (ours.returncode, ours.stdout) == (standard.returncode, standard.stdout) and reports(ours) == 1, ours


@needs_cc
@pytest.mark.parametrize("where", ["os.kill(os.getpid(), 10)", "lib.call(11)"])
def test_somebody_calls_our_handler_from_elsewhere(library, where):
    """Inside of the handler of another signal, and out of the blue."""
    code = f"fh.enable()\nlib.call_on(10, 11)\ndef f(): {where}; time.sleep(60)\nf()"
    done = compared(code, library)
    assert (done.returncode, reports(done)) == (-11, 1) and " in f\n" in done.stderr, done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
def test_old_c_code_takes_a_signal(library, signo):
    code = f"fh.enable()\nlib.take_by_signal({int(signo)}, 0)\nsignal.alarm(20)\ndef f(): lib.fault({int(signo)})\nf()"
    assert reports(compared(code, library)) == 1


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("guard", GUARDS)
def test_only_the_guard_is_called_by_somebody(library, guard, form, how):
    """No report is wanted; the signal goes to who had it before both."""
    code = f"""
lib.take(11, 8, 0, 1); {GUARDS[guard]}
lib.take(11, {FORMS.index(form)}, 0, 1); signal.alarm(20)
other.{how}(11)
"""
    done = run("ours", code, library)
    told = "lib: 11 at level 7 of mylib\n" * (1 if form == "by number, as it is" else 2)
    assert (done.returncode, done.stdout, done.stderr) == (3, told, ""), done


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_user_signal_whose_handler_somebody_calls(library, form):
    """The one that was there before wants all three arguments, and gets what the kernel would give."""
    code = f"""
lib.take_and_tell(10)
fh.register(10, chain=True)
lib.take(10, {FORMS.index(form)}, {RESTART}, 1)
os.kill(os.getpid(), 10)
print("alive", flush=True)
"""
    done = run("ours", code, library)
    lines = ["lib: 10 at level 7 of mylib"] if form != "by number, as it is" else []
    assert done.returncode == 0 and done.stdout.splitlines() == [*lines, "got 10 from here", "alive"], done
    assert done.stderr.count("Current thread") == 1, done


# --- Who is in front, and circles


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_registering_again_under_a_handler_that_chains(library, form):
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1, null, chain=True)
lib.take({int(signal.SIGUSR1)}, {FORMS.index(form)}, {RESTART}, 1)
before = handler_of(signal.SIGUSR1)
fh.register(signal.SIGUSR1, null, chain=True)
print(handler_of(signal.SIGUSR1) == before)
os.kill(os.getpid(), signal.SIGUSR1); print("alive")
"""
    assert compared(code, library).returncode == 0


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_circle_of_a_user_signal(library, form):
    """We call them, they call us: what was there before both comes next, once."""
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1, chain=True)
lib.take({int(signal.SIGUSR1)}, {FORMS.index(form)}, {RESTART}, 1)
fh.unregister(signal.SIGUSR1); fh.register(signal.SIGUSR1, chain=True)
for i in range(2): os.kill(os.getpid(), signal.SIGUSR1); print("alive", flush=True)
"""
    done = run("ours", code, library)
    assert done.returncode == 0, done
    assert done.stdout.count("python") == done.stdout.count("alive") == done.stderr.count("Current thread") == 2, done


@needs_cc
def test_a_user_signal_after_unregister_goes_on_to_who_had_it(library):
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1)
lib.take({int(signal.SIGUSR1)}, 0, {RESTART}, 1)
print(fh.unregister(signal.SIGUSR1), fh.unregister(signal.SIGUSR1), flush=True)
os.kill(os.getpid(), signal.SIGUSR1); print("alive")
"""
    done = run("ours", code, library)
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout.split("\n")[:-1] == ["True False", "lib: 10 at level 7 of mylib", "python", "alive"], done


@needs_cc
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_circle_of_a_fatal_signal(library, form, how, enabled):
    code = f"""
fh.enable()
lib.take(11, {FORMS.index(form)}, {NODEFER}, 1)
fh.disable(); fh.enable()
{"" if enabled else "fh.dump_traceback(null); fh.disable(); fh.dump_traceback_later(1000, file=null)"}
signal.alarm(20)
lib.{how}(11)
"""
    done = run("ours", code, library)
    assert (done.returncode, reports(done)) == (-11, enabled), done


BOTH = """
import faulthandler as std, itertools
def each(calls, end, check):
    # every order of four calls, each in a child; what goes to descriptor 2 is told from what goes to 9
    for order in itertools.product(calls, repeat=4):
        files = [os.memfd_create("text") for i in range(2)]
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os.dup2(files[0], 2); os.dup2(files[1], 9)
            for call in order: eval(call)
            end()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        text = [os.pread(file, 1 << 20, 0) for file in files]
        for file in files: os.close(file)
        wrong = check(order, status, *(part.count(b"most recent call first):\\n") for part in text))
        if wrong: print(order, wrong, status, text)
"""


def test_both_modules_take_the_fatal_signals_in_every_order():
    """Each has what was there before, the other one's too: no circle, one report of each at most, the right end."""
    code = (
        BOTH
        + """
def check(order, status, ours, theirs):
    rest = order[len(order) - order[::-1].index("fh.enable(2)"):] if "fh.enable(2)" in order else ["fh.disable()"]
    # the standard module's disable() takes ours out
    return status & 127 != 11 or ours > 1 or theirs > 1 or (ours == 0 and not {"fh.disable()", "std.disable()"} & {*rest})
calls = ["fh.enable(2)", "fh.disable()", "std.enable(9)", "std.disable()"]
each(calls, lambda: ctypes.string_at(0), check)
each(calls, lambda: os.kill(os.getpid(), 11), check)
"""
    )
    done = run("ours", code, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_both_modules_take_a_user_signal_in_every_order():
    code = (
        BOTH
        + """
signal.signal(10, lambda *a: calls_seen.append(1))
calls_seen = []
def end():
    for i in range(2): os.kill(os.getpid(), 10)
    os._exit(0 if len(calls_seen) <= 2 else 9)
each(["fh.register(10, 2, chain=True)", "fh.unregister(10)", "std.register(10, 9, chain=True)", "std.unregister(10)"],
     end, lambda order, status, ours, theirs: status or ours > 2 or theirs > 4)
"""
    )
    done = run("ours", code, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
@pytest.mark.parametrize(
    "somebody", ["lib.take({0}, 8, 0, 1)", "signal.signal({0}, lambda *a: None)", "signal.signal({0}, signal.SIG_IGN)"]
)
def test_enable_after_disable_is_in_effect_whoever_has_the_signal(library, somebody, signo):
    code = f"""
fh.enable()
{somebody.format(int(signo))}
fh.disable(); fh.enable()
print(fh.is_enabled(), flush=True); signal.alarm(20)
def f(): other.fault({int(signo)})
f()
"""
    done = run("ours", code, library)
    assert done.stdout.startswith("True\n") and reports(done) == 1 and " in f\n" in done.stderr, done
    # the standard module's disable() takes their handlers away; ours leaves them the end
    assert done.returncode == (3 if "take" in somebody else -signo), done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
def test_a_handler_of_python_does_not_keep_a_fault_going(library, signo):
    """It runs when the interpreter goes on, which it never does; a signal that was sent is its own."""
    code = f"""
signal.signal({int(signo)}, lambda *a: print("python", flush=True))
fh.enable(); signal.alarm(20)
print(handler_of({int(signo)}) != bytes(8), flush=True)
lib.{{}}({int(signo)})
print("alive", flush=True)
"""
    sent = run("ours", code.format("send"), library)
    assert (sent.returncode, sent.stdout, reports(sent)) == (0, "True\npython\nalive\n", 1), sent
    done = run("ours", code.format("fault"), library)
    assert (done.returncode, done.stdout, reports(done)) == (-signo, "True\n", 1), done


@needs_cc
def test_a_handler_that_leaves_by_a_jump(library):
    """It resolves each fault its own way; later reports are right."""
    code = f"""
lib.take_and_jump(11, {NODEFER}); fh.dump_traceback(null)
print([lib.survives(11) for i in range(200)] == [1] * 200, flush=True)
fh.enable(); lib.take_by_signal(6, 0)
def f(): lib.fault(6)
f()
"""
    done = run("ours", code, library)
    assert (done.returncode, done.stdout) == (-6, "True\nlib: 6 at level 7 of mylib\n"), done
    assert reports(done) == 1 and " in f\n" in done.stderr


@needs_cc
def test_a_handler_for_one_call_is_called_once(library):
    """SA_RESETHAND, under register(chain=True): then the default action comes next (man 2 sigaction)."""
    code = """
lib.take_once(10)
fh.register(10, chain=True)
os.kill(os.getpid(), 10); print("alive", flush=True)
os.kill(os.getpid(), 10); print("not reached", flush=True)
"""
    done = run("ours", code, library)
    assert (done.returncode, done.stdout) == (-10, "once\nalive\n"), done
    assert done.stderr.count("Current thread") == 2


@needs_cc
def test_a_handler_for_one_call_is_not_given_back_after_it(library):
    code = """
lib.take_once(10)
fh.register(10, null, chain=True)
os.kill(os.getpid(), 10); fh.unregister(10)
print(handler_of(10) == bytes(8), flush=True)
"""
    assert run("ours", code, library).stdout == "once\nTrue\n"


@needs_cc
def test_masks_errno_and_dispositions_afterwards(library):
    """A library handles signals after enable() and chains: the program's own state is what the standard module leaves."""
    code = f"""
fh.enable(null); fh.register(signal.SIGUSR1, null, chain=True); fh.register(signal.SIGUSR2, null)
lib.take({int(signal.SIGUSR2)}, 5, {RESTART}, 1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def status(): return [l for l in open("/proc/self/status") if l[:3] in ("Shd", "Sig") and not l.startswith(("SigQ", "SigCgt"))]
before = status()
signal.signal(signal.SIGCHLD, lambda *a: print("child", flush=True)); fh.register(signal.SIGCHLD, null, chain=True)
for s in (signal.SIGCHLD, signal.SIGUSR2):
    print(lib.errno_after(int(s)), file=sys.stderr)  # the standard module's register() changes it
print(status() == before, signal.pthread_sigmask(signal.SIG_BLOCK, []))
fh.cancel_dump_traceback_later(); fh.unregister(signal.SIGCHLD); fh.disable()
print([handler_of(s) == bytes(8) for s in (8, 4, 6)])
"""
    done = compared(code, library)
    assert (done.returncode, done.stderr) == (0, "77\n77\n"), done


@needs_cc
def test_no_signal_is_lost_between_register_and_unregister(library):
    """One that is on its way to our handler when that is taken out goes to who had it before."""
    code = """
signo = signal.SIGRTMIN + 3
lib.take_and_count(signo)
sender = threading.Thread(target=lambda: ctypes.CDLL(sys.argv[2]).send_many(signo, 100000))
sender.start()
while sender.is_alive():
    fh.register(signo, null, all_threads=False, max_frames=1, chain=True); fh.unregister(signo)
while lib.has_arrived() < 100000: pass
print("all", flush=True)
"""
    assert run("ours", code, library, timeout=120).stdout == "all\n"


# --- Faults of our own

ALIGNMENT = r"""
import mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b"\x9c\x81\x0c\x24\x00\x00\x04\x00\x9d%s")  # pushf; or [rsp], EFLAGS.AC; popf; ...
run_it = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
"""
CRASHES = {
    "an unaligned read": (b"\\x8b\\x44\\x24\\x01", signal.SIGBUS),
    "a bad address": (b"\\x31\\xc0\\x8b\\x00", signal.SIGSEGV),
    "an instruction that is none": (b"\\x0f\\x0b", signal.SIGILL),
}


@needs_cc
@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("state", ["fh.enable(2)", *GUARDS.values()])
def test_a_crash_while_unaligned_accesses_fault(library, crash, state):
    instruction, signo = CRASHES[crash]
    code = ALIGNMENT.replace("%s", instruction.decode()) + f"{state}\ndef f(): run_it()\nf()"
    done = run("ours", code, library)
    enabled = "enable" in state
    assert (done.returncode, reports(done)) == (-signo, enabled) and (" in f\n" in done.stderr) == enabled, done


def test_a_user_signal_while_unaligned_accesses_fault():
    """kill(getpid(), SIGUSR1), with the flag set and cleared again around the call."""
    code = (
        ALIGNMENT.replace(
            "%s",
            r"\xb8\x27\x00\x00\x00\x0f\x05\x89\xc7\xbe\x0a\x00\x00\x00\xb8\x3e\x00\x00\x00\x0f\x05"
            r"\x9c\x81\x24\x24\xff\xff\xfb\xff\x9d\xc3",
        )
        + "fh.register(signal.SIGUSR1)\ndef f(): run_it()\nf(); print('alive')"
    )
    done = run("ours", code)
    assert (done.returncode, done.stdout) == (0, "alive\n") and " in f\n" in done.stderr, done


@needs_cc
def test_a_crash_that_our_handler_cannot_live_through(library):
    """Where it can't even read errno it ends the process by the signal that came, not by its own fault."""
    assert run("ours", "fh.enable(2)\nlib.lose_thread_and_fault()", library).returncode == -signal.SIGILL


# --- The watchdog's thread


@pytest.mark.parametrize("signo", FATAL)
@pytest.mark.parametrize("armed", ["", "fh.cancel_dump_traceback_later()"])
def test_a_signal_that_the_program_blocks_and_waits_for(signo, armed):
    code = f"""
signal.pthread_sigmask(signal.SIG_BLOCK, {{{int(signo)}}})
fh.dump_traceback_later(1000, file=null); {armed}
for i in range(20):
    os.kill(os.getpid(), {int(signo)})
    info = signal.sigtimedwait({{{int(signo)}}}, 20)
    print(info.si_signo, info.si_code, info.si_pid == os.getpid())
"""
    assert compared(code).returncode == 0


@pytest.mark.parametrize("signo", FATAL)
def test_a_signal_that_comes_while_the_watchdog_dumps(signo):
    """It takes none, not even one of those that its own reading needs: in 3,000 some come to it."""
    code = f"""
signal.pthread_sigmask(signal.SIG_BLOCK, {{{int(signo)}}})
lock = threading.Lock(); lock.acquire()
def deep(n): deep(n - 1) if n else lock.acquire()
for i in range(30): threading.Thread(target=deep, args=(60,), daemon=True).start()
fh.dump_traceback_later(1e-6, repeat=True, file=null)
for i in range(3000):
    os.kill(os.getpid(), {int(signo)})
    info = signal.sigtimedwait({{{int(signo)}}}, 20)
    assert info is not None and (info.si_signo, info.si_code, info.si_pid) == ({int(signo)}, 0, os.getpid()), (i, info)
print("got all", flush=True)
os._exit(0)
"""
    done = run("ours", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "got all\n", ""), done


THREADS = """
def threads(): return len(os.listdir("/proc/self/task"))
def wait_for(n):
    while threads() != n: time.sleep(0.001)
"""


def test_the_watchdogs_thread_goes():
    """With cancel(), or soon after where it was wanted again at once; after its last dump.  It comes again when it is needed.

    The child's time limit ends the waiting."""
    code = (
        THREADS
        + """
before = threads()
fh.dump_traceback_later(1000, file=null); assert threads() == before + 1
fh.cancel_dump_traceback_later(); assert threads() == before
r, w = os.pipe()
fh.dump_traceback_later(1e-6, file=w); os.read(r, 1); wait_for(before)
for i in range(200): fh.dump_traceback_later(1000, file=null); fh.cancel_dump_traceback_later()
wait_for(before)
print("gone")
"""
    )
    done = run("ours", code)
    assert done.stdout == "gone\n", done


def test_fork_at_once_after_cancel_finds_one_thread():
    """From 3.12 on fork() warns of others."""
    code = (
        THREADS
        + """
import warnings
warnings.simplefilter("error")
for i in range(20):
    fh.dump_traceback_later(1000, file=null); fh.cancel_dump_traceback_later()
    pid = os.fork()
    if pid == 0: os._exit(threads())
    print(threads(), os.waitpid(pid, 0)[1] >> 8)
"""
    )
    assert run("ours", code).stdout == "1 1\n" * 20


def test_our_own_thread_is_not_taken_for_the_standard_modules():
    """install() warns of a dump_traceback_later() that is pending there."""
    code = """
import faulthandler, faultproof, warnings
warnings.simplefilter("error")
for i in range(50):
    fh.dump_traceback_later(1000, file=null); faultproof.install(); faultproof.uninstall(); fh.cancel_dump_traceback_later()
print("quiet")
"""
    done = run("ours", code)
    assert done.stdout == "quiet\n", done


# --- Faults that a runtime resolves

RUNTIME = """
import mmap
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\x48\\xc7\\xc0\\x34\\x12\\x00\\x00\\x8b\\x00\\xb8\\x07\\x00\\x00\\x00\\xc3")  # mov $0x1234, %rax; mov (%rax), %eax; mov $7, %eax; ret
jit = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def handler(signo, info, context): ctypes.c_uint64.from_address(context + 40 + 16 * 8).value += 2
libc.sigaction(11, ctypes.byref(Action(ctypes.cast(handler, ctypes.c_void_p), flags=4)), None)
fh.enable(2)
assert jit() == 7
"""


def test_what_was_learnt_of_a_runtime_is_remembered():
    """The memory map is read at the first fault, not at each: it can't be opened after that."""
    from test_coexistence import OPENAT
    from test_coexistence import PRELUDE as FILTERS

    forbid = FILTERS[FILTERS.index("def forbid") : FILTERS.index("def dumped")]
    code = RUNTIME + forbid + f"forbid({OPENAT})\nassert [jit() for i in range(20)] == [7] * 20\nos._exit(5)"
    done = run("ours", code)
    assert (done.returncode, done.stderr) == (5, ""), done


# --- The end of the interpreter

EMBEDDER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "faultproof.h"

static int same(int s, const struct sigaction *before)
{
    struct sigaction now;
    sigaction(s, NULL, &now);
    return now.sa_handler == before->sa_handler;
}

/* embedder LIBRARY CODE ROUNDS crash|end: runs the code in one interpreter after the other */
int main(int argc, char **argv)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, SIGUSR1};
    struct sigaction before[6];
    void *python = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
    void (*initialize)(int), (*finalize)(void);
    int (*run)(const char *, void *);
    if (python == NULL) return puts(dlerror()), 4;
    *(void **)&initialize = dlsym(python, "Py_InitializeEx");
    *(void **)&finalize = dlsym(python, "Py_Finalize");
    *(void **)&run = dlsym(python, "PyRun_SimpleStringFlags");
    for (int i = 0; i < 6; i++) sigaction(signals[i], NULL, &before[i]);
    int started = faultproof_init();
    printf("%d %s\n", started, faultproof_status());
    for (int n = 0; n < atoi(argv[3]); n++) {
        initialize(0);
        if (run(argv[2], NULL) != 0) return 5;
        started = faultproof_init();
        printf("%d %s\n", started, faultproof_status());
        for (int i = 0; i < 6; i++) if (same(signals[i], &before[i])) printf("%d isn't handled\n", signals[i]);
        finalize();
        for (int i = 0; i < 6; i++) if (!same(signals[i], &before[i])) printf("%d is handled still\n", signals[i]);
        printf("%s, %d\n", faultproof_status(), faultproof_can_collect());
    }
    fflush(stdout);
    if (strcmp(argv[4], "crash") == 0) *(volatile int *)16 = 0;
    return 0;
}
"""
EMBEDDED = """
import os, signal, site, sys
for folder in {paths!r}: site.addsitedir(folder)
from faultproof import faulthandler as fh
fh.enable(2); fh.register(signal.SIGUSR1, 2); fh.dump_traceback_later(1000, file=2)
assert fh.is_enabled() and len(os.listdir("/proc/self/task")) == 2
"""


@needs_cc
@pytest.mark.parametrize("end", ["crash", "end"])
def test_the_end_of_an_embedded_interpreter(tmp_path, end):
    """What was enabled there is given back, so that the host's own crash is its own; and it can start another one."""
    library = pathlib.Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
    if not library.is_file() or ".so" not in library.name:
        pytest.skip("needs an interpreter with a shared library")
    subprocess.run([sys.executable, str(AMALGAMATE), str(tmp_path)], check=True)
    (tmp_path / "embedder.c").write_text(EMBEDDER)
    files = ["embedder.c", "faultproof.c", "-ldl", "-lpthread", "-o", "embedder"]
    subprocess.run([CC, "-std=gnu11", "-O1", "-w", *files], check=True, cwd=tmp_path)
    code = EMBEDDED.format(paths=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [tmp_path / "embedder", library, code, "2", end],
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 4:
        pytest.skip(f"this shared library can't be loaded here: {done.stdout.strip()}")
    none = "there is no Python interpreter in this process"
    assert done.stdout.splitlines() == [f"-1 {none}", *(["0 ok", f"{none}, 0"] * 2)], done
    assert (done.returncode, done.stderr) == (-11 if end == "crash" else 0, ""), done


# --- Small things of reports


def test_the_time_is_up_once():
    """In the middle of a stack, with another thread to follow."""
    code = """
import faultproof.faulthandler as fh, sys, ctypes, threading
sys.setrecursionlimit(300000)
def f(n): return f(n - 1) if n else ctypes.string_at(0)
threading.stack_size(1 << 30)
fh.enable(2, budget=0.002, max_frames=1000000)
t = threading.Thread(target=f, args=(100000,)); t.start(); t.join()
"""
    done = child(code)
    assert done.returncode == -11 and done.stderr.count("<time budget used up>") == 1, done.stderr[-2000:]


def test_a_file_and_a_name_of_over_30_kb():
    """Both are one string: the row doesn't fit into the buffer in one piece."""
    code = """
import faultproof.faulthandler as fh, sys
name = sys.intern("n" * 40000)
def f(): fh.dump_traceback(sys.stdout, max_chars=50000, all_threads=False)
f.__code__ = f.__code__.replace(co_name=name, co_filename=name)
f()
"""
    done = child(code)
    assert re.search('^  File "n{40000}", line 5 in n{40000}$', done.stdout, re.M), done.stdout[:200] + done.stderr


@needs_cc
@pytest.mark.parametrize("compiler", ["cc -std=c99 -x c", "c++ -std=c++11 -x c++"])
def test_the_header_before_and_again_after_python_h(tmp_path, compiler):
    """As with a header of somebody's that includes it, before Python.h comes."""
    import faultproof

    command, *options = compiler.split()
    if shutil.which(command) is None:
        pytest.skip(f"no {command} here")
    source = tmp_path / "x"
    source.write_text(
        '#include "faultproof.h"\n#include "faultproof.h"\n#include <Python.h>\n#include "faultproof.h"\n'
        '#include "faultproof.h"\nint go(void) { return faultproof_import(); }\n'
    )
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude"), faultproof.get_include()}
    command = [command, *options, "-fsyntax-only", *(f"-I{folder}" for folder in folders), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
