"""Puts the drop-ins in the place of the standard library's modules, and takes them out again.

A row of the table is one drop-in.  To install it replaces the entry in ``sys.modules`` and, in place, the public
attributes of the standard module's object, so that modules which imported it before gain too.  Names that were bound
one by one (``from traceback import format_exc``) stay what they were.
"""

from __future__ import annotations

import importlib
import sys
from collections import namedtuple

# One row: the standard module's name, and what to do; both functions are called once for each change of state; install
# gets the file that reports go to.
DropIn = namedtuple("DropIn", ["name", "install", "remove"])

# What stood in sys.modules, and the standard module's own values, by the module's name.
_saved: dict[str, tuple[object, dict[str, object]]] = {}


def replace_module(name: str, ours: object, standard: object, functions: dict[str, object]) -> None:
    """Put ``ours`` into ``sys.modules`` and ``functions`` into the standard module; remember what was there."""
    attributes = {attribute: getattr(standard, attribute) for attribute in functions}
    _saved[name] = sys.modules.get(name), attributes
    sys.modules[name] = ours
    for attribute, value in functions.items():
        setattr(standard, attribute, value)


def restore_module(name: str, standard: object, functions: dict[str, object]) -> None:
    """Undo ``replace_module``.  What somebody else has put there meanwhile stays."""
    module, attributes = _saved.pop(name)
    for attribute, value in functions.items():
        if getattr(standard, attribute, None) is value:
            setattr(standard, attribute, attributes[attribute])
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


def _install_faulthandler(file: object) -> None:
    """An active standard handler is disabled and ours enabled in its place; what is pending there stays there."""
    global _standard_faulthandler
    try:
        standard = importlib.import_module("faulthandler")
    except ImportError:
        return  # an interpreter with a GIL of its own can't have the standard one
    ours = importlib.import_module("faultproof.faulthandler")
    if standard is ours or not ours._capabilities()["faulthandler"]:
        return
    was_enabled, disable = standard.is_enabled(), standard.disable
    _standard_faulthandler = standard
    replace_module("faulthandler", ours, standard, _faulthandler_functions(standard, ours))
    if was_enabled:
        disable()
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


def _install_traceback(_file: object) -> None:
    ours = importlib.import_module("faultproof.traceback")
    replace_module("traceback", ours, ours._faultproof_standard, ours._functions)


def _remove_traceback() -> None:
    ours = importlib.import_module("faultproof.traceback")
    restore_module("traceback", ours._faultproof_standard, ours._functions)


DROP_INS: list[DropIn] = [
    DropIn("faulthandler", _install_faulthandler, _remove_faulthandler),
    DropIn("traceback", _install_traceback, _remove_traceback),
]

_installed: list[DropIn] = []


def install(file: object = None) -> None:
    """Replace the standard modules for the whole process.  A second call changes nothing.

    file: where reports go if the standard fault handler is enabled and ours takes its place (an object with fileno()
    or a descriptor); None: sys.stderr.  A pending dump_traceback_later() of the standard module, and signals that were
    registered there, stay with it: cancel them before, they can't be seen from outside.
    """
    for row in DROP_INS:
        if row not in _installed:
            row.install(file)
            _installed.append(row)


def uninstall() -> None:
    """Put the standard modules back, as the objects that they were.  Nothing happens when nothing is installed."""
    while _installed:
        _installed.pop().remove()
