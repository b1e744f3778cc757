"""Signals and handlers of the program: what it sees is what it sees beside the standard module.

Where the standard module is right the same program runs with both, and status and output are compared.
"""

from __future__ import annotations

import signal

import pytest
from guest_support import FATAL, FORMS, GUARDS, NODEFER, ONSTACK, RESETHAND, RESTART, compared, needs_cc, reports, run

# --- Our handler, called by somebody else's


@needs_cc
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("signo", FATAL)
@pytest.mark.parametrize("form", FORMS)
def test_somebody_calls_our_handler(library, form, signo, how):
    """In each form: one report of the right stack, and the status of the standard module."""
    done = compared(
        f"fh.enable()\nlib.take({int(signo)}, {FORMS.index(form)}, 0, 1)\n"
        f"signal.alarm(20)\ndef f(): lib.{how}({int(signo)}); time.sleep(60)\nf()"
        if form != "exits"
        else f"lib.take({int(signo)}, {FORMS.index(form)}, 0, 1)\nfh.enable()\n"
        f"def f(): lib.send({int(signo)}); os._exit(4)\nf()",
        library,
    )
    assert reports(done) == 1 and " in f\n" in done.stderr


@needs_cc
@pytest.mark.parametrize("flags", [0, NODEFER, RESETHAND, ONSTACK, NODEFER | RESETHAND])
@pytest.mark.parametrize("form", ["by number", "null", "copies", "ends"])
def test_somebodys_handler_has_flags(library, form, flags):
    code = f"fh.enable()\nlib.take(11, {FORMS.index(form)}, ctypes.c_int({flags}), 1)\nsignal.alarm(20)\nlib.fault(11)"
    assert reports(compared(code, library)) == 1


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_somebody_calls_our_handler_twice(library, form):
    """The standard module reports twice then; the status is the same."""
    code = f"fh.enable()\nlib.take(11, {FORMS.index(form)}, 0, 2)\nsignal.alarm(20)\nlib.fault(11)"
    standard, ours = run("standard", code, library), run("ours", code, library)
    assert (ours.returncode, ours.stdout) == (standard.returncode, standard.stdout) and reports(ours) == 1, ours


@needs_cc
@pytest.mark.parametrize("where", ["os.kill(os.getpid(), 10)", "lib.call(11)"])
def test_somebody_calls_our_handler_from_elsewhere(library, where):
    """Inside of the handler of another signal, and out of the blue."""
    code = f"fh.enable()\nlib.call_on(10, 11)\ndef f(): {where}; time.sleep(60)\nf()"
    done = compared(code, library)
    assert (done.returncode, reports(done)) == (-11, 1) and " in f\n" in done.stderr, done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
def test_old_c_code_takes_a_signal(library, signo):
    code = f"fh.enable()\nlib.take_by_signal({int(signo)}, 0)\nsignal.alarm(20)\ndef f(): lib.fault({int(signo)})\nf()"
    assert reports(compared(code, library)) == 1


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("guard", GUARDS)
def test_only_the_guard_is_called_by_somebody(library, guard, form, how):
    """No report is wanted; the signal goes to who had it before both."""
    code = f"""
lib.take(11, 8, 0, 1); {GUARDS[guard]}
lib.take(11, {FORMS.index(form)}, 0, 1); signal.alarm(20)
other.{how}(11)
"""
    done = run("ours", code, library)
    told = "lib: 11 at level 7 of mylib\n" * (1 if form == "by number, as it is" else 2)
    assert (done.returncode, done.stdout, done.stderr) == (3, told, ""), done


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_user_signal_whose_handler_somebody_calls(library, form):
    """The one that was there before wants all three arguments, and gets what the kernel would give."""
    code = f"""
lib.take_and_tell(10)
fh.register(10, chain=True)
lib.take(10, {FORMS.index(form)}, {RESTART}, 1)
os.kill(os.getpid(), 10)
print("alive", flush=True)
"""
    done = run("ours", code, library)
    lines = ["lib: 10 at level 7 of mylib"] if form != "by number, as it is" else []
    assert done.returncode == 0 and done.stdout.splitlines() == [*lines, "got 10 from here", "alive"], done
    assert done.stderr.count("Current thread") == 1, done


