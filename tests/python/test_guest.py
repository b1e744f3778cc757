"""docs/guests.md says what the process notices; here its tables are compared with what /proc and the interpreter say.

Each call of a table, and after it its opposite, runs in a process of its own, which looks at itself before and after.
"""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap

import pytest
from helpers import child

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "guests.md").read_text()

# Looks at the process.  What is read is what it was made to show: the program itself uses nothing but what is imported.
LOOK = """
import ctypes, json, os, resource, signal, sys, time, threading, warnings
libc = ctypes.CDLL(None, use_errno=True)
null = os.open(os.devnull, os.O_WRONLY)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def status(task, *names):
    with open(f"/proc/self/task/{task}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [lines[name].strip() for name in names]

def tasks():
    return sorted(os.listdir("/proc/self/task"), key=int)

def signals(mask):
    return sorted(signal.Signals(n).name for n in range(1, 32) if int(mask, 16) >> (n - 1) & 1)

def named_mappings():
    with open("/proc/self/maps") as file:
        return sorted({line.split()[5] for line in file if len(line.split()) > 5 and line.split()[5].startswith("/")})

def alternate_stack():
    stack = Stack()
    libc.sigaltstack(None, ctypes.byref(stack))
    return stack.size

def look():
    main = str(os.getpid())
    seen = {
        "threads": len(tasks()),
        "descriptors": sorted((int(n), os.readlink(f"/proc/self/fd/{n}")) for n in os.listdir("/proc/self/fd")
                              if os.path.exists(f"/proc/self/fd/{n}") or os.path.islink(f"/proc/self/fd/{n}")),
        "signals": signals(status(main, "SigCgt")[0]),
        "ignored": signals(status(main, "SigIgn")[0]),
        "masks": [status(task, "SigBlk", "SigPnd", "ShdPnd") for task in tasks()[:known]],
        "modules": sorted(sys.modules),
        "finders": [repr(finder) for finder in sys.meta_path],
        "timers": [signal.getitimer(which) for which in (0, 1, 2)],
        "environment": sorted(os.environ.items()),
        "others": [os.getcwd(), repr(sys.excepthook), repr(threading.excepthook), repr(sys.unraisablehook), sys.path,
                   repr(sys.gettrace()), repr(sys.getprofile()), repr(warnings.filters), repr(warnings.showwarning)],
        "files": named_mappings(),
        "stack": alternate_stack(),
        "handlers": [repr(signal.getsignal(n)) for n in range(1, 32)],
    }
    return seen

# Threads of the program's own, which have used an allocator before and wait.
waiting = threading.Event()
others = [threading.Thread(target=waiting.wait, daemon=True) for _ in range(3)]
for other in others: other.start()
known = len(tasks())
"""

RUN = """
before = look()
exec(call)
after = look()
exec(opposite)
deadline = time.monotonic() + 1
while len(tasks()) > known and time.monotonic() < deadline:
    os.sched_yield()
print(json.dumps([before, after, look()]))
"""

OPPOSITES = {
    "faultproof.enable()": "faultproof.disable()",
    "faultproof.install()": "faultproof.uninstall()",
    "faultproof.faulthandler.dump_traceback_later(60)": "faultproof.faulthandler.cancel_dump_traceback_later()",
    "faultproof.faulthandler.register(10)": "faultproof.faulthandler.unregister(10)",
}
UNCHANGED = ("ignored", "masks", "timers", "environment", "others", "handlers")


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the first table under a heading, by the names of its columns."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    names = [name.strip() for name in lines[0]]
    return [dict(zip(names, (cell.strip().strip("`") for cell in line))) for line in lines[2:]]


ADDED = table("What each call adds")
LEFT = {row["opposite"]: row for row in table("What its opposite leaves")}
CALLS = [row["call"] for row in ADDED if not row["call"].startswith("FAULTPROOF")]


def row_of(call: str) -> dict[str, str]:
    return next(row for row in ADDED if row["call"] == call)


def names(cell: str) -> set[str]:
    return {word.strip("`") for word in cell.split()} - {"none"}


def difference(before: dict, after: dict) -> dict[str, object]:
    """What the table's columns say."""
    return {
        "threads": after["threads"] - before["threads"],
        "descriptors": len(after["descriptors"]) - len(before["descriptors"]),
        "signals": set(after["signals"]) - set(before["signals"]),
        "modules": set(after["modules"]) - set(before["modules"]),
        "finders": len(after["finders"]) - len(before["finders"]),
    }


