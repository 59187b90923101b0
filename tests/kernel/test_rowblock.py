"""Rows on their way to the writer."""

from __future__ import annotations

import numpy as np
import pytest
from weighing import item_of, place

from weighbridge.capture.kernel import F32, Kernel
from weighbridge.capture.rowblock import RowBlock
from weighbridge.records import ROWS


def test_a_batch_stays_as_it_is_while_the_block_is_filled_again(kernel: Kernel) -> None:
    block = RowBlock(4, 600)
    tensor = place(np.arange(10.0), F32)
    kernel.weigh(item_of(tensor), 0, 0, block)
    first = block.take()
    assert block.rows == 0
    assert first.schema == ROWS
    before = first.to_pydict()
    for step in range(1, 5):
        kernel.weigh(item_of(place(np.full(10, float(step)), F32)), step, 0, block)
    second = block.take()
    assert first.to_pydict() == before or np.isnan(before["dot_gradient_update"]).all()
    assert first["sum"].to_pylist() == [45.0]
    assert first["hist"].to_pylist() == [[1, 2, 4, 2]]
    assert second["step"].to_pylist() == [1, 2, 3, 4]


def test_a_full_block_is_refused_and_keeps_what_it_has(kernel: Kernel) -> None:
    block = RowBlock(2, 300)
    items = item_of(place(np.arange(10.0), F32))
    assert block.room_for(2, rows_each=1)
    assert not block.room_for(1)
    for _ in range(2):
        kernel.weigh(items, 0, 0, block)
    assert not block.room_for(1, rows_each=1)
    with pytest.raises(ValueError, match="full"):
        kernel.weigh(items, 0, 0, block)
    assert block.take().num_rows == 2


def test_room_is_counted_in_rows_and_in_counts() -> None:
    assert RowBlock(30, 30 * 132).room_for(10)
    assert not RowBlock(30, 29 * 132).room_for(10)
    assert not RowBlock(29, 99_999).room_for(10)


def test_an_empty_block_gives_an_empty_batch() -> None:
    batch = RowBlock(5, 5).take()
    batch.validate(full=True)
    assert batch.num_rows == 0
