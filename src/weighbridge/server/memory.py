"""What the server's threads free goes back to the system, or to the next thread that needs it.

glibc gives each thread an arena of its own, up to eight for each core, and keeps what is freed in it. A server that draws the
pictures of a live run on ever other threads of its pool would hold what one picture needs many times over.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Final

ARENAS: Final = 2
_M_ARENA_MAX: Final = -8  # malloc.h


def share_arenas() -> None:
    """All threads that begin from here on allocate from ARENAS arenas. Does nothing where malloc is not glibc's."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
