"""Tracebacks that can't crash: drop-ins for faulthandler that read the interpreter's memory safely."""

from __future__ import annotations

from ._install import install, uninstall

__all__ = ["capabilities", "get_include", "install", "uninstall"]
__version__ = "0.1.0"


def capabilities() -> dict[str, object]:
    """What works in this process, and why something doesn't.

    ``faulthandler``: whether the safe walker is in use; where it isn't, ``faultproof.faulthandler`` is the standard
    module and ``reason`` says why.  ``reader``: how memory is read safely just now ("guarded copy" once something that
    needs the guard has been called; else a system call).  ``free_threaded``: whether this is a build without the GIL.
    """
    from . import faulthandler

    return faulthandler._capabilities()


def get_include() -> str:
    """The folder with ``faultproof.h``, for building extensions that use the C API."""
    import os.path

    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(here, "include")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(os.path.dirname(here)), "include")  # an editable installation: the tree's
