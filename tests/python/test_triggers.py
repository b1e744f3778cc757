"""The watchdog, user signals and alternate stacks: beyond what CPython's own tests look at."""

from __future__ import annotations

import re
import signal
import sys

import pytest
from helpers import child

PRELUDE = "import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading, time, tempfile, _thread\n"


def run(code: str, expected: int = 0, **kwargs) -> str:
    result = child(PRELUDE + code, **kwargs)
    assert result.returncode == expected, (result.returncode, result.stdout, result.stderr)
    return result.stderr + result.stdout


OVERFLOWS = {
    "main thread": "fh.enable(); overflow()",
    "a thread started before enable": """
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), overflow())).start()
fh.enable(); go.set()
""",
    "a thread started after enable": "fh.enable(); threading.Thread(target=overflow).start()",
    "a thread of _thread": "fh.enable(); _thread.start_new_thread(overflow, ()); time.sleep(60)",
    "a thread of C that attaches": """
fh.enable()
callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda x: overflow())
thread = ctypes.c_ulong()
ctypes.CDLL(None).pthread_create(ctypes.byref(thread), None, callback, None)
time.sleep(60)
""",
    "a thread with a small stack": "threading.stack_size(65536); fh.enable(); threading.Thread(target=overflow).start()",
    "after tracemalloc came and went": """
import tracemalloc
fh.enable(); tracemalloc.start(); tracemalloc.stop()
threading.Thread(target=overflow).start()
""",
    "while tracemalloc runs": """
import tracemalloc
tracemalloc.start(); fh.enable()
threading.Thread(target=overflow).start()
""",
}


@pytest.mark.parametrize("how", OVERFLOWS)
def test_a_stack_overflow_is_reported_in_every_thread(how):
    for _ in range(3):
        text = run("def overflow():\n    fh._stack_overflow()\n" + OVERFLOWS[how], -signal.SIGSEGV)
        assert text.startswith("Fatal Python error: Segmentation fault\n\n"), text
        current = text[text.index("Current thread") :]
        assert re.match(r'.*\n  File "<string>", line \d+ in overflow\n', current), text


def test_altstacks_none_gives_none():
    text = run("fh.enable(altstacks='none'); threading.Thread(target=fh._stack_overflow).start()", -signal.SIGSEGV)
    assert text == ""


def test_an_alternate_stack_goes_with_its_thread():
    code = """
def maps(): return sum(1 for line in open("/proc/self/maps"))
def start(n):
    for i in range(n):
        t = threading.Thread(target=len, args=("",)); t.start(); t.join()
fh.enable(); start(20); before = maps(); start(200)
assert maps() - before < 10, (before, maps())
"""
    run(code)


@pytest.mark.parametrize("options", ["timeout=0.05", "0.05, True", "timeout=0.05, repeat=True, exit=True"])
def test_timeouts(options):
    exits, wanted = "exit" in options, 3 if "repeat" in options or "True" in options else 1
    code = f"""
read, write = os.pipe()
def f():
    fh.dump_traceback_later({options}, file={"2" if exits else "write"})
    text = b""
    while text.count(b"Timeout") < {wanted}: text += os.read(read, 100000)
    os.write(2, text)
f()
"""
    text = run(code, 1 if exits else 0)
    assert re.match(r"Timeout \(0:00:00\.050000\)!\nThread 0x.*\n  File \"<string>\", line \d+ in f\n", text)


def test_the_last_call_counts_and_cancel_cancels():
    code = """
a, b = tempfile.TemporaryFile(), tempfile.TemporaryFile()
def wait_for(file):
    while os.fstat(file.fileno()).st_size == 0: time.sleep(0.001)
fh.dump_traceback_later(10, file=a)
fh.dump_traceback_later(0.06, file=b)
wait_for(b)
fh.dump_traceback_later(10, repeat=True, file=a)
fh.cancel_dump_traceback_later()
b.truncate(0)
fh.dump_traceback_later(10.1, file=b)
fh.dump_traceback_later(0.001, file=b)  # sooner than what the watchdog's thread sleeps for
wait_for(b)
fh.cancel_dump_traceback_later()
fh.cancel_dump_traceback_later()
assert os.fstat(a.fileno()).st_size == 0
"""
    run(code)


def test_one_thread_is_kept():
    code = """
def tasks(): return len(os.listdir("/proc/self/task"))
before = tasks()
null = os.open(os.devnull, 1)
for i in range(200): fh.dump_traceback_later(100 + i % 7, file=null)
assert tasks() == before + 1
for i in range(50): fh.dump_traceback_later(100, file=null); fh.cancel_dump_traceback_later()
assert tasks() <= before + 1
"""
    run(code)


def test_fork_leaves_the_child_sane():
    code = """
fh.dump_traceback_later(0.2, file=2)
pid = os.fork()
if pid == 0:
    time.sleep(0.5)  # nothing is armed here
    fh.dump_traceback_later(0.05, exit=True)
    time.sleep(60)
status = os.waitpid(pid, 0)[1]
assert os.WEXITSTATUS(status) == 1, status
"""
    text = run(code)
    assert text.count("Timeout") == 2 and "Timeout (0:00:00.200000)!" in text and "Timeout (0:00:00.050000)!" in text


