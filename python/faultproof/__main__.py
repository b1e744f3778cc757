"""The command, in the program's own words: faultproof --help."""

import os
import sys

HELP = """\
usage: faultproof run [options] [python's options] (script.py | folder | file.zip | -m module | -c code | -) [arguments]
       faultproof capabilities
       faultproof --version | --help

commands:
  run            start a program as python would, with the fault handler enabled and the fast traceback in place:
                 when it crashes, the stacks of all threads are written; see faultproof run --help
  capabilities   what works with this interpreter, and why something doesn't
"""
RUN_HELP = """\
usage: faultproof run [options] [python's options] (script.py | folder | file.zip | -m module | -c code | -) [arguments]

Starts a Python program with FAULTPROOF=1: when it crashes, the stacks of all threads are written.  Everything else is
as python gives it: this is the same interpreter with the same options, started anew.  Python programs that the
program starts have it too.

options:
  --file PATH        write reports to the end of this file instead of stderr
  --timeout SECONDS  also write all stacks after so many seconds
  --current-thread   show only the thread that crashed
  -h, --help         this text

Python's own options (python --help) may follow, as in: faultproof run -W error -X dev script.py
"""

# Our options that take a value, and the variable that carries it.
VALUES = {"--file": "FAULTPROOF_FILE", "--timeout": "FAULTPROOF_TIMEOUT"}


def fail(what):
    print(f"faultproof: {what}", file=sys.stderr)
    raise SystemExit(2)


def split(words):
    """Our own options as variables, and the rest, which is python's."""
    found = {"FAULTPROOF": "1"}
    words = [*words]
    while words:
        name, given, value = words[0].partition("=")
        if name in VALUES:
            del words[0]
            if not given and not words:
                fail(f"{name} needs a value; see faultproof run --help")
            found[VALUES[name]] = value if given else words.pop(0)
        elif words[0] == "--current-thread":
            found["FAULTPROOF_THREADS"] = "current"
            del words[0]
        elif words[0] in ("-h", "--help"):
            print(RUN_HELP, end="")
            raise SystemExit(0)
        else:
            break
    return found, words


def interpreter_options(words):
    """The leading words that are options of the interpreter alone, and the letters among them."""
    options, letters = [], set()
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            options += [word, next(rest, "")] if word == "--check-hash-based-pycs" else [word]
            continue
        last = next((at for at, letter in enumerate(word) if letter in "cmWX"), len(word))
        letters.update(word[1:last])
        if word[last : last + 1] in ("c", "m"):  # what to run; others may stand in the same word
            return options + ([word[:last]] if last > 1 else []), letters
        options.append(word)
        if last == len(word) - 1:  # -W or -X, whose value is the next word
            options.append(next(rest, ""))
    return options, letters


def command_line():
    """The words by which this process was started."""
    if hasattr(sys, "orig_argv"):
        return sys.orig_argv
    with open("/proc/self/cmdline", "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]


def environment():
    """The environment that this process was given.

    Python may have changed its own (LC_CTYPE where the locale is C, what start-up files do): it will do so again.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return {**os.environb}
    return dict(word.split(b"=", 1) for word in reversed(words) if b"=" in word[1:])


def check_values(found):
    """Ends with a message for what the program's own start would only complain about."""
    from . import _startup

    path = found.get("FAULTPROOF_FILE")
    try:
        if path is not None:
            found["FAULTPROOF_FILE"] = path = os.path.abspath(path)  # the program's children may be elsewhere
            os.close(_startup.open_file(path))
        if "FAULTPROOF_TIMEOUT" in found:
            _startup.seconds(found["FAULTPROOF_TIMEOUT"])
    except _startup.Wrong as wrong:
        fail(wrong)


def check_start(letters):
    """Ends with a message where the new process wouldn't read the line in faultproof.pth that starts us."""
    if not sys.executable:
        fail("this Python doesn't know its own program (sys.executable): call faultproof.enable() in yours")
    if "S" in letters:
        fail("-S leaves out what starts us: leave it away, or call faultproof.enable() in the program")
    import site

    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE and not letters & {"s", "I"}:
        folders.append(site.getusersitepackages())
    if not any(os.path.isfile(os.path.join(folder, "faultproof.pth")) for folder in folders):
        fail(
            f"faultproof.pth, which starts us, is in none of the folders that {sys.executable} reads first "
            f"({', '.join(folders)}): install faultproof there with pip (not as editable, not by PYTHONPATH alone), "
            "or call faultproof.enable() in the program"
        )


def restore_signals():
    """Python ignores these two from its start on; who is started gets the default, as from subprocess."""
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def run(words):
    """Doesn't return: becomes the interpreter with the program."""
    found, program = split(words)
    if not program:
        fail("nothing to run: give a script, -m module, -c code or - ; see faultproof run --help")
    own, letters = interpreter_options(command_line()[1:])
    letters |= interpreter_options(program)[1]
    check_values(found)
    check_start(letters)
    if letters & {"E", "I"}:  # such an interpreter doesn't look at variables
        for name, value in found.items():
            own += ["-X", f"{name.lower()}={value}"]
    variables = environment()
    variables.update((os.fsencode(name), os.fsencode(value)) for name, value in found.items())
    restore_signals()
    try:
        os.execve(sys.executable, [sys.executable, *own, *program], variables)
    except OSError as error:
        fail(f"can't start {sys.executable}: {error.strerror}")


def main():
    words = sys.argv[1:]
    if words[:1] == ["run"]:
        run(words[1:])
    elif words in (["--version"], ["-V"]):
        from . import __version__

        print(f"faultproof {__version__}")
    elif words == ["capabilities"]:
        from . import capabilities

        for key, value in capabilities().items():
            print(f"{key}: {value}")
    elif words in (["--help"], ["-h"], []):
        print(HELP, end="")
    else:
        hint = f"did you mean: faultproof run {' '.join(words)}" if not words[0].startswith("--") else "see --help"
        fail(f"unknown command {words[0]!r}; {hint}")


if __name__ == "__main__":
    main()
