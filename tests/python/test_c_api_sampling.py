"""Collect as numbers, resolve later: the compact collector, the resolver, its cache, sessions."""

from __future__ import annotations

import asyncio
import dis
import gc
import os
import signal
import sys
import sysconfig
import threading
import types

import capi_support
import pytest

probe = capi_support.probe()
probe.install_guard()
CAN = probe.capabilities()
FREED, UNKNOWN = 1, -1
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
CONTEXTS = ["direct", "nogil", "handler", "blocked"]


def own_frames() -> list[types.FrameType]:
    frame, out = sys._getframe(1), []
    while frame is not None:
        out.append(frame)
        frame = frame.f_back
    return out


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("own", [False, True])
def test_frames_are_those_of_python(context, session, own):
    tstate = None if own else probe.real_tstate()
    frames = own_frames()
    here = sys._getframe()
    (n, got), line = probe.compact(context, tstate, 1000, session), here.f_lineno
    expected = [(id(f.f_code), line if f is here else f.f_lineno) for f in frames]
    assert n == len(got) == len(expected)
    assert [code for code, *_ in got] == [code for code, _ in expected]
    # the frames below stand still: their instruction is what Python says (3.10 on counts the same bytes)
    assert [offset for _, offset, *_ in got[1:]] == [f.f_lasti for f in frames[1:]]
    located = [probe.resolve(f, False) for f in got]
    assert [(x["filename"], x["name"], x["first_line"], x["code_flags"]) for x in located] == [
        (f.f_code.co_filename, f.f_code.co_name, f.f_code.co_firstlineno, f.f_code.co_flags) for f in frames
    ]
    assert [x["line"] for x in located] == [line for _, line in expected]
    if CAN["qualnames"]:
        assert [x["qualname"] for x in located] == [f.f_code.co_qualname for f in frames]
    else:
        assert {x["qualname"] for x in located} == {""}


@pytest.mark.parametrize("session", [False, True])
def test_arguments(session):
    own = probe.real_tstate()
    assert probe.compact("direct", own, -1, session) == (-1, [])
    assert probe.compact("direct", own, 0, session) == (0, [])
    assert probe.compact("direct", None, 0, session) == (0, [])
    assert probe.compact("direct", own, 1, session)[0] == 1
    assert probe.compact("direct", 4096, 10, session) == (-1, [])
    assert probe.compact("thread", None, 10, session) == (-1, [])  # a thread that Python doesn't know has no stack
    assert probe.small_structs() == (-1,) * 7


def test_kinds():
    def generator():
        yield probe.compact("direct", None, 3, False)[1]

    async def coroutine():
        return probe.compact("direct", None, 3, False)[1]

    assert [kind for *_, kind in next(generator())] == [1, 0, 0]
    assert next(kind for *_, kind in asyncio.run(coroutine())) == 1


def functions():
    """Some thousands of code objects of the standard library."""
    seen: dict[int, types.CodeType] = {}
    todo = [
        f.__code__ for m in list(sys.modules.values()) for f in vars(m).values() if isinstance(f, types.FunctionType)
    ]
    while todo:
        code = todo.pop()
        if id(code) not in seen:
            seen[id(code)] = code
            todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return list(seen.values())


def check_of(code: types.CodeType) -> int:
    """What the collector says to tell this code object apart: it is put under a function that is called."""

    def caller(do):
        return do()

    probe_code = caller.__code__
    assert probe_code is not code
    return next(check for c, _, check, _ in probe.compact("direct", None, 100, False)[1] if c == id(code))


def check_by_version_or_name(code: types.CodeType) -> int:
    """The check of a code object that doesn't run: the resolver accepts only the right one, so a wrong guess fails."""
    version = version_of(code) if CAN["identify_code"] else 0
    return (hash(code.co_name) + 8 * code.co_firstlineno + MIX * version) & 0xFFFFFFFF


def version_of(code: types.CodeType) -> int:
    import ctypes

    return ctypes.c_uint32.from_address(id(code) + VERSION_AT).value


def find_version() -> int:
    """Where the version number lies in a code object, found by what the collector reads of a frame that runs."""
    import ctypes

    me = sys._getframe().f_code
    check = next(check for c, _, check, _ in probe.compact("direct", None, 5, False)[1] if c == id(me))
    version = (check - hash(me.co_name) - 8 * me.co_firstlineno) * pow(MIX, -1, 1 << 32) & 0xFFFFFFFF
    words = [i for i in range(16, 200, 4) if ctypes.c_uint32.from_address(id(me) + i).value == version]
    assert words
    return words[0]


