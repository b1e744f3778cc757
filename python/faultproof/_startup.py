"""What the start-up line in faultproof.pth does when FAULTPROOF or -X faultproof is given: both drop-ins at once.

Runs once a process: in a subinterpreter, or a second time, the handler is enabled already.  Whatever is wrong here
costs the program no more than a line on stderr.  Each millisecond is paid by every process: nothing that isn't needed
is imported.
"""

import os
import sys

ON = ("1", "on", "yes", "true")
OFF = ("", "0", "off", "no", "false")


class Wrong(Exception):
    """What the user has to change, in words."""


def setting(name):
    """FAULTPROOF_NAME, or -X faultproof_name=..., which holds under -E and -I too; name "": the switch itself."""
    name = f"faultproof_{name}" if name else "faultproof"
    given = sys._xoptions.get(name)
    if given is None and not sys.flags.ignore_environment:
        given = os.environ.get(name.upper())
    return "1" if given is True else given


def is_on(value):
    if value.lower() in ON:
        return True
    if value.lower() in OFF:
        return False
    instead = "1 turns it on, 0 off"
    if value.replace(".", "", 1).isdigit():
        instead = f"FAULTPROOF=1 FAULTPROOF_TIMEOUT={value} writes all stacks after so many seconds"
    elif "/" in value or "." in value:
        instead = f"FAULTPROOF=1 FAULTPROOF_FILE={value} writes reports to that file"
    raise Wrong(f"FAULTPROOF={value} isn't known, and the program runs without it: {instead}")


def all_threads(value):
    if value is None or value.lower() in ("", "all"):
        return True
    if value.lower() == "current":
        return False
    raise Wrong(f"FAULTPROOF_THREADS={value} isn't known: all or current (the thread that crashed)")


def open_file(path):
    """A descriptor for the end of the file; a pipe without a reader is an error and no reason to wait."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        raise Wrong(f"can't write to FAULTPROOF_FILE={path}: {getattr(error, 'strerror', error)}") from None


def seconds(value):
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise Wrong(f"FAULTPROOF_TIMEOUT={value} isn't a time: it takes seconds greater than 0, as in 30 or 0.5")
    return number


def say(what):
    try:  # noqa: SIM105  contextlib would have to be imported
        sys.stderr.write(f"faultproof: {what}\n")
    except (AttributeError, OSError, ValueError):
        pass  # stderr is closed


def attempt(function, *arguments, instead=None):
    """What the function returns; for a wrong value a line on stderr, and what holds instead."""
    try:
        return function(*arguments)
    except Wrong as wrong:
        say(wrong)
        return instead


def keep(faulthandler, path):
    """The descriptor for reports: of the file, or of the stderr of the start; None: there is nothing to write to."""
    opened = attempt(open_file, path) if path else None
    try:
        return faulthandler._keep(2 if opened is None else opened)
    except OSError:
        return None
    finally:
        if opened is not None:
            os.close(opened)


def enable():
    was_used = "faulthandler" in sys.modules  # our own import brings it
    from . import faulthandler

    if faulthandler.is_enabled():
        return
    from . import _install

    _install.kept = file = keep(faulthandler, setting("file"))
    _install.install_checked(file, was_used)
    if file is None:
        return  # and what is opened next gets the number of stderr
    faulthandler.enable(file, attempt(all_threads, setting("threads"), instead=True))
    timeout = setting("timeout") and attempt(seconds, setting("timeout"))
    if timeout:
        faulthandler.dump_traceback_later(timeout, file=file)


def start():
    try:
        if attempt(is_on, setting("") or "", instead=False):
            enable()
    except Exception as error:
        say(f"not enabled: {type(error).__name__}: {error}")


start()
