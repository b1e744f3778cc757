"""Waits for the first import of traceback, to put the drop-in in then.

Most programs never import traceback, which costs as much as the rest of the start.  Until somebody does, a finder
stands first in ``sys.meta_path``.  It lets the others find the module and answers what they answer; only the loader of
that one spec, an object of its own, has an attribute that lets us know when it has run.  Then the finder goes.

A part of the start of the process (_startup.py): it imports nothing that isn't needed.
"""

import sys


class Finder:
    """Calls a function when the module with that name has been imported; leave() ends the waiting."""

    def __init__(self, name, arrived):
        self.name, self.arrived = name, arrived
        sys.meta_path.insert(0, self)

    def leave(self):
        # A new list: who is just going through the old one, here or in another thread, must not miss the next finder.
        if self in sys.meta_path:
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(self, name, path=None, target=None):
        """What the other finders say; target: the module is being made again in its place (importlib.reload)."""
        if name != self.name or target is not None:
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
            if sys.modules.get(self.name) is module:  # else a private copy
                self._has_come()

        loader.exec_module = exec_module

    def _has_come(self):
        try:
            self.arrived()
        except Exception as error:
            # the program's own import has worked, and must not fail because of us; a signal's handler is the program's
            if not _is_ours(error):
                raise
        self.leave()


def _is_ours(error):
    """Whether the exception comes out of our own code, not out of a handler that has run in the middle of it."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__") or ""
    return module.partition(".")[0] in ("faultproof", "importlib", "traceback")
