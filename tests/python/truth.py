"""Programs whose stacks can be judged, and the judge: is a printed stack one that the program really can have?

Each program is Python source with functions whose names tell where they stand in a call tree.  A stack is possible if each
frame is called by the frame below it on the line that the frame below is on.  Used by tests and by bench/soak/truth.py.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
import types
import zlib

import capi_support

FRAME = re.compile(r'  File "(.*)", line (\S+) in (\S+)$')
MARK = "  <frames changed while reading>"


class Source:
    """Python source under construction, with what calls what on which line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls: set[tuple[str, int, str]] = set()  # (caller, line, callee)
        self.spans: dict[str, tuple[int, int]] = {}
        self.lineless: set[str] = set()  # functions with instructions that have no line

    def finish(self) -> str:
        text = "\n".join(self.lines) + "\n"
        codes = [compile(text, "program", "exec")]
        while codes and hasattr(codes[0], "co_lines"):
            code = codes.pop()
            if any(line is None for _, _, line in code.co_lines()):
                self.lineless.add(code.co_name)
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
            if not codes:
                break
        return text

    def add(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)

    def function(self, name: str, callees: list[str], call: str = "{0}()", kind: str = "plain") -> None:
        first = self.add(f"def {name}():")
        for callee in callees:
            self.calls.add((name, self.add("    " + call.format(callee)), callee))
        if not callees or kind == "generator":
            self.add("    yield 1" if kind == "generator" else "    x = 1; x = x + 1")
        self.spans[name] = (first, len(self.lines))


def tree(source: Source, name: str, depth: int, width: int, call: str, kind: str = "plain") -> None:
    children = [f"{name}_{i}" for i in range(width)] if depth else []
    source.function(name, children, call, kind)
    for child in children:
        tree(source, child, depth - 1, width, call, kind)


def number(name: str) -> int:
    """A number that looks drawn by lot, the same in each run."""
    return zlib.crc32(name.encode())


