"""Other people's handlers, filters, forks, pipes and threads: each test fails without its remedy."""

from __future__ import annotations

import signal

import pytest
from helpers import child

PRELUDE = """
import faultproof.faulthandler as fh, sys, os, ctypes, signal, threading, time, tempfile, _thread
libc = ctypes.CDLL(None, use_errno=True)
null = os.open(os.devnull, os.O_WRONLY)

def forbid(*numbers):
    # a seccomp filter: these system calls fail with EPERM (1)
    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]
    lines = [Instruction(0x20, 0, 0, 0)]  # load the number
    for n in numbers:
        lines += [Instruction(0x15, 0, 1, n), Instruction(0x06, 0, 0, 0x00050001)]
    lines.append(Instruction(0x06, 0, 0, 0x7FFF0000))
    array = (Instruction * len(lines))(*lines)
    program = Program(len(lines), array)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0

def dumped():
    with tempfile.TemporaryFile("w+") as file:
        fh.dump_traceback(file, all_threads=False)
        file.seek(0)
        return file.read()
"""
PROCESS_VM_READV, PREAD64, OPENAT = 310, 17, 257


def run(code: str, expected: int = 0) -> str:
    result = child(PRELUDE + code)
    assert result.returncode == expected, (result.returncode, result.stdout, result.stderr)
    return result.stderr + result.stdout


@pytest.mark.parametrize(
    ("forbidden", "reader"),
    [((), "process_vm_readv"), ((PROCESS_VM_READV,), "/proc/self/mem"), ((PROCESS_VM_READV, PREAD64), "pipe")],
)
def test_each_reader_prints_the_same(forbidden, reader):
    code = f"""
def f():
    # the frames below f() differ by nothing between the two calls
    return [dumped() for i in range(2)][-1]
first = f(); assert fh._capabilities()["reader"] == "guarded copy"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])
{"forbid" + str(forbidden) if forbidden else ""}
assert fh._capabilities()["reader"] == {reader!r}, fh._capabilities()
second = f()
assert first.splitlines()[1:3] == second.splitlines()[1:3] and len(first.splitlines()) == len(second.splitlines()), (first, second)
"""
    run(code)


def test_no_reader_at_all_is_an_error_not_a_crash():
    code = f"""
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])
forbid({PROCESS_VM_READV}, {PREAD64}, 293)  # 293: pipe2
try: fh.dump_traceback(null)
except RuntimeError as error: assert "no way to read memory safely" in str(error), error
else: sys.exit("no error")
"""
    run(code)


def test_another_library_takes_the_handlers_and_chains_to_us():
    """As CUDA does: its handler calls ours for what isn't its own.  Our guard doesn't count on that."""
    code = """
fh.enable()
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
ours = Action()
libc.sigaction(11, None, ctypes.byref(ours))
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
call_ours = HANDLER(ours.handler)
@HANDLER
def theirs(signo, info, context):
    os.write(2, b"theirs\\n")
    call_ours(signo, info, context)
new = Action(ctypes.cast(theirs, ctypes.c_void_p), flags=4 | 0x40000000)
libc.sigaction(11, ctypes.byref(new), None)
assert fh._capabilities()["reader"] == "process_vm_readv"
assert "in dumped" in dumped()
def f(): os.kill(os.getpid(), 11)
f()
time.sleep(60)
"""
    text = run(code, -signal.SIGSEGV)
    assert text.startswith("theirs\nFatal Python error: Segmentation fault\n")
    assert "in f\n" in text


def test_another_library_takes_the_handlers_and_does_not_chain():
    code = """
fh.enable()
signal.signal(signal.SIGSEGV, signal.SIG_DFL)
fh.dump_traceback(null)
before = libc.signal(11, 0)
assert fh.disable() and libc.signal(11, 0) == before  # what isn't ours stays
"""
    run(code)


def test_fork_in_the_middle():
    """Children of a process whose threads use everything at once can use it too."""
    code = """
stop = False
def busy():
    while not stop:
        fh.enable(null); fh.dump_traceback(null); fh.dump_traceback_later(100, file=null); fh.disable()
        fh.register(signal.SIGUSR1, file=null); fh.unregister(signal.SIGUSR1); fh.cancel_dump_traceback_later()
threads = [threading.Thread(target=busy) for i in range(4)]
for t in threads: t.start()
for i in range(60):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs dies of this
        fh.enable(null); fh.dump_traceback(null); fh.dump_traceback_later(100, file=null); fh.cancel_dump_traceback_later()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
stop = True
for t in threads: t.join()
"""
    run(code)


def test_a_child_of_fork_that_crashes_reports():
    code = """
fh.enable()
def f(): fh._sigsegv()
pid = os.fork()
if pid == 0: f()
assert os.waitpid(pid, 0)[1] & 127 == 11
"""
    assert run(code).count("Fatal Python error") == 1


