"""Puts the drop-ins in the place of the standard library's modules, and takes them out again.

A row of the table is one drop-in.  To install it replaces the entry in ``sys.modules`` and, in place, the public
attributes of the standard module's object, so that modules which imported it before gain too.  Names that were bound
one by one (``from traceback import format_exc``) stay what they were.
"""

from __future__ import annotations

import _thread
import importlib
import sys
from collections import namedtuple

# One row: the standard module's name, and what to do; both functions are called once for each change of state; install
# gets the file that reports go to.
DropIn = namedtuple("DropIn", ["name", "install", "remove"])

# What stood in sys.modules, and the standard module's own values, by the module's name.
_saved: dict[str, tuple[object, dict[str, object]]] = {}


def _put(holder: object, values: dict[str, object]) -> dict[str, object]:
    """Put attributes into a module or class; what was there, by name."""
    before = {name: vars(holder)[name] for name in values}
    for name, value in values.items():
        setattr(holder, name, value)
    return before


def _take_back(holder: object, values: dict[str, object], before: dict[str, object]) -> None:
    """Undo ``_put``.  What somebody else has put there meanwhile stays."""
    for name, value in values.items():
        if vars(holder).get(name) is value:
            setattr(holder, name, before[name])


def replace_module(name: str, ours: object, standard: object, functions: dict[str, object]) -> None:
    """Put ``ours`` into ``sys.modules`` and ``functions`` into the standard module; remember what was there."""
    module = sys.modules.get(name)
    sys.modules[name] = ours
    _saved[name] = module, _put(standard, functions)


def restore_module(name: str, standard: object, functions: dict[str, object]) -> None:
    """Undo ``replace_module``."""
    module, attributes = _saved.pop(name)
    _take_back(standard, functions, attributes)
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _stderr() -> int:
    """The descriptor of sys.stderr; 2 where that has none (it may be replaced or closed)."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


def _faulthandler_functions(standard: object, ours: object) -> dict[str, object]:
    public = [name for name in vars(standard) if not name.startswith("_") and callable(getattr(standard, name))]
    return {name: getattr(ours, name) for name in public if hasattr(ours, name)}


def _registered_signals(standard: object, ours: object) -> list[int]:
    """The signals that were registered with the standard module: those with its handler."""
    import _signal  # not signal, which costs a start-up the import of enum

    handlers = {int(number): ours._handler(number) for number in _signal.valid_signals()}
    spare = max((number for number, handler in handlers.items() if handler == 0), default=None)
    if spare is None or not any(handler > 1 for handler in handlers.values()):
        return []
    # the module doesn't tell its handler's address: for a moment a signal that nobody uses has it
    standard.register(spare, 2)
    address = ours._handler(spare)
    standard.unregister(spare)
    return [number for number, handler in handlers.items() if handler == address]


# All signals but SIGKILL, SIGSTOP and the two that glibc keeps: what the thread of the standard watchdog blocks, and
# ours.  As SigBlk in proc(5).
_ALL_BLOCKED = 0xFFFFFFFE7FFBFEFF
_FUTEX = "202"


def _watches(task: str) -> bool | None:
    """Whether an OS thread does what the standard watchdog does: wait with a time limit, all signals blocked.

    None: it doesn't wait now, and has hardly run, so it may be about to.
    """
    try:
        with open(f"/proc/self/task/{task}/syscall", encoding="ascii") as file:
            call = file.read().split()
        with open(f"/proc/self/task/{task}/status", encoding="ascii", errors="replace") as file:
            blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
        with open(f"/proc/self/task/{task}/stat", encoding="ascii", errors="replace") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except OSError:
        return False  # it has ended, or the system doesn't tell
    if len(call) < 5:
        return None if int(user) + int(system) < 3 else False  # clock ticks, sampled
    return blocked & _ALL_BLOCKED == _ALL_BLOCKED and call[0] == _FUTEX and int(call[4], 16) != 0


def _watchdog_pends(ours: object) -> bool:
    """Whether a thread looks like the standard module's watchdog, which nothing tells."""
    import os
    import time

    threading = sys.modules.get("threading")
    pythons = {str(thread.native_id) for thread in threading.enumerate()} if threading else {str(os.getpid())}
    for _ in range(200):  # a thread that was just made gets some milliseconds to begin
        own = pythons | {str(ours._watchdog_thread())}
        tasks = {task: _watches(task) for task in os.listdir("/proc/self/task")}
        own.add(str(ours._watchdog_thread()))  # which may have begun meanwhile
        seen = [watches for task, watches in tasks.items() if task not in own]
        if True in seen:
            return True
        if None not in seen:
            return False
        time.sleep(0.001)
    return False