def test_a_full_pipe_blocks_neither_cancel_nor_exit():
    code = """
r, w = os.pipe()
os.set_blocking(w, False)
try:
    while True: os.write(w, b"x" * 4096)
except BlockingIOError: pass
os.set_blocking(w, True)
fh.dump_traceback_later(0.01, repeat=True, file=w)
time.sleep(0.2)
fh.cancel_dump_traceback_later()
print("alive", flush=True)
os._exit(0)
"""
    assert run(code) == "alive\n"


def test_user_signals():
    code = """
def previous(signo, frame): print("previous", flush=True)
signal.signal(signal.SIGUSR1, previous)
fh.register(signal.SIGUSR1, all_threads=False, chain=True)
def f(): signal.raise_signal(signal.SIGUSR1)
f()
fh.register(signal.SIGUSR1, all_threads=False, chain=False); f()
assert fh.unregister(signal.SIGUSR1) and not fh.unregister(signal.SIGUSR1)
f()
fh.register(signal.SIGRTMAX - 3, all_threads=False); signal.raise_signal(signal.SIGRTMAX - 3)
"""
    text = run(code)
    assert text.count("Stack (most recent call first):\n") == 3
    assert text.count("previous\n") == 2


def test_chain_to_the_default_action():
    text = run("fh.register(signal.SIGUSR1, chain=True); signal.raise_signal(signal.SIGUSR1)", -signal.SIGUSR1)
    assert text.startswith("Current thread")
    text = run("fh.register(signal.SIGCHLD, chain=True); signal.raise_signal(signal.SIGCHLD); print('alive')")
    assert text.endswith("alive\n")


def test_a_storm_of_signals():
    code = """
fh.register(signal.SIGUSR1, file=os.open(os.devnull, 1))
fh.register(signal.SIGUSR2, file=os.open(os.devnull, 1), all_threads=False)
def busy(n): return sum(i * i for i in range(n))
def storm():
    for i in range(600):
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1 if i % 3 else signal.SIGUSR2)
        busy(20)
threads = [threading.Thread(target=storm) for i in range(16)]
for t in threads: t.start()
for t in threads: t.join()
print("alive")
"""
    assert run(code) == "alive\n"


HOSTILE = """
import types, itertools
out = os.open(os.devnull, os.O_WRONLY)
def base(n): return [n, str(n)] * 3
count = itertools.count()
def churn():
    while True:
        n = next(count)
        f = types.FunctionType(base.__code__.replace(co_name="name%d" % n, co_filename="file%d" % n), {"str": str})
        f(n)
        [x for x in (lambda: (yield n))()]
sys.setswitchinterval(0.0001)
for i in range(8): threading.Thread(target=churn, daemon=True).start()
"""


@pytest.mark.parametrize("reader", ["guard", "fallback"])
def test_nothing_kills_the_watchdog(reader):
    """8 threads create and drop code objects under a watchdog at 0.1 ms; bench/soak runs it for longer."""
    take_away = (
        "fh.dump_traceback(out); signal.signal(signal.SIGSEGV, signal.SIG_DFL)\n" if reader == "fallback" else ""
    )
    code = HOSTILE + take_away + "fh.dump_traceback_later(0.0001, repeat=True, file=out)\n" + take_away
    text = run(code + "time.sleep(2)\nprint(fh._capabilities()['reader'], flush=True)\nos._exit(0)")
    assert text == ("guarded copy\n" if reader == "guard" else "process_vm_readv\n")


def test_nothing_kills_a_dump_from_c_without_the_gil():
    text = run(HOSTILE + "fh._watch(out, 2, 0, -1)\nprint('alive', flush=True)\nos._exit(0)")
    assert text == "alive\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_threads_of_other_interpreters_are_shown():
    code = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
i = interpreters.create()
def body():
    interpreters.run_string(i, "import time\\ndef in_sub():\\n    time.sleep(1)\\nin_sub()\\n")
t = threading.Thread(target=body); t.start()
text = ""
end = time.monotonic() + 60
while "in_sub" not in text and time.monotonic() < end:
    with tempfile.TemporaryFile("w+") as file:
        fh.dump_traceback(file); file.seek(0); text = file.read()
assert text.startswith("Thread") or text.startswith("Current")
assert "in_sub" in text and "in body" in text, text
t.join()
"""
    run(code)


def test_interpreters_come_and_go_under_the_watchdog():
    """Each stack is one that was: what an interpreter that has ended leaves behind is nobody's frame."""
    code = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
out = tempfile.TemporaryFile()
fh.dump_traceback_later(0.0002, repeat=True, file=out)
source = "def inner(n):\\n    return inner(n - 1) if n else sum(range(2000))\\nfor i in range(20): inner(9)\\n"
def body():
    for i in range(25):
        i = interpreters.create()
        interpreters.run_string(i, source)
        interpreters.destroy(i)
threads = [threading.Thread(target=body) for i in range(2)]
for t in threads: t.start()
for t in threads: t.join()
fh.cancel_dump_traceback_later()
out.seek(0); sys.stdout.write(out.read().decode())
"""
    text = run(code)
    assert text.count("Timeout") > 20
    stacks = [re.findall(r'^  File "(.*)", line \d+ in (.*)$', part, re.M) for part in text.split("Thread 0x")]
    calls = {(lower, upper) for stack in stacks for upper, lower in zip(stack, stack[1:])}
    wrong = [
        (lower, upper)
        for lower, upper in calls
        # typing.py has an inner of its own
        if (upper == ("<string>", "inner") and lower[1] not in ("inner", "<module>"))
        or (upper == ("<string>", "body") and lower[1] != "run")
    ]
    assert not wrong, wrong