def test_control_functions_from_many_threads():
    """No race, no lost or doubled watchdog, no hang."""
    code = """
import random
calls = [
    lambda: fh.enable(null), fh.disable, fh.is_enabled, lambda: fh.dump_traceback(null),
    lambda: fh.dump_traceback_later(random.choice([0.0001, 0.001, 100]), repeat=True, file=null), fh.cancel_dump_traceback_later,
    lambda: fh.register(signal.SIGUSR1, file=null), lambda: fh.unregister(signal.SIGUSR1),
    lambda: fh.register(signal.SIGUSR2, file=null, chain=True), lambda: fh.enable(null, altstacks="all"),
]
signal.signal(signal.SIGUSR1, lambda *a: None); signal.signal(signal.SIGUSR2, lambda *a: None)
def body(seed):
    r = random.Random(seed)
    for i in range(150):
        r.choice(calls)()
        if i % 10 == 0: os.kill(os.getpid(), r.choice([signal.SIGUSR1, signal.SIGUSR2]))
threads = [threading.Thread(target=body, args=(i,)) for i in range(16)]
for t in threads: t.start()
for t in threads: t.join()
fh.cancel_dump_traceback_later(); fh.disable()
assert not fh.is_enabled()
with tempfile.TemporaryFile() as file:
    fh.dump_traceback_later(0.01, file=file)
    while os.fstat(file.fileno()).st_size == 0: time.sleep(0.001)
fh.dump_traceback_later(1000, file=null)
while len(os.listdir("/proc/self/task")) != 2: time.sleep(0.001)  # a joined thread may be there for a moment
"""
    run(code)


def test_threads_that_python_does_not_know():
    code = """
fh.enable()
thread = ctypes.c_ulong()
def f():
    libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc["raise"], ctypes.c_void_p), ctypes.c_void_p(6))
    time.sleep(60)
f()
"""
    text = run(code, -signal.SIGABRT)
    assert text.startswith("Fatal Python error: Aborted\n\nThread 0x")
    assert "Current thread 0x" not in text and "in f\n" in text


def test_a_stack_of_64_kib():
    code = """
threading.stack_size(65536)
fh.enable(null); fh.register(signal.SIGUSR1, file=null)
def f():
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    fh.dump_traceback(null)
threads = [threading.Thread(target=f) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
"""
    run(code)


@pytest.mark.parametrize("kind", ["closed", "full", "never read", "full and non-blocking", "a socket nobody reads"])
def test_no_output_keeps_the_signal_from_its_end(kind):
    setup = {
        "closed": "fd = os.dup(2); os.close(fd)",
        "full": "fd = os.open('/dev/full', os.O_WRONLY)",
        "never read": "r, fd = os.pipe(); os.set_blocking(fd, False); fill(fd); os.set_blocking(fd, True)",
        "full and non-blocking": "r, fd = os.pipe(); os.set_blocking(fd, False); fill(fd)",
        "a socket nobody reads": "import socket; a, b = socket.socketpair(); a.setblocking(False); fd = a.fileno(); fill(fd)",
    }[kind]
    code = f"""
def fill(fd):
    try:
        while True: os.write(fd, b"x" * 4096)
    except BlockingIOError: pass
{setup}
fh.enable(fd, budget=0.2)
fh._sigsegv()
"""
    run(code, -signal.SIGSEGV)


def test_real_time_signals_that_the_program_resets():
    """A worker's start-up often sets all signals to their defaults; giving alternate stacks must not end it then."""
    code = """
fh.enable(null)
stop = _thread.allocate_lock(); stop.acquire()
_thread.start_new_thread(stop.acquire, ())
for s in range(signal.SIGRTMIN, signal.SIGRTMAX + 1): signal.signal(s, signal.SIG_DFL)
fh.enable(null)
"""
    run(code)


def test_taking_the_signal_again_from_a_library_that_chains_to_us():
    """In front of it again we and it would call each other for ever: one report, then the end."""
    for again in (
        "fh.enable()",
        "fh.dump_traceback_later(100)",
        "fh.register(signal.SIGUSR1)",
        "fh.disable(); fh.enable()",
    ):
        code = f"""
fh.enable()
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
ours = Action()
libc.sigaction(11, None, ctypes.byref(ours))
call_ours = HANDLER(ours.handler)
calls = []
@HANDLER
def theirs(signo, info, context):
    calls.append(1)
    if len(calls) > 20: os._exit(99)
    call_ours(signo, info, context)
libc.sigaction(11, ctypes.byref(Action(ctypes.cast(theirs, ctypes.c_void_p), flags=4 | 0x40000000)), None)
{again}
libc.strlen.restype = ctypes.c_size_t
libc.strlen(ctypes.c_void_p(0x1234))
"""
        text = run(code, -signal.SIGSEGV)
        assert text.count("Fatal Python error: Segmentation fault") == 1, (again, text)


def test_a_terminal_that_nobody_reads():
    import pty

    _, slave = pty.openpty()
    code = """
def deep(n):
    if n: deep(n - 1)
    else: fh._sigsegv()
for name in range(30):
    exec("def %s(n): deep(n)" % ("x" * 450 + str(name)))
fh.enable(2, budget=0.3, max_frames=1000)
deep(400)
"""
    result = child(PRELUDE + code, pass_fds=[slave], preexec_fn=lambda: __import__("os").dup2(slave, 2))
    assert result.returncode == -signal.SIGSEGV


def test_after_the_interpreters_end_a_report_goes_nowhere_else(tmp_path):
    """The file of enable() is closed then, and its number may be somebody else's."""
    code = f"""
file = open({str(tmp_path / "log")!r}, "w")
fh.enable(file); del file
libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)  # C code, run after the interpreter is gone
"""
    result = child(PRELUDE + code)
    assert result.returncode == -signal.SIGABRT
    assert (tmp_path / "log").read_text() == ""
