"""Ratios of the interpreter's traceback to faultproof's, in alternating slices of one run.

Usage: python bench/bench_traceback.py.  linecache is warm.  "remembered": the same frames have
been formatted before; "first": each text is made for the first time.
"""

from __future__ import annotations

import importlib.util
import io
import linecache
import logging
import os
import statistics
import sys
import tempfile
import time
import traceback as standard

import faultproof
import faultproof.traceback as ours

FUNCTION = """

def call_{number}(functions, index, value):
    data = {{"a": value, "b": index}}
    if index + 1 < len(functions):
        result = functions[index + 1](functions, index + 1, value=data["a"]) + len(data)
        return result
    return data["a"] / (value - value) + data["b"] * 2
"""


def make_modules(folder: str, files: int, functions: int) -> list[list]:
    """Files with functions that call the next one of the list that they are given; the last one divides by zero."""
    modules = []
    for number in range(files):
        path = os.path.join(folder, f"module_{number}.py")
        with open(path, "w") as file:
            file.write("".join(FUNCTION.format(number=i) for i in range(functions)))
        spec = importlib.util.spec_from_file_location(f"module_{number}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append([getattr(module, f"call_{i}") for i in range(functions)])
        linecache.getlines(path)
    return modules


def catch(functions: list) -> BaseException:
    try:
        functions[0](functions, 0, 3)
    except ZeroDivisionError as error:
        error.__traceback__ = error.__traceback__.tb_next
        return error
    raise AssertionError("no exception")


def make_exceptions(folder: str, files: int, frames: int, count: int) -> list[BaseException]:
    """Exceptions that have no function in common."""
    each = -(-frames // files)
    modules = make_modules(folder, files, each * count)
    result = []
    for number in range(count):
        chain = [modules[i % files][number * each + i // files] for i in range(frames)]
        result.append(catch(chain))
    return result


def seconds(function, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


def compare(name: str, theirs, mine, slices: int = 9) -> None:
    theirs(), mine()
    their_times = max(1, int(0.02 / seconds(theirs, 2)))
    my_times = max(1, int(0.02 / seconds(mine, 50)))
    rows = [(seconds(theirs, their_times), seconds(mine, my_times)) for _ in range(slices)]
    report(name, rows)


def report(name: str, rows: list[tuple[float, float]]) -> None:
    ratio = statistics.median(a / b for a, b in rows)
    their, my = (statistics.median(row[i] for row in rows) * 1e6 for i in (0, 1))
    print(f"{name:42} {ratio:7.1f}   {their:9.1f} us  {my:8.2f} us")


def compare_installed(name: str, function) -> None:
    """What gains from install() alone: one function, without it and with it in turn."""
    function()
    rows = []
    for _ in range(9):
        their = seconds(function, 100)
        faultproof.install()
        mine = seconds(function, 500)
        faultproof.uninstall()
        rows.append((their, mine))
    report(name, rows)


def compare_first(files: int, frames: int, count: int = 400) -> None:
    with tempfile.TemporaryDirectory() as folder:
        exceptions = make_exceptions(folder, files, frames, count)
        ours.format_exception(None, exceptions[0], exceptions[0].__traceback__)
        rows = []
        for first in range(1, count - 40, 40):
            part = exceptions[first : first + 40]
            start = time.perf_counter()
            for error in part:
                standard.format_exception(type(error), error, error.__traceback__)
            middle = time.perf_counter()
            for error in part:
                ours.format_exception(type(error), error, error.__traceback__)
            rows.append(((middle - start) / 40, (time.perf_counter() - middle) / 40))
        report(f"first: {frames} frames in {files} files", rows)


def compare_remembered(files: int, frames: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        error = make_exceptions(folder, files, frames, 1)[0]
        arguments = (type(error), error, error.__traceback__)
        assert ours.format_exception(*arguments) == standard.format_exception(*arguments)
        compare(
            f"remembered: {frames} frames in {files} files",
            lambda: standard.format_exception(*arguments),
            lambda: ours.format_exception(*arguments),
        )


def at_depth(depth: int, function):
    return at_depth(depth - 1, function) if depth else function()


def compare_stacks() -> None:
    depth = 50

    def stack(files):
        with tempfile.TemporaryDirectory() as folder:
            modules = make_modules(folder, files, 1)
            del modules
        compare("extract_stack, depth 50", standard.extract_stack, ours.extract_stack)
        walk, here = standard.walk_stack, sys._getframe()
        lazily = lambda: standard.StackSummary.extract(walk(here), lookup_lines=False)  # noqa: E731
        compare_installed("StackSummary.extract without lines", lazily)
        compare("format_stack, depth 50", standard.format_stack, ours.format_stack)

    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    at_depth(depth - used - 4, lambda: stack(1))


def compare_logging() -> None:
    stream = io.StringIO()
    logger = logging.Logger("bench")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)

    def log(error):
        stream.seek(0)
        stream.truncate()
        logger.error("failed", exc_info=error)

    with tempfile.TemporaryDirectory() as folder:
        error = make_exceptions(folder, 4, 11, 1)[0]
        compare_installed("logger.exception, 11 frames in 4 files", lambda: log(error))
        made = lambda: list(standard.TracebackException.from_exception(error).format())  # noqa: E731
        compare_installed("TracebackException, the same", made)


def main() -> None:
    print(f"{sys.version.split()[0]:42}   ratio   standard      faultproof")
    for files, frames in ((4, 11), (1, 11), (11, 11), (4, 50)):
        compare_remembered(files, frames)
    for files, frames in ((4, 11), (11, 11)):
        compare_first(files, frames)
    compare_stacks()
    compare_logging()


if __name__ == "__main__":
    main()
