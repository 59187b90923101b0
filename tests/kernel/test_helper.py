"""A second thread weighs items of the same call. Oracle: the same kernel alone, bit by bit; and that one's is reference.py."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.kernel.weighing import F32, F64, Placed, item_of, place

from weighbridge.capture import kernel as kernels
from weighbridge.capture.kernel import ITEM, Items, NativeKernel
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.capture.valueblock import ValueBlock

ALONE, SHARED, HELPED = range(3)  # what a call does: no helper; if it comes in time; only once it has come


@pytest.fixture
def helped(native: NativeKernel) -> Iterator[NativeKernel]:
    """The native kernel with its helper, whether there is a core for it or not."""
    assert native.library.wb_helper_start(), "the helper's thread could not be started"
    yield native
    native._known = (None, 0, native._weigh, ALONE)


def model(seed: int = 0, number: int = 60) -> tuple[Items, list[Placed]]:
    """Tensors of many sizes and of two dtypes; NaN in some, no gradient in others, one weighed alone."""
    random = np.random.default_rng(seed)
    items, alive = [], []
    for i in range(number):
        count, code = int(random.integers(0, 3000)) if i % 9 else 70_000, F64 if i % 7 == 3 else F32
        before, after, gradient = (place(random.standard_normal(count), code, 4 * (i % 3)) for _ in range(3))
        if i % 5 == 1 and count:
            gradient.room[gradient.start : gradient.start + gradient.itemsize] = 0xFF  # NaN
        snapshot = None if i % 11 == 10 else before
        items.append(item_of(after, snapshot, None if i % 4 == 2 else gradient, tensor=i, histogram=i % 4 - 1, values=1))
        items[-1]["values"] = int(code == F32 and count < 64 and snapshot is not None)
        alive += [before, after, gradient]
    return np.concatenate(items), alive


def weigh(kernel: NativeKernel, seed: int, how: int, number: int = 60) -> tuple[pa.RecordBatch, pa.RecordBatch, bytes]:
    """Rows, values and the bytes of the refreshed snapshots."""
    items, alive = model(seed, number)
    block, values = RowBlock(3 * number, 3 * number * 516, 516), ValueBlock(3 * number, 1 << 20)
    share(kernel, items, how)
    kernel.weigh(items, 3, 1, block, values, keep=1)
    return block.take(), values.take(), b"".join(placed.raw for placed in alive)


def share(kernel: NativeKernel, items: Items, how: int) -> None:
    kernel._known = (items, items.ctypes.data, kernel._weigh, how)


def same(one: Any, other: Any) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine == theirs if isinstance(mine, bytes) else text_of(mine) == text_of(theirs)


def text_of(batch: pa.RecordBatch) -> str:
    """All rows. NaN is not equal to itself; as text it is, and a number's text is exact."""
    batch.validate(full=True)
    return repr(batch.to_pylist())


@pytest.mark.parametrize("seed", range(5))
def test_two_threads_write_the_rows_of_one_in_the_same_order(helped: NativeKernel, seed: int) -> None:
    same(weigh(helped, seed, HELPED), weigh(helped, seed, ALONE))
    same(weigh(helped, seed, SHARED), weigh(helped, seed, ALONE))


@pytest.mark.parametrize("histogram", [-1, 0, 1, 2])
def test_two_threads_share_one_tensor(helped: NativeKernel, histogram: int) -> None:
    """Whoever weighs a piece of it: the same sums, to the last bit, counts, bins, snapshot. At each level that is there."""
    try:
        for level in range(helped.levels):
            helped.use_level(level)
            check_shared(helped, histogram, np.random.default_rng(level))
    finally:
        helped.use_level(-1)


