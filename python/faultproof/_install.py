"""Puts the drop-ins in the place of the standard library's modules, and takes them out again.

A row of the table is one drop-in.  To install it replaces the entry in ``sys.modules`` and, in place, the public
attributes of the standard module's object, so that modules which imported it before gain too.  Names that were bound
one by one (``from traceback import format_exc``) stay what they were.
"""

from __future__ import annotations

import importlib
import sys
from collections import namedtuple

# One row: the standard module's name, and what to do; both functions are called once for each change of state.
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


def _install_traceback() -> None:
    ours = importlib.import_module("faultproof.traceback")
    replace_module("traceback", ours, ours._faultproof_standard, ours._functions)


def _remove_traceback() -> None:
    ours = importlib.import_module("faultproof.traceback")
    restore_module("traceback", ours._faultproof_standard, ours._functions)


DROP_INS: list[DropIn] = [
    DropIn("traceback", _install_traceback, _remove_traceback),
]

_installed: list[DropIn] = []


def install() -> None:
    """Replace the standard modules for the whole process.  A second call changes nothing."""
    for row in DROP_INS:
        if row not in _installed:
            row.install()
            _installed.append(row)


def uninstall() -> None:
    """Put the standard modules back, as the objects that they were.  Nothing happens when nothing is installed."""
    while _installed:
        _installed.pop().remove()
