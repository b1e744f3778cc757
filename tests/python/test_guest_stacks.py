"""Alternate stacks without signals: who gets one, whatever wraps the allocators, and what others notice of it."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import child

PRELUDE = """
import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading, time, tracemalloc, _thread
null = os.open(os.devnull, os.O_WRONLY)
class Allocator(ctypes.Structure):
    _fields_ = [("ctx", ctypes.c_void_p)] + [(name, ctypes.c_void_p) for name in ("malloc", "calloc", "realloc", "free")]
def allocator(domain):
    now = Allocator()
    ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(now))
    return [getattr(now, name) for name, _ in Allocator._fields_]
def stacks():
    # mappings of 1 MiB behind a guard page; one of the interpreter's arenas has no such page
    count, guard = 0, None
    for line in open("/proc/self/maps"):
        bounds, mode = line.split()[:2]
        start, end = (int(text, 16) for text in bounds.split("-"))
        count += mode == "rw-p" and end - start == 1 << 20 and guard == start
        guard = end if mode == "---p" else None
    return count
def ended(): return len(os.listdir("/proc/self/task")) == 1
"""

# A library that wraps an allocator as memray does (what it wraps is its context) or as ours does (nobody can see what), and one
# whose handlers want room.
SOURCE = r"""
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
typedef struct {
    void *ctx;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} Allocator;
static Allocator seen[3], hidden[3];
static void *m(void *c, size_t n) { Allocator *a = c; return a->malloc(a->ctx, n); }
static void *k(void *c, size_t n, size_t s) { Allocator *a = c; return a->calloc(a->ctx, n, s); }
static void *r(void *c, void *p, size_t n) { Allocator *a = c; return a->realloc(a->ctx, p, n); }
static void f(void *c, void *p) { Allocator *a = c; a->free(a->ctx, p); }
#define WRAP(d) \
static void *hm##d(void *c, size_t n) { return hidden[d].malloc(hidden[d].ctx, n); } \
static void *hk##d(void *c, size_t n, size_t s) { return hidden[d].calloc(hidden[d].ctx, n, s); } \
static void *hr##d(void *c, void *p, size_t n) { return hidden[d].realloc(hidden[d].ctx, p, n); } \
static void hf##d(void *c, void *p) { hidden[d].free(hidden[d].ctx, p); }
WRAP(0) WRAP(1) WRAP(2)
typedef void Get(int, Allocator *);
typedef void Set(int, Allocator *);
void trace(Get *get, Set *set)
{
    for (int d = 0; d < 3; d++) {
        get(d, &seen[d]);
        Allocator own = {&seen[d], m, k, r, f};
        set(d, &own);
    }
}
void untrace(Get *get, Set *set) { for (int d = 0; d < 3; d++) set(d, &seen[d]); }
void hide(Get *get, Set *set)
{
    Allocator own[3] = {{0, hm0, hk0, hr0, hf0}, {0, hm1, hk1, hr1, hf1}, {0, hm2, hk2, hr2, hf2}};
    for (int d = 0; d < 3; d++) {
        get(d, &hidden[d]);
        own[d].ctx = hidden[d].ctx;
        set(d, &own[d]);
    }
}
void unhide(Get *get, Set *set) { for (int d = 0; d < 3; d++) set(d, &hidden[d]); }

static int deeper(int n) { volatile char b[512]; b[0] = (char)n; return n ? deeper(n + 1) + b[0] : 0; }
int overflow(void) { return deeper(1); }

static sem_t started;
static void *idle(void *unused) { sem_post(&started); for (;;) pause(); return unused; }
void start_idle(pthread_t *t) { sem_init(&started, 0, 0); pthread_create(t, NULL, idle, NULL); sem_wait(&started); }
static void *attach(void *callback) { ((void (*)(void))callback)(); return NULL; }
void foreign(void *callback) { pthread_t t; pthread_create(&t, NULL, attach, callback); pthread_join(t, NULL); }