def said(row: dict[str, str]) -> dict[str, object]:
    numbers = {name: int(row[name]) for name in ("threads", "descriptors", "finders")}
    return {**numbers, "signals": names(row["signals"]), "modules": names(row["modules"])}


def observe(call: str, opposite: str = "") -> list[dict]:
    program = call if call.startswith("import") else f"import faultproof; {call}"
    result = child(LOOK + f"call, opposite = {program!r}, {opposite!r}\n" + RUN)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("call", CALLS)
def test_the_page_says_what_a_call_adds(call):
    before, after, _ = observe(call)
    assert difference(before, after) == said(row_of(call))
    for name in UNCHANGED:
        assert after[name] == before[name], name
    strange = [
        file
        for file in set(after["files"]) - set(before["files"])
        if "faultproof" not in file and not file.endswith(".so")
    ]
    assert not [file for file in strange if "cpython" not in file], strange


@pytest.mark.parametrize("call", OPPOSITES)
def test_the_opposite_takes_it_back(call):
    opposite = OPPOSITES[call]
    before, _, after = observe(call, opposite)
    found = difference(before, after)
    assert (found["threads"], found["descriptors"], found["finders"]) == (0, 0, 0)
    assert found["signals"] == names(LEFT[opposite]["signals that stay"])
    for name in (*UNCHANGED, "stack"):
        assert after[name] == before[name], name


def test_each_function_is_on_the_page():
    import faultproof
    from faultproof import faulthandler

    modules = {"faulthandler", "traceback"}
    functions = {
        *set(faultproof.__all__) - modules,
        *(n for n in vars(faulthandler) if n[0] != "_" and callable(getattr(faulthandler, n))),
    }
    text = " ".join([*CALLS, *LEFT, *OPPOSITES.values()])
    assert {name for name in functions if f"{name}(" not in text} == set()
    assert set(OPPOSITES.values()) == set(LEFT)


SHOW_START = LOOK + "print(json.dumps(look()))"


def start(python: str, **environment: str) -> dict:
    done = subprocess.run([python, "-c", SHOW_START], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(re.sub("0x[0-9a-f]{6,}", "0x", done.stdout))


def test_the_page_says_what_the_start_adds(started_python):
    before, after = start(started_python), start(started_python, FAULTPROOF="1")
    found = difference(before, after)
    # what LOOK imports has imported traceback on some versions
    for name in ("faultproof.traceback", "faultproof._traceback", "faultproof._traceback_sample"):
        found["modules"].discard(name)
    if "traceback" in after["modules"]:
        found["finders"] += 1
    assert found == said(row_of("FAULTPROOF=1"))
    for name in set(UNCHANGED) - {"environment"}:
        assert after[name] == before[name], name
    kept = [(number, file) for number, file in after["descriptors"] if number >= 200]
    assert len(kept) == 1 and kept[0][1] == dict(after["descriptors"])[2]


def test_nothing_of_the_interpreter_is_replaced_by_the_start(started_python):
    """But the functions that the page names."""
    program = textwrap.dedent("""
        import builtins, faulthandler, gc, importlib, io, json, linecache, os, signal, sys, threading, traceback, warnings
        def seen(module):
            return {name: type(value).__name__ for name, value in vars(module).items() if not name.startswith("__")}
        parts = [builtins, gc, importlib, io, linecache, os, signal, sys, threading, warnings, traceback.TracebackException,
                 traceback.FrameSummary]
        print(json.dumps([[part.__name__, seen(part)] for part in parts]), traceback.__name__, traceback.__spec__.name)
    """)
    texts = [
        subprocess.check_output([started_python, "-c", program], env=environment, text=True)
        for environment in ({}, {"FAULTPROOF": "1"})
    ]
    assert texts[0] == texts[1]


INTERPRETERS = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
code = '''
import faultproof
file = open("/dev/null", "w")
faultproof.enable(file)
faultproof.faulthandler.dump_traceback_later(60, file=file)
faultproof.faulthandler.register(10, file=file)
'''
def once():
    one = interpreters.create()
    failed = interpreters.run_string(one, code)
    assert failed is None, failed
    interpreters.destroy(one)
once()
before = os.listdir("/proc/self/fd")
for _ in range(20): once()
assert len(os.listdir("/proc/self/fd")) <= len(before), os.listdir("/proc/self/fd")
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters are closed cleanly from 3.12 on")
@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="interpreters share more without the GIL")
def test_interpreters_leave_no_descriptor():
    result = child("import os\n" + INTERPRETERS)
    assert result.returncode == 0, result.stderr


def test_the_table_knows_every_signal():
    for row in ADDED:
        assert all(hasattr(signal, name) for name in names(row["signals"]))