def check_shared(helped: NativeKernel, histogram: int, random: np.random.Generator) -> None:
    for count, code, where in ((16_385, F32, 16_384), (60_000, F64, 20_000), (400_003, F32, 399_000), (400_003, F32, 5)):
        after, before, gradient = (random.standard_normal(count) * np.exp2(random.integers(-9, 9, count)) for _ in range(3))
        after[:: count // 7], gradient[where], gradient[where + 1 :: 1009] = before[:: count // 7], np.inf, 0.0
        found = []
        for how in (ALONE, HELPED, SHARED, HELPED):
            placed = [place(x, code) for x in (after, before, gradient)]
            items = item_of(*placed, histogram=histogram)
            share(helped, items, how)
            block = RowBlock(3, 3 * 516, 516)
            spent = helped.helper_seconds
            helped.weigh(items, 1, 0, block)
            assert how != HELPED or helped.helper_seconds > spent
            found.append((block.take(), placed[1].raw))
            assert placed[1].raw == placed[0].raw
        for other in found[1:]:
            same(found[0], other)


def test_the_helper_does_take_some(helped: NativeKernel) -> None:
    before = helped.helper_seconds
    weigh(helped, 0, HELPED)
    assert helped.helper_seconds > before


def test_a_helper_that_costs_more_than_it_saves_rests_for_a_while(helped: NativeKernel) -> None:
    """As where the other cores are busy, and it is put aside in the middle of a piece."""
    helped.library.wb_helper_gained.argtypes = [ctypes.c_int64]
    helped.library.wb_helper_gained(1 << 60)  # however much it has saved before
    helped.library.wb_helper_gained(-25_000_000)
    before = helped.helper_seconds
    for _ in range(4):
        same(weigh(helped, 1, SHARED), weigh(helped, 1, ALONE))
    assert helped.helper_seconds == before
    small, alive = model(2, 1)
    share(helped, small, SHARED)
    block = RowBlock(3000, 3000 * 132)
    for _ in range(996):
        helped.weigh(small, 0, 0, block)
    assert alive, "its tensors have to live until here"
    tensors = [place(np.ones(3_000_000), F32) for _ in range(2)]
    large = item_of(*tensors)  # milliseconds of work: time enough to come
    share(helped, large, SHARED)
    block = RowBlock(2000, 2000 * 132)
    while helped.helper_seconds == before and block.rows < 1990:
        helped.weigh(large, 0, 0, block)
    assert helped.helper_seconds > before, "it is asked again after a while"


def test_the_room_for_its_rows_grows_with_the_model_and_serves_again(helped: NativeKernel) -> None:
    for number in (2, 300, 3, 60):
        same(weigh(helped, 9, HELPED, number), weigh(helped, 9, ALONE, number))


def test_where_there_is_no_room_nothing_is_done(helped: NativeKernel) -> None:
    items, alive = model()
    before = [placed.raw for placed in alive]
    share(helped, items, HELPED)
    block = RowBlock(100, 100 * 516, 516)
    with pytest.raises(BlockFull):
        helped.weigh(items, 0, 0, block)
    assert block.rows == 0
    assert [placed.raw for placed in alive] == before


def test_two_callers_at_once_have_one_helper_between_them(helped: NativeKernel) -> None:
    """Called without the GIL, as work of more than 32 MiB is."""
    expected = [repr(text_of(weigh(helped, seed, ALONE)[0])) for seed in range(2)]
    models = [[model(seed) for _ in range(30)] for seed in range(2)]
    begin = threading.Barrier(2)
    found: list[list[str]] = [[], []]

    def work(seed: int) -> None:
        for items, _ in models[seed]:
            block = RowBlock(180, 180 * 516, 516)
            begin.wait(20)
            helped._weigh_long(items.ctypes.data, len(items), 3, 1, block.address, None, 0, HELPED)
            found[seed].append(repr(text_of(block.take())))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(one) for one in found] == [{one} for one in expected]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_leaves_the_helper_behind_and_may_have_its_own(helped: NativeKernel) -> None:
    expected = weigh(helped, 0, HELPED)
    child = os.fork()
    if child == 0:
        try:
            same(weigh(helped, 0, HELPED), expected)  # nobody comes: it does not wait
            helped.library.wb_helper_start()
            before = helped.helper_seconds
            same(weigh(helped, 0, HELPED), expected)
            os._exit(0 if helped.helper_seconds > before else 2)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("cores", "threads", "is_free"), [({0}, 1, False), ({0, 1}, 1, True), ({2, 3}, 2, False), (set(range(8)), 4, True)]
)
def test_a_core_is_free_where_torch_leaves_one(
    cores: set[int], threads: int, is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert kernels.has_free_core() is is_free


def test_small_work_is_not_shared(native: NativeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "has_helper", True)
    small, large = np.zeros(2, ITEM), np.zeros(2, ITEM)
    small["count"], large["count"] = kernels.SHARED_ELEMENTS // 2 - 1, kernels.SHARED_ELEMENTS // 2
    assert [native._look_at(items)[2] for items in (small, large, large[:1].copy())] == [0, 1, 0]
    large["count"] *= 2
    assert native._look_at(large[:1].copy())[2] == 1, "a tensor is shared, too"