static void hungry(int signo)
{
    char room[768 << 10];
    memset(room, signo, sizeof(room));
    __asm__ volatile("" ::"r"(room) : "memory");
    if (write(1, "sample\n", 7) != 7) _exit(1);
}
void sample(int signo)
{
    struct sigaction a;
    memset(&a, 0, sizeof(a));
    a.sa_handler = hungry;
    a.sa_flags = SA_ONSTACK | SA_RESTART;
    sigaction(signo, &a, NULL);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> pathlib.Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler for a library that wraps allocators")
    folder = tmp_path_factory.mktemp("guest")
    (folder / "guest.c").write_text(SOURCE)
    command = [
        "cc",
        "-O1",
        "-w",
        "-shared",
        "-fPIC",
        "-pthread",
        "-o",
        str(folder / "guest.so"),
        str(folder / "guest.c"),
    ]
    subprocess.run(command, check=True)
    return folder / "guest.so"


def run(code: str, expected: int = 0, library: pathlib.Path | None = None, **kwargs) -> str:
    load = f"lib = ctypes.CDLL({str(library)!r})\n" if library else ""
    result = child(PRELUDE + load + code, **kwargs)
    assert result.returncode == expected, (result.returncode, result.stdout, result.stderr)
    return result.stdout + result.stderr


def is_reported(code: str, library: pathlib.Path) -> bool:
    text = run(code, -signal.SIGSEGV, library)
    return text.startswith("Fatal Python error: Segmentation fault\n\n") and ", line " in text


IN_NEW_THREAD = "t = threading.Thread(target=lib.overflow); t.start(); t.join()"

KINDS = {
    "main": "fh.enable(2); lib.overflow()",
    "main, enabled by another": """
def enable(): time.sleep(0); fh.enable(2); go.release()
go = _thread.allocate_lock(); go.acquire()
_thread.start_new_thread(enable, ())
go.acquire(); lib.overflow()
""",
    "threading, after": f"fh.enable(2); {IN_NEW_THREAD}",
    "threading, before": """
go = threading.Event()
t = threading.Thread(target=lambda: (go.wait(), lib.overflow())); t.start()
fh.enable(2); go.set(); t.join()
""",
    "threading, before, with work to do": """
go = []
def busy():
    while not go: str(len(go))
    lib.overflow()
t = threading.Thread(target=busy); t.start()
fh.enable(2); go.append(1); t.join()
""",
    "_thread, after": "fh.enable(2); _thread.start_new_thread(lib.overflow, ()); time.sleep(60)",
    "foreign, after": "callback = ctypes.CFUNCTYPE(None)(lib.overflow); fh.enable(2); lib.foreign(callback)",
    "foreign, before": """
go, come = threading.Event(), threading.Event()
callback = ctypes.CFUNCTYPE(None)(lambda: (come.set(), go.wait(), lib.overflow()))
t = threading.Thread(target=lib.foreign, args=(callback,)); t.start()
come.wait(); fh.enable(2); go.set(); t.join()
""",
    "a small stack": f"threading.stack_size(65536); fh.enable(2); {IN_NEW_THREAD}",
    "in a child of fork": f"fh.enable(2)\nif os.fork() == 0:\n    {IN_NEW_THREAD}\nos.kill(os.getpid(), os.wait()[1] & 127)",
    "enabled in a child of fork": f"if os.fork() == 0:\n    fh.enable(2); {IN_NEW_THREAD}\nos.kill(os.getpid(), os.wait()[1] & 127)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_is_reported_in_every_kind_of_thread(library, kind):
    assert is_reported(KINDS[kind], library)


TRACERS = {
    "tracemalloc": ("tracemalloc.start()", "tracemalloc.stop()"),
    "one like memray": ("call(lib.trace)", "call(lib.untrace)"),
}
CALL = """
def call(function):
    api = ctypes.pythonapi
    function(ctypes.cast(api.PyMem_GetAllocator, ctypes.c_void_p), ctypes.cast(api.PyMem_SetAllocator, ctypes.c_void_p))
"""


def orders(start: str, stop: str, length: int) -> list[str]:
    """Each order of enable(), disable(), start and stop that makes sense and ends enabled, in at most so many steps."""
    found = []
    for steps in itertools.chain.from_iterable(itertools.product("EDST", repeat=n) for n in range(2, length + 1)):
        runs = enabled = sound = False
        for step in steps:
            sound = {"E": not enabled, "D": enabled, "S": not runs, "T": runs}[step]
            if not sound:
                break
            enabled = step == "E" or (enabled and step != "D")
            runs = step == "S" or (runs and step != "T")
        if sound and enabled:
            found.append(
                "; ".join({"E": "fh.enable(2)", "D": "fh.disable()", "S": start, "T": stop}[step] for step in steps)
            )
    return found


@pytest.mark.parametrize("tracer", TRACERS)
def test_in_every_order_with_a_tracer(library, tracer):
    lost = [o for o in orders(*TRACERS[tracer], 5) if not is_reported(CALL + o + "; " + IN_NEW_THREAD, library)]
    assert not lost, lost


NESTED = [
    ("tracemalloc.start(); call(lib.trace); {0}; call(lib.untrace); tracemalloc.stop()"),
    ("call(lib.trace); tracemalloc.start(); {0}; tracemalloc.stop(); call(lib.untrace)"),
    ("tracemalloc.start(); {0}; call(lib.trace); call(lib.untrace); tracemalloc.stop()"),
    ("call(lib.trace); {0}; tracemalloc.start(); tracemalloc.stop(); call(lib.untrace); tracemalloc.start()"),
]


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("enable", ["fh.enable(2)", "fh.enable(2); fh.disable(); fh.enable(2)"])
def test_among_nested_tracers(library, nested, enable):
    assert is_reported(CALL + nested.format(enable) + "; " + IN_NEW_THREAD, library)


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="before 3.11 a new thread uses no allocator that such a one doesn't wrap"
)
def test_a_tracer_that_hides_what_it_wraps(library):
    hides = "call(lib.hide); fh.enable(2); call(lib.unhide); "
    in_python = "t = threading.Thread(target=lambda: lib.overflow()); t.start(); t.join()"
    assert is_reported(CALL + hides + in_python, library)


def test_the_wrappers_stay_as_long_as_they_are_needed():
    """Objects pay for threads that ran before, until each has its stack; what was there before comes back."""
    code = """
before = [allocator(domain) for domain in range(3)]
fh.enable(null)
now = [allocator(domain) for domain in range(3)]
assert now[0] != before[0] and now[1:] == before[1:], (before, now)
fh.disable()
assert [allocator(domain) for domain in range(3)] == before
go, come, done = threading.Event(), threading.Event(), threading.Event()
t = threading.Thread(target=lambda: (come.set(), go.wait(), str(time), done.wait()))
t.start(); come.wait()
fh.enable(null)
now = [allocator(domain) for domain in range(3)]
assert all(a != b for a, b in zip(now, before)), (before, now)
go.set()
while allocator(2) == now[2]: object()
assert [allocator(domain) for domain in (1, 2)] == before[1:]
done.set(); t.join()
fh.disable()
assert [allocator(domain) for domain in range(3)] == before
"""
    run(code)


def test_a_thread_that_ends_without_a_stack_is_not_waited_for():
    code = """
before = [allocator(domain) for domain in range(3)]
go, ready = _thread.allocate_lock(), _thread.allocate_lock()
go.acquire(); ready.acquire()
_thread.start_new_thread(lambda: (ready.release(), go.acquire()), ())
ready.acquire()
fh.enable(null)
assert allocator(2) != before[2]
go.release()
while not ended(): pass
object()
assert [allocator(domain) for domain in (1, 2)] == before[1:]
"""
    run(code)


PENDING = """
def pending():
    count = 0
    for task in os.listdir("/proc/self/task"):
        for line in open("/proc/self/task/%s/status" % task):
            if line.startswith(("SigPnd:", "ShdPnd:")): count += bin(int(line.split()[1], 16)).count("1")
    return count
signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {32, 33})
stop = threading.Event()
threads = [threading.Thread(target=stop.wait, daemon=True) for i in range(3)]
for t in threads: t.start()
"""


def test_no_function_sends_a_signal():
    """Every thread blocks every signal: one that was sent would wait, and the kernel shows it."""
    code = (
        PENDING
        + """
calls = [
    lambda: fh.enable(null), lambda: fh.enable(null), lambda: fh.dump_traceback(null), lambda: fh.dump_c_stack(null),
    lambda: fh.dump_traceback_later(1000, file=null), lambda: fh.dump_traceback_later(2000, file=null), fh.cancel_dump_traceback_later,
    lambda: fh.register(signal.SIGUSR1, file=null), lambda: fh.unregister(signal.SIGUSR1), fh.disable, lambda: fh.enable(null),
]
for number, call in enumerate(calls):
    call()
    assert pending() == 0, number
signal.pthread_kill(threads[0].ident, signal.SIGUSR2)
assert pending() == 1  # it would be seen
fh.enable(null, altstacks="all")
assert pending() == 1  # nor to those that block it, when it is asked for
stop.set()
"""
    )
    run(code)


def test_all_threads_at_once_on_request(library):
    """A thread that only C code knows, asleep: a signal gives it a stack, which goes at the next time when the thread has ended."""
    code = """
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
lib.start_idle(ctypes.byref(thread))
before = stacks()
fh.enable(2, altstacks="all")
given = stacks() - before
libc.pthread_cancel(thread); libc.pthread_join(thread, None)
assert given == 2, given  # that of the main thread and that one's
fh.enable(2, altstacks="all"); fh.disable()
assert stacks() == before, (before, stacks())
"""
    run(code, 0, library)


def test_room_for_handlers_of_others(library):
    code = """
fh.enable(null); lib.sample(signal.SIGUSR2)
def body(): signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
body()
t = threading.Thread(target=body); t.start(); t.join()
"""
    assert run(code, 0, library) == "sample\n" * 2


def test_a_stack_of_somebody_else_stays():
    code = """
libc = ctypes.CDLL(None)
class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(1 << 16)
theirs, now = Stack(ctypes.addressof(memory), 0, 1 << 16), Stack()
assert libc.sigaltstack(ctypes.byref(theirs), None) == 0
for i in range(2):
    fh.enable(null); fh.disable()
    assert libc.sigaltstack(None, ctypes.byref(now)) == 0 and (now.sp, now.size) == (theirs.sp, theirs.size)
"""
    run(code)


def test_nothing_is_left():
    """The stacks of threads that have ended, that of the thread that disables, and in a child those of all others."""
    code = """
before = stacks()
fh.enable(null)
assert stacks() == before + 1, (before, stacks())
go, ready = threading.Event(), threading.Semaphore(0)
def body(): ready.release(); go.wait()
threads = [threading.Thread(target=body, daemon=True) for i in range(20)]
for t in threads: t.start()
for t in threads: ready.acquire()
assert stacks() == before + 21
pid = os.fork()
if pid == 0:
    with_own = stacks()
    fh.disable()
    os._exit(0 if (with_own, stacks()) == (before + 1, before) else 1)
assert os.waitpid(pid, 0)[1] == 0
fh.disable()
assert stacks() == before + 20
go.set()
for t in threads: t.join()
while not ended(): pass
assert stacks() == before, (before, stacks())
"""
    run(code)


def test_a_fork_while_stacks_are_given():
    """The locks of what gives stacks are free in the child, whoever held them."""
    code = """
stop = False
def busy(scope):
    while not stop:
        fh.enable(null, altstacks=scope); fh.disable()
threads = [threading.Thread(target=busy, args=(scope,)) for scope in ("python", "all", "python")]
for t in threads: t.start()
for i in range(100):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs dies of this
        fh.enable(null); fh.enable(null, altstacks="all"); fh.disable()
        t = threading.Thread(target=str); t.start(); t.join()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
for t in threads: t.join()
"""
    run(code)
