"""The contract of PyUnstable_CollectCallStack and PyUnstable_PrintCallStack, sentence by sentence, from C."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import subprocess
import sys
import textwrap
import threading

import capi_support
import pytest

probe = capi_support.probe()
probe.install_guard()
# "blocked": the thread blocks SIGSEGV, so that system calls do the reading; all others use the guard
CONTEXTS = ["direct", "nogil", "handler", "thread", "blocked"]


def python_stack(skip: int = 1) -> list[tuple[str, int, str]]:
    frame, rows = sys._getframe(skip), []
    while frame is not None:
        rows.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return rows


def rows(frames) -> list[tuple[str, int, str]]:
    return [(file, line, name) for file, line, name, *_ in frames]


@pytest.mark.parametrize("context", CONTEXTS)
def test_own_stack_is_what_python_says(context):
    def inner():
        return probe.call_stack(context, probe.real_tstate(), 1000), python_stack()

    (n, frames), expected = inner()
    assert n == len(frames) == len(expected)
    assert rows(frames) == expected
    assert all(cut == (0, 0) for *_, a, b in frames for cut in [(a, b)])


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("bad", [1, 7, 8, 4096, 2**47, 2**63, 2**64 - 8])
def test_what_is_no_thread_state_is_an_error(context, bad):
    assert probe.call_stack(context, bad, 10) == (-1, [])


@pytest.mark.parametrize("context", CONTEXTS)
def test_random_memory_is_no_thread_state(context):
    memory = ctypes.create_string_buffer(os.urandom(1 << 16))
    assert probe.call_stack(context, ctypes.addressof(memory) + 4096 & ~7, 10) == (-1, [])


def test_null_and_negative_arguments():
    assert probe.call_stack("direct", None, 10) == (-1, [])
    assert probe.call_stack("direct", probe.real_tstate(), -1) == (-1, [])
    assert probe.call_stack("direct", probe.real_tstate(), -(2**31)) == (-1, [])
    assert probe.call_stack_null() == -1


@pytest.mark.parametrize("context", CONTEXTS)
def test_max_frames(context):
    own = probe.real_tstate()
    assert probe.call_stack(context, own, 0) == (0, [])
    n, frames = probe.call_stack(context, own, 1)
    assert n == 1 and frames[0][2] == "test_max_frames"
    n, frames = probe.call_stack(context, own, 2)
    assert n == 2 and frames[0][2] == "test_max_frames"


def deep(n, do):
    return do() if n == 0 else deep(n - 1, do)


@pytest.mark.parametrize("context", ["direct", "handler"])
def test_10_000_frames(context):
    got = []

    def run():
        got.append(deep(10050, lambda: probe.call_stack(context, probe.real_tstate(), 10000)))
        got.append(deep(9000, lambda: probe.call_stack(context, probe.real_tstate(), 10000)))

    limit = sys.getrecursionlimit()
    before = threading.stack_size(512 << 20)
    sys.setrecursionlimit(40000)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
        sys.setrecursionlimit(limit)
    (n, frames), (m, fewer) = got
    assert n == 10000 and {name for *_, name in rows(frames)[1:]} == {"deep"}
    assert 9000 < m < 9010 and rows(fewer)[-1][2] in ("_bootstrap", "_bootstrap_inner")


def escaped(text: str) -> tuple[str, int]:
    """faulthandler's form in at most 500 bytes, no escape cut in two."""
    out = ""
    for c in text:
        o = ord(c)
        piece = c if 32 <= o < 127 else f"\\x{o:02x}" if o < 256 else f"\\u{o:04x}" if o < 65536 else f"\\U{o:08x}"
        if len(out) + len(piece) > 500:
            return out, 1
        out += piece
    return out, 0


STRINGS = {
    "empty": "",
    "499": "a" * 499,
    "500": "b" * 500,
    "501": "c" * 501,
    "502": "d" * 502,
    "5000": "e" * 5000,
    "latin": "é" * 3 + "ÿ",
    "latin 500": "x" * 496 + "é",
    "latin cut": "x" * 497 + "é",
    "latin long": "é" * 200,
    "BMP": "snake_蛇_Ω",
    "BMP cut": "y" * 495 + "蛇",
    "BMP 500": "y" * 494 + "蛇",
    "astral": "\U0001d518\U0001d52b\U0001f600\U0010ffff",
    "astral cut": "z" * 491 + "\U0001d518",
    "astral 500": "z" * 490 + "\U0001d518",
    "surrogate": "lone\ud800and\udcff",
    "control": "tab\tnewline\nnul\0del\x7f",
    "quotes": "a\"b'c\\d",
    "eights": "abcdefgh" * 10 + "é" + "abcdefgh",
}


@pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS.keys())
@pytest.mark.parametrize("context", ["direct", "thread", "blocked"])
def test_strings(context, text):
    def function():
        return probe.call_stack(context, probe.real_tstate(), 1)

    function.__code__ = function.__code__.replace(co_name=text, co_filename=text + "!")
    n, [(file, line, name, file_cut, name_cut)] = function()
    assert (name, name_cut) == escaped(text)
    assert (file, file_cut) == escaped(text + "!")
    assert n == 1 and line > 0


@pytest.mark.parametrize("text", [t for t in STRINGS.values() if t and escaped(t + "!")[1] == 0])
def test_strings_are_those_of_faulthandler(text, tmp_path):
    def function(file):
        return faulthandler.dump_traceback(file, all_threads=False) or probe.call_stack("direct", own, 1)

    own = probe.real_tstate()
    function.__code__ = function.__code__.replace(co_name=text, co_filename=text + "!")
    with open(tmp_path / "dump", "w+") as file:
        _, [(filename, line, name, _, _)] = function(file)
        file.seek(0)
        assert file.readlines()[1] == f'  File "{filename}", line {line} in {name}\n'


def test_line_unknown():
    def function():
        return probe.call_stack("direct", probe.real_tstate(), 1)

    if sys.version_info < (3, 10):
        pytest.skip("a line table of 3.9 gives every instruction a line")
    function.__code__ = function.__code__.replace(co_linetable=b"")
    n, [(_, line, name, _, _)] = function()
    assert (n, line, name) == (1, -1, "function")


def test_generators_and_coroutines():
    def generator():
        yield probe.call_stack("handler", probe.real_tstate(), 3), python_stack()[:3]

    def outer():
        yield from generator()

    async def coroutine():
        return probe.call_stack("handler", probe.real_tstate(), 3), python_stack()[:3]

    async def agen():
        yield await coroutine()

    async def run():
        async for x in agen():
            return x

    for (n, frames), expected in [next(outer()), asyncio.run(run())]:
        assert n == 3 and rows(frames) == expected


class Waiting:
    """A thread that waits, 3 calls deep, until it is told to end."""

    def __init__(self):
        self.ready, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.first)
        self.thread.start()
        self.ready.wait()

    def first(self):
        self.second()

    def second(self):
        self.tstate = probe.real_tstate()
        self.ready.set()
        self.go.wait()

    def end(self):
        self.go.set()
        self.thread.join()


@pytest.mark.parametrize("context", CONTEXTS)
def test_another_thread_that_waits(context):
    other = Waiting()
    try:
        n, frames = probe.call_stack(context, other.tstate, 100)
        names = [name for *_, name in rows(frames)]
        at = names.index("second")
        assert names[at : at + 3] == ["second", "first", "run"]
        assert n == len(names) and probe.call_stack(context, other.tstate, 0) == (0, [])
    finally:
        other.end()


# The call tree of a thread that runs: who may be called by whom.
def leaf_a():
    return 1


def leaf_b():
    return 2


def branch_a():
    return leaf_a() + leaf_a()


def branch_b():
    return leaf_b() + leaf_b()


def tree(stop):
    while not stop.is_set():
        branch_a()
        branch_b()


CALLERS = {"leaf_a": {"branch_a"}, "leaf_b": {"branch_b"}, "branch_a": {"tree"}, "branch_b": {"tree"}}


def test_other_threads_that_run_show_possible_stacks():
    stop, tstates = threading.Event(), []

    def run():
        tstates.append(probe.real_tstate())
        tree(stop)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        while len(tstates) < len(threads):
            pass
        seen = i = 0
        while i < 100 or (seen == 0 and i < 100000):  # a thread that isn't scheduled stands at one place
            i += 1
            n, frames = probe.call_stack(("nogil", "thread")[i % 2], tstates[i % 2], 50)
            names = [name for *_, name in rows(frames)]
            assert n == len(names) > 0
            for callee, caller in zip(names, names[1:]):
                if callee in CALLERS and caller:
                    assert caller in CALLERS[callee], names
                    seen += 1
        assert seen > 0
    finally:
        stop.set()
        for t in threads:
            t.join()


