"""What goes on in the standard faulthandler when install() takes its place: found out, and said in a warning."""

import sys


def _registered_signals(standard, ours, taken):
    """The signals that were registered with the standard module: those of the taken ones with its handler."""
    import signal

    spare = max((number for number in signal.valid_signals() if ours._handler(number) == 0), default=None)
    if spare is None or not taken:
        return []
    # the module doesn't tell its handler's address: for a moment a signal that nobody uses has it
    standard.register(spare, 2)
    address = ours._handler(spare)
    standard.unregister(spare)
    return [number for number, handler in taken.items() if handler == address]


# All signals but SIGKILL, SIGSTOP and the two that glibc keeps: what the thread of the standard watchdog blocks, and
# ours.  As SigBlk in proc(5).
_ALL_BLOCKED = 0xFFFFFFFE7FFBFEFF
_FUTEX = "202"


def _watches(task):
    """Whether an OS thread does what the standard watchdog does: wait with a time limit, all signals blocked.

    None: it doesn't wait now, and has hardly run, so it may be about to.
    """
    try:
        with open(f"/proc/self/task/{task}/syscall", encoding="utf-8") as file:
            call = file.read().split()
        with open(f"/proc/self/task/{task}/status", encoding="utf-8", errors="replace") as file:
            blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
        with open(f"/proc/self/task/{task}/stat", encoding="utf-8", errors="replace") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except OSError:
        return False  # it has ended, or the system doesn't tell
    if len(call) < 5:
        return None if int(user) + int(system) < 3 else False  # clock ticks, sampled
    return blocked & _ALL_BLOCKED == _ALL_BLOCKED and call[0] == _FUTEX and int(call[4], 16) != 0


def _watchdog_pends(ours):
    """Whether a thread looks like the standard module's watchdog, which nothing tells."""
    import os
    import time

    threading = sys.modules.get("threading")
    pythons = {str(thread.native_id) for thread in threading.enumerate()} if threading else {str(os.getpid())}
    for _ in range(200):  # a thread that was just made gets some milliseconds to begin
        known = pythons | {str(ours._watchdog_thread())}
        tasks = {task: _watches(task) for task in os.listdir("/proc/self/task") if task not in known}
        known.add(str(ours._watchdog_thread()))  # which may have begun meanwhile
        seen = [watches for task, watches in tasks.items() if task not in known]
        if True in seen:
            return True
        if None not in seen:
            return False
        time.sleep(0.001)
    return False


def warn_of_what_stays(standard, ours, taken):
    """Say what goes on in the standard module, whose names will be ours."""
    stays = [f"signal {number} stays registered" for number in _registered_signals(standard, ours, taken)]
    if _watchdog_pends(ours):
        stays.append("a call of dump_traceback_later() stays pending")
    if stays:
        import warnings

        warnings.warn(
            f"{', '.join(stays)} with the standard faulthandler: undo that before faultproof.install(), "
            "or between uninstall() and another install()",
            RuntimeWarning,
            stacklevel=5,
        )
