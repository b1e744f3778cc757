"""The stubs say what there is: by comparison of names here, by mypy's own tools where mypy is installed (nox -s stubs)."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import pydoc
import subprocess
import sys

import faultproof
import pytest
from faultproof import faulthandler
from helpers import child

HERE = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(faultproof.__file__).parent
needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy isn't installed; nox -s stubs has it"
)


def functions_of(stub: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((PACKAGE / stub).read_text())
    branches = [part for node in tree.body if isinstance(node, ast.If) for part in node.body]
    return {node.name: node for node in [*tree.body, *branches] if isinstance(node, ast.FunctionDef)}


def test_the_drop_ins_functions():
    functions = functions_of("faulthandler.pyi")
    public = {name for name, value in vars(faulthandler).items() if callable(value) and not name.startswith("_")}
    assert set(functions) == public
    for name, node in functions.items():
        wanted = [a.arg for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
        assert list(inspect.signature(getattr(faulthandler, name)).parameters) == wanted, name


def test_the_packages_names():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {a.asname for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    assert imported | set(functions_of("__init__.pyi")) == set(faultproof.__all__)
    assert set(faultproof.__all__) <= set(dir(faultproof))
    for name in faultproof.__all__:
        assert getattr(faultproof, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'faulthandlers'"):
        faultproof.faulthandlers  # noqa: B018


def test_names_that_are_imported_when_asked_for():
    result = child("""
        import sys, faultproof
        assert [name for name in sys.modules if name.startswith("faultproof.")] == ["faultproof._install"]
        assert faultproof.faulthandler is sys.modules["faultproof.faulthandler"]
        assert faultproof.enable is faultproof.faulthandler.enable and faultproof.disable and faultproof.is_enabled
        assert faultproof.traceback.format_exc_bytes and faultproof.install and faultproof.uninstall
        assert faultproof.is_enabled() is False
        from faultproof import enable, traceback, faulthandler
        enable(); assert faultproof.is_enabled() and faultproof.disable() and not faultproof.is_enabled()
        import rlcompleter
        completer = rlcompleter.Completer({"faultproof": faultproof})
        found = []
        while completer.complete("faultproof.", len(found)):
            found.append(completer.complete("faultproof.", len(found)))
        names = {text.rstrip("()").partition(".")[2] for text in found}
        assert set(faultproof.__all__) <= names, found
    """)
    assert result.returncode == 0, result.stderr


def test_help_names_everything():
    text = pydoc.plain(pydoc.render_doc(faultproof))
    for name in (*faultproof.__all__, "FAULTPROOF=1", "faultproof run"):
        assert name in text
    for name in functions_of("faulthandler.pyi"):
        assert name in pydoc.plain(pydoc.render_doc(faulthandler))


@needs_mypy
def test_stubtest(tmp_path):
    options = ["--allowlist", str(HERE / "stubtest.allowlist"), "--ignore-unused-allowlist"]
    command = [sys.executable, "-m", "mypy.stubtest", "faultproof", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_a_misspelt_name_is_an_error(tmp_path):
    (tmp_path / "right.py").write_text(
        "import faultproof\nfrom faultproof import faulthandler, traceback\n"
        "faultproof.enable(2, c_stack=True)\nfaultproof.faulthandler.register(10)\nfaultproof.install(file=2)\n"
        "faulthandler.dump_traceback()\ntext: bytes = traceback.format_exc_bytes()\n"
    )
    (tmp_path / "wrong.py").write_text(
        "import faultproof\nfrom faultproof import faulthandler\n"
        "faulthandler.typo()\nfaultproof.typo()\nfaultproof.faulthandler.enabel()\nfaultproof.install(file='x')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    right = subprocess.run([*command, "right.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (right.returncode, right.stdout) == (0, "")
    wrong = subprocess.run([*command, "wrong.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert wrong.returncode == 1
    assert [line.split(":")[1] for line in wrong.stdout.splitlines() if ": error:" in line] == ["3", "4", "5", "6"]
