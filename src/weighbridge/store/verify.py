"""Compares every byte of a run with its checksums and says which file is damaged, and where.

    for damage in verify_run(path):
        print(damage)

A torn tail of a run that was killed is no damage: it was never acknowledged and is never shown.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighbridge.errors import CorruptRun, NewerFormat, NotARun
from weighbridge.store import layout
from weighbridge.store.checked import is_sealed, read_sealed
from weighbridge.store.compact import MANIFEST
from weighbridge.store.labels import LABELS_FILE
from weighbridge.store.segment import DATA_SUFFIX, LINE_BYTES, SIDECAR_SUFFIX, Flush, checked_bytes, parse_line
from weighbridge.store.units import Unit, units


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes start <= byte < stop of one file are wrong or missing."""

    path: Path
    start: int
    stop: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}, bytes {self.start} to {self.stop}: {self.what}"


def verify_run(run: Path) -> list[Damage]:
    """Everything that is damaged, in order of files; empty = all bytes are as they were written.

    Raises NotARun, or NewerFormat where the run cannot be judged by this version.
    """
    if not layout.is_run(run):
        raise NotARun(f"{run} is not a run (it has no {layout.RUN_FILE}). Which runs there are: weighbridge ls")
    found = _sealed(run / layout.RUN_FILE)
    found += _sealed(run / LABELS_FILE) if (run / LABELS_FILE).exists() else []
    for rank in layout.ranks(run):
        folder = layout.rank_folder(run, rank)
        finish = folder / layout.FINISH_FILE
        for attempt in layout.attempts(folder):
            found += _sealed(layout.attempt_file(folder, attempt))
        found += _sealed(finish) if finish.exists() else []
        for known in units(folder).values():
            found += _numbers(known)
            for unit in known:
                found += _compacted(unit) if unit.is_compacted else _segment(unit)
        found += _ownerless(folder)
    return found


def _sealed(path: Path) -> list[Damage]:
    try:
        read_sealed(path)
    except NewerFormat:
        raise
    except CorruptRun:
        return [Damage(path, 0, path.stat().st_size, "the text disagrees with its own checksum")]
    except FileNotFoundError:
        return [Damage(path, 0, 0, "the file is missing")]
    return []


def _numbers(known: list[Unit]) -> list[Damage]:
    there = {unit.number for unit in known}
    missing = [number for number in range(1, max(there, default=0)) if number not in there]
    return [Damage(known[0].folder / layout.unit_name(known[0].table, n), 0, 0, "this unit is missing") for n in missing]


def _ownerless(folder: Path) -> list[Damage]:
    """Segments whose sidecar is gone."""
    found = []
    for path in sorted(folder.glob(f"*{DATA_SUFFIX}")):
        size = path.stat().st_size
        if size and not path.with_suffix(SIDECAR_SUFFIX).exists() and not path.with_suffix("").is_dir():
            found.append(Damage(path, 0, size, f"its sidecar {path.stem}{SIDECAR_SUFFIX} is missing"))
    return found


def _segment(unit: Unit) -> list[Damage]:
    sidecar = unit.stem.with_name(unit.stem.name + SIDECAR_SUFFIX)
    data = unit.stem.with_name(unit.stem.name + DATA_SUFFIX)
    try:
        text = sidecar.read_bytes()
    except FileNotFoundError:  # compacted while we looked
        return []
    found: list[Damage] = []
    lines = _lines(sidecar, text, found)
    try:
        size = data.stat().st_size
    except FileNotFoundError:
        size = 0
    if lines or size:
        found += _flushes(data, lines, size)
    if found and not sidecar.exists() and unit.stem.is_dir():  # compacted between our looks at sidecar and data
        return []
    if lines and lines[-1].kind == "close":
        if len(text) % LINE_BYTES:
            whole = len(text) - len(text) % LINE_BYTES
            found.append(Damage(sidecar, whole, len(text), "bytes behind the line that closes the segment"))
        if size > lines[-1].end:
            found.append(Damage(data, lines[-1].end, size, "bytes behind the end of the closed segment"))
    return found


def _lines(path: Path, text: bytes, found: list[Damage]) -> list[Flush]:
    lines, expected = [], 0
    for at in range(0, len(text) - LINE_BYTES + 1, LINE_BYTES):
        line = text[at : at + LINE_BYTES]
        if not is_sealed(line):
            found.append(Damage(path, at, at + LINE_BYTES, "this line of the sidecar disagrees with its own checksum"))
            expected = -1
            continue
        flush = parse_line(line, path, at)
        if expected >= 0 and flush.offset != expected:
            found.append(
                Damage(path, at, at + LINE_BYTES, f"begins at offset {flush.offset}, expected {expected}: lines are missing")
            )
        lines.append(flush)
        expected = flush.end
    return lines


def _flushes(path: Path, lines: list[Flush], size: int) -> list[Damage]:
    found = []
    try:
        with open(path, "rb", buffering=0) as file:
            for flush in lines:
                try:
                    checked_bytes(file, path, flush)
                except CorruptRun:
                    what = "the bytes disagree with their checksum" if flush.end <= size else "the file ends too early"
                    found.append(Damage(path, flush.offset, flush.end, what))
    except FileNotFoundError:
        return [Damage(path, 0, lines[-1].end, "the file is missing")]
    return found


def _compacted(unit: Unit) -> list[Damage]:
    manifest = unit.stem / MANIFEST
    found = _sealed(manifest)
    if found:
        return found
    content = read_sealed(manifest)
    while True:
        try:
            found = [damage for name, entry in content["files"].items() for damage in _blocks(unit.stem / name, entry)]
        except FileNotFoundError:  # it went while we read it
            found = [Damage(unit.stem, 0, 0, "a file is missing")]
        now = read_sealed(manifest)
        if not found or now == content:
            return found
        content = now  # thinned meanwhile: the new manifest comes before the old file goes


def _blocks(path: Path, entry: dict[str, Any]) -> list[Damage]:
    """Compare a file with its manifest's size, CRC of each block and SHA-256 of all."""
    if not path.exists():
        return [Damage(path, 0, entry["size"], "the file is missing")]
    found: list[Damage] = []
    digest, at = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for crc in entry["blocks"]:
            block = file.read(entry["block_bytes"])
            digest.update(block)
            if f"{zlib.crc32(block):08x}" != crc:
                stop = min(at + entry["block_bytes"], entry["size"])
                found.append(Damage(path, at, stop, "the bytes disagree with their checksum"))
            at += entry["block_bytes"]
    size = path.stat().st_size
    if size > entry["size"]:
        found.append(Damage(path, entry["size"], size, "bytes behind the end of the file"))
    if not found and digest.hexdigest() != entry["sha256"]:
        found.append(Damage(path, 0, size, "the file disagrees with its SHA-256"))
    return found