@pytest.mark.parametrize("context", CONTEXTS)
def test_fresh_and_freed_thread_states(context):
    fresh = probe.new_tstate()
    assert probe.call_stack(context, fresh, 10) == (-1, [])
    assert probe.call_stack(context, fresh, 0) == (-1, [])
    assert probe.thread_info(context, fresh) is not None
    probe.delete_tstate(fresh)
    assert probe.call_stack(context, fresh, 10) == (-1, [])
    assert probe.call_stack(context, fresh, 0) == (-1, [])
    assert probe.compact(context, fresh, 10, False) == (-1, [])
    assert probe.thread_info(context, fresh) is None


def test_many_thread_states_freed_in_any_order():
    made = [probe.new_tstate() for _ in range(200)]
    alive = set(made)
    for tstate in made[::3] + made[1::3][::-1] + made[2::3]:
        probe.delete_tstate(tstate)
        alive.discard(tstate)
        assert probe.thread_info("direct", tstate) is None
        for other in list(alive)[:5]:
            assert probe.thread_info("direct", other) is not None


def short(tstates):
    tstates.append(probe.real_tstate())
    return sum(range(50))


def test_1000_threads_that_end_while_they_are_read():
    tstates: list[int] = []
    ended, answers = threading.Event(), [0, 0]
    strange: list = []

    def read():
        while not ended.is_set():
            os.sched_yield()
            for tstate in tstates[-8:]:
                n, frames = probe.call_stack("nogil", tstate, 20)
                answers[n > 0] += 1
                # all of its frames are of the threading module or of this file, whatever was unavailable is empty
                files = {os.path.basename(file) for file, *_ in rows(frames)}
                if not files <= {"threading.py", "_weakrefset.py", "test_c_api.py", ""}:
                    strange.append(frames)

    reader_thread = threading.Thread(target=read)
    reader_thread.start()
    for _ in range(100):
        batch = [threading.Thread(target=short, args=(tstates,)) for _ in range(10)]
        for t in batch:
            t.start()
        for t in batch:
            t.join()
    ended.set()
    reader_thread.join()
    assert len(tstates) == 1000 and answers[0] > 0
    assert strange == []
    own = probe.real_tstate()
    assert {probe.call_stack("direct", t, 5)[0] for t in set(tstates) - {own}} == {-1}


def survives(code: str) -> None:
    """Runs code in a child, so that a crash would be a report; it finds the probe, and a word of memory by its address."""
    before = f"""if True:
        import ctypes, importlib.util, sys
        spec = importlib.util.spec_from_file_location("capi_probe", {probe.path!r})
        probe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(probe)
        probe.install_guard()
        word = ctypes.c_size_t
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code) + "print('survived')"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_damaged_code_object_gives_short_or_empty_records():
    """co_filename and co_name point nowhere, in the middle of the stack."""
    survives("""
        def inner(got):
            for c in ("direct", "handler", "blocked"): got.append(probe.call_stack(c, probe.real_tstate(), 10))
            return got
        def damaged(): return inner([])
        at = id(damaged.__code__)
        size = sys.getsizeof(damaged.__code__)
        for good in (id(damaged.__code__.co_filename), id(damaged.__code__.co_name)):
            for bad in (0, 8, 1, 2**47, 2**64 - 8, id(None), at):
                places = [at + i for i in range(16, 200, 8) if word.from_address(at + i).value == good]
                for p in places: word.from_address(p).value = bad
                got = damaged()
                for p in places: word.from_address(p).value = good
                for n, frames in got:
                    assert n == 3 and frames[0][2] == "inner" and frames[2][2] == "<module>", frames
                    assert "" in (frames[1][0], frames[1][2]), frames
    """)


def test_damaged_code_object_of_the_running_function():
    """Its type points elsewhere: who crashes has overwritten it.  Who called it is shown."""
    survives("""
        def running(bad, got):
            place = word.from_address(id(running.__code__) + object.__basicsize__ - 8)
            good, own, call_stack, append = place.value, probe.real_tstate(), probe.call_stack, got.append
            place.value = bad
            for c in ("direct", "handler", "blocked"): append(call_stack(c, own, 10))
            place.value = good
            return got
        def caller(bad): return running(bad, [])
        for bad in (0, 8, 1, 2**47, 2**64 - 8, 2**64 - 1, id(str)):
            for n, frames in caller(bad):
                assert [f[2] for f in frames] == ["", "caller", "<module>"] and frames[0][:2] == ("", -1), (bad, frames)
    """)


def test_damaged_chain_of_frames_gives_a_short_stack():
    """A frame's link to its caller points nowhere; what is above it is shown."""
    survives("""
        head = object.__basicsize__  # the frame object's first field is f_back; since 3.11 the next is the frame itself
        def frame_of(f):
            return word.from_address(id(f) + head + 8).value if sys.version_info >= (3, 11) else id(f)
        contexts = ("direct", "handler", "blocked")
        def inner(bad, got):
            me, caller, callers_caller = sys._getframe(), sys._getframe(1), sys._getframe(2)
            at, good = frame_of(caller), frame_of(callers_caller)
            first = 0 if sys.version_info >= (3, 11) else head
            place = next(at + i for i in range(first, 80, 8) if word.from_address(at + i).value == good)
            own, call_stack, compact, append = probe.real_tstate(), probe.call_stack, probe.compact, got.append
            word.from_address(place).value = bad
            for c in contexts: append((call_stack(c, own, 10), compact(c, own, 10, False)[0]))
            word.from_address(place).value = good
            return got
        def middle(bad): return inner(bad, [])
        def outer(bad): return middle(bad)
        for bad in (8, 9, 4096, 2**47, 2**63, 2**64 - 8):
            for (n, frames), compact in outer(bad):
                assert n in (2, 3) and frames[0][2] == "inner" and frames[-1][:3] == ("", -1, ""), (bad, n, frames)
                assert compact == -2, (bad, compact)
    """)


