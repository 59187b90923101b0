"""A step: parameter, gradient and update rows with their cross terms, and the snapshot; oracle reference.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weighing import BITS, CODES, Placed, agrees, crosses, item_of, place, rows_of

from weighbridge import reference
from weighbridge.capture.kernel import ITEM_SIZES, NO_HISTOGRAM, Kernel
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.capture.valueblock import ValueBlock
from weighbridge.records import Quantity


def check(kernel: Kernel, after: Placed, before: Placed, gradient: Placed | None, bits: int = 0) -> None:
    was, now, used = before.values, after.values, None if gradient is None else gradient.values
    rows = rows_of(kernel, item_of(after, before, gradient, tensor=5, histogram=bits), step=9)
    wanted = [Quantity.PARAMETER, Quantity.UPDATE] if gradient is None else list(Quantity)[:3]
    assert [row["quantity"] for row in rows] == wanted
    assert {(row["tensor"], row["step"]) for row in rows} == {(5, 9)}
    agrees(rows[0], reference.summarize(was, before.itemsize, bits))
    if gradient is not None:
        agrees(rows[1], reference.summarize(gradient.values, gradient.itemsize, bits))
    update = reference.update_of(was, now)
    agrees(rows[-1], reference.summarize(update, before.itemsize, bits))
    terms = reference.update_terms(was, now, used)
    crosses(rows[-1], terms, scales(was, update, used)) if gradient is not None else no_gradient(rows[-1], terms)
    assert before.raw == after.raw, "the snapshot holds the parameter's bytes"


def scales(was: np.ndarray, update: np.ndarray, used: np.ndarray | None) -> reference.CrossTerms:
    assert used is not None
    dot = lambda a, b: reference._dot(np.abs(reference._wide(a)), np.abs(reference._wide(b)))
    with np.errstate(over="ignore"):  # of doubles of any size
        return reference.CrossTerms(dot(used, was), dot(used, update), dot(update, was), 0)


def no_gradient(row: dict, terms: reference.CrossTerms) -> None:
    assert np.isnan([row["dot_gradient_parameter"], row["dot_gradient_update"]]).all()
    assert row["dot_update_parameter"] == pytest.approx(terms.dot_update_parameter, rel=1e-7, abs=1e-30)
    assert row["lost"] == 0


@pytest.mark.parametrize("gradient", CODES)
@pytest.mark.parametrize("parameter", CODES)
def test_every_pair_of_dtypes(kernel: Kernel, parameter: str, gradient: str) -> None:
    random = np.random.default_rng(4)
    for size in (0, 16, 1025, 65_536):
        before = place(random.standard_normal(size), CODES[parameter])
        used = place(random.standard_normal(size), CODES[gradient])
        moves = random.standard_normal(size) * (random.random(size) < 0.7) * 0.01
        check(kernel, place(before.values + moves, CODES[parameter]), before, used)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("dtype", CODES)
def test_finer_histograms(kernel: Kernel, dtype: str, bits: int) -> None:
    """Bits of every kind: NaN, infinities, subnormals, and magnitudes below and above the range."""
    random = np.random.default_rng(7)
    size = ITEM_SIZES[CODES[dtype]]
    for count in (0, 1, 300, 5000, 65_536, 70_001):
        raw = random.integers(0, 2 ** (8 * size), count, dtype=np.uint64).astype(BITS[size])
        usual = place(random.standard_normal(count) * 2.0 ** random.integers(-50, 30, count), CODES[dtype])
        kept = usual.values
        check(kernel, place(raw, CODES[dtype]), usual, place(random.standard_normal(count), CODES[dtype]), bits)
        check(kernel, place(np.roll(kept, 1), CODES[dtype]), place(kept, CODES[dtype]), place(raw, CODES[dtype]), bits)


def test_without_histogram_everything_else_is_the_same(kernel: Kernel) -> None:
    random = np.random.default_rng(7)
    for count in (0, 3, 4000, 70_000):
        found = []
        for histogram in (0, NO_HISTOGRAM):
            random = np.random.default_rng(count)
            before, used = place(random.standard_normal(count), 0), place(random.standard_normal(count), 1)
            after = place(before.values * 1.01, 0)
            found.append(rows_of(kernel, item_of(after, before, used, histogram=histogram)))
            assert before.raw == after.raw
        for whole, without in zip(*found, strict=True):
            assert (without["hist_count"], without["hist"].sum()) == (0, 0)
            assert whole["hist_count"] == whole["hist"].sum() + whole["zero"] or count > 65_536
            assert {k: repr(v) for k, v in whole.items() if "hist" not in k} == {
                k: repr(v) for k, v in without.items() if "hist" not in k
            }


@pytest.mark.parametrize("parameter", CODES)
def test_without_a_gradient(kernel: Kernel, parameter: str) -> None:
    before = place(np.linspace(-2, 1, 3001), CODES[parameter])
    check(kernel, place(before.values * 1.01, CODES[parameter]), before, None)


@pytest.mark.parametrize("which", ["before", "after", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-45])
def test_special_values_at_block_edges_in_any_of_the_three(kernel: Kernel, which: str, value: float) -> None:
    random = np.random.default_rng(5)
    data = {name: random.standard_normal(4097).astype(np.float32) for name in ("before", "after", "gradient")}
    data[which][[0, 15, 16, 1023, 1024, 4095, 4096]] = value
    placed = {name: place(array, CODES["float32"], shift=3) for name, array in data.items()}
    check(kernel, placed["after"], placed["before"], placed["gradient"])


def test_lost_counts_elements_with_a_gradient_that_did_not_move(kernel: Kernel) -> None:
    before = place(np.array([1.0, 1.0, 1.0, 1.0, np.inf]), CODES["float32"])
    after = place(np.array([1.0, 1.0, 2.0, 1.0, np.inf]), CODES["float32"])
    gradient = place(np.array([1e-9, 0.0, 1.0, np.nan, 1.0]), CODES["float32"])
    *_, update = rows_of(kernel, item_of(after, before, gradient))
    assert update["lost"] == 2  # the first, and the one whose gradient is NaN; inf - inf is NaN, not 0


@pytest.mark.parametrize("dtype", CODES)
def test_any_bits_in_all_three(kernel: Kernel, dtype: str) -> None:
    code = CODES[dtype]
    kind = BITS[ITEM_SIZES[code]]
    element = st.integers(0, np.iinfo(kind).max)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(element, element, element), max_size=60), st.integers(1, 30), st.integers(0, 9))
    def holds(bits: list[tuple[int, int, int]], times: int, shift: int) -> None:
        columns = [np.tile(np.array(column, kind), times) for column in (zip(*bits, strict=True) if bits else ((), (), ()))]
        after, before, gradient = (place(column, code, shift) for column in columns)
        check(kernel, after, before, gradient)

    holds()


def test_one_call_weighs_many_tensors_in_their_order(kernel: Kernel) -> None:
    kept = []
    items = []
    for index in range(30):
        trio = [place(np.random.default_rng(index * 3 + k).standard_normal(index * 7), CODES["float32"]) for k in range(3)]
        kept.append(trio)
        items.append(item_of(trio[0], trio[1], trio[2] if index % 3 else None, tensor=index))
    items.append(item_of(kept[3][0], tensor=99, quantity=Quantity.MOMENT1))
    for item in items[:1]:  # a tensor without elements has no address
        item["parameter"], item["snapshot"] = 0, 1
    rows = rows_of(kernel, np.concatenate(items))
    assert [row["tensor"] for row in rows] == [i for i in range(30) for _ in range(3 if i % 3 else 2)] + [99]
    assert rows[-1]["quantity"] == Quantity.MOMENT1
    agrees(rows[-1], reference.summarize(kept[3][0].values))


@pytest.mark.parametrize("dtype", CODES)
def test_moved_tells_every_changed_byte(kernel: Kernel, dtype: str) -> None:
    data = np.random.default_rng(8).standard_normal(1000)
    pairs = [(place(data, CODES[dtype]), place(data, CODES[dtype], 5)) for _ in range(4)]
    pairs[1][0].room[pairs[1][0].start] ^= 1
    pairs[3][0].room[pairs[3][0].start + len(pairs[3][0].raw) - 1] ^= 128
    empty = item_of(place(data[:0], CODES[dtype]), place(data[:0], CODES[dtype]))
    empty["parameter"], empty["snapshot"] = 0, 1  # no elements, no addresses
    lone = place(data + 1, CODES[dtype])  # without a snapshot, and like nothing that was read before
    items = np.concatenate([item_of(*pair) for pair in pairs] + [item_of(lone), empty])
    assert kernel.moved(items) == [1, 3]


def trio(seed: int, size: int = 40) -> list[Placed]:
    """Parameter, snapshot and gradient."""
    return [place(np.random.default_rng(seed + k).standard_normal(size), CODES["float32"]) for k in (0, 100, 200)]


@pytest.mark.parametrize("has_gradient", [True, False])
def test_rows_that_are_left_out_change_no_other_and_the_snapshot_is_renewed(kernel: Kernel, has_gradient: bool) -> None:
    whole = rows_of(kernel, item_of(*trio(1)[: 2 + has_gradient]))
    for skip in range(8):
        after, before, *gradient = trio(1)[: 2 + has_gradient]
        rows = rows_of(kernel, item_of(after, before, *gradient, skip=skip))
        wanted = [row for row in whole if not skip >> row["quantity"] & 1]
        assert str(rows) == str(wanted)
        assert before.raw == after.raw


def test_the_numbers_of_items_with_a_bit_that_is_asked_for_are_kept(kernel: Kernel) -> None:
    trios = [trio(n) for n in range(4)]
    before = [one[1].values for one in trios]
    endless = (
        trios[0][0].room[trios[0][0].start :][:4].view(np.float32),
        trios[0][1].room[trios[0][1].start :][:4].view(np.float32),
    )
    for number in endless:
        number[0] = np.inf  # less itself it is no number
    before[0] = trios[0][1].values
    items = np.concatenate(
        [
            item_of(*trios[0], tensor=0, values=1),
            item_of(*trios[1], tensor=1, values=2),
            item_of(*trios[2][:2], tensor=2, values=3),
            item_of(trios[3][0], tensor=3, values=1),
        ]
    )
    kept, block = ValueBlock(20, 4000), RowBlock(20, 20 * 132)
    kernel.weigh(items, 7, 2, block, kept, 1)
    found = {(row["tensor"], row["quantity"]): np.frombuffer(row["data"], np.float32) for row in kept.take().to_pylist()}
    expected = {}
    for n in (0, 2):
        expected[n, Quantity.PARAMETER] = before[n]
        with np.errstate(invalid="ignore"):
            expected[n, Quantity.UPDATE] = trios[n][0].values - before[n]
    expected[0, Quantity.GRADIENT] = trios[0][2].values
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        assert np.array_equal(found[key], numbers, equal_nan=True), key
    for values, keep in ((kept, 0), (kept, 4), (None, 1)):
        kernel.weigh(items, 8, 2, RowBlock(20, 20 * 132), values, keep)
        assert kept.rows == 0


@pytest.mark.parametrize(("rows", "values", "size"), [(5, 6, 960), (6, 5, 960), (6, 6, 959)])
def test_where_a_block_is_full_nothing_is_written_and_nothing_renewed(
    kernel: Kernel, rows: int, values: int, size: int
) -> None:
    trios = [trio(n) for n in range(2)]
    items = np.concatenate([item_of(*one, values=1) for one in trios])
    was = [one[1].raw for one in trios]
    block, kept = RowBlock(rows, 6 * 132), ValueBlock(values, size)
    with pytest.raises(BlockFull):
        kernel.weigh(items, 0, 0, block, kept, 1)
    assert (block.rows, kept.rows) == (0, 0)
    assert [one[1].raw for one in trios] == was
    block, kept = RowBlock(6, 6 * 132), ValueBlock(6, 960)
    kernel.weigh(items, 0, 0, block, kept, 1)
    assert (block.rows, kept.rows) == (6, 6)
