"""An environment of its own in which every Python process has faultproof's module in the place of a standard one.

CPython's tests start children with -E and -I, which read no PYTHON* variable and no user site: only a start-up line in
the environment's own site-packages reaches them.  That line swaps the module and reports which one each process has;
whoever uses this checks the reports, for a run that silently tests the standard module is worth nothing.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

STARTUP = """
import os, sys

REPORTS = {reports!r}
MODULE = {module!r}


def note(kind, text):
    with open(os.path.join(REPORTS, "%s.%d" % (kind, os.getpid())), "a") as file:
        file.write(text + "\\n")


def on_event(event, args):
    # the children that run this environment's interpreter; "-S" children have no site and can't be swapped
    if event == "subprocess.Popen" and args[0] is not None:
        command = [os.fsdecode(a) for a in args[1]] if not isinstance(args[1], (str, bytes)) else [args[1]]
        if os.fsdecode(args[0]) == sys.executable and "-S" not in command:
            note("spawned", " ".join(command[1:6]).replace("\\n", " ")[:60])


def swap():
    sys.path[:0] = {path!r}
    import faultproof

    faultproof.install()
    del sys.path[: len({path!r})]
    note("module", "%s %s" % (MODULE, getattr(sys.modules[MODULE].enable, "__self__", None)))
    sys.addaudithook(on_event)


swap()
"""


class Environment:
    """A virtual environment without pip under `folder`; `module` is the standard module to look at in each process."""

    def __init__(self, folder: pathlib.Path, module: str) -> None:
        self.folder = folder
        self.reports = folder / "reports"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / pathlib.Path(sys.executable).name
        if not self.python.exists():
            self.python = folder / "bin" / "python"
        import faultproof

        path = [str(pathlib.Path(faultproof.__path__[0]).parent)]
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "swapped_startup.py").write_text(
            textwrap.dedent(STARTUP).format(reports=str(self.reports), module=module, path=path)
        )
        (site / "swapped.pth").write_text("import swapped_startup\n")

    def run(self, *args: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        self.reports.mkdir(exist_ok=True)
        for file in self.reports.iterdir():
            file.unlink()
        return subprocess.run(
            [str(self.python), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )

    def standard(self, *args: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        """The same with the interpreter as it is."""
        return subprocess.run(
            [sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )

    def modules(self) -> list[str]:
        """One line a process: the name and file of the module that it has."""
        return [line for f in self.reports.glob("module.*") for line in f.read_text().splitlines()]

    def spawned(self) -> list[str]:
        """One line for each child that a process of the environment started."""
        return [line for f in self.reports.glob("spawned.*") for line in f.read_text().splitlines()]