MIX = 0x9E3779B9
VERSION_AT = find_version() if CAN["identify_code"] else 0


@pytest.mark.skipif(not CAN["columns"], reason="columns are known since 3.11")
def test_positions_are_those_of_co_positions():
    probe.cache(4 << 20)
    compared = 0
    for code in functions()[:1500]:
        expected = [tuple(-1 if x is None else x for x in p) for p in code.co_positions()]
        got = probe.positions(code, check_by_version_or_name(code), [2 * i for i in range(len(expected))])
        # (line, end line, column, end column) in both; where there is no line, columns are not given
        assert got == [p if p[0] >= 0 else (-1, -1, -1, -1) for p in expected], code
        compared += len(got)
    probe.cache(0)
    assert compared > 10000


@pytest.mark.skipif(CAN["columns"], reason="test_positions_are_those_of_co_positions has the lines too")
def test_lines_are_those_of_dis():
    for code in functions()[:500]:
        lines, line, at = [], code.co_firstlineno, dict(dis.findlinestarts(code))
        for i in range(0, len(code.co_code), 2):
            line = at.get(i, line)
            lines.append(line)
        got = probe.positions(code, check_by_version_or_name(code), list(range(0, len(code.co_code), 2)))
        if sys.version_info >= (3, 10):  # findlinestarts leaves out where instructions without a line begin
            pairs = [(g, e) for g, e in zip(got, lines) if g[0] >= 0]
        else:
            pairs = list(zip(got, lines))
        assert [g[1:] for g, _ in pairs] == [(-1, -1, -1)] * len(pairs)
        assert [g[0] for g, _ in pairs] == [e for _, e in pairs], code


def make(name: str):
    names: dict = {"probe": probe}
    source = f"def {name}(context): return probe.compact(context, None, 1, False)[1][0]"
    exec(compile(source, f"<{name}>", "exec"), names)
    return names.pop(name)


@pytest.mark.parametrize("cache", [False, True])
def test_freed_code_objects_are_noticed(cache):
    """1,000 code objects, each at an address where one was before: the resolver never says another's name."""
    probe.cache((1 << 20) if cache else 0)
    frames, addresses = [], set()
    for i in range(1000):
        function = make(f"made_{i}")
        frame = function("direct")
        addresses.add(frame[0])
        if cache:
            assert probe.resolve(frame, True)["name"] == f"made_{i}"
        frames.append(frame)
        del function
        if i % 50 == 0:
            gc.collect()  # a free-threaded build frees code objects only here
    gc.collect()
    if FREE_THREADED and len(addresses) == 1000:
        assert all(probe.resolve(f, cache)["name"] == f"made_{i}" for i, f in enumerate(frames))
        pytest.skip("this free-threaded build keeps code objects for ever once a thread was started")
    assert len(addresses) < 1000
    known = 0
    for i, frame in enumerate(frames):
        location = probe.resolve(frame, cache)
        if location is not None:
            assert (location["name"], location["filename"]) == (f"made_{i}", f"<made_{i}>")
            assert location["first_line"] == 1
            if FREE_THREADED and location["flags"] == 0:
                continue  # it frees memory only when every thread has passed a point where it holds none
            known += 1
            assert location["flags"] == FREED and location["line"] == location["column"] == UNKNOWN
    assert known <= len(addresses) * 4 if cache else known == 0
    assert known > 0 or not cache or FREE_THREADED
    probe.cache(0)


def test_a_code_object_in_place_of_another_has_another_check():
    def f():
        return probe.compact("direct", None, 1, False)[1][0]

    seen = {}
    for i in range(1000):
        f.__code__ = f.__code__.replace(co_name=f"name_{i}")
        code, _, check, _ = f()
        assert (code, check) not in seen
        seen[code, check] = i


