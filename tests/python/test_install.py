"""install() and uninstall() of the fault handler: what is replaced, what stays with the standard module and is said so."""

from __future__ import annotations

import re

import pytest
from helpers import child

PENDING = {
    "nothing": ("", []),
    "signal": ("faulthandler.register(signal.SIGUSR1)", ["signal 10 stays registered"]),
    "descriptor": ("faulthandler.register(signal.SIGUSR2, file=2)", ["signal 12 stays registered"]),
    "watchdog": ("faulthandler.dump_traceback_later(99)", ["a call of dump_traceback_later() stays pending"]),
    "both": (
        "faulthandler.dump_traceback_later(99, file=2); faulthandler.register(signal.SIGUSR1, chain=True)",
        ["signal 10 stays registered", "a call of dump_traceback_later() stays pending"],
    ),
    "what is over": (
        "faulthandler.dump_traceback_later(99); faulthandler.cancel_dump_traceback_later();"
        "faulthandler.register(signal.SIGUSR1); faulthandler.unregister(signal.SIGUSR1)",
        [],
    ),
    "strangers": (
        "signal.signal(signal.SIGUSR1, print); import threading;"
        "threading.Thread(target=threading.Event().wait, args=(99,), daemon=True).start();"
        "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals());"
        "threading.Thread(target=threading.Event().wait, args=(99,), daemon=True).start()",
        [],
    ),
}


@pytest.mark.parametrize("name", PENDING)
def test_a_warning_names_what_stays_with_the_standard_module(name):
    program, expected = PENDING[name]
    result = child(f"""
        import faulthandler, os, signal
        faulthandler.enable()
        {program}
        import faultproof
        faultproof.install()
        faultproof.install()
        assert faulthandler.is_enabled() and faulthandler.is_enabled.__self__.__name__ == "faultproof.faulthandler"
        os._exit(0)
    """)
    assert result.returncode == 0, result.stderr
    said = re.findall(
        r"^<string>:\d+: RuntimeWarning: (.*) with the standard faulthandler: .*uninstall", result.stderr, re.M
    )
    assert said == ([", ".join(expected)] if expected else []), result.stderr


def test_what_stays_goes_on():
    result = child("""
        import faulthandler, os, signal, warnings
        read, write = os.pipe()
        faulthandler.register(signal.SIGUSR1, file=write)
        faulthandler.dump_traceback_later(0.05, file=write)
        import faultproof
        warnings.simplefilter("ignore")
        faultproof.install()
        signal.raise_signal(signal.SIGUSR1)
        text = b""
        while text.count(b"most recent call first") < 2:
            text += os.read(read, 10000)
        faultproof.uninstall()
        faulthandler.cancel_dump_traceback_later()
        assert faulthandler.unregister(signal.SIGUSR1)
    """)
    assert result.returncode == 0, result.stderr


def test_the_module_stays_and_only_its_attributes_change():
    result = child("""
        import faulthandler, importlib, pickle, sys
        from unittest import mock
        before = dict(vars(faulthandler))
        import faultproof
        faultproof.install()
        import faulthandler as installed
        assert installed is faulthandler is sys.modules["faulthandler"]
        assert faulthandler.__name__ == "faulthandler" and faulthandler.__spec__ is before["__spec__"]
        ours = faultproof.faulthandler
        assert all(getattr(faulthandler, name) is getattr(ours, name) for name in before
                   if not name.startswith("_") and callable(before[name]))
        with mock.patch.object(faulthandler, "is_enabled", return_value="mocked"):
            assert sys.modules["faulthandler"].is_enabled() == "mocked" and ours.is_enabled() is False
        assert pickle.loads(pickle.dumps(faulthandler.enable)) is faulthandler.enable
        importlib.reload(faulthandler)
        faulthandler.dump_c_stack
        faultproof.uninstall()
        assert vars(faulthandler) == before  # reload() has made other __spec__ and __loader__
        assert all(vars(faulthandler)[name] is value for name, value in before.items() if name[:2] != "__")
        faultproof.uninstall()
    """)
    assert result.returncode == 0, result.stderr


# A program; before it the standard module is enabled on a file, and after it exactly that must hold.
FAILS = {
    "a bad file": "try: faultproof.install(file='x')\nexcept AttributeError: pass\nelse: 1 / 0",
    "a bad descriptor": "try: faultproof.install(-1)\nexcept ValueError: pass\nelse: 1 / 0",
    "a warning that is an error": """
import warnings; warnings.simplefilter("error"); faulthandler.register(signal.SIGUSR1)
try: faultproof.install()
except RuntimeWarning: pass
else: 1 / 0
faulthandler.unregister(signal.SIGUSR1)
""",
    "enable() fails": """
ours = faultproof.faulthandler
ours.enable = lambda *a, **k: 1 / 0
try: faultproof.install()
except ZeroDivisionError: pass
else: raise SystemExit("no failure")
""",
    "the second drop-in fails": """
from faultproof import _install
rows = dict(_install._DROP_INS)
_install._DROP_INS["traceback"] = lambda *a: 1 / 0
try: faultproof.install()
except ZeroDivisionError: pass
else: raise SystemExit("no failure")
""",
    "nothing": "faultproof.install(); faultproof.install(); faultproof.uninstall(); faultproof.uninstall()",
    "another file": "faultproof.install(file=2); faultproof.uninstall()",
}


