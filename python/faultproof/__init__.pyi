from . import faulthandler as faulthandler
from . import traceback as traceback
from .faulthandler import _File
from .faulthandler import disable as disable
from .faulthandler import enable as enable
from .faulthandler import is_enabled as is_enabled

__all__ = [
    "capabilities",
    "disable",
    "enable",
    "faulthandler",
    "get_include",
    "install",
    "is_enabled",
    "traceback",
    "uninstall",
]
__version__: str

def capabilities() -> dict[str, object]: ...
def install(file: _File = None) -> None: ...
def uninstall() -> None: ...
def get_include() -> str: ...
