"""The watchdog's thread, faults of runtimes, the end of the interpreter: what is left of us, and when it is gone."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from guest_support import AMALGAMATE, CC, FATAL, compared, needs_cc, run
from helpers import child

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


def test_the_time_is_up_once(tmp_path):
    """In the middle of a stack, with another thread to follow."""
    code = f"""
import faultproof.faulthandler as fh, sys, ctypes, threading
sys.setrecursionlimit(300000)
def f(n): return f(n - 1) if n else ctypes.string_at(0)
threading.stack_size(1 << 30)
file = open({str(tmp_path / "log")!r}, "w")
fh.enable(file, budget=0.002, max_frames=1000000)
t = threading.Thread(target=f, args=(100000,)); t.start(); t.join()
"""
    done = child(code)
    text = (tmp_path / "log").read_text()
    assert done.returncode == -11 and text.count("<time budget used up>") == 1, (done, text[-2000:])


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