@pytest.mark.parametrize("given", ["file", "file.fileno()"])
@pytest.mark.parametrize("name", FAILS)
def test_all_or_nothing_and_back(tmp_path, name, given):
    result = child(f"""
        import faulthandler, traceback, signal, gc, sys
        file = open({str(tmp_path / "report")!r}, "w")
        faulthandler.enable({given}, all_threads=False)
        before = [dict(vars(module)) for module in (faulthandler, traceback)]
        import faultproof
        from faultproof import faulthandler as ours
        handler = ours._handler(11)
        exec({FAILS[name]!r})
        assert [dict(vars(module)) for module in (faulthandler, traceback)] == before
        assert faulthandler.is_enabled() and not ours.is_enabled()
        assert ours._handler(11) == handler
        assert ours._standard_enabled(handler)[:2] == ({given}, False), ours._standard_enabled(handler)
        faulthandler._sigsegv()
    """)
    assert result.returncode == -11, result.stderr
    assert result.stderr == ""
    assert "Segmentation fault" in (tmp_path / "report").read_text()


@pytest.mark.parametrize(
    ("enabled", "where"),
    [
        ("faulthandler.enable()", "stderr"),
        ("faulthandler.enable(2, all_threads=False)", "stderr"),
        ("faulthandler.enable(open('file', 'w'))", "file"),
        ("faulthandler.enable(open('file', 'w').fileno())", "nowhere"),
        ("faulthandler.enable(os.open('file', os.O_RDWR | os.O_CREAT))", "file"),
        ("faulthandler.enable(os.open('file', os.O_RDWR | os.O_CREAT)); sys.stderr = open('x', 'w')", "file"),
        ("faulthandler.enable(); sys.stderr = open('x', 'w')", "stderr"),
    ],
)
def test_reports_go_where_the_standard_handlers_went(tmp_path, enabled, where):
    result = child(
        f"""
        import faulthandler, os, sys
        {enabled}
        import faultproof, gc
        faultproof.install()
        gc.collect()
        assert faultproof.is_enabled() and faulthandler.is_enabled()
        faultproof.faulthandler._sigsegv()
        """,
        cwd=tmp_path,
    )
    assert result.returncode == -11, result.stderr
    report = "Fatal Python error: Segmentation fault"
    assert (report in result.stderr) is (where == "stderr")
    assert not (tmp_path / "file").exists() or (report in (tmp_path / "file").read_text()) is (where == "file")
    assert ("Stack (most recent" in result.stderr) is ("all_threads=False" in enabled)


@pytest.mark.parametrize(
    ("program", "standard", "ours"),
    [
        ("faultproof.install(); faultproof.uninstall()", False, False),
        ("ours.enable(); faultproof.install(); faultproof.uninstall()", False, True),
        ("faultproof.install(); faulthandler.enable(); faultproof.uninstall()", True, False),
        ("standard(); faultproof.install(); faulthandler.disable(); faultproof.uninstall()", False, False),
        ("standard(); ours.enable(); faultproof.install(); faultproof.uninstall()", True, True),
        (
            "ours.enable(); standard(); faultproof.install(); assert ours.is_enabled(); faultproof.uninstall()",
            True,
            True,
        ),
    ],
)
def test_what_is_enabled_afterwards(program, standard, ours):
    result = child(f"""
        import faulthandler, faultproof
        from faultproof import faulthandler as ours
        standard = faulthandler.enable
        {program}
        print(faulthandler.is_enabled(), ours.is_enabled())
        faulthandler.disable(); ours.disable()
        print([ours._handler(number) for number in (11, 6, 7)])
    """)
    assert result.stdout == f"{standard} {ours}\n[0, 0, 0]\n", result.stderr


def test_forks_while_others_install():
    """A child that is made in the middle of a change in another thread can go on changing."""
    result = child("""
        import os, sys, threading, faultproof
        sys.setswitchinterval(1e-5)
        end = False
        def body():
            while not end:
                faultproof.install(); faultproof.uninstall()
        threads = [threading.Thread(target=body) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                faultproof.install(); faultproof.install(); faultproof.uninstall()
                os._exit(faultproof.faulthandler is None)
            assert os.waitpid(pid, 0)[1] == 0
        end = True
        for thread in threads: thread.join()
    """, "-W", "ignore")  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_from_many_threads():
    result = child("""
        import faulthandler, inspect, sys, threading, traceback
        import faultproof
        before = {module: dict(vars(module)) for module in (faulthandler, traceback)}
        faultproof.install()
        faultproof.uninstall()
        sys.setswitchinterval(1e-5)
        def body():
            for _ in range(60):
                faultproof.install()
                faulthandler.is_enabled()
                faultproof.uninstall()
        threads = [threading.Thread(target=body) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        faultproof.uninstall()
        for module, values in before.items():
            assert sys.modules[module.__name__] is module
            assert all(getattr(module, name) is value for name, value in values.items() if inspect.isroutine(value))
    """)
    assert result.returncode == 0, result.stderr
