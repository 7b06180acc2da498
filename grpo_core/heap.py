"""Memory that was freed, given back to the system.

The C library keeps what is freed for the next who asks. Training passes leave much of it, in
pieces too small for the caches that drawing asks for: the one would come on top of the other.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give free memory back, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
