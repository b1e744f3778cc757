"""Something from outside ends a call of the traceback module: a signal's handler, a trace function, a lack of memory.

python traceback_interrupts.py std|ours signals|trace|memory    prints a line for each that is lost or changes a text
python traceback_interrupts.py std|ours soak N    N signals at any time into a loop of each call; prints how many were lost

Run in a process of its own: it takes signals and the trace function.  The same program is right on the standard module.
"""

from __future__ import annotations

import _thread
import functools
import io
import linecache
import logging
import operator
import os
import signal
import sys
import tempfile
import traceback as standard

if sys.argv[1] == "ours":
    import faultproof
    import faultproof.traceback
    from faultproof import _traceback

    faultproof.install()  # logging and StackSummary too
import traceback as tb


class OwnString(Exception):
    def __str__(self):
        return "own string"


class Stop(BaseException):
    pass


SOURCE = "def fail(n, error):\n    if n:\n        return fail(n - 1, error)\n    x = {}\n    raise error(x)\n"


def raised(error, depth=3):
    """An exception with frames of a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(SOURCE)
    names: dict = {}
    exec(compile(SOURCE, file.name, "exec"), names)
    FILES.append(file.name)
    try:
        names["fail"](depth, error)
    except Exception as e:
        return e


FILES: list[str] = []


def from_loader():
    """Frames whose source only a loader has."""
    names = {"__name__": "loaded", "__loader__": Loader()}
    exec(compile(SOURCE, "/nowhere/loaded.py", "exec"), names)
    try:
        names["fail"](2, lambda _: ValueError("of a loader"))
    except ValueError as e:
        return e


LOG = logging.Logger("test")
LOG.addHandler(logging.StreamHandler(io.StringIO()))


class Loader:
    def get_source(self, name):
        return SOURCE


def caused():
    error = raised(lambda _: ValueError("outer"))
    error.__cause__ = raised(lambda _: OwnString("cause"))
    error.__cause__.__context__ = raised(lambda _: KeyError("context"))
    return error


def syntax():
    try:
        compile("a = (1 2)\n", "<text>", "exec")
    except SyntaxError as e:
        return e


def noted():
    error = raised(lambda _: ValueError("noted"))
    error.__notes__ = ["first", OwnString("second")]
    return error


def kinds():
    yield "str", raised(lambda _: ValueError("text"))
    yield "key", raised(lambda _: KeyError("key"))
    yield "two arguments", raised(lambda _: ValueError("text", 1))
    yield "own string", raised(OwnString)
    yield "system", raised(lambda _: OSError(2, "no", "file"))
    yield "chain", caused()
    yield "loader", from_loader()
    yield "syntax", syntax()
    yield "attribute", raised(lambda _: [].appendd)
    yield "name", raised(lambda x: nmae)  # noqa: F821
    yield "import", raised(lambda _: __import__("os.patth"))
    if sys.version_info >= (3, 11):
        yield "notes", noted()
        yield "group", raised(lambda _: ExceptionGroup("group", [OwnString("1"), caused(), noted()]))  # noqa: F821


TRACEBACKS: dict[int, object] = {}  # of the exceptions, which raising them again makes longer


def calls(error):
    """Each function on the exception: its name and a call that starts without a look at signals."""
    TRACEBACKS[id(error)] = error.__traceback__
    three = type(error), error, error.__traceback__
    frame = sys._getframe()
    for name in ("format_exception", "format_exception_only", "format_tb", "extract_tb", "format_exc"):
        arguments = {"format_exception_only": three[:2], "format_exc": ()}.get(name, three)
        arguments = three[2:] if name.endswith("_tb") else arguments
        yield name, functools.partial(getattr(tb, name), *arguments)
    yield "format_list", functools.partial(tb.format_list, standard.extract_tb(three[2]))
    yield "format_stack", functools.partial(tb.format_stack, frame)
    yield "extract_stack", functools.partial(tb.extract_stack, frame)
    yield "print_exception", functools.partial(tb.print_exception, *three, file=io.StringIO())
    yield "print_exc", functools.partial(tb.print_exc, file=io.StringIO())
    yield "print_tb", functools.partial(tb.print_tb, three[2], file=io.StringIO())
    yield "print_stack", functools.partial(tb.print_stack, frame, file=io.StringIO())
    yield "print_list", functools.partial(tb.print_list, standard.extract_tb(three[2]), file=io.StringIO())
    yield "logging", functools.partial(LOG.error, "message", exc_info=three)


def text_of(call, error):
    """What the call returns or prints, as text, while the exception is handled."""
    file = call.keywords.get("file")
    if file is not None:
        file.seek(0)
        file.truncate()
    try:
        raise error.with_traceback(TRACEBACKS[id(error)])
    except Exception:
        result = call()
    result = file.getvalue() if file is not None else result
    return [str(line) for line in result] if isinstance(result, list) else result


def forget():
    """As if nothing had been shown before."""
    linecache.clearcache()
    if sys.argv[1] == "ours":
        _traceback.forget()


def at_once(*several):
    """Calls one after another without returning to the interpreter's loop, which looks at signals."""
    return list(map(operator.methodcaller("__call__"), several))


