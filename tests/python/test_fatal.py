"""Real crashes in child processes: what is printed, and how the process ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import child

NAMES = {
    signal.SIGSEGV: "Segmentation fault",
    signal.SIGABRT: "Aborted",
    signal.SIGBUS: "Bus error",
    signal.SIGILL: "Illegal instruction",
    signal.SIGFPE: "Floating-point exception" if sys.version_info >= (3, 13) else "Floating point exception",
}
HEADER = r"(?:Current thread|Thread) 0x[0-9a-f]{16}(?: \[.*\])? \(most recent call first\):"


def report(code: str, expected: int = signal.SIGSEGV, **kwargs) -> str:
    result = child("import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading\n" + code, **kwargs)
    assert result.returncode == -expected, (result.returncode, result.stdout, result.stderr)
    return result.stderr


@pytest.mark.parametrize("signo", NAMES)
def test_each_signal_sent(signo):
    text = report(f"fh.enable()\ndef f():\n  signal.raise_signal({int(signo)})\nf()", signo)
    assert text.startswith(f"Fatal Python error: {NAMES[signo]}\n\nCurrent thread 0x")
    assert re.search(HEADER + '\n  File "<string>", line 5 in f\n  File "<string>", line 6 in <module>\n', text), text


@pytest.mark.parametrize(
    ("crash", "signo"),
    [
        ("ctypes.string_at(0)", signal.SIGSEGV),
        ("ctypes.string_at(1 << 62)", signal.SIGSEGV),  # not canonical: no fault address
        ("fh._read_null()", signal.SIGSEGV),
        ("fh._sigfpe()", signal.SIGFPE),
        ("fh._sigabrt()", signal.SIGABRT),
        ("ctypes.CFUNCTYPE(None)(8)()", signal.SIGSEGV),  # a jump to nowhere
    ],
)
def test_real_faults(crash, signo):
    text = report(f"fh.enable()\ndef f():\n  {crash}\nf()", signo)
    assert text.startswith(f"Fatal Python error: {NAMES[signo]}\n\nCurrent thread 0x")
    assert "line 5 in f\n" in text and "line 6 in <module>\n" in text


def test_illegal_instruction_and_bus_error():
    text = report(
        """
import mmap
fh.enable()
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\x0f\\x0b")
def f():
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
f()""",
        signal.SIGILL,
    )
    assert "Illegal instruction" in text and "in f\n" in text
    text = report(
        """
import mmap, tempfile
fh.enable()
file = tempfile.TemporaryFile(); file.truncate(8192)
page = mmap.mmap(file.fileno(), 8192)
file.truncate(0)
def f():
    page[5000]
f()""",
        signal.SIGBUS,
    )
    assert "Bus error" in text and "in f\n" in text


def test_not_enabled_and_disabled_print_nothing():
    assert report("ctypes.string_at(0)") == ""
    assert (
        report("fh.enable(); assert fh.is_enabled(); assert fh.disable(); assert not fh.disable(); ctypes.string_at(0)")
        == ""
    )


def test_only_the_guard():
    """A dump needs the guard's handler; a real fault afterwards behaves as if we weren't there."""
    code = "fh.dump_traceback(os.open(os.devnull, 1)); assert not fh.is_enabled()\n"
    assert report(code + "ctypes.string_at(0)") == ""
    assert report(code + "os.kill(os.getpid(), signal.SIGSEGV)") == ""
    assert report(code + "signal.raise_signal(signal.SIGBUS)", signal.SIGBUS) == ""


SIGACTION = """
libc = ctypes.CDLL(None)
def action(signo):
    now = ctypes.create_string_buffer(256)
    libc.sigaction(signo, None, now)
    return now.raw[:8]
"""


def test_disable_gives_the_signals_back():
    report(
        SIGACTION
        + """
