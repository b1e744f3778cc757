# The names and types are those of the standard module; format_exc_bytes() is ours alone.
from traceback import *
from traceback import print_list as print_list

def format_exc_bytes(limit: int | None = None, chain: bool = True) -> bytes: ...
