"""Makes the two files that a crash tracker compiles in: faultproof.c and faultproof.h, from the sources of the C API.

Usage: amalgamate.py OUTPUT_DIRECTORY [--depfile FILE]
Each #include "..." is replaced by the file's text, once; system headers are included once at the top.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATHS = (ROOT / "src", ROOT / "src" / "safe", ROOT / "include")

# The package's table and capsule are left out; guard.c and init.c take the place of trigger/ and ext/.
STAGES = {
    "base": ("status",),
    "layout": ("layout",),
    "reader": ("arrival", "fallback", "guard"),
    "walk": ("code", "frames", "lines", "snapshot", "standstill", "text", "threads"),
    "api": ("call", "callstack", "check", "collect", "positions", "resolve", "scratch", "states", "guard", "init"),
}
SOURCES = [f"{stage}/{name}.c" for stage, names in STAGES.items() for name in names]

HEADERS = ("api/api.h",)  # it includes all the others

TOP = """/* faultproof {version}, the call-stack C API in one file: see faultproof.h, which is the reference.
 *
 * Made by tools/amalgamate.py; what the parts do is said at the head of each.  C11 with GCC or Clang, Linux x86-64,
 * glibc; links with -ldl and -lpthread where libc doesn't have them.
 *
{license} */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define FP_HIDDEN static __attribute__((unused))
#pragma GCC diagnostic ignored "-Wunused-function" /* inline functions of headers that are no longer headers */
"""

# What is private to a file, and might be in another one too: functions, structs.
PRIVATE = re.compile(r"^static (?:__attribute__\(\(\w+\)\)|[\w *])*?\b([a-z]\w*)\(|^struct (\w+) \{", re.M)
QUOTED = re.compile(r'^#include "([^"]+)"', re.M)
SYSTEM = re.compile(r"^#include <([^>]+)>[^\n]*\n", re.M)


class Amalgam:
    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.files: list[pathlib.Path] = []
        self.system: set[str] = set()

    def find(self, name: str) -> pathlib.Path:
        found = next(p / name for p in PATHS if (p / name).exists())
        self.files.append(found)
        return found

    def expand(self, name: str) -> str:
        """The text of a file with its own includes expanded; a .inc or .def file is text that is wanted each time."""
        if name == "faultproof.h":
            return '#include "faultproof.h"\n' if name not in self.seen and not self.seen.add(name) else ""
        if name in self.seen and name.endswith(".h"):
            return ""
        self.seen.add(name)
        text = self.find(name).read_text()
        self.system.update(SYSTEM.findall(text))
        text = SYSTEM.sub("", text)
        text = re.sub(r"^#define (_GNU_SOURCE|FAULTPROOF_LINKED)\n", "", text, flags=re.M)
        return QUOTED.sub(lambda m: self.expand(m[1]).rstrip("\n"), text)


def apart(bodies: dict[str, str]) -> str:
    """The files one after the other; a private name that two of them have gets the file's name added."""
    private = {name: {a or b for a, b in PRIVATE.findall(text)} for name, text in bodies.items()}
    out = []
    for name, text in bodies.items():
        others = set().union(*(p for other, p in private.items() if other != name))
        stem = re.sub(r"\W", "_", name.removesuffix(".c"))
        for clash in sorted(private[name] & others):
            text = re.sub(rf"\b{clash}\b", f"{stem}_{clash}", text)
        out.append(f"/* ---- {name} ---- */\n{text}")
    return "\n".join(out)


def license_comment() -> str:
    lines = (ROOT / "LICENSE").read_text().strip().splitlines()
    return "".join(f" * {line}".rstrip() + "\n" for line in lines)


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 3):
        print(__doc__)
        return 2
    out = pathlib.Path(argv[0])
    out.mkdir(parents=True, exist_ok=True)
    header = (ROOT / "include" / "faultproof.h").read_text()
    version = re.search(r"VERSION_HEX 0x\w+ /\* ([\d.]+)", header)[1]

    amalgam = Amalgam()
    headers = "".join(amalgam.expand(name) for name in HEADERS)
    body = headers + apart({name: amalgam.expand(name) for name in SOURCES})
    includes = "".join(f"#include <{name}>\n" for name in sorted(amalgam.system))
    top = TOP.format(version=version, license=license_comment())
    (out / "faultproof.c").write_text(f"{top}{includes}\n{body}")

    guard = "#define FAULTPROOF_H\n"
    linked = (
        guard + "#ifndef FAULTPROOF_LINKED\n#define FAULTPROOF_LINKED /* the functions are in faultproof.c */\n#endif\n"
    )
    assert header.count(guard) == 1
    (out / "faultproof.h").write_text(header.replace(guard, linked))
    if argv[1:2] == ["--depfile"]:
        files = [*amalgam.files, ROOT / "include" / "faultproof.h", ROOT / "LICENSE"]
        pathlib.Path(argv[2]).write_text(f"{out / 'faultproof.c'}: {' '.join(map(str, dict.fromkeys(files)))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
