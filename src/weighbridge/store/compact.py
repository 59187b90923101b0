"""Turns closed segments into sorted Parquet with buckets beside them.

    rows-0001.arrows + rows-0001.flushes  ->  rows-0001/{rows.parquet, buckets-64.parquet, ..., manifest.json}

Done by whoever reads or runs `weighbridge compact`, and for a short while by `RankWriter.finish`. What comes out
depends on the segment alone: two compactors make the same files in folders of their own, and the rename decides. The
segment is deleted only after its Parquet was read back and compared bit for bit.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.errors import CorruptRun
from weighbridge.records import FORMAT_VERSION, TABLES, WHOLE
from weighbridge.store import layout
from weighbridge.store.checked import write_sealed
from weighbridge.store.downsample import WIDTHS, bucket_schema, buckets_of, coarser
from weighbridge.store.parquet import file_entry, fitted, read_parquet, same_bits, write_parquet
from weighbridge.store.segment import DATA_SUFFIX, SIDECAR_SUFFIX, SegmentReader
from weighbridge.store.status import LIVE, last_flush_of, require_run, state_of
from weighbridge.store.units import Unit, units

MANIFEST: Final = "manifest.json"
WORKING_SUFFIX: Final = ".part"
ABANDONED_SECONDS: Final = 3600.0  # a working folder this old was left by a compactor that died
SORTED_BY: Final = {
    "rows": ("tensor", "quantity", "part", "step"),
    "steps": ("step", "optimizer"),
    "passes": ("step",),
    "logs": ("key", "step"),
    "tensors": ("tensor",),
    "values": ("tensor", "quantity", "step"),
    "calls": ("tensor", "quantity", "step"),
    "units": ("tensor", "quantity", "step"),
    "spread": ("tensor", "step"),
    "pairing": ("step",),
    "biases": ("tensor", "step"),
    "coherence": ("tensor", "step"),
    "accumulation": ("tensor", "step"),
    "findings": ("step",),
    "graph": ("step",),
    "events": ("step",),
}


def compact_run(run: Path, seconds: float | None = None) -> int:
    """Compact every closed segment of a run, oldest first, until `seconds` are over. Returns how many were done."""
    about = require_run(run)
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    done = 0
    for rank in layout.ranks(run):
        folder = layout.rank_folder(run, rank)
        is_live = state_of(about, folder, last_flush_of(folder)) == LIVE
        done += compact_folder(folder, until, is_live=is_live)
    return done


def is_due(run: Path) -> bool:
    """Is there a segment that can be compacted? Reads sidecars only."""
    about = require_run(run)
    for rank in layout.ranks(run):
        folder = layout.rank_folder(run, rank)
        is_live = state_of(about, folder, last_flush_of(folder)) == LIVE
        waiting = [unit for found in units(folder).values() for unit in found if not unit.is_compacted]
        if any(_is_ready(unit, SegmentReader(unit.stem), is_live) for unit in waiting):
            return True
    return False


def _is_ready(unit: Unit, reader: SegmentReader, is_live: bool) -> bool:
    """Can it no longer grow?"""
    try:
        reader.poll()
    except FileNotFoundError:  # another compactor was here first
        return False
    return bool(reader.flushes) and (reader.is_closed or not unit.is_last or not is_live)


def compact_folder(folder: Path, until: float = float("inf"), *, is_live: bool) -> int:
    """The same for one rank; `until` is of time.monotonic."""
    _sweep(folder)
    done = 0
    for found in units(folder).values():
        for unit in found:
            if time.monotonic() >= until:
                return done
            if unit.is_compacted:
                _delete_segment(unit)
            elif compact_unit(unit, is_live=is_live):
                done += 1
    return done


def compact_unit(unit: Unit, *, is_live: bool = True) -> bool:
    """Compact one segment if it can no longer grow. Raises CorruptRun; a segment that is wrong is left as it is."""
    reader = SegmentReader(unit.stem)
    if not _is_ready(unit, reader, is_live):
        return False
    working = unit.stem.with_name(f".{unit.stem.name}.{secrets.token_hex(4)}{WORKING_SUFFIX}")
    try:
        working.mkdir()
        _write_unit(unit, reader, working)
        os.rename(working, unit.stem)
    except OSError:
        if not unit.stem.is_dir():  # another was not faster: a full disk, say
            raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    _delete_segment(unit)
    return True


def _write_unit(unit: Unit, reader: SegmentReader, working: Path) -> None:
    table = in_order(unit.table, fitted(pa.Table.from_batches(reader.batches()), TABLES[unit.table]))
    tables = {f"{unit.table}.parquet": table}
    if unit.table == "rows":
        tables |= bucket_tables(table)
    files = {}
    for name, content in tables.items():
        write_parquet(content, working / name)
        if not same_bits(read_parquet(working / name, content.schema), content):
            raise CorruptRun(f"{working / name} does not read back as it was written: is the disk sound? The segment was kept.")
        files[name] = file_entry(working / name)
    write_sealed(working / MANIFEST, {**_described(unit, table, reader), "files": files})


def _described(unit: Unit, table: pa.Table, reader: SegmentReader) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "table": unit.table,
        "number": unit.number,
        "attempt": table.column("attempt")[0].as_py(),
        "rows": table.num_rows,
        "first_step": min(flush.first_step for flush in reader.flushes),
        "last_step": max(flush.last_step for flush in reader.flushes),
        "thinned": None,  # or [first, last]: the steps of which only buckets are left
    }


def in_order(name: str, table: pa.Table) -> pa.Table:
    """Sorted by the table's key; equal keys stay in the order in which they were written."""
    keys = SORTED_BY[name]
    if all(pa.types.is_integer(table.schema.field(key).type) for key in keys):
        order = stable_order([table.column(key).to_numpy() for key in keys])
        return table.combine_chunks() if order is None else table.combine_chunks().take(pa.array(order))
    return table.combine_chunks().sort_by([(key, "ascending") for key in keys])


