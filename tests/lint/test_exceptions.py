"""Where exceptions of others may be lost: every place is listed with what becomes of them (exceptions.txt)."""

from __future__ import annotations

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "..", "..", "src", "traceback")

NAMES = re.compile(
    r"\b(PyErr_(?:Clear|Restore|Fetch|GetRaisedException|WriteUnraisable|CheckSignals)|fp_clear|fp_error_take|fp_str"
    r"|PyObject_(?:Call|Vectorcall|GetAttr|SetAttr|RichCompare)\w*|PyObject_(?:Str|Repr|IsTrue|IsInstance|GetIter|GetItem)"
    r"|fp_lookup_attr|PyIter_Next|PySequence_List|PyFile_Write\w+|PyImport_Import\w*|PyMapping_GetItemString"
    r"|PyUnicode_(?:Format|AsEncodedString))\s*\("
)
FUNCTION = re.compile(r"^[A-Za-z_][\w \t*]*?\*?(\w+)\(.*[^;]$")


def places() -> dict[str, set[str]]:
    """What each function calls of all that may run code of others or drops an exception."""
    found: dict[str, set[str]] = {}
    for name in sorted(os.listdir(SOURCE)):
        if not name.endswith((".c", ".h")):
            continue
        with open(os.path.join(SOURCE, name), encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), file.read(), flags=re.DOTALL)
        function = ""
        for line in text.splitlines():
            if line.startswith(" "):
                for call in NAMES.findall(line):
                    found.setdefault(f"{name} {function}", set()).add(call)
            elif match := FUNCTION.match(line):
                function = match.group(1)
    return found


def test_every_place_is_listed():
    listed = {}
    with open(os.path.join(HERE, "exceptions.txt"), encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                place, calls, reason = re.fullmatch(r"(\S+ \S+) \(([^)]*)\): (.+)\n", line).groups()
                assert reason.strip(), line
                listed[place] = set(calls.split(", "))
    assert places() == listed