@pytest.mark.parametrize("depth", [1, 40, 300])
def test_frames_of_a_waiting_thread_can_be_told_however_slow_reading_is(depth):
    """Where SIGSEGV is blocked system calls do it; a code object is told by two readings, even if one takes long."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    tstates = []

    def descend(n):
        if n > 0:
            return descend(n - 1)
        tstates.append(probe.real_tstate())
        os.write(ready_w, b"x")
        return os.read(go_r, 1)

    thread = threading.Thread(target=descend, args=(depth,))
    thread.start()
    os.read(ready_r, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])  # a thread that Python doesn't know inherits it
    try:
        for _ in range(20):  # the last one counts: without a GIL the first may find it on its way
            n, frames = probe.compact("thread", tstates[0], 1000, False)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGSEGV])
        os.write(go_w, b"x")
        names = [probe.resolve(f, False)["name"] for f in frames if f[2] != 0 and f[0] == id(descend.__code__)]
        thread.join()
    assert len(names) == depth + 1 and n > depth + 1 and all(check for _, _, check, _ in frames)
    for fd in (ready_r, ready_w, go_r, go_w):
        os.close(fd)


def test_frames_of_an_interpreter_that_ended_are_not_anothers():
    """Each interpreter counts the versions of code objects for itself, and memory is used again."""
    collected = []
    for i in range(12):
        code = f"def made_{i}():\n  os.write(READY, b'x')\n  os.read(GO, 1)\nmade_{i}()\n"
        with capi_support.interpreter_in_a_thread(code) as (number, _):
            inside = next(t for t in probe.threads("direct", 0)[1] if t["interpreter_id"] == number)
            frames = probe.compact("direct", inside["tstate"], 10, False)[1]
            assert probe.resolve(frames[0], False)["name"] == f"made_{i}"
            for name, frame in collected:
                location = probe.resolve(frame, False)
                assert location is None or location["name"] == name
            collected.append((f"made_{i}", frames[0]))


def test_cache_sizes():
    assert not probe.cache(0)
    assert not probe.cache(100)
    assert probe.cache(2000)  # one entry: all code objects in turn
    functions = [make(f"small_{i}") for i in range(20)]
    for _ in range(2):
        for i, f in enumerate(functions):
            assert probe.resolve(f("direct"), True)["name"] == f"small_{i}"
    assert probe.cache(20000)
    for _ in range(2):
        for i, f in enumerate(functions):
            assert probe.resolve(f("direct"), True)["name"] == f"small_{i}"
    probe.cache(0)


def test_what_was_never_collected_is_unknown():
    code, offset, check, kind = make("collected")("direct")
    live = make("live")
    code, offset, check, kind = live("direct")
    assert probe.resolve((code, offset, check, kind), False)["name"] == "live"
    assert probe.resolve((code, offset, check ^ 2, kind), False) is None
    assert probe.resolve((code, offset, 0, kind), False) is None
    assert probe.resolve((code + 8, offset, check, kind), False) is None
    assert probe.resolve((16, offset, check, kind), False) is None
    assert probe.resolve((2**63, offset, check, kind), False) is None
    beyond = probe.resolve((code, 1 << 20, check, kind), False)
    assert beyond["name"] == "live" and (beyond["line"] == -1 or sys.version_info < (3, 10))
    assert probe.resolve((code, -1, check, kind), False)["line"] == live.__code__.co_firstlineno


def test_truncated_strings_are_flagged():
    f = make("f")
    changes = {"co_name": "n" * 501, "co_filename": "f" * 501}
    if CAN["qualnames"]:
        changes["co_qualname"] = "q" * 501
    f.__code__ = f.__code__.replace(**changes)
    for cache in (0, 1 << 16):
        probe.cache(cache)
        for _ in range(2):
            location = probe.resolve(f("direct"), bool(cache))
            assert location["name"] == "n" * 500 and location["filename"] == "f" * 500
            assert location["flags"] == (2 | 4 | 8 if CAN["qualnames"] else 2 | 4)
    probe.cache(0)


def spin(stop, tstates):
    tstates.append(probe.real_tstate())
    while not stop.is_set():
        make_and_call(0)


def make_and_call(i):
    code = template.__code__.replace(co_name=f"numbered_{i % 50}")
    return types.FunctionType(code, {})()


def template():
    return 1


def test_a_running_thread_that_makes_and_drops_code_objects():
    stop, tstates = threading.Event(), []
    threads = [threading.Thread(target=spin, args=(stop, tstates)) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        while len(tstates) < 2:
            pass
        resolved = i = 0
        while i < 400 or (resolved == 0 and i < 100000):  # a thread that isn't scheduled stands at one place
            i += 1
            n, frames = probe.compact("nogil", tstates[i % 2], 50, i % 3 == 0)
            assert n == len(frames) > 0 or n == -2  # -2: FAULTPROOF_TORN
            names = [(probe.resolve(f, False) or {"name": ""})["name"] for f in frames]
            for callee, caller in zip(names, names[1:]):
                if callee.startswith("numbered_") or callee == "replace":
                    assert caller in ("make_and_call", ""), names
                if callee == "make_and_call":
                    assert caller in ("spin", ""), names
                    resolved += 1
        assert resolved > 0
    finally:
        stop.set()
        for t in threads:
            t.join()
