"""Makes src/traceback/rules.inc: which releases draw carets as src/traceback does.

python tools/gen_rules.py PYTHON...    interpreters that have this faultproof installed; prints the table

An interpreter's row is the fingerprint of the functions that its frames' texts come from (src/traceback/rules.c), if on
the sample of faultproof/_traceback_sample.py both draw the same.  Releases with the same functions share a row.
"""

from __future__ import annotations

import json
import subprocess
import sys

ASK = """
import json, platform, traceback
from faultproof import _traceback, traceback as ours
from faultproof._traceback_sample import agrees
number, _ = _traceback.fingerprint()
same = bool(number) and agrees(ours._faultproof_standard)
print(json.dumps([number, platform.python_version(), same]))
"""


def main(pythons: list[str]) -> None:
    rows: dict[int, list[str]] = {}
    for python in pythons:
        answer = subprocess.run([python, "-c", ASK], check=True, stdout=subprocess.PIPE, text=True).stdout
        number, release, same = json.loads(answer)
        if same and release not in rows.setdefault(number, []):
            rows[number].append(release)
    print("/* Made by tools/gen_rules.py. */")
    for number, releases in rows.items():
        print(f'FP_RULES(0x{number:016x}, "{" ".join(releases)}")')


if __name__ == "__main__":
    main(sys.argv[1:])