before = {n: action(n) for n in (11, 8, 6, 7, 4)}
fh.enable(); assert all(action(n) != before[n] for n in before)
fh.disable(); assert {n: action(n) for n in before} == before
fh.dump_traceback(os.open(os.devnull, 1))
assert action(11) != before[11] and action(8) == before[8]
fh.enable(); fh.disable()
assert action(11) != before[11] and action(8) == before[8]  # the guard stays
fh.enable(); fh.enable(); fh.disable()
os.kill(os.getpid(), 9)""",
        signal.SIGKILL,
    )


def test_import_installs_nothing():
    report(
        SIGACTION.replace("libc =", "import faultproof; libc =")
        + "assert all(action(n) == bytes(8) for n in (11, 7, 6, 8, 4)); os.kill(os.getpid(), 9)",
        signal.SIGKILL,
    )


def test_a_handler_that_was_there_before_gets_the_signal():
    text = report(
        """
import time
def before(signo, frame):
    os.write(2, b"previous handler\\n"); os._exit(7)
signal.signal(signal.SIGABRT, before)
fh.enable()
def f():
    signal.raise_signal(signal.SIGABRT)
    for i in range(10 ** 9): pass
try: f()
except SystemExit: pass
""",
        -7,
    )
    assert text.startswith("Fatal Python error: Aborted\n") and text.endswith("previous handler\n")


# A handler in C for sigaction(), written in Python: it gets (signo, info, context).
HANDLER = """
import mmap
libc = ctypes.CDLL(None)
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
def handle(signo, function):
    handle.kept = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(function)
    action = Action(ctypes.cast(handle.kept, ctypes.c_void_p), flags=4)
    libc.sigaction(signo, ctypes.byref(action), None)
def address_of(info): return ctypes.c_uint64.from_address(info + 16).value
def pc_of(context): return ctypes.c_uint64.from_address(context + 40 + 16 * 8)
"""


def test_the_fault_is_handed_back_as_it_was():
    """A handler installed before us sees the original address and instruction, as a core dump would."""
    text = report(
        HANDLER
        + """
def handler(signo, info, context):
    pc = pc_of(context).value
    lines = [line for line in open("/proc/self/maps") if "libc" in line and " r-xp " in line]
    inside = any(int(a, 16) <= pc < int(b, 16) for a, b in (line.split()[0].split("-") for line in lines))
    os.write(2, b"%d %#x %d\\n" % (signo, address_of(info), inside)); os._exit(9)
handle(11, handler)
fh.enable()
libc.strlen.restype = ctypes.c_size_t
libc.strlen(ctypes.c_void_p(0x1234))
""",
        -9,
    )
    assert text.startswith("Fatal Python error: Segmentation fault\n") and text.endswith("\n11 0x1234 1\n"), text


JIT_CODE = """
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\x48\\xc7\\xc0\\x34\\x12\\x00\\x00\\x8b\\x00\\xb8\\x07\\x00\\x00\\x00\\xc3")  # mov $0x1234, %rax; mov (%rax), %eax; mov $7, %eax; ret
jit = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
"""


def test_faults_that_a_runtime_resolves_are_its_own():
    """As the JVM does: its handler, there before us, moves the code on; no report, however often."""
    code = (
        HANDLER
        + JIT_CODE
        + """
def handler(signo, info, context):
    pc_of(context).value += 2
handle(11, handler)
fh.enable()
for i in range(50): assert jit() == 7
os._exit(5)
"""
    )
    assert report(code, -5) == ""


def test_a_fault_in_such_code_that_the_runtime_does_not_resolve_is_reported():
    code = (
        HANDLER
        + JIT_CODE
        + """
calls = []
def handler(signo, info, context):
    calls.append(1)
    if len(calls) == 3: os._exit(8)
handle(11, handler)
fh.enable()
def f(): jit()
f()
"""
    )
    text = report(code, -8)
    assert text.count("Fatal Python error: Segmentation fault\n") == 1 and "in f\n" in text


def test_errno_and_options():
    text = report("fh.enable(all_threads=False, max_chars=2)\ndef function(): ctypes.string_at(0)\nfunction()")
    assert "\n\nStack (most recent call first):\n" in text
    assert "in fu...\n" in text and '  File "<s...", line' in text
    text = report("fh.enable(os.open(os.devnull, 1)); fh.enable(2); fh._sigsegv()")
    assert text.startswith("Fatal Python error")


def test_positional_c_stack_and_keywords_of_every_version():
    report(
        "fh.enable(2, True, False); fh.enable(file=2, all_threads=True, c_stack=False, max_threads=3); fh._sigsegv()"
    )
    result = child("import faultproof.faulthandler as fh; fh.enable(altstacks='some')")
    assert "altstacks must be 'python', 'all' or 'none', not 'some'" in result.stderr


def test_the_oldest_of_300_threads_is_shown():
    text = report(
        """
