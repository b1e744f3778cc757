"""Puts the drop-ins in the place of the standard library's modules, and takes them out again.

The standard modules' objects stay where they are, in ``sys.modules`` and in everybody's hands; only their attributes
change, so that who has imported them before gains too, and what anybody puts there is seen by all.  Names that were
bound one by one (``from traceback import format_exc``) stay what they were.

A part of the start of the process (_startup.py): it imports nothing that isn't needed.
"""

import _thread
import sys

_ABSENT = object()  # stands for the value of an attribute that wasn't there


def _put(holder, values):
    """Put attributes into a module or class; returns what _take_back() needs."""
    before = {name: vars(holder).get(name, _ABSENT) for name in values}
    if isinstance(holder, type):
        for name, value in values.items():
            setattr(holder, name, value)
    else:
        vars(holder).update(values)  # no signal handler runs in between
    return holder, values, before


def _take_back(holder, values, before):
    """Undo ``_put``.  What somebody else has put there meanwhile stays."""
    for name, value in values.items():
        if vars(holder).get(name, _ABSENT) is not value:
            continue
        if before[name] is _ABSENT:
            delattr(holder, name)
        else:
            setattr(holder, name, before[name])


def _nothing():
    pass


def stderr():
    """The descriptor of sys.stderr; 2 where that has none (it may be replaced or closed)."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


# What the start of the process has kept to write reports to (_startup.py); None: nothing.
kept = None


def _options(all_threads, c_stack):
    """Arguments of enable(); c_stack is known to the standard module from 3.14 on."""
    options = {"all_threads": all_threads}
    return {**options, "c_stack": c_stack} if sys.version_info >= (3, 14) else options


def _standard_was_enabled_with(ours):
    """The file and the options of the standard module's enable(), as enable() takes them."""
    found = ours._standard_enabled(ours._handler(11))
    if found is None:
        # whoever has replaced sys.stderr (a test runner, a notebook) would keep the report for itself
        return (stderr() if kept is None else kept), {}
    file, all_threads, c_stack = found
    return file, _options(all_threads, c_stack)


class _FaultHandler:
    """The fault handler's drop-in in the place of the standard one, and what was there before."""

    def __init__(self, standard, ours):
        self.standard, self.ours = standard, ours
        public = [name for name, value in vars(ours).items() if not name.startswith("_") and callable(value)]
        self.functions = {name: getattr(ours, name) for name in public}
        self.enable, self.disable, self.is_enabled = standard.enable, standard.disable, standard.is_enabled

    def install(self, file):
        """An active standard handler is disabled and ours enabled in its place; what is pending there stays there."""
        self.was_on = self.ours.is_enabled()
        self.active = self.is_enabled()
        if self.active:
            self.file, self.options = _standard_was_enabled_with(self.ours)
        self.patch = _put(self.standard, self.functions)
        try:
            if self.active:
                self.disable()
                self._enable_ours(file)
            self.given = self.ours._enabled()
        except BaseException:
            _take_back(*self.patch)
            if self.active:
                self.enable(self.file, **self.options)
            raise

    def _enable_ours(self, file):
        if self.was_on:
            self.ours._take_again()  # the standard module's disable() puts back what was there before it
        else:
            self.ours.enable(self.file if file is None else file, **self.options)

    def remove(self):
        """What is enabled stays enabled, with its file; what was ours before install() stays ours."""
        _take_back(*self.patch)
        enabled = self.ours._enabled()
        if enabled is None:
            return
        if not self.was_on:
            self.ours.disable()
        if self.active and (self.was_on or enabled == self.given):
            self.enable(self.file, **self.options)
        elif not self.was_on:
            file, all_threads, c_stack = enabled
            self.enable(file, **_options(all_threads, c_stack))


def _taken_signals(ours):
    """Signals that somebody's C code handles, with the handlers: the standard module's may be among them."""
    import _signal  # type: ignore[import-not-found]  # not signal, which imports enum

    known = (0, 1, ours._handler(_signal.SIGINT))  # default, ignored, Python's own handler
    fatal = (_signal.SIGSEGV, _signal.SIGFPE, _signal.SIGABRT, _signal.SIGBUS, _signal.SIGILL)
    handlers = {number: ours._handler(number) for number in _signal.valid_signals() if number not in fatal}
    return {int(number): handler for number, handler in handlers.items() if handler not in known}


