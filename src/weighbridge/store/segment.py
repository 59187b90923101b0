"""One segment: an Arrow IPC stream that only grows, and the sidecar that says which of its bytes count.

Sidecar: lines of exactly LINE_BYTES bytes, each a sealed JSON object (store/checked.py) about one flush:
offset and length of its bytes in the segment, their CRC-32, rows, first and last step. A flush is acknowledged when
its line stands whole. The last line of a closed segment has kind "close" and covers the end-of-stream mark.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from weighbridge.errors import CorruptRun
from weighbridge.store.checked import is_sealed, seal

DATA_SUFFIX: Final = ".arrows"
SIDECAR_SUFFIX: Final = ".flushes"
LINE_BYTES: Final = 192
END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# lz4 at half of zstd's price, and none for small batches: compression has a fixed price per column. Segments are
# transient, Parquet has zstd (docs/decisions/0003-segments-are-compressed-with-lz4.md).
COMPRESSED_FROM_ROWS: Final = 64
DECODED_AT_ONCE: Final = 4  # flushes; more are decoded one after the other
_CHECK_BYTES: Final = len(',"check":"00000000"')


@dataclass(frozen=True, slots=True)
class Flush:
    """One line of a sidecar."""

    kind: str  # "flush" or "close"
    offset: int
    length: int
    crc: str
    rows: int
    first_step: int
    last_step: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def sidecar_line(flush: Flush) -> bytes:
    """The line of exactly LINE_BYTES bytes; the padding stands before the closing brace's check."""
    text = (
        f'{{"kind":"{flush.kind}","offset":{flush.offset},"length":{flush.length},"crc":"{flush.crc}",'
        f'"rows":{flush.rows},"first_step":{flush.first_step},"last_step":{flush.last_step}'
    )
    return seal((text.ljust(LINE_BYTES - _CHECK_BYTES - 2) + "}").encode())


def parse_line(line: bytes, path: Path, at: int) -> Flush:
    """Raises CorruptRun for a whole line that disagrees with its check."""
    if not is_sealed(line):
        raise CorruptRun(damage(path, at, at + len(line), "this line of the sidecar disagrees with its own checksum"))
    content = json.loads(line)
    return Flush(**{name: content[name] for name in Flush.__slots__})


def damage(path: Path, start: int, stop: int, what: str) -> str:
    return f"{path}, bytes {start} to {stop}: {what}. Restore the file from a copy; what else is damaged: weighbridge verify"


def encode(batch: pa.RecordBatch, schema_bytes: int) -> pa.Buffer:
    """One record batch as an IPC message without its schema message (whose length is given)."""
    if batch.num_rows < COMPRESSED_FROM_ROWS:
        return batch.serialize()
    sink = pa.BufferOutputStream()
    # one thread: the training process owns the other cores
    writer = pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False))
    writer.write_batch(batch)
    return sink.getvalue().slice(schema_bytes)


