import sys
from typing import Protocol, type_check_only

@type_check_only
class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_File = _HasFileno | int | None

if sys.version_info >= (3, 14):
    def enable(
        file: _File = None,
        all_threads: bool = True,
        c_stack: bool = True,
        *,
        max_threads: int = 100,
        max_frames: int = 100,
        max_chars: int = 500,
        altstacks: str = "python",
        budget: float = 10.0,
    ) -> None: ...

else:
    def enable(
        file: _File = None,
        all_threads: bool = True,
        c_stack: bool = False,
        *,
        max_threads: int = 100,
        max_frames: int = 100,
        max_chars: int = 500,
        altstacks: str = "python",
        budget: float = 10.0,
    ) -> None: ...

def disable() -> bool: ...
def is_enabled() -> bool: ...
def dump_traceback(
    file: _File = None, all_threads: bool = True, *, max_threads: int = 100, max_frames: int = 100, max_chars: int = 500
) -> None: ...
def dump_traceback_later(
    timeout: float,
    repeat: bool = False,
    file: _File = None,
    exit: bool = False,
    *,
    max_threads: int = 100,
    max_frames: int = 100,
    max_chars: int = 500,
) -> None: ...
def dump_c_stack(file: _File = None) -> None: ...
def cancel_dump_traceback_later() -> None: ...
def register(
    signum: int,
    file: _File = None,
    all_threads: bool = True,
    chain: bool = False,
    *,
    max_threads: int = 100,
    max_frames: int = 100,
    max_chars: int = 500,
) -> None: ...
def unregister(signum: int, /) -> bool: ...
