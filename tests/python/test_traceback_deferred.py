"""The traceback drop-in comes when somebody imports traceback: nobody notices but by the time that it saves."""

from __future__ import annotations

import textwrap

import pytest
from helpers import child

# What holds before the module is imported, and a function that says whether ours has come.
BEFORE = """
import sys
assert "traceback" not in sys.modules
finders = list(sys.meta_path)
import faultproof
faultproof.install()
assert "traceback" not in sys.modules and sys.meta_path[1:] == finders
def has_come():
    module = sys.modules["traceback"]
    return hasattr(module, "format_exc_bytes") and sys.meta_path == finders
"""

PROGRAMS = {
    "import": "import traceback; assert has_come()",
    "from import": "from traceback import format_exc; assert has_come(); import traceback; assert format_exc is traceback.format_exc",
    "by another module": "import logging; assert has_come() and logging.traceback.format_exc_bytes",
    "importlib": "import importlib; importlib.import_module('traceback'); assert has_come()",
    "import in threads": """
        import threading
        threads = [threading.Thread(target=lambda: __import__("traceback").format_exc()) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert has_come()
    """,
    "find_spec and then import": """
        import importlib.util
        spec = importlib.util.find_spec("traceback")
        assert type(spec.loader).__name__ == "SourceFileLoader" and spec.origin.endswith("traceback.py")
        copy = importlib.util.module_from_spec(spec)
        exec(spec.loader.get_code("traceback"), vars(copy))
        assert not hasattr(copy, "format_exc_bytes")
        import traceback
        assert has_come()
    """,
    "a private copy": """
        import importlib.util
        spec = importlib.util.find_spec("traceback")
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        assert not hasattr(copy, "format_exc_bytes") and vars(spec.loader).keys() == {"name", "path"}
        import traceback
        assert has_come() and traceback is not copy
    """,
    "reload": """
        import importlib, traceback
        assert has_come()
        importlib.reload(traceback)
        assert "ZeroDivisionError" in "".join(traceback.format_exception_only(ZeroDivisionError, ZeroDivisionError()))
        faultproof.uninstall()
        assert not hasattr(traceback, "format_exc_bytes")
    """,
    "nothing is left on the module": """
        import traceback
        assert traceback.__spec__.loader is traceback.__loader__
        assert vars(traceback.__loader__).keys() == {"name", "path"}
        import importlib.machinery
        assert type(traceback.__loader__) is importlib.machinery.SourceFileLoader
        import inspect
        assert "def format_exc" in inspect.getsource(traceback)
    """,
    "uninstall before": "faultproof.uninstall(); assert sys.meta_path == finders; import traceback; assert not hasattr(traceback, 'format_exc_bytes')",
    "install again": "faultproof.uninstall(); faultproof.install(); faultproof.install(); import traceback; assert has_come()",
    "uninstall after": "import traceback; faultproof.uninstall(); assert not hasattr(traceback, 'format_exc_bytes')",
    "LazyLoader": """
        import importlib.util
        spec = importlib.util.find_spec("traceback")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["traceback"] = module
        spec.loader.exec_module(module)
        assert "ValueError" in "".join(module.format_exception_only(ValueError, ValueError()))
        assert has_come()
    """,
    "a loader that fails": """
        import importlib.machinery
        class Fails:
            def find_spec(self, name, path=None, target=None):
                return importlib.machinery.ModuleSpec(name, self) if name == "traceback" else None
            def create_module(self, spec): return None
            def exec_module(self, module): 1 / 0
        fails = Fails()
        sys.meta_path.insert(1, fails)
        try: import traceback
        except ZeroDivisionError: pass
        else: raise SystemExit("imported")
        assert "traceback" not in sys.modules and vars(fails) == {}
        sys.meta_path.remove(fails)
        import traceback
        assert has_come()
    """,
    "a loader that is a class": """
        import importlib.machinery
        class Loader:
            @staticmethod
            def create_module(spec): return None
            @staticmethod
            def exec_module(module): module.marker = 1
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                return importlib.machinery.ModuleSpec(name, Loader) if name == "traceback" else None
        before = vars(Loader).copy()
        sys.meta_path.insert(1, Finder)
        import traceback
        assert traceback.marker == 1 and vars(Loader) == before
    """,
    "no traceback at all": """
        sys.modules["traceback"] = None
        faultproof.uninstall(); faultproof.install(); faultproof.uninstall()
        try: import traceback
        except ImportError: pass
        else: raise SystemExit("imported")
    """,
    "finders that look while others look": """
        class Nested:
            def find_spec(self, name, path=None, target=None):
                if name == "colorsys": import traceback
        sys.meta_path.insert(1, Nested())
        import colorsys
        assert hasattr(sys.modules["traceback"], "format_exc_bytes")
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_when_it_comes(name):
    result = child(BEFORE + textwrap.dedent(PROGRAMS[name]))
    assert result.returncode == 0, result.stderr


def test_an_uncaught_exception_has_the_standard_text():
    """From 3.13 on the interpreter imports traceback to show it."""
    program = "def f():\n    1 / 0\nf()\n"
    assert child("import faultproof; faultproof.install()\n" + program).stderr.replace("line 3,", "line 2,").replace(
        "line 4,", "line 3,"
    ) == child("import sys\n" + program).stderr.replace("line 3,", "line 2,").replace("line 4,", "line 3,")


def test_if_ours_cannot_be_had_the_program_has_the_standard_one():
    result = child(
        BEFORE
        + "sys.modules['faultproof._traceback'] = None\n"
        + "import traceback\nassert not hasattr(traceback, 'format_exc_bytes') and sys.meta_path == finders\n"
        + "assert 'ValueError' in ''.join(traceback.format_exception_only(ValueError, ValueError()))\n"
    )
    assert result.returncode == 0, result.stderr


def test_a_signal_while_it_is_put_in_is_the_programs():
    code = """
    import signal, sys
    import faultproof
    assert "traceback" not in sys.modules
    faultproof.install()
    finder = sys.meta_path[0]
    put_in = finder.arrived

    class Timeout(OSError):
        pass

    def handler(signo, frame):
        raise Timeout

    def arrived():
        signal.raise_signal(signal.SIGALRM)
        for _ in range(10):
            pass  # delivered here at the latest
        put_in()

    signal.signal(signal.SIGALRM, handler)
    finder.arrived = arrived
    try:
        import traceback
        print("lost")
    except Timeout:
        finder.arrived = put_in
        import traceback
        print("delivered", hasattr(traceback, "format_exc_bytes"), finder in sys.meta_path)
    """
    result = child(textwrap.dedent(code))
    assert result.stdout == "delivered True False\n", result.stdout + result.stderr
