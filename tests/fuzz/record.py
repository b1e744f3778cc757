"""Writes an image of this process for tests/fuzz: python - FILE < record.py.  See src/ext/image.h.

The threads wait in functions of known names, called through generators, closures and classes, with texts of each kind.
From standard input and without the library's frames, so that no path of a machine gets into the image.
"""

from __future__ import annotations

import _ctypes  # noqa: F401 (an extension module)
import _thread
import sys

from faultproof import faulthandler

left = 3
started, done = _thread.allocate_lock(), _thread.allocate_lock()


def wait() -> None:
    global left
    left -= 1
    if left == 0:
        started.release()
    done.acquire()
    done.release()


def waits_in_function(n: int) -> None:
    if n:
        return waits_in_function(n - 1)
    wait()


def waits_in_generator():
    yield 1
    wait()
    yield 2


class Größe:
    def waits_in_method(self) -> None:
        exec(compile("def \U00010400(call):\n\n    return call()", "Datei-\u4e00.py", "exec"), globals())
        globals()["\U00010400"](lambda: wait())


def current(path: str) -> None:
    with open(path, "wb") as file:
        faulthandler._image(file.fileno())


started.acquire()
done.acquire()
_thread.start_new_thread(waits_in_function, (5,))
_thread.start_new_thread(lambda: list(waits_in_generator()), ())
_thread.start_new_thread(Größe().waits_in_method, ())
started.acquire()
current(sys.argv[1])
