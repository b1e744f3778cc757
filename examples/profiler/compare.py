"""Profiles program.py with this profiler and with py-spy, and compares the share of each function: python compare.py

Needs the profiler built here, py-spy on the PATH, and leave to ptrace; says so where that isn't there.
Exit code 1: a share differs by more than 5 points; 2: py-spy couldn't be used.
"""

from __future__ import annotations

import collections
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SECONDS, HZ, POINTS = "10", "200", 5.0


def shares(path: pathlib.Path) -> dict[str, float]:
    """The share of samples in which a function is on the stack, in percent."""
    counts: collections.Counter[str] = collections.Counter()
    total = 0
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        total += int(count)
        names = {frame.split(" (")[0].rsplit(".", 1)[-1] for frame in stack.split(";") if "program.py" in frame}
        counts.update({name: int(count) for name in names})
    return {name: 100 * n / total for name, n in counts.items()}


def main() -> int:
    folder = pathlib.Path(tempfile.mkdtemp())
    program = [sys.executable, str(HERE / "program.py")]
    subprocess.run([*program, str(folder / "ours"), SECONDS, HZ], check=True)
    spy = shutil.which("py-spy")
    if spy is None:
        print("py-spy isn't installed")
        return 2
    options = ["--gil", "--format", "raw", "--function", "--rate", HZ, "--duration", SECONDS]
    done = subprocess.run(
        [spy, "record", *options, "--output", str(folder / "theirs"), "--", *program, "-", SECONDS],
        capture_output=True, text=True,
    )  # fmt: skip
    if not (folder / "theirs").exists():
        print(f"py-spy can't be used here: {done.stderr.strip()[-300:]}")
        return 2
    ours, theirs = shares(folder / "ours"), shares(folder / "theirs")
    worst = 0.0
    for name in sorted(set(ours) | set(theirs), key=lambda n: -theirs.get(n, 0)):
        a, b = ours.get(name, 0.0), theirs.get(name, 0.0)
        worst = max(worst, abs(a - b))
        print(f"{name:12} ours {a:5.1f} %   py-spy {b:5.1f} %")
    print(f"greatest difference: {worst:.1f} points")
    return 0 if worst <= POINTS else 1


if __name__ == "__main__":
    sys.exit(main())