# --- Who is in front, and circles


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_registering_again_under_a_handler_that_chains(library, form):
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1, null, chain=True)
lib.take({int(signal.SIGUSR1)}, {FORMS.index(form)}, {RESTART}, 1)
before = handler_of(signal.SIGUSR1)
fh.register(signal.SIGUSR1, null, chain=True)
print(handler_of(signal.SIGUSR1) == before)
os.kill(os.getpid(), signal.SIGUSR1); print("alive")
"""
    assert compared(code, library).returncode == 0


@needs_cc
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_circle_of_a_user_signal(library, form):
    """We call them, they call us: what was there before both comes next, once."""
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1, chain=True)
lib.take({int(signal.SIGUSR1)}, {FORMS.index(form)}, {RESTART}, 1)
fh.unregister(signal.SIGUSR1); fh.register(signal.SIGUSR1, chain=True)
for i in range(2): os.kill(os.getpid(), signal.SIGUSR1); print("alive", flush=True)
"""
    done = run("ours", code, library)
    assert done.returncode == 0, done
    assert done.stdout.count("python") == done.stdout.count("alive") == done.stderr.count("Current thread") == 2, done


@needs_cc
def test_a_user_signal_after_unregister_goes_on_to_who_had_it(library):
    code = f"""
signal.signal(signal.SIGUSR1, lambda *a: print("python", flush=True))
fh.register(signal.SIGUSR1)
lib.take({int(signal.SIGUSR1)}, 0, {RESTART}, 1)
print(fh.unregister(signal.SIGUSR1), fh.unregister(signal.SIGUSR1), flush=True)
os.kill(os.getpid(), signal.SIGUSR1); print("alive")
"""
    done = run("ours", code, library)
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout.split("\n")[:-1] == ["True False", "lib: 10 at level 7 of mylib", "python", "alive"], done


@needs_cc
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("how", ["fault", "send"])
@pytest.mark.parametrize("form", FORMS[:7])
def test_a_circle_of_a_fatal_signal(library, form, how, enabled):
    code = f"""
fh.enable()
lib.take(11, {FORMS.index(form)}, {NODEFER}, 1)
fh.disable(); fh.enable()
{"" if enabled else "fh.dump_traceback(null); fh.disable(); fh.dump_traceback_later(1000, file=null)"}
signal.alarm(20)
lib.{how}(11)
"""
    done = run("ours", code, library)
    assert (done.returncode, reports(done)) == (-11, enabled), done


BOTH = """
import faulthandler as std, itertools
def each(calls, end, check, of=b"Fatal Python error: "):
    # every order of four calls, each in a child; what goes to descriptor 2 is told from what goes to 9
    for order in itertools.product(calls, repeat=4):
        files = [os.memfd_create("text") for i in range(2)]
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os.dup2(files[0], 2); os.dup2(files[1], 9)
            for call in order: eval(call)
            end()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        text = [os.pread(file, 1 << 20, 0) for file in files]
        for file in files: os.close(file)
        wrong = check(order, status, *(part.count(of) for part in text))
        if wrong: print(order, wrong, status, text)
"""


