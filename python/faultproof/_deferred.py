"""The traceback drop-in in the place of the standard module: at once where that is imported, else when it is.

Most programs never import traceback, which costs as much as the rest of the start.  Until somebody does, a finder
stands first in ``sys.meta_path``.  It lets the others find the module and answers what they answer; only the loader of
that one spec, an object of its own, has an attribute that lets us know when it has run.  Then the finder goes.

A part of the start of the process (_startup.py): it imports nothing that isn't needed.
"""

import sys

from ._install import put, putting, take_back

_NAME = "traceback"


def _methods(standard, methods):
    """Those of StackSummary's methods that nobody has replaced, as the class holds them."""
    found = {}
    for name, function in methods.items():
        before = vars(standard.StackSummary).get(name)
        if getattr(before, "__func__", before) is function.__wrapped__:
            found[name] = classmethod(function) if isinstance(before, classmethod) else function
    return found


class _Traceback:
    """One installation, and while it waits a finder."""

    def __init__(self):
        self.removed = False
        self.patches = []

    def put(self):
        """Also methods of StackSummary, which TracebackException and asyncio call; classes stay the interpreter's."""
        from . import traceback as ours

        standard = ours._faultproof_standard
        functions = {**ours._functions, "format_exc_bytes": ours.format_exc_bytes}
        with putting:
            if not self.removed:
                self.patches.append(put(standard, functions))
                self.patches.append(put(standard.StackSummary, _methods(standard, ours._methods)))

    def remove(self):
        with putting:
            self.removed = True
            while self.patches:
                take_back(*self.patches.pop())
        self._leave()

    def wait(self):
        sys.meta_path.insert(0, self)

    def _leave(self):
        # A new list: who is just going through the old one, here or in another thread, must not miss the next finder.
        if self in sys.meta_path:
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(self, name, path=None, target=None):
        """What the other finders say; target: the module is being made again in its place (importlib.reload)."""
        if name != _NAME or target is not None:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                self._listen(spec.loader)
                return spec
        return None

    def _listen(self, loader):
        """Let us know when the loader has run.  A class, or one without attributes, is everybody's: left alone."""
        if isinstance(loader, type) or not hasattr(loader, "__dict__") or "exec_module" in vars(loader):
            return
        run = loader.exec_module

        def exec_module(module):
            del loader.exec_module
            run(module)
            if sys.modules.get(_NAME) is module:  # else a private copy
                self._arrived()

        loader.exec_module = exec_module

    def _arrived(self):
        try:  # noqa: SIM105  contextlib would have to be imported
            self.put()
        except Exception:
            pass  # the program's own import of traceback has worked, and must not fail because of us
        self._leave()


def install():
    """Returns what takes it out again."""
    one = _Traceback()
    module = sys.modules.get(_NAME)
    if module is None and _NAME not in sys.modules:
        one.wait()
    elif isinstance(module, type(sys)):
        one.put()
    return one.remove