def _warn_of_what_stays(standard: object, ours: object) -> None:
    """Say what goes on in the standard module, whose names now are ours."""
    stays = [f"signal {number} stays registered" for number in _registered_signals(standard, ours)]
    if _watchdog_pends(ours):
        stays.append("a call of dump_traceback_later() stays pending")
    if stays:
        import warnings

        warnings.warn(
            f"{', '.join(stays)} with the standard faulthandler: undo that before faultproof.install(), "
            "or between uninstall() and another install()",
            RuntimeWarning,
            stacklevel=4,
        )


def _install_faulthandler(file: object) -> None:
    """An active standard handler is disabled and ours enabled in its place; what is pending there stays there."""
    global _standard_faulthandler
    in_use = "faulthandler" in sys.modules
    try:
        standard = importlib.import_module("faulthandler")
    except ImportError:
        return  # an interpreter with a GIL of its own can't have the standard one
    ours = importlib.import_module("faultproof.faulthandler")
    if standard is ours or not ours._capabilities()["faulthandler"]:
        return
    was_enabled = standard.disable()
    if in_use:
        _warn_of_what_stays(standard, ours)
    _standard_faulthandler = standard
    replace_module("faulthandler", ours, standard, _faulthandler_functions(standard, ours))
    if was_enabled:
        # the standard module doesn't tell its file
        ours.enable(_stderr() if file is None else file)


def _remove_faulthandler() -> None:
    global _standard_faulthandler
    standard, _standard_faulthandler = _standard_faulthandler, None
    if standard is None:
        return
    ours = importlib.import_module("faultproof.faulthandler")
    restore_module("faulthandler", standard, _faulthandler_functions(standard, ours))
    if ours.disable():
        standard.enable(_stderr())


_standard_faulthandler: object = None


# The methods of StackSummary that install() has put there, and what was there before.
_methods: tuple[dict[str, object], dict[str, object]] = {}, {}


def _install_traceback(_file: object) -> None:
    """Also methods of StackSummary, which TracebackException and asyncio call: the classes stay the interpreter's."""
    ours = importlib.import_module("faultproof.traceback")
    standard = ours._faultproof_standard
    replace_module("traceback", ours, standard, ours._functions)
    methods = {}
    for name, function in ours._methods.items():
        before = vars(standard.StackSummary).get(name)
        if getattr(before, "__func__", before) is function.__wrapped__:  # else somebody has replaced it
            methods[name] = classmethod(function) if isinstance(before, classmethod) else function
    global _methods
    _methods = methods, _put(standard.StackSummary, methods)


def _remove_traceback() -> None:
    ours = importlib.import_module("faultproof.traceback")
    standard = ours._faultproof_standard
    _take_back(standard.StackSummary, *_methods)
    restore_module("traceback", standard, ours._functions)


DROP_INS: list[DropIn] = [
    DropIn("faulthandler", _install_faulthandler, _remove_faulthandler),
    DropIn("traceback", _install_traceback, _remove_traceback),
]

_installed: list[DropIn] = []

# One change at a time; a warning's hook may call back.
_changing = _thread.RLock()


def install(file: object = None) -> None:
    """Replace the standard modules for the whole process.  A second call changes nothing.

    file: where reports go if the standard fault handler is enabled and ours takes its place (an object with fileno()
    or a descriptor); None: sys.stderr.  A pending dump_traceback_later() of the standard module, and signals that were
    registered there, stay with it, and a RuntimeWarning says so.
    """
    with _changing:
        for row in DROP_INS:
            if row not in _installed:
                row.install(file)
                _installed.append(row)


def uninstall() -> None:
    """Put the standard modules back, as the objects that they were.  Nothing happens when nothing is installed."""
    with _changing:
        while _installed:
            _installed.pop().remove()
