"""How many arenas the threads of a server have. Oracle: glibc's own account of them (malloc_info)."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from weighbridge.server.memory import ARENAS

COUNTED = """
import ctypes, threading
from weighbridge.server.memory import share_arenas
if {shares}:
    share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
all_there = threading.Barrier(8)
def allocate():
    all_there.wait()
    libc.malloc(1000)
    all_there.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fdopen.restype, libc.fflush.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_threads_share_arenas() -> None:
    def arenas(shares: bool) -> int:
        line = [sys.executable, "-c", COUNTED.format(shares=shares)]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.count("<heap nr=")

    assert arenas(False) > ARENAS
    assert arenas(True) <= ARENAS