def stable_order(keys: Sequence[np.ndarray]) -> np.ndarray | None:
    """As np.lexsort of these integers, the first key the most important; None where they lie in order.

    Rows come step by step, so that most keys need no sorting, and few bits tell tensors apart: NumPy sorts 16 bits by radix.
    """
    order: np.ndarray | None = None
    for key in reversed(keys):
        values = key if order is None else key[order]
        if (values[1:] >= values[:-1]).all():
            continue
        least, most = int(values.min()), int(values.max())
        by = np.argsort((values - least).astype(np.uint16) if most - least < 2**16 else values, kind="stable")
        order = by if order is None else order[by]
    return order


def bucket_tables(table: pa.Table) -> dict[str, pa.Table]:
    """buckets-64.parquet and the coarser ones of sorted rows."""
    whole = table.column("part").to_numpy() == WHOLE
    if not whole.all():
        table = table.filter(pa.array(whole))
    if not table.num_rows:
        return {bucket_file(width): bucket_schema().empty_table() for width in WIDTHS}
    hist = table.column("hist").combine_chunks()
    hist = hist.chunk(0) if isinstance(hist, pa.ChunkedArray) else hist
    columns = {name: table.column(name).to_numpy() for name in table.column_names if name != "hist"}
    offsets, counts = hist.offsets.to_numpy(), hist.flatten().to_numpy()
    fine = buckets_of(columns, offsets, counts, WIDTHS[0])
    made = {bucket_file(WIDTHS[0]): fine}
    for narrow, wide in itertools.pairwise(WIDTHS):
        fine = coarser(fine, wide // narrow)
        made[bucket_file(wide)] = fine
    return made


def bucket_file(width: int) -> str:
    return f"buckets-{width}.parquet"


def _delete_segment(unit: Unit) -> None:
    # the sidecar first: without it the data is nobody's, and the other way round would look like a loss
    for suffix in (SIDECAR_SUFFIX, DATA_SUFFIX):
        unit.stem.with_name(unit.stem.name + suffix).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what a compactor that died left behind."""
    for path in folder.glob(f".*{WORKING_SUFFIX}"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue


if __name__ == "__main__":  # python -m weighbridge.store.compact RUN SECONDS: what it took of memory goes with it
    print(compact_run(Path(sys.argv[1]), float(sys.argv[2])))