def arrive(signo):
    """A call after which the signal has arrived and hasn't been handled yet."""
    if sys.version_info >= (3, 10):
        return functools.partial(_thread.interrupt_main, signo)
    return functools.partial(os.kill, os.getpid(), signo)


class Timeout(OSError):
    pass


def handler_of(error):
    def handler(signo, frame):
        raise error

    return handler


SIGNALS = [
    (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
    (signal.SIGTERM, handler_of(SystemExit(3)), SystemExit),
    (signal.SIGALRM, handler_of(Timeout()), Timeout),
    (signal.SIGUSR1, handler_of(RecursionError()), RecursionError),
]


def signals():
    for kind, error in kinds():
        for name, call in calls(error):
            good = text_of(call, error)
            for cold in (False, True):
                for signo, handler, expected in SIGNALS:
                    signal.signal(signo, handler)
                    if cold:
                        forget()
                    try:
                        try:
                            raise error.with_traceback(TRACEBACKS[id(error)])
                        except Exception:
                            at_once(arrive(signo), call)
                    except expected:
                        continue
                    except BaseException as other:
                        print(kind, name, "cold" if cold else "warm", expected.__name__, "became", repr(other))
                    else:
                        print(kind, name, "cold" if cold else "warm", expected.__name__, "lost")
            if text_of(call, error) != good:
                print(kind, name, "another text afterwards")


class Arrived(BaseException):
    pass


def soak():
    """One signal at a time, from a timer, into a worker that formats the same exception again and again."""
    rounds, ran, lost = int(sys.argv[3]), [], {}

    def handler(signo, frame):
        ran.append(signo)
        raise Arrived

    def work(call, error):
        while not ran:
            text_of(call, error)

    signal.signal(signal.SIGALRM, handler)
    for kind, error in kinds():
        for name, call in calls(error):
            for n in range(rounds):
                del ran[:]
                if n % 4 == 0:
                    forget()
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0002 + n % 37 * 0.00001)
                    work(call, error)
                except Arrived:
                    continue
                lost[kind, name] = lost.get((kind, name), 0) + 1
    print(sys.version.split()[0], sys.argv[1], "rounds a kind and function:", rounds, "lost:", lost)


class Tracer:
    """Raises at the n-th call or line, as a signal's handler may; excused where the module itself makes a text of that."""

    def __init__(self, n, error):
        self.left, self.error, self.raised, self.excused = n, error, False, False

    def __call__(self, frame, event, argument):
        if frame.f_code is text_of.__code__ or self.raised or event not in ("call", "line"):
            return self
        if self.left == 0:
            self.raised = True
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {event} in {frame.f_code.co_name}"
            while frame is not None:
                self.excused |= frame.f_code.co_name in ("__str__", "_safe_string", "_some_str")
                frame = frame.f_back
            self.place = place
            raise self.error
        self.left -= 1
        return self


def traced(call, error, tracer):
    """The text, from scratch, under the trace function."""
    forget()
    sys.settrace(tracer)
    try:
        return text_of(call, error)
    finally:
        sys.settrace(None)


def trace():
    for kind, error in kinds():
        for name, call in calls(error):
            good = text_of(call, error)
            count = Tracer(sys.maxsize, None)
            traced(call, error, count)
            events = sys.maxsize - count.left
            for n in range(0, events, max(1, events // 40)):
                tracer = Tracer(n, Stop())
                try:
                    text = traced(call, error, tracer)
                except Stop:
                    continue
                if tracer.raised and not tracer.excused:
                    print(kind, name, "event", n, "lost", tracer.place)
                elif not tracer.raised and text != good:
                    print(kind, name, "event", n, "another text")


def memory():
    import _testcapi

    for kind, error in [*[*kinds()][:2], ("syntax", syntax()), ("chain", caused())]:
        for name, call in calls(error):
            # the interpreter itself may crash there, so only what our functions do themselves: nothing is handled now
            if not name.startswith(("format", "extract")) or name == "format_exc":
                continue
            good = text_of(call, error)
            for n in range(150):
                _testcapi.set_nomemory(n, n + 1)
                try:
                    try:
                        result = call()
                    finally:
                        _testcapi.remove_mem_hooks()
                except MemoryError:
                    continue
                except BaseException as other:
                    print(kind, name, "allocation", n, "became", repr(other))
                    continue
                result = [str(line) for line in result] if isinstance(result, list) else result
                if result != good and not (
                    kind == "chain" and ("str() failed" in str(result) or "unprintable" in str(result))
                ):
                    print(kind, name, "allocation", n, "another text", result, good)


try:
    {"signals": signals, "trace": trace, "memory": memory, "soak": soak}[sys.argv[2]]()
finally:
    for path in FILES:
        os.unlink(path)
