"""What no compiler checks: the order of the stages, what the handler path calls, how deep it goes, generated tables."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAFE = ROOT / "src" / "safe"
STAGES = ["base", "reader", "layout", "model", "walk", "unwind", "render", "trigger"]
# Normal context only: no signal handler runs what is in these.
NORMAL = {"trigger/altstack.c", "trigger/given.c", "trigger/control.c", "trigger/watchdog.c"}
CC = shutil.which("cc") or shutil.which("gcc")
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler here")

HANDLER_PATH = sorted(p for p in SAFE.rglob("*.c") if p.relative_to(SAFE).as_posix() not in NORMAL)


def c_files() -> list[pathlib.Path]:
    return sorted([*(ROOT / "src").rglob("*.[ch]"), *(ROOT / "include").rglob("*.h")])


def test_a_stage_includes_only_stages_before_it():
    for path in SAFE.rglob("*.[ch]"):
        own = STAGES.index(path.relative_to(SAFE).parts[0])
        for stage in re.findall(r'^#include "(\w+)/', path.read_text(), re.M):
            assert STAGES.index(stage) <= own, f"{path.name} of {STAGES[own]} includes {stage}"


def test_the_safe_core_knows_no_python_and_no_library_with_state():
    forbidden = re.compile(r"#include <(Python|stdio|malloc|execinfo|dlfcn)\.h>|__thread|_Thread_local")
    for path in HANDLER_PATH:
        assert not forbidden.search(path.read_text()), path


def test_each_file_says_what_it_is_for():
    for path in c_files():
        first = path.read_text().split("\n", 1)[0]
        assert first.startswith("/* "), path
        if path.suffix == ".c":
            head = path.read_text().split("*/")[0]
            assert re.search(r"context|Signal handler", head), f"{path}: the head doesn't say where the code runs"


def compile_safe(folder: pathlib.Path, path: pathlib.Path, *options: str) -> pathlib.Path:
    out = folder / (path.relative_to(SAFE).as_posix().replace("/", "_") + ".o")
    command = [
        CC,
        "-std=gnu11",
        "-O2",
        "-fPIC",
        "-fno-stack-protector",
        "-fvisibility=hidden",
        "-I",
        str(SAFE),
        "-I",
        str(ROOT / "include"),
    ]
    subprocess.run([*command, *options, "-c", str(path), "-o", str(out)], check=True, cwd=folder)
    return out


@needs_cc
def test_what_the_handler_path_calls(tmp_path):
    allowed = {
        line.split()[0]
        for line in (ROOT / "tests/lint/signal_safe.txt").read_text().splitlines()
        if line[:1] not in "#"
    }
    objects = {path: compile_safe(tmp_path, path) for path in HANDLER_PATH}
    defined, undefined = set(), {}
    for path, obj in objects.items():
        for line in subprocess.check_output(["nm", str(obj)], text=True).splitlines():
            kind, name = line.split()[-2:]
            if kind in "Uw":
                undefined.setdefault(name, path)
            else:
                defined.add(name)
    strange = {
        n: p for n, p in undefined.items() if n not in defined | allowed and not n.startswith(("__start_", "__stop_"))
    }
    assert not strange, f"not on the reviewed list tests/lint/signal_safe.txt: {strange}"


EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]+)"')
# who calls through a pointer, and what can be behind it
INDIRECT = {"copy_vm", "copy_mem", "copy_pipe", "copy_none", "copy_guard", "show_module"}


def plain(title: str) -> str:
    return title.rsplit(":", 1)[-1]


def deepest(edges: dict[str, set[str]], frames: dict[str, int], name: str, path: tuple[str, ...] = ()) -> int:
    assert name not in path, f"recursion: {' > '.join((*path, name))}"
    below = [deepest(edges, frames, callee, (*path, name)) for callee in edges.get(name, ())]
    return frames.get(name, 256) + max(below, default=0)  # 256: what a small function of libc may use


@needs_cc
def test_the_handler_path_has_no_recursion_and_fits_the_alternate_stack(tmp_path):
    if "Free Software Foundation" not in subprocess.check_output([CC, "--version"], text=True):
        pytest.skip("-fcallgraph-info is gcc's")
    edges: dict[str, set[str]] = {}
    frames: dict[str, int] = {}
    for path in HANDLER_PATH:
        obj = compile_safe(tmp_path, path, "-fcallgraph-info=su", "-Wvla", "-Walloca", "-Werror")
        text = obj.with_suffix(".ci").read_text()
        for title, label in NODE.findall(text):
            size = re.search(r"(\d+) bytes", label)
            if size:
                frames[plain(title)] = int(size[1]) + 8
        for source, target in EDGE.findall(text):
            edges.setdefault(plain(source), set()).add(plain(target))
    for targets in edges.values():
        if "__indirect_call" in targets:
            targets.remove("__indirect_call")
            targets |= INDIRECT
    for target in INDIRECT & set(edges):
        edges[target].discard(target)
    room = int(re.search(r"FP_HANDLER_DEPTH = (\d+) << 10", (SAFE / "trigger/altstack.h").read_text())[1]) << 10
    used = max(deepest(edges, frames, entry) for entry in ("on_fatal", "fp_user_handler"))
    # twice: a fault in our own code outside of the guard runs the handler again on what is left of the stack
    assert 2 * used < room, f"the handler path uses {used} bytes"


def test_the_layout_tables_are_what_the_headers_say():
    include = pathlib.Path(sysconfig.get_paths()["include"])
    if not (include / "internal").is_dir() or CC is None:
        pytest.skip("this interpreter came without its internal headers, or there is no C compiler")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/gen_layout.py"), "--check", sys.executable],
        text=True,
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stdout


def test_fields_and_tables_name_the_same():
    sys.path.insert(0, str(ROOT / "tools"))
    import gen_layout

    assert sorted(gen_layout.field_names()) == sorted(gen_layout.FIELDS)
    assert set(gen_layout.DEBUG) <= set(gen_layout.FIELDS)


def test_shared_objects_are_linked_for_signal_handlers():
    import faultproof

    for path in pathlib.Path(faultproof.__file__).parent.glob("*.so"):
        dynamic = subprocess.check_output(["readelf", "-d", "-W", "-l", str(path)], text=True)
        assert "NOW" in dynamic, f"{path.name} is not linked with -z now"
        assert not re.search(r"GNU_STACK.*RWE", dynamic), f"{path.name} asks for an executable stack"
        symbols = subprocess.check_output(["nm", "-D", "--defined-only", str(path)], text=True)
        names = {line.split()[-1] for line in symbols.splitlines()}
        assert all(n.startswith(("PyInit_", "faultproof_", "_init", "_fini")) for n in names), names