def _has_threads():
    """Whether there is more than one thread; the standard module's watchdog is one."""
    import posix

    try:
        return posix.stat("/proc/self/task").st_nlink != 3  # a directory's two links, and one for each thread
    except OSError:
        return False


def _install_faulthandler(file, was_used):
    try:
        import faulthandler as standard
    except ImportError:
        return _nothing  # an interpreter with a GIL of its own can't have the standard one
    from . import faulthandler as ours

    if not ours._capabilities()["faulthandler"]:
        return _nothing
    taken = _taken_signals(ours) if was_used else {}
    if taken or (was_used and _has_threads()):
        from . import _pending

        _pending.warn_of_what_stays(standard, ours, taken)  # first: the warning may be an error
    handler = _FaultHandler(standard, ours)
    handler.install(file)
    return handler.remove


def _methods(standard, methods):
    """Those of StackSummary's methods that nobody has replaced, as the class holds them."""
    found = {}
    for name, function in methods.items():
        before = vars(standard.StackSummary).get(name)
        if getattr(before, "__func__", before) is function.__wrapped__:
            found[name] = classmethod(function) if isinstance(before, classmethod) else function
    return found


class _Traceback:
    """The traceback drop-in in the place of the standard one, and what was there before."""

    def __init__(self):
        self.removed = False
        self.patches = []
        self.finder = None

    def install(self):
        """At once where the standard module is imported; else when it is."""
        module = sys.modules.get("traceback")
        if isinstance(module, type(sys)):
            self.put()
        elif "traceback" not in sys.modules:
            from . import _deferred

            self.finder = _deferred.Finder("traceback", self.put)

    def put(self):
        """Also methods of StackSummary, which TracebackException and asyncio call; classes stay the interpreter's."""
        from . import traceback as ours

        standard = ours._faultproof_standard
        functions = {**ours._functions, "format_exc_bytes": ours.format_exc_bytes}
        with _putting:
            if not self.removed:
                self.patches.append(_put(standard, functions))
                self.patches.append(_put(standard.StackSummary, _methods(standard, ours._methods)))

    def remove(self):
        with _putting:
            self.removed = True
            while self.patches:
                _take_back(*self.patches.pop())
        if self.finder is not None:
            self.finder.leave()


def _install_traceback(_file, _was_used):
    drop_in = _Traceback()
    drop_in.install()
    return drop_in.remove


# One row for each drop-in: what puts it in and returns what takes it out.
_DROP_INS = {"faulthandler": _install_faulthandler, "traceback": _install_traceback}

_removers: dict = {}  # of the rows that are installed

# One change at a time; a warning's hook may call back.
_changing = _thread.RLock()
# Held for the moments in which attributes of traceback change, never while anything is imported: who imports holds
# locks of modules, and may have to put the drop-in in.  Taken after _changing.
_putting = _thread.RLock()


_fork_safe = _thread.allocate_lock()  # taken for good by who makes it so


def _make_fork_safe():
    """A child made while another thread changes something would find the locks taken, and half of the work done."""
    if not _fork_safe.acquire(False):
        return
    import posix

    forking = []  # of the threads that are in a fork: the hooks may come into force in the middle of one

    def before():
        _changing.acquire()
        _putting.acquire()
        forking.append(_thread.get_ident())

    def after():
        if _thread.get_ident() in forking:
            forking.remove(_thread.get_ident())
            _putting.release()
            _changing.release()

    posix.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def _undo(names):
    for name in reversed(names):
        _removers.pop(name)()


def install(file=None):
    """Replace the standard modules' functions for the whole process.  A second call changes nothing.

    file: where reports go if the standard fault handler is enabled and ours takes its place (an object with fileno()
    or a descriptor); None: where that one wrote to.  A pending dump_traceback_later() of the standard module, and
    signals that were registered there, stay with it, and a RuntimeWarning says so.  If something fails nothing has
    changed.
    """
    if file is not None:
        from . import faulthandler as ours

        ours._descriptor(file)
    install_checked(file, True)


def install_checked(file, was_used):
    """install() for a file that has been checked; was_used: whether anybody can have used the standard faulthandler."""
    _make_fork_safe()
    with _changing:
        done = []
        try:
            for name, row in _DROP_INS.items():
                if name not in _removers:
                    _removers[name] = row(file, was_used)
                    done.append(name)
        except BaseException:
            _undo(done)
            raise


def uninstall():
    """Put the standard modules' functions back.  Nothing happens when nothing is installed."""
    with _changing:
        _undo([*_removers])
