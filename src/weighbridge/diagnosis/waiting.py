"""What was written and waits for the rules: the first of it in memory, the rest in files without a name.

A quick training writes faster than rules may read (they keep to a share of the time), so what waits grows for as long as it
runs. Memory must not. The files are in the run's folder, belong to this process alone, and are gone with it.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Generic, TypeVar

import pyarrow as pa

MOST_IN_MEMORY: Final = 2 * 2**20  # bytes
MOST_ON_DISK: Final = 256 * 2**20  # bytes, compressed
FILE_BYTES: Final = 16 * 2**20  # a file is given back once all of it was read
_HEAD: Final = struct.Struct("<qq")  # bytes of the batches, and of their names before them
_LIGHTLY: Final = pa.ipc.IpcWriteOptions(compression="lz4")

Batches = Mapping[str, pa.RecordBatch]
Mark = TypeVar("Mark")


class NoRoom(Exception):
    """As much waits as may."""


@dataclass(slots=True)
class _File:
    """One piece after the other: what it takes, its names, and the batches. In memory nothing is kept of a piece but its mark:
    a training that is ahead of its rules for hours has ten thousand of them."""

    handle: IO[bytes]
    size: int = 0
    read: int = 0
    unread: int = 0


class Waiting(Generic[Mark]):
    """First in, first out; each with a word of whoever put it there. Of one thread at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder  # None: as the system has it
        self._queue: deque[tuple[Batches | _File, Mark, int]] = deque()
        self._in_memory = self._on_disk = 0
        self._last: _File | None = None  # the one that is written

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, batches: Batches, mark: Mark) -> None:
        """At the end. Raises NoRoom, or OSError where the disk takes nothing."""
        size = sum(batch.nbytes for batch in batches.values())
        if self._last is None and self._in_memory + size <= MOST_IN_MEMORY:
            self._queue.append((batches, mark, size))
            self._in_memory += size
        else:  # what is in files comes after all that is in memory
            self._queue.append((self._write(batches), mark, 0))

    def take(self) -> tuple[Batches, Mark]:
        """The first. Raises IndexError where there is none, or OSError."""
        first, mark, size = self._queue.popleft()
        if isinstance(first, _File):
            return self._read(first), mark
        self._in_memory -= size
        return first, mark

    def clear(self) -> None:
        """Nothing waits any more."""
        files = {id(file): file for file, _, _ in self._queue if isinstance(file, _File)}
        for file in files.values():
            file.handle.close()
        self._queue.clear()
        self._last, self._in_memory, self._on_disk = None, 0, 0

    def _write(self, batches: Batches) -> _File:
        packed, names = _packed(batches), " ".join(batches).encode()
        if self._on_disk + packed.size > MOST_ON_DISK:
            raise NoRoom
        if self._last is None or self._last.size >= FILE_BYTES:
            self._last = _File(tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115  # closed once it was read
        file = self._last
        for piece in (_HEAD.pack(packed.size, len(names)), names, packed):
            file.handle.write(piece)
        file.handle.flush()
        file.size += _HEAD.size + len(names) + packed.size
        file.unread += 1
        self._on_disk += packed.size
        return file

    def _read(self, file: _File) -> Batches:
        number = file.handle.fileno()
        size, length = _HEAD.unpack(os.pread(number, _HEAD.size, file.read))
        names = os.pread(number, length, file.read + _HEAD.size)
        packed = os.pread(number, size, file.read + _HEAD.size + length)
        file.read += _HEAD.size + length + size
        file.unread -= 1
        self._on_disk -= size
        if not file.unread and (file is not self._last or not self._on_disk):
            file.handle.close()
            self._last = None if file is self._last else self._last
        return _unpacked(packed, names.decode().split())


def _packed(batches: Batches) -> Any:
    sink = pa.BufferOutputStream()
    for batch in batches.values():
        with pa.ipc.new_stream(sink, batch.schema, options=_LIGHTLY) as stream:
            stream.write_batch(batch)
    return sink.getvalue()


def _unpacked(packed: bytes, tables: list[str]) -> Batches:
    reader = pa.BufferReader(packed)
    return {name: _next_batch(reader) for name in tables}


def _next_batch(reader: Any) -> pa.RecordBatch:
    with pa.ipc.open_stream(reader) as stream:
        [batch] = stream  # to its end: the next one begins there
    found: pa.RecordBatch = batch
    return found
