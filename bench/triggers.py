"""What the triggers cost, side by side with the standard faulthandler in one run: prints ratios (standard / ours).

Usage: python bench/triggers.py
crash: from the signal to the last byte of the report, 200 threads of 50 frames.
re-arm: one dump_traceback_later() that replaces another, or follows its cancelling.
start: of the interpreter, with the line in faultproof.pth.
memory: anonymous memory of each further idle thread while enable() is in effect.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

CRASH = """
import os, sys, threading, time
from importlib import import_module
module = import_module(sys.argv[1])
fd = int(sys.argv[2]) if len(sys.argv) > 2 else os.open(os.devnull, os.O_WRONLY)
ready = threading.Barrier(201)
lock = threading.Lock(); lock.acquire()
def deep(n):
    if n: return deep(n - 1)
    ready.wait(); lock.acquire()
for i in range(200): threading.Thread(target=deep, args=(44,), daemon=True).start()
ready.wait()
time.sleep(0.2)
module.enable(fd)
import signal
os.write(fd, b"%020d" % time.monotonic_ns())
signal.raise_signal(signal.SIGSEGV)
"""


def crash(module: str) -> float:
    """Seconds from just before the signal until the last byte of the report has been read."""
    r, w = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", CRASH, module, str(w)], pass_fds=[w])
    os.close(w)
    start = int(os.read(r, 20))
    end = time.monotonic_ns()
    while os.read(r, 1 << 16):
        now = time.monotonic_ns()
        end = max(end, now)
    os.close(r)
    child.wait()
    return (end - start) / 1e9


def dump_200_threads() -> None:
    code = (
        CRASH.split("module.enable")[0]
        + """
import faulthandler as standard, statistics
from faultproof import faulthandler as ours
def timed(call):
    start = time.perf_counter(); call(); return time.perf_counter() - start
ours.enable(2)
a, b = [], []
for i in range(15):
    a.append(timed(lambda: standard.dump_traceback(fd)))
    b.append(timed(lambda: ours.dump_traceback(fd)))
a, b = statistics.median(a), statistics.median(b)
print(f"dump of 200 threads (100 shown)   standard {a * 1e6:9.1f} us   ours {b * 1e6:8.1f} us   ratio {a / b:5.1f}")
sys.stdout.flush()
os._exit(0)
"""
    )
    subprocess.run([sys.executable, "-c", code, "faultproof.faulthandler"], check=True)


def re_arm() -> None:
    """Each time in place of the one before, and each time after cancelling that."""
    import faulthandler as standard

    from faultproof import faulthandler as ours

    for name, cancels in (("re-arm", False), ("arm and cancel", True)):
        times: dict[str, list[float]] = {"standard": [], "ours": []}
        with open(os.devnull, "w") as file:
            for _ in range(31):
                for key, module in (("standard", standard), ("ours", ours)):
                    start = time.perf_counter()
                    for _ in range(200):
                        module.dump_traceback_later(1000, file=file)
                        if cancels:
                            module.cancel_dump_traceback_later()
                    times[key].append((time.perf_counter() - start) / 200)
                    module.cancel_dump_traceback_later()
        a, b = (statistics.median(times[k]) * 1e6 for k in ("standard", "ours"))
        print(f"{name:14} dump_traceback_later  standard {a:8.1f} us   ours {b:8.2f} us   ratio {a / b:5.1f}")


def start() -> None:
    line = pathlib.Path(__file__).parent.parent / "python" / "faultproof.pth"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = f"{folder}/bin/python"
        site = next(pathlib.Path(folder, "lib").glob("python*/site-packages")) / "faultproof.pth"
        # from 3.13 on site loads a codec for any file that isn't empty: the comment shows what that costs
        texts = {"empty": "", "comment": "#\n", "ours": line.read_text()}
        times: dict[str, list[float]] = {name: [] for name in texts}
        for _ in range(300):
            for name, text in texts.items():
                site.write_text(text)
                begin = time.perf_counter()
                subprocess.run([python, "-c", "pass"], check=True)
                times[name].append(time.perf_counter() - begin)
        # the lower half: what disturbs a start only makes it longer
        empty, comment, ours = (statistics.mean(sorted(times[name])[:150]) * 1e3 for name in texts)
    print(f"start with a .pth        empty {empty:12.2f} ms   a comment {comment:6.2f} ms   ours {ours:6.2f} ms")


def memory() -> None:
    code = """
import _thread, os, sys
if sys.argv[1] == "1":
    from faultproof import faulthandler
    faulthandler.enable(2)
def anonymous():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Anonymous:"): return int(line.split()[1])
lock = _thread.allocate_lock(); lock.acquire()
def start(n):
    import time
    before = _thread._count()
    for i in range(n): _thread.start_new_thread(lock.acquire, ())
    while _thread._count() < before + n: time.sleep(0.001)
    time.sleep(0.2)
start(50); a = anonymous(); start(400); print((anonymous() - a) / 400)
os._exit(0)
"""
    plain, ours = (float(subprocess.check_output([sys.executable, "-c", code, flag], text=True)) for flag in ("0", "1"))
    print(f"memory of an idle thread          plain {plain:12.2f} KiB  with enable() {ours:6.2f} KiB")


def main() -> None:
    print(sys.version.split()[0], flush=True)
    times = {
        name: statistics.median(crash(name) for _ in range(5)) for name in ("faulthandler", "faultproof.faulthandler")
    }
    a, b = times.values()
    print(f"crash with 200 threads            standard {a * 1e6:9.1f} us   ours {b * 1e6:8.1f} us   ratio {a / b:5.1f}")
    dump_200_threads()
    re_arm()
    start()
    memory()


if __name__ == "__main__":
    main()
