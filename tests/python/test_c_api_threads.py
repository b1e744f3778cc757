"""Threads from C: the visitor, names and ids, the GIL's holder, interpreters, capabilities."""

from __future__ import annotations

import _thread
import os
import sys
import sysconfig
import threading

import capi_support
import pytest

probe = capi_support.probe()
probe.install_guard()
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
HOLDS_GIL, OWN = 1, 2
CONTEXTS = ["direct", "nogil", "handler", "thread", "blocked"]


@pytest.fixture
def waiting():
    """Five threads that wait."""
    go, ready = threading.Event(), threading.Barrier(6)

    def run():
        ready.wait()
        go.wait()

    threads = [threading.Thread(target=run) for _ in range(5)]
    for t in threads:
        t.start()
    ready.wait()
    yield threads
    go.set()
    for t in threads:
        t.join()


@pytest.mark.parametrize("context", CONTEXTS)
def test_all_threads_are_visited(context, waiting):
    n, threads, with_stack = probe.threads(context, 0)
    assert n == len(threads)
    ids = [t["thread_id"] for t in threads]
    assert set(ids) >= {t.ident for t in waiting} | {threading.get_ident()}
    assert len(ids) == len(set(ids))
    assert with_stack == n
    natives = {t["thread_id"]: t["native_id"] for t in threads}
    for t in waiting:
        assert natives[t.ident] == t.native_id
    assert {t["interpreter_id"] for t in threads} == {0}
    position = {ident: i for i, ident in enumerate(ids)}
    order = [position[t.ident] for t in waiting]
    assert order == sorted(order, reverse=True), "most recently started first"


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_visitor_can_end_the_visits(context, waiting):
    n, threads, _ = probe.threads(context, 2)
    assert n == len(threads) == 2


@pytest.mark.parametrize("context", CONTEXTS)
def test_flags(context, waiting):
    _, threads, _ = probe.threads(context, 0)
    flags = {t["thread_id"]: t["flags"] for t in threads}
    own = flags.pop(threading.get_ident())
    assert bool(own & OWN) == (context != "thread")
    if context in ("direct", "handler", "blocked"):
        assert bool(own & HOLDS_GIL) == (not FREE_THREADED)
    elif context == "nogil":
        assert not own & HOLDS_GIL
    for t in waiting:
        assert not flags[t.ident] & OWN
        assert context in ("nogil", "thread") or not flags[t.ident] & HOLDS_GIL


def test_names():
    own = threading.get_native_id()
    name_file = f"/proc/self/task/{own}/comm"
    with open(name_file) as f:
        before = f.read().rstrip("\n")
    for name in ("a", "exactly15bytes!", before):
        with open(name_file, "w") as f:
            f.write(name)
        for context in CONTEXTS:
            assert probe.thread_name(context, own, 16) == (len(name), name.encode())
    assert probe.thread_name("direct", own, 4) == (3, before.encode()[:3])
    assert probe.thread_name("direct", own, 1) == (0, b"")
    assert probe.thread_name("direct", own, 0) == (-1, b"untouched")
    assert probe.thread_name("direct", 0, 16) == (-1, b"")
    assert probe.thread_name("direct", 2**40, 16) == (-1, b"")
    assert probe.thread_name("direct", 2**64 - 1, 16) == (-1, b"")


def test_thread_info():
    info = probe.thread_info("direct", probe.real_tstate())
    assert info["tstate"] == probe.real_tstate()
    assert info["thread_id"] == threading.get_ident()
    assert info["native_id"] == threading.get_native_id()
    assert info["interpreter_id"] == 0
    assert probe.thread_info("direct", None) is None
    assert probe.thread_info("direct", 4096) is None


@pytest.mark.parametrize("context", CONTEXTS)
def test_current_tstate(context):
    for _ in range(2):  # searched, and remembered
        expected = None if context == "thread" else probe.real_tstate()
        assert probe.current_tstate(context) == (expected or 0)


def test_current_tstate_of_many_threads():
    wrong = []

    def run():
        for context in ("direct", "nogil", "handler") * 3:
            if probe.current_tstate(context) != probe.real_tstate():
                wrong.append(context)

    threads = [threading.Thread(target=run) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_current_tstate_while_threads_come_and_go():
    """Without the GIL the list changes under the search; what it then misses it must look for again."""
    wrong = []

    def run():
        found, real = probe.current_tstate("nogil"), probe.real_tstate()
        if found != real:
            wrong.append((found, real))

    def start_many():
        for _ in range(500):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=start_many) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_current_tstate_of_who_starts_threads():
    """Up to 3.11 a thread that hasn't run yet has a state with the id of who started it."""
    real = probe.real_tstate()
    found = []
    for _ in range(3000):
        _thread.start_new_thread(int, ())
        found.append(probe.current_tstate("nogil"))
    assert set(found) == {real}


