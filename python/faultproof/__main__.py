"""The command: faultproof run [options] script.py | -m module | -c code [arguments ...]"""

from __future__ import annotations

import argparse
import io
import os
import runpy
import signal
import sys
import types

import faultproof
from faultproof import faulthandler

USAGE = "faultproof run [options] (script.py | -m module | -c code) [arguments ...]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faultproof run",
        usage=USAGE,
        description="Run a Python program with faultproof's fault handler enabled: when it crashes, all Python stacks "
        "are written. sys.argv, sys.path[0], exit status and signals are what python itself gives.",
    )
    parser.add_argument("--file", metavar="PATH", help="write reports to the end of this file instead of stderr")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="also write all stacks after so many seconds")
    parser.add_argument("--current-thread", action="store_true", help="show only the thread that crashed")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    what.add_argument("-c", dest="code", metavar="CODE", help="run code given as text, as python -c does")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own options, up to and with what to run; the rest belongs to the program."""
    takes_value = {"--file", "--timeout"}
    i = 0
    while i < len(arguments):
        word = arguments[i]
        if word in ("-m", "-c"):
            return arguments[: i + 2], arguments[i + 2 :]
        if word.startswith(("-m", "-c")) and not word.startswith("--"):
            return [*arguments[:i], word[:2], word[2:]], arguments[i + 1 :]
        if not word.startswith("-") or word == "-":
            return arguments[:i], arguments[i:]
        i += 2 if word in takes_value else 1
    return arguments, []


def _main_module() -> types.ModuleType:
    """A fresh __main__ in the place of this command's own."""
    module = types.ModuleType("__main__")
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    return module


def _run_code(code: str, name: str, **attributes: object) -> None:
    module = _main_module()
    vars(module).update(attributes)
    exec(compile(code, name, "exec"), vars(module))


def _run_script(path: str) -> None:
    if path == "-":
        sys.path.insert(0, "")
        _run_code(sys.stdin.read(), "<stdin>")
    elif os.path.isdir(path) or path.endswith((".zip", ".pyz", ".pyc")):
        runpy.run_path(path, run_name="__main__")
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
        full = os.path.join(os.getcwd(), path)  # as python has it: absolute, but not normalised
        try:
            with io.open_code(full) as file:
                source = file.read()
        except OSError as error:
            print(f"faultproof: can't open file {full!r}: {error.strerror}", file=sys.stderr)
            raise SystemExit(2) from None
        module = _main_module()
        from importlib.machinery import SourceFileLoader

        loader = SourceFileLoader("__main__", full)
        vars(module).update(__file__=full, __loader__=loader, __cached__=None)
        exec(compile(source, full, "exec"), vars(module))


def _enable(options: argparse.Namespace) -> None:
    file = open(options.file, "ab", buffering=0) if options.file else None  # noqa: SIM115  must stay open
    faulthandler.enable(*([file] if file else []), all_threads=not options.current_thread)
    if options.timeout is not None:
        faulthandler.dump_traceback_later(options.timeout, **({"file": file} if file else {}))


def _die_of(error: BaseException) -> None:
    """End as python does after an exception that nobody caught, with a traceback that starts in the program."""
    own = {__file__, runpy.__file__, "<frozen runpy>", "<frozen importlib._bootstrap>"}
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename in own:
        tb = tb.tb_next
    error.__traceback__ = tb
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, tb
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, tb)
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(1)


def run(arguments: list[str]) -> None:
    own, rest = _split(arguments)
    parser = _parser()
    options = parser.parse_args(own)
    if options.module is None and options.code is None and not rest:
        parser.error("nothing to run: give a script, -m module or -c code")
    try:
        _enable(options)
    except (OSError, ValueError, OverflowError) as error:
        parser.error(str(error))
    # python has taken the command's own folder for sys.path[0]
    if not getattr(sys.flags, "safe_path", False) and sys.argv[0].endswith(("__main__.py", "faultproof")):
        own_folder = os.path.dirname(os.path.realpath(sys.argv[0]))
        if sys.path and sys.path[0] in ("", os.getcwd(), own_folder):
            del sys.path[0]
    try:
        if options.code is not None:
            sys.argv = ["-c", *rest]
            sys.path.insert(0, "")
            _run_code(options.code, "<string>")
        elif options.module is not None:
            sys.argv = [options.module, *rest]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(options.module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = rest
            _run_script(rest[0])
    except SystemExit:
        raise
    except BaseException as error:
        _die_of(error)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        run(arguments[1:])
    elif arguments in (["--version"], ["-V"]):
        print(f"faultproof {faultproof.__version__}")
    elif arguments == ["capabilities"]:
        for key, value in faultproof.capabilities().items():
            print(f"{key}: {value}")
    elif arguments in (["--help"], ["-h"], []):
        print(f"usage: {USAGE}\n       faultproof capabilities\n       faultproof --version\n\n{__doc__}")
    else:
        print(f"faultproof: unknown command {arguments[0]!r}; see faultproof --help", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