def test_both_modules_take_the_fatal_signals_in_every_order():
    """Each has what was there before, the other one's too: no circle, one report of each at most, the right end."""
    code = (
        BOTH
        + """
def check(order, status, ours, theirs):
    rest = order[len(order) - order[::-1].index("fh.enable(2)"):] if "fh.enable(2)" in order else ["fh.disable()"]
    # the standard module's disable() takes ours out
    return status & 127 != 11 or ours > 1 or theirs > 1 or (ours == 0 and not {"fh.disable()", "std.disable()"} & {*rest})
calls = ["fh.enable(2)", "fh.disable()", "std.enable(9)", "std.disable()"]
each(calls, lambda: ctypes.string_at(0), check)
each(calls, lambda: os.kill(os.getpid(), 11), check)
"""
    )
    done = run("ours", code, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_both_modules_take_a_user_signal_in_every_order():
    code = (
        BOTH
        + """
signal.signal(10, lambda *a: calls_seen.append(1))
calls_seen = []
def end():
    for i in range(2): os.kill(os.getpid(), 10)
    os._exit(0 if len(calls_seen) <= 2 else 9)
each(["fh.register(10, 2, chain=True)", "fh.unregister(10)", "std.register(10, 9, chain=True)", "std.unregister(10)"],
     end, lambda order, status, ours, theirs: status or ours > 2 or theirs > 4, b"most recent call first")
"""
    )
    done = run("ours", code, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
@pytest.mark.parametrize(
    "somebody", ["lib.take({0}, 8, 0, 1)", "signal.signal({0}, lambda *a: None)", "signal.signal({0}, signal.SIG_IGN)"]
)
def test_enable_after_disable_is_in_effect_whoever_has_the_signal(library, somebody, signo):
    code = f"""
fh.enable()
{somebody.format(int(signo))}
fh.disable(); fh.enable()
print(fh.is_enabled(), flush=True); signal.alarm(20)
def f(): other.fault({int(signo)})
f()
"""
    done = run("ours", code, library)
    assert done.stdout.startswith("True\n") and reports(done) == 1 and " in f\n" in done.stderr, done
    # the standard module's disable() takes their handlers away; ours leaves them the end
    assert done.returncode == (3 if "take" in somebody else -signo), done


@needs_cc
@pytest.mark.parametrize("signo", FATAL)
def test_a_handler_of_python_does_not_keep_a_fault_going(library, signo):
    """It runs when the interpreter goes on, which it never does; a signal that was sent is its own."""
    code = f"""
signal.signal({int(signo)}, lambda *a: print("python", flush=True))
fh.enable(); signal.alarm(20)
print(handler_of({int(signo)}) != bytes(8), flush=True)
lib.{{}}({int(signo)})
print("alive", flush=True)
"""
    sent = run("ours", code.format("send"), library)
    assert (sent.returncode, sent.stdout, reports(sent)) == (0, "True\npython\nalive\n", 1), sent
    done = run("ours", code.format("fault"), library)
    assert (done.returncode, done.stdout, reports(done)) == (-signo, "True\n", 1), done


@needs_cc
def test_a_handler_that_leaves_by_a_jump(library):
    """It resolves each fault its own way; later reports are right."""
    code = f"""
lib.take_and_jump(11, {NODEFER}); fh.dump_traceback(null)
print([lib.survives(11) for i in range(200)] == [1] * 200, flush=True)
fh.enable(); lib.take_by_signal(6, 0)
def f(): lib.fault(6)
f()
"""
    done = run("ours", code, library)
    assert (done.returncode, done.stdout) == (-6, "True\nlib: 6 at level 7 of mylib\n"), done
    assert reports(done) == 1 and " in f\n" in done.stderr


@needs_cc
def test_a_handler_for_one_call_is_called_once(library):
    """SA_RESETHAND, under register(chain=True): then the default action comes next (man 2 sigaction)."""
    code = """
lib.take_once(10)
fh.register(10, chain=True)
os.kill(os.getpid(), 10); print("alive", flush=True)
os.kill(os.getpid(), 10); print("not reached", flush=True)
"""
    done = run("ours", code, library)
    assert (done.returncode, done.stdout) == (-10, "once\nalive\n"), done
    assert done.stderr.count("Current thread") == 2


@needs_cc
def test_a_handler_for_one_call_is_not_given_back_after_it(library):
    code = """
lib.take_once(10)
fh.register(10, null, chain=True)
os.kill(os.getpid(), 10); fh.unregister(10)
print(handler_of(10) == bytes(8), flush=True)
"""
    assert run("ours", code, library).stdout == "once\nTrue\n"


@needs_cc
def test_masks_errno_and_dispositions_afterwards(library):
    """A library handles signals after enable() and chains: the program's own state is what the standard module leaves."""
    code = f"""
fh.enable(null); fh.register(signal.SIGUSR1, null, chain=True); fh.register(signal.SIGUSR2, null)
lib.take({int(signal.SIGUSR2)}, 5, {RESTART}, 1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def status(): return [l for l in open("/proc/self/status") if l[:3] in ("Shd", "Sig") and not l.startswith(("SigQ", "SigCgt"))]
before = status()
signal.signal(signal.SIGCHLD, lambda *a: print("child", flush=True)); fh.register(signal.SIGCHLD, null, chain=True)
for s in (signal.SIGCHLD, signal.SIGUSR2):
    print(lib.errno_after(int(s)), file=sys.stderr)  # the standard module's register() changes it
print(status() == before, signal.pthread_sigmask(signal.SIG_BLOCK, []))
fh.cancel_dump_traceback_later(); fh.unregister(signal.SIGCHLD); fh.disable()
print([handler_of(s) == bytes(8) for s in (8, 4, 6)])
"""
    done = compared(code, library)
    assert (done.returncode, done.stderr) == (0, "77\n77\n"), done


@needs_cc
def test_no_signal_is_lost_between_register_and_unregister(library):
    """One that is on its way to our handler when that is taken out goes to who had it before."""
    code = """
signo = signal.SIGRTMIN + 3
lib.take_and_count(signo)
sender = threading.Thread(target=lambda: ctypes.CDLL(sys.argv[2]).send_many(signo, 100000))
sender.start()
while sender.is_alive():
    fh.register(signo, null, all_threads=False, max_frames=1, chain=True); fh.unregister(signo)
while lib.has_arrived() < 100000: pass
print("all", flush=True)
"""
    assert run("ours", code, library, timeout=120).stdout == "all\n"


# --- Faults of our own

ALIGNMENT = r"""
import mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b"\x9c\x81\x0c\x24\x00\x00\x04\x00\x9d%s")  # pushf; or [rsp], EFLAGS.AC; popf; ...
run_it = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
"""
CRASHES = {
    "an unaligned read": (b"\\x8b\\x44\\x24\\x01", signal.SIGBUS),
    "a bad address": (b"\\x31\\xc0\\x8b\\x00", signal.SIGSEGV),
    "an instruction that is none": (b"\\x0f\\x0b", signal.SIGILL),
}


@needs_cc
@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("state", ["fh.enable(2)", *GUARDS.values()])
def test_a_crash_while_unaligned_accesses_fault(library, crash, state):
    instruction, signo = CRASHES[crash]
    code = ALIGNMENT.replace("%s", instruction.decode()) + f"{state}\ndef f(): run_it()\nf()"
    done = run("ours", code, library)
    enabled = "enable" in state
    assert (done.returncode, reports(done)) == (-signo, enabled) and (" in f\n" in done.stderr) == enabled, done


def test_a_user_signal_while_unaligned_accesses_fault():
    """kill(getpid(), SIGUSR1), with the flag set and cleared again around the call."""
    code = (
        ALIGNMENT.replace(
            "%s",
            r"\xb8\x27\x00\x00\x00\x0f\x05\x89\xc7\xbe\x0a\x00\x00\x00\xb8\x3e\x00\x00\x00\x0f\x05"
            r"\x9c\x81\x24\x24\xff\xff\xfb\xff\x9d\xc3",
        )
        + "fh.register(signal.SIGUSR1)\ndef f(): run_it()\nf(); print('alive')"
    )
    done = run("ours", code)
    assert (done.returncode, done.stdout) == (0, "alive\n") and " in f\n" in done.stderr, done


@needs_cc
def test_a_crash_that_our_handler_cannot_live_through(library):
    """Where it can't even read errno it ends the process by the signal that came, not by its own fault."""
    assert run("ours", "fh.enable(2)\nlib.lose_thread_and_fault()", library).returncode == -signal.SIGILL
