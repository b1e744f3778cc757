"""Sandboxes that end the process for a system call that they don't list: a report needs none that the standard module's doesn't
need, but for three that every list has."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys

import pytest

SUPPORT = pathlib.Path(__file__).parent
OPENAT, LSEEK, FSTAT, PRCTL, RT_SIGRETURN, RT_SIGPROCMASK, POLL = 257, 8, 5, 157, 15, 14, 7

# What the standard module doesn't call and ours may: how a handler returns; whether a signal is blocked; whether a pipe has
# room, since the report of a process whose output nobody reads must end.
LISTED = {RT_SIGRETURN, RT_SIGPROCMASK, POLL}

# Calls that importing an extension needs, and those that ours may be tempted by.
OF_IMPORT = {
    "read": 0, "close": 3, "fstat": FSTAT, "lseek": LSEEK, "ioctl": 16, "pread64": 17, "sched_yield": 24, "fcntl": 72,
    "openat": OPENAT, "newfstatat": 262,
}  # fmt: skip
TEMPTING = {
    "dup": 32, "nanosleep": 35, "sendto": 44, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigqueueinfo": 129, "sched_getaffinity": 204, "clock_gettime": 228, "clock_nanosleep": 230, "pipe2": 293,
    "rt_tgsigqueueinfo": 297, "process_vm_readv": 310, "process_vm_writev": 311, "statx": 332,
}  # fmt: skip

PROGRAM = """
import ctypes, os, resource, signal, struct, sys, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
module, how, when, numbers, others, c_stack, depth = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
abort = libc.abort
callback = ctypes.CFUNCTYPE(None)(lambda: ctypes.string_at(0))
def sandbox(at):
    if at == when:
        os.write(1, b"begins")
    if at != when or not numbers:
        return
    lines = [(0x20, 0, 0, 0)]  # load the number
    for number in map(int, numbers.split(",")):
        lines += [(0x15, 0, 1, number), (0x06, 0, 0, 0x80000000)]  # SECCOMP_RET_KILL_PROCESS
    lines.append((0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
sandbox("before import")
if module == "standard": import faulthandler
else: from faultproof import faulthandler
sandbox("after import")
go = threading.Event()
for i in range(int(others)): threading.Thread(target=go.wait, daemon=True).start()
options = {} if module == "standard" or c_stack == "default" else {"c_stack": c_stack == "on"}
if module == "ours": options["max_frames"] = 1000
faulthandler.enable(2, **options)
sandbox("after enable")
def crash():
    if how == "fault": ctypes.string_at(0)
    elif how == "abort": abort()
    elif how == "raise": signal.raise_signal(signal.SIGSEGV)
    elif how == "callback": callback()
def function_with_a_long_name_so_that_the_report_is_longer(n):
    function_with_a_long_name_so_that_the_report_is_longer(n - 1) if n else crash()
function_with_a_long_name_so_that_the_report_is_longer(int(depth))
"""
STATUS = {"fault": -signal.SIGSEGV, "raise": -signal.SIGSEGV, "abort": -signal.SIGABRT, "callback": -signal.SIGSEGV}


def command(module, how, when="after enable", numbers=(), others=0, c_stack="off", depth=0):
    values = (module, how, when, ",".join(map(str, sorted(numbers))), others, c_stack, depth)
    return [sys.executable, "-c", PROGRAM, *map(str, values)]


def report(*args, **kwargs) -> tuple[int, str]:
    """The status, and the text without addresses."""
    done = subprocess.run(command(*args, **kwargs), capture_output=True, stdin=subprocess.DEVNULL, text=True)
    return done.returncode, re.sub("0x[0-9a-f]+", "0x", done.stderr)


def calls(*args, **kwargs) -> set[int]:
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "trace_calls.py"), *command(*args, **kwargs)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("ptrace isn't allowed here")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


needed_by_standard: dict[tuple, set[int]] = {}


def needed(how: str, others: int, when: str = "after enable") -> set[int]:
    """What the standard module calls from there on in the same program."""
    key = (how, others, when)
    if key not in needed_by_standard:
        needed_by_standard[key] = calls("standard", how, when, others=others)
    return needed_by_standard[key]


@pytest.mark.parametrize("c_stack", ["off", "on"])
@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("how", ["fault", "abort", "raise"])
def test_each_call_that_the_standard_module_does_not_make(how, others, c_stack):
    """Both are traced; the filter ends the process for one at a time of those that are ours alone."""
    whole = report("ours", how, others=others, c_stack=c_stack)
    assert whole[0] == STATUS[how] and whole[1].startswith("Fatal Python error: "), whole
    own = calls("ours", how, others=others, c_stack=c_stack) - needed(how, others) - LISTED
    for number in own:
        assert report("ours", how, "after enable", [number], others, c_stack) == whole, number


@pytest.mark.parametrize("how", ["fault", "abort"])
@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("when", ["before import", "after import", "after enable"])
def test_calls_that_may_be_unlisted(when, others, how):
    of_import = set() if when == "before import" else set(OF_IMPORT.values())
    numbers = (set(TEMPTING.values()) | of_import | {PRCTL}) - needed(how, others, when)
    standard = report("standard", how, when, numbers, others)
    assert standard[0] == STATUS[how] and " in <module>\n" in standard[1]
    found = report("ours", how, when, numbers, others)
    assert found == report("ours", how, others=others)
    assert found[0] == STATUS[how] and " in <module>\n" in found[1]


def test_the_default_c_stack_needs_no_more():
    numbers = (set(TEMPTING.values()) | set(OF_IMPORT.values())) - needed("fault", 0)
    assert report("ours", "fault", "after enable", numbers, c_stack="default") == report(
        "ours", "fault", c_stack="default"
    )


def test_a_long_report_asks_once_what_it_writes_to():
    """Behind the first 16 KiB it has to be known whether a write may block: fstat() tells."""
    numbers = (set(TEMPTING.values()) | set(OF_IMPORT.values())) - needed("fault", 0) - {FSTAT, OF_IMPORT["newfstatat"]}
    whole = report("ours", "fault", depth=400)
    assert len(whole[1]) > 20000
    assert report("ours", "fault", "after enable", numbers, depth=400) == whole
    cut = report("ours", "fault", "after enable", [FSTAT, OF_IMPORT["newfstatat"]], depth=400)
    assert cut[0] == -signal.SIGSYS and len(cut[1]) > 10000 and whole[1].startswith(cut[1])


def test_code_of_no_object_costs_the_c_stack_alone():
    """A callback of ctypes is code made at run time: only the kernel's map tells of it, and a file has to be opened."""
    before_c_stack = report("ours", "callback")[1]
    text = report("ours", "callback", "after enable", [OPENAT], c_stack="on")[1]
    assert " in crash\n" in before_c_stack
    assert text.startswith(before_c_stack.split("\n\nExtension modules")[0])


def test_without_a_descriptor_to_spare():
    code = "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
    program = PROGRAM.replace('sandbox("after enable")\n', code)
    args = command("ours", "fault", c_stack="on")
    done = subprocess.run([*args[:2], program, *args[3:]], capture_output=True, stdin=subprocess.DEVNULL, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert " in crash\n" in done.stderr and "Current thread's C stack trace" in done.stderr