def test_gil_holder():
    own = probe.real_tstate()
    assert probe.gil_holder("direct", 0) == probe.gil_holder("handler", 0) == (0 if FREE_THREADED else own)
    assert probe.gil_holder("direct", 12345) == 0
    assert probe.gil_holder("direct", -1) == 0
    if not FREE_THREADED:
        assert probe.gil_holder("nogil", 0) != own


def test_threads_of_subinterpreters():
    code = "def in_sub():\n  os.write(READY, b'x')\n  os.read(GO, 1)\nin_sub()\n"
    with capi_support.interpreter_in_a_thread(code) as (number, thread):
        _, threads, _ = probe.threads("direct", 0)
        inside = [t for t in threads if t["interpreter_id"] == number]
        assert len(inside) == 1
        if sys.version_info >= (3, 13):  # before, a thread state keeps the id of the thread that made it
            assert inside[0]["thread_id"] == thread.ident
        n, frames = probe.call_stack("direct", inside[0]["tstate"], 10)
        assert n >= 2 and frames[0][2] == "in_sub"
        assert {t["interpreter_id"] for t in threads} == {0, number}
        assert probe.gil_holder("direct", 0) == (0 if FREE_THREADED else probe.real_tstate())


@pytest.mark.parametrize("context", CONTEXTS)
def test_current_tstate_beside_an_interpreter_that_waits(context):
    """Up to 3.12 its thread state has the id of who made it."""
    module = capi_support.interpreters()
    ident = module.create()
    try:
        for _ in range(2):
            assert probe.current_tstate(context) == (0 if context == "thread" else probe.real_tstate())
    finally:
        module.destroy(ident)


RUNNING = """if True:
    def of_even(): return 1
    def of_odd(): return 2
    def even(): of_even(); of_even()
    def odd(): of_odd(); of_odd()
    def run():
        while not os.path.exists(STOP):
            for _ in range(300): even(); odd()
    os.write(READY, b"x")
    run()
"""
CALLERS = {"of_even": "even", "of_odd": "odd", "even": "run", "odd": "run", "run": "<module>"}


@pytest.mark.parametrize("context", ["direct", "nogil", "handler", "thread"])
def test_stacks_of_an_interpreter_that_another_thread_runs(context):
    """Up to 3.12 its thread state seems to be the one of who made it, who asks here."""
    wrong, seen = [], 0
    with capi_support.interpreter_in_a_thread(RUNNING) as (number, _):
        inside = next(t for t in probe.threads("direct", 0)[1] if t["interpreter_id"] == number)
        for _ in range(500 if context != "thread" else 100):
            n, frames = probe.call_stack(context, inside["tstate"], 20)
            names = [name for _, _, name, *_ in frames]
            seen += n > 0
            wrong += [names for a, b in zip(names, names[1:]) if b and CALLERS.get(a, b) != b]
            wrong += [names] * (n > 0 and names[-1] not in ("<module>", ""))
    assert seen and not wrong, (len(wrong), wrong[:3])


def test_capabilities():
    can = probe.capabilities()
    assert can == {
        "collect": 1,
        "guard": 1,
        "columns": int(sys.version_info >= (3, 11)),
        "qualnames": int(sys.version_info >= (3, 11)),
        "native_ids": 1,
        "gil_holder": int(not FREE_THREADED),
        "identify_code": int(sys.version_info >= (3, 12)),
        "version": 0x00010000,
        "status": "ok",
    }


def test_threads_that_come_and_go_while_visited():
    stop, errors = threading.Event(), []

    def churn():
        while not stop.is_set():
            t = threading.Thread(target=int)
            t.start()
            t.join()

    churners = [threading.Thread(target=churn) for _ in range(2)]
    for t in churners:
        t.start()
    try:
        for _ in range(200):
            n, threads, _ = probe.threads("nogil", 0)
            ids = {t["thread_id"] for t in threads}
            if n < 1 or not {threading.get_ident(), *(t.ident for t in churners)} <= ids:
                errors.append((n, ids))
    finally:
        stop.set()
        for t in churners:
            t.join()
    assert errors == []


def test_in_a_forked_child():
    pid = os.fork()
    if pid == 0:
        ok = probe.current_tstate("direct") == probe.real_tstate()
        ok = ok and probe.threads("direct", 0)[0] == 1
        ok = ok and probe.compact("handler", None, 100, True)[0] > 1
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