class SegmentWriter:
    """Appends flushes to one segment. One thread; raises OSError and is then broken: open the next segment."""

    def __init__(self, stem: Path, schema: pa.Schema) -> None:
        self.stem = stem
        self.size_bytes = 0  # acknowledged bytes of the segment itself
        self.rows = 0
        self.first_step, self.last_step = -1, -1
        self.lines: list[Flush] = []
        self._schema_message = schema.serialize()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._sidecar = os.open(stem.with_name(stem.name + SIDECAR_SUFFIX), flags, 0o644)
        try:
            self._data = os.open(stem.with_name(stem.name + DATA_SUFFIX), flags, 0o644)
        except OSError:
            os.close(self._sidecar)
            stem.with_name(stem.name + SIDECAR_SUFFIX).unlink(missing_ok=True)
            raise

    @property
    def disk_bytes(self) -> int:
        return self.size_bytes + LINE_BYTES * len(self.lines)

    def append(self, batch: pa.RecordBatch, first_step: int, last_step: int) -> None:
        """Write one flush; on return it is acknowledged."""
        message = encode(batch, self._schema_message.size)
        if self.size_bytes:
            crc, length = zlib.crc32(message), message.size
            _write(self._data, memoryview(message))
        else:
            crc = zlib.crc32(message, zlib.crc32(self._schema_message))
            length = self._schema_message.size + message.size
            _write(self._data, memoryview(self._schema_message))
            _write(self._data, memoryview(message))
        self._acknowledge(Flush("flush", self.size_bytes, length, f"{crc:08x}", batch.num_rows, first_step, last_step))
        self.first_step = first_step if self.first_step < 0 else min(first_step, self.first_step)
        self.last_step = max(last_step, self.last_step)
        self.rows += batch.num_rows

    def close(self) -> None:
        """Mark the segment closed: nothing will be added to it."""
        try:
            _write(self._data, memoryview(END_OF_STREAM))
            crc = f"{zlib.crc32(END_OF_STREAM):08x}"
            self._acknowledge(Flush("close", self.size_bytes, len(END_OF_STREAM), crc, 0, self.first_step, self.last_step))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the files as they are."""
        for descriptor in (self._data, self._sidecar):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._sidecar = -1

    def _acknowledge(self, flush: Flush) -> None:
        _write(self._sidecar, memoryview(sidecar_line(flush)))
        self.lines.append(flush)
        self.size_bytes = flush.end


def _write(descriptor: int, data: memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):  # a short write comes before "no space left": the next call raises
        data = data[written:]
        written = os.write(descriptor, data)


class SegmentReader:
    """Reads what is acknowledged of one segment, growing; checks every byte once. Never shows a torn tail."""

    def __init__(self, stem: Path) -> None:
        self.data_path = stem.with_name(stem.name + DATA_SUFFIX)
        self.sidecar_path = stem.with_name(stem.name + SIDECAR_SUFFIX)
        self.flushes: list[Flush] = []
        self.is_closed = False
        self.schema: pa.Schema | None = None
        self._lines_read = self._checked = 0
        self._batches: list[pa.RecordBatch] = []

    def poll(self) -> list[Flush]:
        """New acknowledged flushes since the last call; one `read` when there is nothing new.

        Raises FileNotFoundError where the segment was compacted meanwhile, CorruptRun for a damaged line.
        """
        at = self._lines_read * LINE_BYTES
        with open(self.sidecar_path, "rb", buffering=0) as file:
            file.seek(at)
            text = file.read() or b""
        found = []
        for start in range(0, len(text) - LINE_BYTES + 1, LINE_BYTES):
            flush = parse_line(text[start : start + LINE_BYTES], self.sidecar_path, at + start)
            self._lines_read += 1
            if flush.kind == "close":
                self.is_closed = True
            else:
                found.append(flush)
        self.flushes += found
        return found

    def batches(self) -> list[pa.RecordBatch]:
        """All acknowledged record batches, in order (decoded once and kept). Raises CorruptRun."""
        self._batches += self.decode(self.flushes[len(self._batches) :])
        return self._batches

    def stream(self, columns: Sequence[str], start: int, stop: int) -> pa.RecordBatchReader:
        """These columns of the acknowledged record batches, in order: all with rows of start <= step < stop, perhaps others.

        Each is decoded from the mapped file when it is asked for; nothing of it stays in memory. Raises CorruptRun, or
        FileNotFoundError where the segment was compacted meanwhile.
        """
        wanted = [flush for flush in self.flushes if flush.first_step < stop and flush.last_step >= start]
        if len(wanted) <= DECODED_AT_ONCE:
            batches = [batch.select(columns) for batch in self.decode(wanted or self.flushes[:1])]
            return pa.RecordBatchReader.from_batches(batches[0].schema, batches)
        self._check()
        mapped = pa.memory_map(str(self.data_path))
        with pa.ipc.open_stream(mapped) as whole:
            places = [whole.schema.get_field_index(name) for name in columns]
        mapped.seek(0)
        reader = pa.ipc.open_stream(mapped, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))
        return pa.RecordBatchReader.from_batches(reader.schema, itertools.islice(reader, len(self.flushes)))

    def _check(self) -> None:
        """Every byte that is acknowledged, once."""
        with open(self.data_path, "rb", buffering=0) as file:
            for flush in self.flushes[self._checked :]:
                checked_bytes(file, self.data_path, flush)
                self._checked += 1

    def decode(self, flushes: Sequence[Flush]) -> list[pa.RecordBatch]:
        """The record batches of these flushes, their bytes compared with their CRC. Raises CorruptRun."""
        if not flushes:
            return []
        with open(self.data_path, "rb", buffering=0) as file:
            if self.schema is None and flushes[0].offset:
                self._decode(checked_bytes(file, self.data_path, self.flushes[0]), self.flushes[0])
            return [self._decode(checked_bytes(file, self.data_path, flush), flush) for flush in flushes]

    def _decode(self, data: bytes, flush: Flush) -> pa.RecordBatch:
        try:
            reader = pa.BufferReader(data)
            if flush.offset == 0:
                self.schema = pa.ipc.read_schema(reader)
            return pa.ipc.read_record_batch(pa.ipc.read_message(reader), self.schema)
        except (pa.ArrowInvalid, OSError) as problem:
            raise CorruptRun(damage(self.data_path, flush.offset, flush.end, f"not an Arrow message ({problem})")) from problem


def checked_bytes(file: IO[bytes] | FileIO, path: Path, flush: Flush) -> bytes:
    """The bytes of one line of the sidecar, compared with their CRC. Raises CorruptRun."""
    file.seek(flush.offset)
    data = file.read(flush.length) or b""
    if len(data) != flush.length or f"{zlib.crc32(data):08x}" != flush.crc:
        what = "the bytes disagree with their checksum" if len(data) == flush.length else "the file ends too early"
        raise CorruptRun(damage(path, flush.offset, flush.end, what))
    return data
