"""An environment whose interpreter reads the start-up line, as one has into which faultproof was installed by pip."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import faultproof._traceback
from faultproof import faulthandler

TREE = pathlib.Path(__file__).parents[2] / "python"


def start_line(package: pathlib.Path) -> pathlib.Path:
    """The installed line; an editable installation has it in the tree alone."""
    installed = package.parent / "faultproof.pth"
    return installed if installed.exists() else TREE / "faultproof.pth"


def environment(folder: pathlib.Path) -> str:
    """Makes it from the package under test; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    package = pathlib.Path(faultproof.__file__).parent
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "faultproof.pth").write_text(start_line(package).read_text())
    (site / "faultproof").mkdir()
    modules = [pathlib.Path(module.__file__) for module in (faulthandler, faultproof._traceback)]
    for file in {*package.glob("*.py"), *modules}:
        (site / "faultproof" / file.name).symlink_to(file)
    return str(folder / "bin" / "python")
