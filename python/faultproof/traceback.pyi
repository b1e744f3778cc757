# The names and types are those of the standard module; format_exc_bytes() is ours alone.
from traceback import FrameSummary as FrameSummary
from traceback import StackSummary as StackSummary
from traceback import TracebackException as TracebackException
from traceback import __all__ as __all__
from traceback import clear_frames as clear_frames
from traceback import extract_stack as extract_stack
from traceback import extract_tb as extract_tb
from traceback import format_exc as format_exc
from traceback import format_exception as format_exception
from traceback import format_exception_only as format_exception_only
from traceback import format_list as format_list
from traceback import format_stack as format_stack
from traceback import format_tb as format_tb
from traceback import print_exc as print_exc
from traceback import print_exception as print_exception
from traceback import print_last as print_last
from traceback import print_list as print_list
from traceback import print_stack as print_stack
from traceback import print_tb as print_tb
from traceback import walk_stack as walk_stack
from traceback import walk_tb as walk_tb

def format_exc_bytes(limit: int | None = None, chain: bool = True) -> bytes: ...
