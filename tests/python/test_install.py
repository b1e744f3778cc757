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


def test_uninstall_restores_the_objects():
    result = child("""
        import faulthandler, sys
        before = dict(vars(faulthandler))
        import faultproof
        faultproof.install()
        import faulthandler as installed
        assert installed is not faulthandler and installed.__name__ == "faultproof.faulthandler"
        assert faulthandler.enable is installed.enable
        faultproof.uninstall()
        assert sys.modules["faulthandler"] is faulthandler and vars(faulthandler) == before
        assert all(vars(faulthandler)[name] is value for name, value in before.items())
        faultproof.uninstall()
    """)
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
