"""install() and uninstall(): the drop-ins in the place of the standard library's modules, for the whole process."""

from __future__ import annotations

import sys
import types

_standard: dict[str, types.ModuleType] = {}  # what stood in sys.modules before
_attributes: dict[str, dict[str, object]] = {}  # the standard modules' own attributes that were replaced


def _replace(name: str, ours: types.ModuleType) -> types.ModuleType:
    """Put ours into sys.modules, and its public functions into the standard module for who has imported that."""
    __import__(name)
    standard = sys.modules[name]
    _standard[name] = standard
    public = [n for n in vars(standard) if not n.startswith("_") and hasattr(ours, n)]
    _attributes[name] = {n: getattr(standard, n) for n in public}
    for n in public:
        setattr(standard, n, getattr(ours, n))
    sys.modules[name] = ours
    return standard


def _restore(name: str) -> None:
    standard = _standard.pop(name)
    for n, value in _attributes.pop(name).items():
        setattr(standard, n, value)
    sys.modules[name] = standard


def _stderr_fileno() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


def _install_faulthandler(file: object) -> None:
    from . import faulthandler as ours

    standard = sys.modules.get("faulthandler") or __import__("faulthandler")
    if standard is ours:
        return
    was_enabled = standard.is_enabled()
    standard_disable = standard.disable
    _replace("faulthandler", ours)
    if was_enabled:
        standard_disable()
        ours.enable(file if file is not None else _stderr_fileno())


def _uninstall_faulthandler() -> None:
    from . import faulthandler as ours

    was_enabled = ours.is_enabled()
    if was_enabled:
        ours.disable()
    _restore("faulthandler")
    if was_enabled:
        sys.modules["faulthandler"].enable(_stderr_fileno())


_DROP_INS = {"faulthandler": (_install_faulthandler, _uninstall_faulthandler)}


def install(file: object = None) -> None:
    """Put faultproof's modules in the place of the standard library's, for the whole process."""
    for name, (put, _) in _DROP_INS.items():
        if name not in _standard:
            put(file)


def uninstall() -> None:
    """Undo install(): the standard modules and their attributes are the same objects as before."""
    for name, (_, take) in _DROP_INS.items():
        if name in _standard:
            take()