import _thread
fh.enable()
go = threading.Event()
def oldest():
    go.wait()
    ctypes.string_at(0)
threading.Thread(target=oldest).start()
stop = _thread.allocate_lock(); stop.acquire()
count = threading.Semaphore(0)
def wait():
    count.release(); stop.acquire()
for i in range(299): _thread.start_new_thread(wait, ())
for i in range(299): count.acquire()
go.set()
threading.Event().wait()
"""
    )
    current = re.search(
        "Current " + HEADER[len("(?:Current thread|Thread)") :].join(["thread", ""]) + r"\n((?:  File .*\n)+)", text
    )
    assert current and " in oldest\n" in current[1], text[:2000]
    assert text.count("Thread 0x") == 100 and "\n...\n" in text


def test_garbage_collecting():
    text = report(
        """
import gc
fh.enable()
class Cycle:
    def __del__(self): fh._sigsegv()
a = Cycle(); a.a = a; del a
gc.collect()"""
    )
    assert re.search(HEADER + '\n  Garbage-collecting\n  File "<string>", line 7 in __del__\n', text)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the line came with 3.10")
def test_extension_modules():
    code = "import math, _struct\n%s\nfh.enable()\nfh._sigsegv()"
    assert "Extension modules" not in report(code % "")
    text = report(code % "sys.stdlib_module_names = frozenset({'math'})")
    line = re.search(r"\n\nExtension modules: (.*) \(total: (\d+)\)\n", text)
    names = line[1].split(", ")
    assert "math" not in names and "_struct" in names and len(names) == int(line[2])
    assert "faultproof.faulthandler" not in names


CRASH_TOGETHER = """
import time
fh.enable()
ready = threading.Barrier({n})
def crash(i):
    ready.wait()
    fh._sigsegv(True)
threads = [threading.Thread(target=crash, args=(i,)) for i in range({n})]
for t in threads: t.start()
time.sleep(60)
"""


def test_several_threads_crash_at_once():
    for _ in range(20):
        text = report(CRASH_TOGETHER.format(n=4))
        assert text.count("Fatal Python error") == 1, text
        blocks = text.split("\n\n")
        assert blocks[0] == "Fatal Python error: Segmentation fault"
        assert sum(block.count(" in _bootstrap\n") + block.endswith(" in _bootstrap") for block in blocks) == 4, text
        assert text.count("Current thread 0x") == 1
        also = re.findall(r"^Thread 0x[0-9a-f]{16} crashed too: Segmentation fault$", text, re.M)
        assert len(also) <= 3 and text.endswith("\n")


def test_the_report_while_another_library_has_the_handler_or_blocks_the_signal():
    """Without the guard a faulting read would kill: another reader is picked, and the report is the same."""
    prelude = "fh.enable()\nobject = ctypes.c_void_p\ndef f():\n  signal.raise_signal(signal.SIGABRT)\n"
    for remedy in (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])",
        "signal.signal(signal.SIGSEGV, signal.SIG_DFL)",
        "signal.signal(signal.SIGSEGV, lambda *a: None)",
    ):
        text = report(prelude + remedy + "\nf()", signal.SIGABRT)
        assert "line 6 in f\n" in text and "line 8 in <module>\n" in text, (remedy, text)


@pytest.mark.parametrize("value", [0, 1, 0x41, 0xFF])
def test_a_heap_that_is_no_more(value):
    """The pages around a running code object are overwritten: less can be said, but the process ends as it would."""
    code = f"""
