"""Projects that use the C API in each of the ways there are, built and run."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap

import faultproof
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INCLUDE = pathlib.Path(faultproof.get_include())
CC, CXX = shutil.which("gcc") or shutil.which("cc"), shutil.which("g++") or shutil.which("c++")
PACKAGE = str(pathlib.Path(faultproof.__file__).parent.parent)
# only what isn't installed needs a path; build tools may run on another Python, which mustn't find this one's modules
INSTALLED = PACKAGE in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
ENV = {
    **os.environ,
    "PYTHONPATH": "" if INSTALLED else PACKAGE,
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
}

pytestmark = pytest.mark.consumer


def have_headers() -> bool:
    return pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists()


def need(*modules: str) -> None:
    for m in modules:
        if importlib.util.find_spec(m) is None:
            pytest.skip(f"{m} isn't installed for {sys.executable}")
    if CC is None or not have_headers():
        pytest.skip("needs a C compiler and the interpreter's headers")


def run(*command: object, cwd: pathlib.Path, **kwargs) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=ENV, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def project(name: str, tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / name
    shutil.copytree(HERE / f"with_{name}", folder)
    if name != "cython":
        for shared in ("stack.c", "stack_collect.c"):
            shutil.copy(HERE / shared, folder)
    return folder


CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import stack
def inner():
    return stack.stack()
rows = inner()
assert [(line > 0, name) for _, line, name in rows] == [(True, "inner"), (True, "<module>")], rows
assert rows[0][0] == rows[1][0] == "<string>"
if hasattr(stack, "location"):
    assert stack.location() == ("<module>", sys._getframe().f_lineno)
    assert stack.threads() == 1
print("consumed")
"""


def check(folder: pathlib.Path) -> None:
    assert run(sys.executable, "-c", CHECK, folder, cwd=folder) == "consumed\n"


def test_setuptools(tmp_path):
    need("setuptools")
    folder = project("setuptools", tmp_path)
    run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=folder)
    check(folder)


def test_meson(tmp_path):
    need()
    meson = shutil.which("meson", path=ENV["PATH"])
    if meson is None or shutil.which("ninja", path=ENV["PATH"]) is None:
        pytest.skip("meson and ninja aren't installed")
    folder = project("meson", tmp_path)
    run(meson, "setup", "build", f"-Dpython={sys.executable}", cwd=folder)
    run(meson, "compile", "-C", "build", cwd=folder)
    check(folder / "build")


def test_cmake(tmp_path):
    need()
    cmake = shutil.which("cmake", path=ENV["PATH"])
    if cmake is None or subprocess.run([cmake, "--version"], capture_output=True).returncode != 0:
        pytest.skip("cmake isn't installed")
    folder = project("cmake", tmp_path)
    done = subprocess.run(
        [cmake, "-S", ".", "-B", "build", f"-DPython_EXECUTABLE={sys.executable}"],
        cwd=folder, env=ENV, capture_output=True, text=True,
    )  # fmt: skip
    if "Could NOT find Python" in done.stderr:
        pytest.skip("this cmake doesn't find this interpreter's headers")
    assert done.returncode == 0, done.stderr
    run(cmake, "--build", "build", cwd=folder)
    check(folder / "build")


def test_cython(tmp_path):
    need("Cython", "setuptools")
    folder = project("cython", tmp_path)
    run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=folder)
    check(folder)


# ---- the header by itself ----

USE = """
int use(PyUnstable_FrameInfo *f);
int use(PyUnstable_FrameInfo *f) { return PyUnstable_CollectCallStack(0, f, 1); }
"""
FUTURE = """
#define Py_UNSTABLE_FRAMEINFO_STRSIZE 77
typedef struct { int other; } PyUnstable_FrameInfo;
int PyUnstable_CollectCallStack(struct _ts *, PyUnstable_FrameInfo *, int);
void PyUnstable_PrintCallStack(int, const PyUnstable_FrameInfo *, int, int);
"""


def sources() -> dict[str, pathlib.Path]:
    return {"capsule": INCLUDE, "linked": amalgamation()}


def amalgamation() -> pathlib.Path:
    return INCLUDE.parent / "source"


