"""The hostile run: 8 threads create and drop code objects under a watchdog at 0.1 ms; how long it survives.

Usage: python bench/soak/hostile.py [SECONDS, default 600] [guard|fallback|standard]
guard: guarded reads.  fallback: another library has the handlers.  standard: the standard module, for comparison.
"""

from __future__ import annotations

import subprocess
import sys
import time

CODE = """
import faulthandler as standard, itertools, os, signal, sys, threading, time, types
from faultproof import faulthandler as ours
seconds, mode = float(sys.argv[1]), sys.argv[2]
out = os.open(os.devnull, os.O_WRONLY)
def base(n): return [n, str(n)] * 3
count = itertools.count()
def churn():
    while True:
        n = next(count)
        f = types.FunctionType(base.__code__.replace(co_name="name%d" % n, co_filename="file%d" % n), {"str": str})
        f(n)
        [x for x in (lambda: (yield n))()]
def short(): pass
def spawn():
    while True:
        t = threading.Thread(target=short); t.start(); t.join()
sys.setswitchinterval(0.0001)
for i in range(8): threading.Thread(target=churn, daemon=True).start()
threading.Thread(target=spawn, daemon=True).start()
module = standard if mode == "standard" else ours
if mode == "fallback":
    ours.dump_traceback(out)
module.dump_traceback_later(0.0001, repeat=True, file=out)
if mode == "fallback":
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
time.sleep(seconds)
print(ours._capabilities()["reader"], next(count), "code objects", flush=True)
os._exit(0)
"""


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    for mode in sys.argv[2:] or ("guard", "fallback"):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(seconds), mode], stdout=subprocess.PIPE, text=True, timeout=seconds + 120
        )
        lived = time.monotonic() - start
        print(
            f"{sys.version.split()[0]} {mode}: status {done.returncode} after {lived:.1f} s, {done.stdout.strip()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