def printed(frames, n=None, header=1) -> str:
    r, w = os.pipe()
    kept = probe.print_stack(w, frames, len(frames or []) if n is None else n, header)
    os.close(w)
    with open(r) as f:
        text = f.read()
    assert kept, "errno changed"
    return text


def test_print_call_stack():
    frames = [
        ("foo/bar.py", 42, "myfunc", 0, 0),
        ("cut.py", 1, "cut_name", 1, 1),
        ("", -1, "", 0, 0),
        ("x", 0, "y", 0, 1),
        ("x", 2147483647, "y", 1, 0),
    ]
    assert printed(frames) == (
        "Stack (most recent call first):\n"
        '  File "foo/bar.py", line 42 in myfunc\n'
        '  File "cut.py...", line 1 in cut_name...\n'
        "  File ???, line ??? in ???\n"
        '  File "x", line 0 in y...\n'
        '  File "x...", line 2147483647 in y\n'
    )
    assert printed(frames[:1], header=0) == '  File "foo/bar.py", line 42 in myfunc\n'
    assert printed(frames, n=1, header=0) == '  File "foo/bar.py", line 42 in myfunc\n'
    assert printed(frames, n=0) == printed(frames, n=-5) == printed(None, n=3) == "Stack (most recent call first):\n"
    assert printed([], header=0) == ""


def test_print_call_stack_without_terminators():
    assert printed([("f" * 501, 7, "n" * 501, 0, 0)], header=0) == f'  File "{"f" * 501}", line 7 in {"n" * 501}\n'


def test_print_call_stack_to_a_bad_descriptor_is_silent():
    assert probe.print_stack(-1, [("a", 1, "b", 0, 0)], 1, 1)
    r, w = os.pipe()
    os.close(r)
    assert probe.print_stack(w, [("a", 1, "b", 0, 0)], 1, 1)  # SIGPIPE is ignored in Python
    os.close(w)


def test_before_the_import_every_call_fails():
    assert probe.before_import() == [-1] * 9 + [0] * 11 + ["faultproof_import() hasn't been called"]


def test_10_000_calls_change_no_heap_and_no_reference():
    probe.cache(1 << 20)
    code, file = sys._getframe().f_code, sys._getframe().f_code.co_filename
    probe.heap(10)
    before = sys.getrefcount(code), sys.getrefcount(file), sys.getrefcount(None)
    assert probe.heap(10000) == 0
    after = sys.getrefcount(code), sys.getrefcount(file), sys.getrefcount(None)
    assert before[:2] == after[:2]
    probe.cache(0)