def mixed_tree(source: Source, name: str, depth: int) -> None:
    """Functions and generators of many sizes that call each other in all ways that leave no other frame between."""
    plain = ("{0}()", "{0}(*())", "{0}(**{{}})", "(0, {0})[1]()", "sorted((1,), key={0})", "any(map({0}, (1,)))")
    stepped = ("for _ in {0}(): pass", "list({0}())", "[*{0}()]")

    def generator(name: str) -> bool:
        return name != "t" and number(name) % 3 == 0

    children = [f"{name}_{i}" for i in range(3)] if depth else []
    first = source.add(f"def {name}(_=0, __=0):")
    source.add(f"    {' = '.join(f'a{i}' for i in range(1 + number(name) // 7 % 12))} = 1")
    for child in children:
        forms = stepped if generator(child) else plain
        call = forms[number(child) // 3 % len(forms)]
        if generator(name) and generator(child):
            call = "yield from {0}()"
        source.calls.add((name, source.add("    " + call.format(child)), child))
    source.add("    yield 1" if generator(name) else "    return 1")
    source.spans[name] = (first, len(source.lines))
    for child in children:
        mixed_tree(source, child, depth - 1)


def program(variant: str) -> tuple[str, Source]:
    """The source of one variant; it defines run(), which calls the tree for ever."""
    s = Source()
    helpers = {"helper": 1, "helpers": 6}.get(variant, 0)
    for h in range(helpers):
        s.add(f"def help{h}(f):")
        s.add("    return f()")
    if variant == "generators":
        tree(s, "t", 4, 2, "yield from {0}()", "generator")
        body = "[x for x in t()]"
    elif variant == "c":
        tree(s, "t", 4, 3, "any(map(lambda x: {0}(), (1,)))".replace("lambda x: {0}()", "call_{0}"))
        for name in list(s.spans):
            s.add(f"def call_{name}(x): return {name}()")
        body = "t()"
    elif variant == "mixed":
        mixed_tree(s, "t", 5)
        body = "t()"
    elif variant == "nested":
        for h in range(1, 7):
            s.add(f"def help{h}(f): return {'f()' if h == 1 else f'help{h - 1}(f)'}")
        tree(s, "t", 5, 2, "help6({0})")
        body = "t()"
    elif helpers:
        tree(s, "t", 4, 3, f"help{helpers - 1}({{0}})")
        # the k-th child goes through its own helper
        for i, line in enumerate(s.lines):
            m = re.match(r"    help\d\((t\w*_(\d+))\)", line)
            if m:
                s.lines[i] = f"    help{int(m[2]) % helpers}({m[1]})"
        body = "t()"
    elif variant == "tiny":
        tree(s, "t", 2, 2, "{0}()")
        body = "t()"
    elif variant == "churn":
        s.add("def t_base(): x = 1; x = x + 1; return x")
        s.add("import itertools, types")
        s.add("count = itertools.count()")
        s.add("def make():")
        s.add("    n = next(count)")
        s.add("    return types.FunctionType(t_base.__code__.replace(co_name='n%d' % n, co_filename='f%d' % n), {})")
        body = "make()()"
    else:
        tree(s, "t", 5, 3, "{0}()")
        body = "t()"
    s.add("def run():")
    s.add(f"    while True: {body}")
    depth = 40 if variant == "deep" else 0
    for d in range(depth):
        s.add(f"def under{d}(): {'run()' if d == 0 else f'under{d - 1}()'}")
    s.add("def start(): " + (f"under{depth - 1}()" if depth else "run()"))
    return s.finish(), s


VARIANTS = ("tree", "deep", "helper", "helpers", "nested", "generators", "mixed", "c", "tiny", "churn", "threads")


def judge(frames: list[tuple[str, str, str]], source: Source, variant: str, whole: bool = True) -> str | None:
    """Why a stack (most recent frame first) is impossible; None if it can be.  Frames of other files end the judging.

    whole: it has to reach down to the thread's first function.
    """
    names = [(file, line, name) for file, line, name in frames if not name.startswith("help")]
    if variant == "c":
        names = [f for f in names if not f[2].startswith("call_")]
    for file, line, name in names:
        if file != "program" or (line == "???" and name in source.lineless):
            continue  # code of the standard library has instructions without a line too
        if "???" in (file, line, name):
            return f"unknown part in {name}"
    if variant == "churn":
        for file, _, name in names:
            if re.fullmatch(r"n\d+", name) and file != "f" + name[1:]:
                return f"name {name} of file {file}"
        return None
    for (_, _, name), (_, line, below) in zip(names, names[1:]):
        if not name.startswith("t"):
            continue
        if name == "t":
            if below not in ("run", "again", "<listcomp>"):
                return f"{name} under {below}"
        elif line == "???" or (below, int(line), name) not in source.calls:
            return f"{name} called by {below} line {line}"
    for _, line, name in names[:1]:
        span = source.spans.get(name)
        if span and line != "???" and not span[0] <= int(line) <= span[1]:
            return f"{name} on line {line}"
    if whole and names and names[-1][2] not in ("start", "<module>", "_bootstrap", "body", "again"):
        return f"the stack ends with {names[-1][2]}"
    return None


CHILD = """
import os, sys, threading
from faultproof import faulthandler
out, seconds, interval, variant = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
kind, reader, context = sys.argv[6].split()
sys.setswitchinterval(0.0005 if reader == "guard" else 0.005)  # so that a thread runs on during most readings
if sys.argv[7]:
    sys.path.insert(0, sys.argv[7])
    import reader_probe
scope = {}
exec(compile(open(sys.argv[5]).read(), "program", "exec"), scope)
start = scope["start"]
states = []
def body():
    if kind in ("info", "compact"):
        states.append(reader_probe.own_state())
    start()
def again():
    scope["t"]()
def spawner():
    while True:
        t = threading.Thread(target=again, daemon=True); t.start(); t.join()
ready = threading.Barrier(2)
# what these readers can't do without: process_vm_readv, pread64
DENIED = {"mem": [310], "pipe": [310, 17]}
def watch():
    if reader in DENIED:
        reader_probe.deny(DENIED[reader])
    if kind in ("info", "compact"):
        if reader == "guard":
            reader_probe.install_guard()
        reader_probe.watch(out, seconds, interval, 1 % len(cpus), kind, context, states)
    else:
        faulthandler._watch(out, seconds, interval, 1 % len(cpus), kind == "still", reader == "guard")
    os._exit(0)
cpus = os.sched_getaffinity(0)
if len(cpus) > 1:
    os.sched_setaffinity(0, {0})
if context == "thread":
    threading.Thread(target=lambda: (ready.wait(), watch()), daemon=True).start()
for i in range(4):
    threading.Thread(target=spawner if variant == "threads" else body, daemon=True).start()
if context == "handler":
    watch()
ready.wait()
threading.Event().wait()
"""

# Who samples: "dump" (a report), "info" and "compact" (the C API), or "still" (a report of what runs, read as if it
# stood still); by which reader; and from a signal handler of the main thread or from another thread.
DUMP, STILL = "dump guard thread", "still guard thread"
READERS = ("guard", "vm", "mem", "pipe")


class Result(collections.Counter):
    """stacks, running (of threads that ran before and after), marked (of those), impossible; of all stacks those with a
    mark and nothing else are bare, those with a mark and frames partial."""

    reasons: list[str]
    times_ns: list[int]


def run(variant: str, seconds: float, interval: float = 0.0002, sampler: str = DUMP) -> Result:
    """Runs one variant under a sampler in a child process and judges what it wrote.

    STILL prints impossible stacks: the judge's own test.
    """
    text, source = program(variant)
    result = Result()
    result.reasons, result.times_ns = [], []
    kind, reader, _ = sampler.split()
    needs_probe = kind in ("info", "compact") or reader in ("mem", "pipe")
    folder = str(capi_support.build("reader_probe").parent) if needs_probe else ""
    with tempfile.TemporaryFile() as out, tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(text)
        file.flush()
        numbers = [str(out.fileno()), str(seconds), str(interval)]
        child = subprocess.run(
            [sys.executable, "-c", CHILD, *numbers, variant, file.name, sampler, folder],
            pass_fds=[out.fileno()],
            timeout=seconds + 120,
        )
        assert child.returncode == 0, f"{variant}: the sampled process ended with {child.returncode}"
        out.seek(0)
        block: list[str] = []
        for raw in out:
            line = raw.decode("ascii").rstrip("\n")
            if not line.startswith("#"):
                block.append(line)
                continue
            count(result, block, line, source, variant)
            block = []
    return result


def count(result: Result, block: list[str], verdict: str, source: Source, variant: str) -> None:
    frames = [m.groups() for m in map(FRAME.match, block) if m]
    kind, took = verdict[1:].split()
    marked = MARK in block
    if not frames and not marked:
        result["empty"] += 1
        return
    result["stacks"] += 1
    result.times_ns.append(int(took))
    result["partial" if frames else "bare"] += marked
    if kind == "same":
        result["running"] += 1
        result["marked"] += marked
    reason = judge(frames, source, variant)
    if reason:
        result["impossible"] += 1
        if len(result.reasons) < 3:
            result.reasons.append(reason + "\n" + "\n".join(block))


def report(variant: str, result: Result) -> str:
    times = sorted(result.times_ns) or [0]
    share = 100 * result["marked"] / max(1, result["running"])
    return (
        f"{variant:11} {result['stacks']:8} stacks, {result['running']:8} running, marked {share:6.3f} %, "
        f"impossible {result['impossible']:4}, median {times[len(times) // 2] / 1e3:6.1f} us, "
        f"p99 {times[len(times) * 99 // 100] / 1e3:7.1f} us"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2
    sampler = sys.argv[2] if len(sys.argv) > 2 else DUMP
    variants = sys.argv[3:] or VARIANTS
    print(sys.version.split()[0], "JIT" if os.environ.get("PYTHON_JIT") == "1" else "", sampler, flush=True)
    for variant in variants:
        result = run(variant, seconds, sampler=sampler)
        print(report(variant, result), flush=True)
        for reason in result.reasons[:1]:
            print("\n".join(reason.splitlines()[:12]), flush=True)


if __name__ == "__main__":
    main()
