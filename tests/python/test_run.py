"""faultproof run: a program sees what python itself gives it, and its crash is reported.

The differential part: programs and command lines are run both ways, and everything that they can see is compared.  What
may differ is removed by the programs themselves, in ALLOWED, so that nothing else can.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import textwrap
import zipfile

import pytest

# What run may change for a program, and nothing else: variables and -X options of ours, the words of the command line
# as the operating system had them, our modules, one finder, one descriptor, who handles the fatal signals.
ALLOWED = """\
import os as _os, sys as _sys
def visible_environment():
    return sorted(item for item in _os.environ.items() if not item[0].startswith("FAULTPROOF"))
def visible_options():
    return sorted(item for item in _sys._xoptions.items() if not item[0].startswith("faultproof"))
def visible_modules():
    # the codec: what any extension module's import brings in 3.9's development mode
    return sorted({n for n in _sys.modules if n.partition(".")[0] not in ("faultproof", "faulthandler")} - {"encodings.ascii"})
def visible_descriptors():
    return sorted(int(n) for n in _os.listdir("/proc/self/fd") if int(n) < 200)  # the stderr of the start is kept above
def visible_finders():
    return [f for f in _sys.meta_path if type(f).__module__ != "faultproof._deferred"]
"""

SHOW = f"""{ALLOWED}
import os, sys
import __main__
print(sys.argv, sys.flags, sys.path, sys.warnoptions, visible_options(), sys.executable, sys.prefix, sys.dont_write_bytecode)
print(sorted((n, repr(v)) for n, v in vars(__main__).items() if not callable(v) and n not in ("__loader__", "__builtins__", "_os", "_sys")))
print(type(__main__.__builtins__), type(__main__.__loader__), __main__.__dict__ is globals(), __name__)
print([sys.stdin.encoding, sys.stdin.errors, sys.stdout.errors, sys.stderr.errors, sys.stdout.line_buffering])
print(visible_environment(), visible_modules(), visible_finders(), os.getcwd(), os.umask(0o22))
import signal
print([(n, signal.getsignal(n)) for n in sorted(signal.valid_signals()) if n not in (4, 6, 7, 8, 11)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), visible_descriptors(), len(os.listdir("/proc/self/task")))
"""

FILES = {
    "show.py": SHOW,
    "sub/show.py": SHOW,
    "package/__init__.py": "",
    "package/__main__.py": SHOW,
    "package/mod.py": SHOW,
    "folder/__main__.py": SHOW,
    "-dash.py": SHOW,
    "annotations.py": "def f(x: int): pass\nprint(f.__annotations__['x'])\nimport functools\n@functools.singledispatch\ndef g(x): return 'any'\n@g.register\ndef _(x: int): return 'int'\nprint(g(1))\n",
    "pickled.py": "import pickle, atexit, threading, sys\nclass A: pass\natexit.register(lambda: print(type(pickle.loads(pickle.dumps(A())))))\nt = threading.Thread(target=lambda: print(sys.modules['__main__'].A is A))\nt.start(); t.join()\n",
    "latin.py": "# -*- coding: latin-1 -*-\nprint(ascii('\u00e4'))\n",
    "later.py": "import threading, sys, time\nthreading.Thread(target=lambda: (threading.main_thread().join(), print(sys.modules['__main__'].__name__, __name__))).start()\n",
    "raises.py": "def f():\n    return 1 / 0\nf()\n",
    "chained.py": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e\n",
    "syntax.py": "def f(:\n    pass\n",
    "warns.py": "import warnings\nwarnings.warn('careful')\n",
    "excepthook.py": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1 / 0\n",
    "unraisable.py": "class A:\n    def __del__(self):\n        1 / 0\nA()\n",
    "last.py": "import atexit, sys\natexit.register(lambda: print(sys.last_value, sys.last_traceback.tb_frame.f_code.co_filename))\n1 / 0\n",
    "deep.py": "def f(n):\n    return f(n + 1)\nf(0)\n",
    "logs.py": "import logging\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('failed', stack_info=True)\n",
    "fork.py": "import os, sys\npid = os.fork()\nif pid == 0:\n    print('child', flush=True)\n    raise SystemExit(7)\nprint(os.waitpid(pid, 0)[1])\n",
    "children.py": """
        import multiprocessing, sys
        def work(n):
            return n * n, sys.argv[1:], sys.flags.isolated, __name__ == "__main__"
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with context.Pool(1) as pool:
                print(pool.map(work, [1, 2, 3]))
            process = context.Process(target=sys.exit, args=(5,))
            process.start(); process.join(); print(process.exitcode)
    """,
    "executor.py": """
        import concurrent.futures, sys
        def work(n):
            return n * n
        if __name__ == "__main__":
            with concurrent.futures.ProcessPoolExecutor(1) as pool:
                print(list(pool.map(work, [1, 2])))
    """,
    "subprocess_child.py": "import subprocess, sys\nprint(subprocess.run([sys.executable, 'show.py', 'x'], capture_output=True, text=True).stdout)\n",
    "asyncio_program.py": "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    1 / 0\nasyncio.run(main())\n",
    "interrupted.py": "raise KeyboardInterrupt\n",
    "inspecting.py": "import inspect\ndef f():\n    return [i.function for i in inspect.stack()]\nprint(f(), inspect.getsource(f))\n",
    "closed.py": "import os\nfor n in (0, 1, 2):\n    try: os.fstat(n); print(n, 'open')\n    except OSError: print(n, 'closed')\n",
    "frames.py": "import sys\nframe = sys._getframe()\nwhile frame: print(frame.f_code.co_filename); frame = frame.f_back\n",
    "doctests.py": "import doctest\n'''\n>>> 1 + 1\n3\n'''\nprint(doctest.testmod())\n",
    "unit.py": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 2)\nunittest.main(exit=False, verbosity=0, testRunner=unittest.TextTestRunner(stream=open('/dev/null', 'w')))\n",
    "exec_again.py": "import os, sys\nif len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])\nexec(open('show.py').read())\n",
    "thread_raises.py": "import threading\nthreading.Thread(target=lambda: 1 / 0, name='one').start()\n",
    "trace.py": "import sys\nseen = []\nsys.settrace(lambda f, e, a: seen.append(f.f_code.co_name))\ndef g(): pass\ng()\nsys.settrace(None)\nprint(seen)\n",
    "reads.py": "import sys\nprint(repr(sys.stdin.read()))\n",
    "dies.py": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "pipe.py": "import os, signal\nprint(signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGXFSZ))\nr, w = os.pipe(); os.close(r)\ntry: os.write(w, b'x')\nexcept BrokenPipeError: print('broken')\n",
}  # fmt: skip

COMMANDS = [
    ["show.py"],
    ["./show.py", ""],
    ["sub/show.py", "-c", "x", "--file", "-m", "--timeout", "--help"],
    ["sub/../show.py"],
    ["-m", "package", "1"],
    ["-mpackage.mod", "-x"],
    ["-m", "package.missing"],
    ["-c", SHOW, "a"],
    ["-cprint(1); 1/0"],
    ["folder", "1"],
    ["archive.zip", "1"],
    ["sub/../archive.zip"],
    ["compiled.pyc", "1"],
    ["missing.py"],
    ["--", "-dash.py", "--"],
    ["-I", "sub/show.py"],
    ["-E", "sub/show.py"],
    ["-P", "sub/show.py"],
    ["-s", "show.py"],
    ["-O", "-W", "error", "-X", "dev", "show.py"],
    ["-W", "error", "warns.py"],
    ["-Werror::DeprecationWarning", "-bb", "-q", "-u", "show.py"],
    ["-OOc", "print(__debug__)"],
    ["-Im", "timeit", "-n1", "-r1", "-q"],
    ["-x", "show.py"],
    ["-B", "-X", "utf8", "show.py"],
    ["-i", "-c", "print(1)"],
    ["-"],
    ["-", "x"],
    ["-V"],
    ["-Z"],
    ["-m"],
    *[[name] for name in FILES if "/" not in name and name not in ("-dash.py", "show.py", "children.py")],
    *[["children.py", method] for method in ("fork", "spawn", "forkserver")],
    ["-I", "children.py", "spawn"],
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = textwrap.dedent(text)
        (folder / name).write_bytes(text.encode("latin-1" if name == "latin.py" else "utf-8"))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    import py_compile

    py_compile.compile(str(folder / "show.py"), cfile=str(folder / "compiled.pyc"), dfile="show.py")
    return folder


ADDRESS = re.compile(r"0x[0-9a-f]{6,}")  # of objects and threads: another one each time


def variables(**changes):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", **changes}


def both(python, folder, *arguments, options=(), before=(), **kwargs):
    """The same arguments given to python and to faultproof run: status, stdout, stderr of each."""
    results = []
    kwargs.setdefault("env", variables())
    kwargs.setdefault("input", "print('from stdin')\n")
    for prefix in ([python, *before], [python, *before, "-m", "faultproof", "run", *options]):
        done = subprocess.run(
            [*prefix, *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=120, **kwargs
        )
        results.append((done.returncode, *(ADDRESS.sub("0x", text) for text in (done.stdout, done.stderr))))
    return results


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: " ".join(words)[:40].replace("\n", " "))
def test_is_what_python_gives(started_python, programs, arguments):
    python, ours = both(started_python, programs, *arguments)
    assert python == ours


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONSAFEPATH": "1"},
        {"PYTHONPATH": "sub"},
        {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"},
        {"PYTHONDEVMODE": "1"},
        {"PYTHONFAULTHANDLER": "1"},
        {"PYTHONINSPECT": "1"},
        {"PYTHONIOENCODING": "latin-1:replace"},
        {"LC_ALL": "C"},
        {"LANG": "C"},
        {"LANG": "C", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": ""},
        {"FAULTPROOF": "0", "A": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("arguments", [["show.py"], ["-c", SHOW], ["-m", "package"]], ids=lambda words: words[0])
def test_variables(started_python, programs, environment, arguments):
    python, ours = both(started_python, programs, *arguments, env=variables(**environment))
    assert python == ours
    assert "__main__" in python[1] or "No module named package" in python[2]


@pytest.mark.parametrize(
    "before", [["-I"], ["-E", "-s"], ["-Wd", "-X", "dev", "-O"], ["-bI"], ["-X", "utf8", "-v"][:2]]
)
def test_options_of_the_commands_own_interpreter_are_the_programs(started_python, programs, before):
    python, ours = both(started_python, programs, "show.py", before=before)
    assert python == ours


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("name", ["closed.py", "show.py"])
def test_closed_streams(started_python, programs, closed, name):
    def run(*prefix):
        shell = f'exec "$@" > out.txt 2> err.txt {" ".join(f"{n}>&-" for n in closed)}'
        status = subprocess.call(
            ["sh", "-c", shell, "sh", *prefix, name], cwd=programs, env=variables(), stdin=subprocess.DEVNULL
        )
        return status, (programs / "out.txt").read_text(), (programs / "err.txt").read_text()

    assert run(started_python) == run(started_python, "-m", "faultproof", "run")


def test_inherited_descriptors_signals_and_masks(started_python, programs):
    program = "import os, signal; print(os.read(9, 9), signal.pthread_sigmask(0, []), signal.getsignal(10), signal.getsignal(2))"

    def prepare():
        read, write = os.pipe()
        os.write(write, b"inherited")
        os.dup2(read, 9)
        os.umask(0o077)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    python, ours = both(started_python, programs, "-c", program, preexec_fn=prepare, close_fds=False)
    assert python == ours and "inherited" in python[1] and "SIGUSR2" in python[1]


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise SystemExit('text')", "import sys; sys.exit()", "1/0",
                                  "import os; os._exit(9)", "import os; os.abort()", "raise KeyboardInterrupt"])  # fmt: skip
def test_status(started_python, programs, code):
    python, ours = both(started_python, programs, "-c", f"def f():\n    {code}\nf()")
    assert python[:2] == ours[:2]
    assert ours[2] == python[2] or ("abort" in code and ours[2].startswith("Fatal Python error: Aborted\n"))


def test_a_crash_is_reported_without_frames_of_ours(started_python, tmp_path):
    (tmp_path / "crash.py").write_text("import ctypes\ndef f():\n    ctypes.string_at(0)\nf()\n")
    python, ours = both(started_python, tmp_path, "crash.py")
    assert python[0] == ours[0] == -signal.SIGSEGV
    assert python[2] == ""
    lines = ours[2].splitlines()
    assert lines[0] == "Fatal Python error: Segmentation fault"
    assert f'  File "{tmp_path}/crash.py", line 3 in f' in lines
    last = lines.index(f'  File "{tmp_path}/crash.py", line 4 in <module>')
    assert lines[last + 1 : last + 2] in ([], [""])
    assert "faultproof" not in ours[2].replace(str(tmp_path), "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_report_too(started_python, tmp_path, method):
    (tmp_path / "crash.py").write_text(
        "import ctypes, multiprocessing, sys\n"
        "def crash(): ctypes.string_at(0)\n"
        "if __name__ == '__main__':\n"
        f"    p = multiprocessing.get_context({method!r}).Process(target=crash)\n"
        "    p.start(); p.join(); print(p.exitcode)\n"
    )
    python, ours = both(started_python, tmp_path, "crash.py")
    assert python[:2] == ours[:2] == (0, "-11\n") and python[2] == ""
    assert ours[2].startswith("Fatal Python error: Segmentation fault\n") and "line 2 in crash" in ours[2]


@pytest.mark.parametrize("isolated", [[], ["-I"]], ids=str)
def test_options(started_python, tmp_path, isolated):
    code = "import ctypes; ctypes.string_at(0)"
    _, ours = both(
        started_python, tmp_path, *isolated, "-c", code, options=["--file", "report.txt", "--current-thread"]
    )
    assert ours[2] == ""
    report = (tmp_path / "report.txt").read_text()
    assert "Stack (most recent call first):" in report
    file = tmp_path / "later.txt"
    code = f"import os, sys\nwhile 'faultproof' in sys.modules and not os.path.getsize({str(file)!r}): os.sched_yield()"
    both(started_python, tmp_path, *isolated, "-c", code, options=["--timeout=0.05", f"--file={file}"])
    assert file.read_text().startswith("Timeout (0:00:00.050000)!\n")


def command(python, *words, **kwargs):
    return subprocess.run([python, *words], capture_output=True, text=True, timeout=60, **kwargs)


def test_errors_say_what_to_do(started_python, tmp_path):
    for options, text in (
        (["run"], "nothing to run: give a script"),
        (["run", "--timeout", "-1", "x.py"], "seconds greater than 0"),
        (["run", "--timeout", "soon", "x.py"], "seconds greater than 0"),
        (["run", "--file"], "--file needs a value"),
        (["run", "--file", "/missing/folder/file", "x.py"], "No such file"),
        (["run", "-S", "x.py"], "-S leaves out what starts us"),
        (["run", "-IS", "x.py"], "-S leaves out what starts us"),
        (["crash.py", "1"], "did you mean: faultproof run crash.py 1"),
        (["--wrong"], "see --help"),
    ):
        done = command(started_python, "-m", "faultproof", *options, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert text in done.stderr and done.stderr.startswith("faultproof: ") and done.stderr.count("\n") == 1


def test_where_the_start_line_is_not_read(tmp_path):
    """A package that is found by PYTHONPATH alone can't be started by exec."""
    from started import environment

    python = environment(tmp_path / "env")
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "faultproof.pth").unlink()
    done = command(python, "-m", "faultproof", "run", "-c", "print(1)")
    assert done.returncode == 2 and done.stdout == ""
    assert "install faultproof there with pip" in done.stderr and str(site) in done.stderr
    code = "import sys; sys.executable = ''; sys.argv = ['faultproof', 'run', 'x.py']; from faultproof.__main__ import main; main()"
    done = command(python, "-c", code)
    assert done.returncode == 2 and "faultproof.enable()" in done.stderr


def test_help_names_everything(started_python):
    text = command(started_python, "-m", "faultproof", "--help").stdout
    for word in ("run", "capabilities", "--version", "run --help"):
        assert word in text
    assert command(started_python, "-m", "faultproof").stdout == text
    text = command(started_python, "-m", "faultproof", "run", "--help").stdout
    for word in ("--file PATH", "--timeout SECONDS", "--current-thread", "-m module", "-c code"):
        assert word in text
    import faultproof

    assert command(started_python, "-m", "faultproof", "--version").stdout == f"faultproof {faultproof.__version__}\n"
