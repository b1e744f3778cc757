"""Tracebacks that can't crash: drop-ins for faulthandler and traceback that read the interpreter's memory safely.

    faultproof.enable()            write all Python stacks when the process crashes
    faultproof.install()           put both drop-ins in the place of the standard modules, for everybody
    faultproof.faulthandler        the drop-in for faulthandler: watchdog, user signals, dumps on request
    faultproof.traceback           the drop-in for traceback
    faultproof run program.py      the command: a program with all this from its start; faultproof --help
    FAULTPROOF=1                   the environment variable that does the same for any python program.py

Nothing is changed by the import alone.
"""

from ._install import install, uninstall

__all__ = [
    "capabilities",
    "disable",
    "enable",
    "faulthandler",
    "get_include",
    "install",
    "is_enabled",
    "traceback",
    "uninstall",
]
__version__ = "0.1.0"

# What is imported when it is first asked for: the submodule that has a name, or is it.
_LAZY = {
    "disable": "faulthandler",
    "enable": "faulthandler",
    "faulthandler": "faulthandler",
    "is_enabled": "faulthandler",
    "traceback": "traceback",
}


def __getattr__(name):
    submodule = _LAZY.get(name)
    if submodule is None:
        raise AttributeError(f"module 'faultproof' has no attribute {name!r}")
    module = __import__(f"faultproof.{submodule}", fromlist=("_",))  # importlib would have to be imported
    value = module if name == submodule else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def capabilities():
    """What works in this process, and why something doesn't.

    ``faulthandler``: whether the safe walker is in use; where it isn't, ``faultproof.faulthandler`` is the standard
    module and ``reason`` says why.  ``reader``: how memory is read safely just now ("guarded copy" once something that
    needs the guard has been called; else a system call).  ``free_threaded``: whether this is a build without the GIL.
    """
    from . import faulthandler

    return faulthandler._capabilities()


def get_include():
    """The folder with ``faultproof.h``, for building extensions that use the C API."""
    import os.path

    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(here, "include")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(os.path.dirname(here)), "include")  # an editable installation: the tree's
