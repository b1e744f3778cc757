"""What the start-up line in faultproof.pth does when FAULTPROOF is set: enable the fault handler as early as can be.

Runs once a process: in a subinterpreter, or a second time, the handler is enabled already.
"""

from __future__ import annotations

import sys


def start() -> None:
    from . import faulthandler

    if faulthandler.is_enabled():
        return
    from ._install import install

    install()
    if not faulthandler.is_enabled():
        try:
            file = sys.stderr.fileno()
        except (AttributeError, OSError, ValueError):
            file = 2
        faulthandler.enable(file)


start()