@pytest.mark.parametrize("flags", ["-xc -std=c99", "-xc -std=c11", "-xc++ -std=c++11", "-xc++ -std=c++17"])
@pytest.mark.parametrize("way", ["capsule", "linked"])
@pytest.mark.parametrize("before", ["", "#include <Python.h>\n", "struct _ts;" + FUTURE])
def test_the_header_compiles(flags, way, before, tmp_path):
    compiler = CXX if "++" in flags else CC
    if compiler is None:
        pytest.skip("no such compiler")
    if "Python.h" in before and not have_headers():
        pytest.skip("the interpreter's headers aren't installed")
    source = tmp_path / "use.c"
    import_it = "int init(void); int init(void) { return faultproof_import(); }" if "Python.h" in before else ""
    source.write_text(f'{before}#include "faultproof.h"\n{USE}\n{import_it if way == "capsule" else ""}\n')
    strict = ["-Wall", "-Wextra", "-Werror"] + ([] if "Python.h" in before else ["-pedantic-errors"])
    paths = sysconfig.get_paths()
    system = ["-isystem", paths["include"], "-isystem", paths["platinclude"]]
    command = [compiler, *flags.split(), *strict, f"-I{sources()[way]}", *system, "-c", source, "-o", "use.o"]
    run(*command, cwd=tmp_path)
    symbols = run("nm", "use.o", cwd=tmp_path)
    assert ("PyUnstable_CollectCallStack" in symbols) == ("FUTURE" in before or before.startswith("struct")), symbols


def test_nothing_but_the_init_function_is_exported():
    module = importlib.import_module("faultproof.faulthandler")
    names = run("nm", "-D", "--defined-only", module.__file__, cwd=ROOT).split()
    assert [n for n in names if n.startswith(("fp_", "faultproof_", "PyUnstable"))] == []


def test_installed_header_is_the_one_of_the_tree():
    tree = ROOT / "include" / "faultproof.h"
    if not tree.exists():
        pytest.skip("no source tree around the tests")
    assert (INCLUDE / "faultproof.h").read_text() == tree.read_text()


# ---- compiled in ----

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC"]


def clang() -> list[str] | None:
    if shutil.which("clang"):
        return ["clang"]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


@pytest.fixture(scope="module")
def tracker(tmp_path_factory) -> pathlib.Path:
    """The crash tracker in C, twice, and the one in C++."""
    if CC is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("tracker")
    source = amalgamation()
    run(CC, *STRICT, "-c", source / "faultproof.c", "-o", "faultproof.o", cwd=folder)
    files = [HERE / "tracker" / "tracker.c", "faultproof.o", "-ldl", "-lpthread"]
    run(CC, *STRICT, "-shared", f"-I{source}", *files, "-o", "tracker.so", cwd=folder)
    shutil.copy(folder / "tracker.so", folder / "tracker2.so")
    if CXX is not None:
        flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{source}"]
        cpp = HERE / "tracker" / "tracker.cpp"
        run(CXX, *flags, cpp, "faultproof.o", "-ldl", "-lpthread", "-o", "tracker_cpp.so", cwd=folder)
    return folder


def child(folder: pathlib.Path, code: str) -> subprocess.CompletedProcess:
    """Runs Python that doesn't have faultproof on its path, with the trackers loaded as `t` and `u`."""
    start = f"""
        import ctypes, os, signal, sys, threading
        t, u = ctypes.PyDLL({str(folder / "tracker.so")!r}), ctypes.PyDLL({str(folder / "tracker2.so")!r})
        for lib in (t, u): lib.tracker_status.restype = ctypes.c_char_p
        bad = ctypes.c_void_p(0x10000)
        def inner(lib): return lib.tracker_report(1)
    """
    text = textwrap.dedent(start) + textwrap.dedent(code)
    command = [sys.executable, "-S", "-E", "-u", "-c", text]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)


REPORT = 'Stack (most recent call first):\n  File "<string>", line 6 in inner\n  File "<string>", line {} in <module>\n'


def test_compiles_with_clang(tmp_path):
    compiler = clang()
    if compiler is None:
        pytest.skip("clang isn't installed")
    run(*compiler, *STRICT, "-c", amalgamation() / "faultproof.c", "-o", "faultproof.o", cwd=tmp_path)


def test_compiles_pedantically_and_without_optimisation(tmp_path):
    for level in ("-O0", "-O3"):
        run(CC, *STRICT, level, "-D_GNU_SOURCE", "-c", amalgamation() / "faultproof.c", "-o", "a.o", cwd=tmp_path)


