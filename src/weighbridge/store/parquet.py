"""How the store's Parquet files are written, and what their manifest says about them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Measured in benchmarks/RESULTS-store.md: smaller groups make one tensor's series cheap, larger ones the footers.
ROW_GROUP_ROWS: Final = 100_000
PAGE_BYTES: Final = 64 << 10
ZSTD_LEVEL: Final = 3
BLOCK_BYTES: Final = 64 << 10  # the manifest holds a CRC-32 of every block, so that damage has a place


def write_parquet(table: pa.Table, path: Path) -> None:
    """BYTE_STREAM_SPLIT for floats, DELTA_BINARY_PACKED for integers, zstd, dictionaries for strings only."""
    encodings, strings = {}, []
    for field in table.schema:
        is_list = pa.types.is_list(field.type)
        kind = field.type.value_type if is_list else field.type
        name = f"{field.name}.list.element" if is_list else field.name
        if pa.types.is_floating(kind):
            encodings[name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(kind):
            encodings[name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_string(kind):
            strings.append(name)
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP_ROWS,
        data_page_size=PAGE_BYTES,
        use_dictionary=strings or False,
        column_encoding=encodings,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        store_schema=False,
    )


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """A file in the columns of this schema."""
    return fitted(pq.ParquetFile(path).read(), schema)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table in the columns of this schema: one that an older writer did not have is null in all rows, one that only a newer
    writer knows is left out."""
    if table.schema.names == schema.names:
        return table.cast(schema)
    known, rows = set(table.schema.names), table.num_rows
    columns = [table.column(f.name).cast(f.type) if f.name in known else pa.nulls(rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def are_zero(path: Path, columns: Collection[str]) -> bool:
    """Are all values of these columns 0, as far as the footer says? Reads nothing else. Of a damaged file nothing is said here:
    who reads its rows says what is the matter."""
    try:
        footer = pq.read_metadata(path)
    except pa.ArrowInvalid:
        return False
    places = [i for i in range(footer.num_columns) if footer.schema.column(i).path in columns]
    told = [footer.row_group(group).column(i).statistics for group in range(footer.num_row_groups) for i in places]
    are_told = len(places) == len(columns) and all(one is not None and one.has_min_max and one.has_null_count for one in told)
    return are_told and all(one.min == one.max == 0 == one.null_count for one in told)


def file_entry(path: Path) -> dict[str, Any]:
    """Size, SHA-256 and the CRC-32 of each block of a file."""
    digest, blocks, size = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            blocks.append(f"{zlib.crc32(block):08x}")
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest(), "block_bytes": BLOCK_BYTES, "blocks": blocks}


def same_bits(a: pa.Table, b: pa.Table) -> bool:
    """Are two tables equal bit for bit, NaN payloads included?"""
    return a.schema == b.schema and all(_same(x, y) for x, y in zip(a.columns, b.columns, strict=True))


def _same(a: pa.ChunkedArray | pa.Array, b: pa.ChunkedArray | pa.Array) -> bool:
    if pa.types.is_list(a.type):
        return bool(pc.list_value_length(a).equals(pc.list_value_length(b))) and _same(pc.list_flatten(a), pc.list_flatten(b))
    if pa.types.is_floating(a.type):
        if a.null_count or b.null_count:
            return bool(a.is_null().equals(b.is_null())) and _same(a.drop_null(), b.drop_null())
        return np.array_equal(_bits(a), _bits(b))
    return bool(a.equals(b))


def _bits(array: pa.ChunkedArray | pa.Array) -> np.ndarray:
    values = np.asarray(array.to_numpy())
    return values.view(np.dtype(f"u{values.itemsize}"))
