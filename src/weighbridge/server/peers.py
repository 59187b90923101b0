"""Who is at the other end of a connection of this machine: the kernel knows the user of each socket.

On a machine with several users everyone reaches 127.0.0.1, and a forged Origin costs nothing outside a browser. What is read is
readable on the disk mostly; what is changed is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starlette.types import Scope

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ROOT: Final = 0


def is_someone_else(scope: Scope, tables: Iterable[Path] = TABLES) -> bool:
    """Does the other end belong to another user than this process? False where the kernel does not say."""
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not hasattr(os, "getuid"):
        return False
    uid = user_of(client[1], server[1], tables)
    return uid is not None and uid not in (os.getuid(), ROOT)


def user_of(port: int, peer: int, tables: Iterable[Path] = TABLES) -> int | None:
    """The user of the socket with this own port and that port at the other end."""
    for table in tables:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and int(fields[2].rpartition(":")[2], 16) == peer:
                return int(fields[7])
    return None
