"""What Linux's C library can do and Python cannot ask for."""

import ctypes
import sys
from collections.abc import Callable


def libc_function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where there is none of that name, or no Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