def test_the_amalgamation_defines_no_names_that_may_be_somebody_elses(tmp_path):
    if CC is None or shutil.which("nm") is None:
        pytest.skip("no C compiler, or no nm")
    run(CC, "-c", amalgamation() / "faultproof.c", "-o", "faultproof.o", cwd=tmp_path)
    names = run("nm", "-g", "--defined-only", "--format=posix", "faultproof.o", cwd=tmp_path).splitlines()
    others = {line.split()[0] for line in names if not line.startswith("faultproof_")}
    assert len(names) > 20 and others == {"fp_guard_copy"}  # which is in assembler


def test_the_amalgamation_is_the_one_of_the_tree(tmp_path):
    tool = ROOT / "tools" / "amalgamate.py"
    if not tool.exists():
        pytest.skip("no source tree around the tests")
    run(sys.executable, tool, tmp_path, cwd=tmp_path)
    for name in ("faultproof.c", "faultproof.h"):
        assert (tmp_path / name).read_text() == (amalgamation() / name).read_text()


def test_tracker_before_and_after_init(tracker):
    done = child(
        tracker,
        """
        assert t.tracker_before_init() == 1 and t.tracker_status() != b"ok"
        assert t.tracker_init() == 0 == t.tracker_init(), t.tracker_status()
        assert t.tracker_status() == b"ok" and t.tracker_handler_untouched() == 1 and t.tracker_can_guard() == 0
        assert inner(t) == 2
        assert t.tracker_collect_at(bad) == -1 and t.tracker_handler_untouched() == 1
        assert t.tracker_guard() == 0 == t.tracker_guard() and t.tracker_can_guard() == 1
        assert inner(t) == 2 and t.tracker_collect_at(bad) == -1
        assert t.tracker_unguard() == 0 == t.tracker_unguard() and t.tracker_handler_untouched() == 1
        assert t.tracker_can_guard() == 0 and inner(t) == 2 and t.tracker_collect_at(bad) == -1
        assert "faultproof" not in sys.modules
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == REPORT.format(11) + REPORT.format(14) + REPORT.format(16)


def test_two_copies_in_one_process(tracker):
    done = child(
        tracker,
        """
        assert t.tracker_init() == u.tracker_init() == 0
        assert t.tracker_guard() == 0 and t.tracker_can_guard() == 1 and u.tracker_can_guard() == 0
        assert u.tracker_guard() == 0 and u.tracker_can_guard() == 1 and t.tracker_can_guard() == 0
        assert t.tracker_collect_at(bad) == u.tracker_collect_at(bad) == -1  # one by system calls, one guarded
        assert inner(t) == inner(u) == 2
        assert t.tracker_unguard() == -1  # the other copy's handler is in front
        assert u.tracker_unguard() == 0 and t.tracker_can_guard() == 1 and t.tracker_collect_at(bad) == -1
        assert t.tracker_unguard() == 0 and t.tracker_handler_untouched() == 1
        """,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("copies", ["t", "tu"])
def test_a_fault_that_it_does_not_own_goes_to_the_default_action(tracker, copies):
    guards = "; ".join(f"{c}.tracker_init(); {c}.tracker_guard()" for c in copies)
    done = child(tracker, f"{guards}\nt.tracker_crash()")
    assert done.returncode == -signal.SIGSEGV
    done = child(tracker, f"{guards}\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("copies", ["t", "tu"])
def test_a_fault_that_it_does_not_own_goes_to_the_handler_before(tracker, copies):
    guards = "; ".join(f"{c}.tracker_init(); assert {c}.tracker_guard() == 0" for c in copies)
    reads = "; ".join(f"assert {c}.tracker_collect_at(bad) == -1" for c in copies)
    done = child(tracker, f"t.tracker_previous()\n{guards}\n{reads}\nt.tracker_crash()")
    assert done.returncode == 33, done.stderr


@pytest.mark.parametrize("guard", ["t", "tu", "package"])
@pytest.mark.parametrize("crash", ["t.tracker_crash()", "[os.kill(os.getpid(), signal.SIGSEGV) for _ in range(2)]"])
def test_a_handler_for_one_call_is_called_once(tracker, guard, crash):
    """SA_RESETHAND: the second signal has the default action (man 2 sigaction)."""
    guards = "; ".join(f"{c}.tracker_init(); assert {c}.tracker_guard() == 0" for c in guard)
    if guard == "package":
        guards = f"sys.path.insert(0, {PACKAGE!r})\nfrom faultproof import faulthandler\n"
        guards += "faulthandler.dump_traceback(open('/dev/null', 'w'))"
    done = child(tracker, f"t.tracker_previous_once()\n{guards}\n{crash}")
    assert (done.returncode, done.stderr) == (-signal.SIGSEGV, "called\n")


@pytest.mark.parametrize("first", ["package", "tracker"])
def test_the_package_and_a_compiled_in_copy(tracker, first):
    """Both guards in one process: each reads safely, and a crash ends it by its signal, whichever is in front."""
    package = f"sys.path.insert(0, {PACKAGE!r})\nfrom faultproof import faulthandler\n"
    package += "dump = lambda: faulthandler.dump_traceback(open('/dev/null', 'w'))\ndump()\n"
    copy = "t.tracker_init(); assert t.tracker_guard() == 0\n"
    both = package + copy if first == "package" else copy + package
    both += "assert t.tracker_collect_at(bad) == -1; dump(); assert inner(t) == 2\n"
    for crash in ("t.tracker_crash()", "os.kill(os.getpid(), signal.SIGSEGV)"):
        done = child(tracker, both + crash)
        assert done.returncode == -signal.SIGSEGV, done.stderr


def test_a_crash_is_reported(tracker):
    done = child(tracker, "t.tracker_init(); t.tracker_enable()\ndef f(): t.tracker_crash()\nf()\n")
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr == (
        'Stack (most recent call first):\n  File "<string>", line 8 in f\n  File "<string>", line 9 in <module>\n'
    )


def test_in_threads(tracker):
    done = child(
        tracker,
        """
        t.tracker_init(); t.tracker_guard()
        seen = []
        def run():
            for _ in range(200): seen.append(t.tracker_collect_at(bad))
        threads = [threading.Thread(target=run) for _ in range(4)]
        for x in threads: x.start()
        for x in threads: x.join()
        assert seen == [-1] * 800
        """,
    )
    assert done.returncode == 0, done.stderr


def test_cpp17(tracker):
    if not (tracker / "tracker_cpp.so").exists():
        pytest.skip("no C++ compiler")
    done = child(
        tracker,
        """
        cpp = ctypes.PyDLL("./tracker_cpp.so")
        def recurse(n): return recurse(n - 1) if n else cpp.cpp_frames_named(b"recurse")
        assert recurse(9) == 10 and cpp.cpp_threads() == 1
        """,
    )
    assert done.returncode == 0, done.stderr


def test_without_an_interpreter(tmp_path):
    """In a program without Python: init fails, says why, and everything else fails too."""
    if CC is None:
        pytest.skip("no C compiler")
    main = tmp_path / "main.c"
    main.write_text(
        '#include <stdio.h>\n#include "faultproof.h"\n'
        'int main(void) { faultproof_frame f; int a = faultproof_init(); printf("%d %d %s\\n", a,'
        " faultproof_collect_own(NULL, &f, 1), faultproof_status()); return 0; }\n"
    )
    source = amalgamation()
    run(CC, f"-I{source}", main, source / "faultproof.c", "-ldl", "-lpthread", "-o", "main", cwd=tmp_path)
    assert run("./main", cwd=tmp_path) == "-1 -1 there is no Python interpreter in this process\n"


def test_an_interpreter_with_local_names(tmp_path):
    library = pathlib.Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
    if CC is None or not library.is_file() or ".so" not in library.name:
        pytest.skip("needs a C compiler and an interpreter with a shared library")
    source = amalgamation()
    files = [HERE / "tracker" / "embedder.c", source / "faultproof.c"]
    run(CC, "-std=gnu11", "-O1", f"-I{source}", *files, "-ldl", "-lpthread", "-o", "embedder", cwd=tmp_path)
    env = {**ENV, "PYTHONHOME": sys.base_prefix}
    done = subprocess.run(["./embedder", library], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode == 4:
        pytest.skip(f"this shared library can't be loaded here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == '  File "<string>", line 2 in inner\n  File "<string>", line 3 in <module>\n'
