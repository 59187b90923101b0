"""Rows of the table of steps between two steps. Oracle: a list of Python's, filtered and sorted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.store.persteps import between

KEYS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), max_size=20, unique=True)
ENDS = st.none() | st.integers(0, 14)


@pytest.mark.parametrize("is_written_in_order", [True, False])
@given(KEYS, ENDS, ENDS)
def test_rows_between_two_steps_come_in_order(
    is_written_in_order: bool, keys: list[tuple[int, int]], start: int | None, stop: int | None
) -> None:
    written = sorted(keys) if is_written_in_order else keys
    table = pa.table(
        {"step": pa.array([k[0] for k in written], pa.int64()), "optimizer": pa.array([k[1] for k in written], pa.int32())}
    )
    found = between(table, start, stop)
    wanted = sorted(key for key in keys if (start or 0) <= key[0] < (np.inf if stop is None else stop))
    assert list(zip(found.column("step").to_pylist(), found.column("optimizer").to_pylist(), strict=True)) == wanted