fh.enable()
def f():
    ctypes.memset(id(f.__code__) & -16384, {value}, 16384)
    os.kill(os.getpid(), 11)
f()"""
    result = child("import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading\n" + code)
    assert result.returncode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS), result
    assert result.stderr.startswith("Fatal Python error: "), result.stderr


DAMAGE = """
import sys
fh.enable()
def victim():
    depth = sys._getframe()
    return inner()
def inner():
    code = victim.__code__
    {damage}
    signal.raise_signal(signal.SIGABRT)
victim()
"""


@pytest.mark.parametrize("address", ["0", "8", "0x4141414141414141", "1 << 62", "id(code) + 8", "(1 << 47) - 8"])
def test_a_damaged_heap_ends_no_report(address):
    """The code object's name is overwritten with a bad pointer: that part is missing, the rest is there."""
    find = f"""
    n = next(i for i in range(8, 256, 8) if ctypes.c_size_t.from_address(id(code) + i).value == id(code.co_name))
    ctypes.c_size_t.from_address(id(code) + n).value = {address}"""
    text = report(DAMAGE.format(damage=find), signal.SIGABRT)
    assert " in inner\n" in text and "line 8 in ???\n" in text and " in <module>\n" in text, text


def test_a_report_over_its_time_budget_ends_marked():
    text = report("""
def f(n):
    if n: return f(n - 1)
    ready.wait(); threading.Event().wait()
ready = threading.Barrier(51)
for i in range(50): threading.Thread(target=f, args=(50,), daemon=True).start()
ready.wait()
fh.enable(2, budget=1e-5)
ctypes.string_at(0)
""")
    assert text.startswith("Fatal Python error: Segmentation fault\n") and "  <time budget used up>\n" in text
    assert text.count("most recent call first") < 50


HOLDS_MALLOC = r"""
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
static sem_t stopped, go_on, ask, answered;
static void stop(int signo) { sem_post(&stopped); sem_wait(&go_on); (void)signo; }
static void *churn(void *unused)
{
    for (size_t i = 0;; i++) { void *volatile p = malloc(2000 + i % 100000); free(p); }
    return unused;
}
static void *probe(void *unused)
{
    for (;;) { sem_wait(&ask); void *volatile p = malloc(5000); free(p); sem_post(&answered); }
    return unused;
}
/* Stops a thread in malloc() with the arena's lock held, which shows by another's malloc() not coming back. */
void crash(void)
{
    pthread_t thread, other;
    struct timespec until;
    sem_init(&stopped, 0, 0), sem_init(&go_on, 0, 0), sem_init(&ask, 0, 0), sem_init(&answered, 0, 0);
    signal(SIGUSR2, stop);
    pthread_create(&thread, NULL, churn, NULL);
    pthread_create(&other, NULL, probe, NULL);
    for (;;) {
        pthread_kill(thread, SIGUSR2);
        sem_wait(&stopped);
        sem_post(&ask);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        if (sem_timedwait(&answered, &until) != 0)
            *(volatile int *)8 = 0;
        sem_post(&go_on);
    }
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a library that stops in malloc()")
@pytest.mark.parametrize("c_stack", [False, True])
def test_while_another_thread_holds_the_lock_of_malloc(tmp_path, c_stack):
    """It never lets go: a report that allocated memory would wait for ever."""
    source, library = tmp_path / "holds.c", tmp_path / "holds.so"
    source.write_text(HOLDS_MALLOC)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(library), str(source)], check=True)
    code = f"""
    import ctypes, faultproof.faulthandler as fh
    crash = ctypes.CDLL({str(library)!r}).crash
    fh.enable(all_threads=True, c_stack={c_stack})
    def f(): crash()
    f()
    """
    one_arena = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    result = child(code, env={**os.environ, **one_arena})
    assert result.returncode == -signal.SIGSEGV, result.stderr
    assert result.stderr.startswith("Fatal Python error: Segmentation fault\n")
    assert re.search(r'  File "<string>", line \d+ in f\n', result.stderr)
    assert (" in crash" in result.stderr or "crash+0x" in result.stderr) == c_stack, result.stderr
