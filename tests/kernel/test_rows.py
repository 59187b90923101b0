"""One row: every kernel and every instruction level against reference.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weighing import BITS, CODES, agrees, item_of, place, rows_of

from weighbridge import reference
from weighbridge.capture.kernel import ITEM_SIZES, Kernel
from weighbridge.records import HISTOGRAM_BINS

SIZES = (0, 1, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 65_535, 65_536, 65_537)
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1e-38, 6e-8, 3e38, -3e38, 65504.0)
EDGES = (0, 1, 14, 15, 16, 17, 1022, 1023, 1024, 1025, 4095, 4096, 65_535)
many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def check(kernel: Kernel, data: np.ndarray, code: int, shift: int = 0) -> None:
    tensor = place(data, code, shift)
    (row,) = rows_of(kernel, item_of(tensor, tensor=7, quantity=1), step=3, attempt=2)
    assert (row["step"], row["attempt"], row["tensor"], row["quantity"], row["part"]) == (3, 2, 7, 1, 0)
    assert np.isnan([row["dot_gradient_parameter"], row["dot_gradient_update"], row["dot_update_parameter"]]).all()
    agrees(row, reference.summarize(tensor.values, tensor.itemsize))


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_agrees_with_the_reference(kernel: Kernel, dtype: str, size: int) -> None:
    check(kernel, np.random.default_rng(size).standard_normal(size), CODES[dtype])


@pytest.mark.parametrize("dtype", CODES)
def test_a_million_elements_agree_with_the_reference(kernel: Kernel, dtype: str) -> None:
    random = np.random.default_rng(6)
    check(kernel, random.standard_normal(1_000_000) * np.exp2(random.integers(-60, 40, 1_000_000)), CODES[dtype])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("size", [1, 17, 1025, 4097, 65_537])
def test_special_values_at_block_edges_are_counted_and_left_out_of_the_sums(kernel: Kernel, dtype: str, size: int) -> None:
    for turn, value in enumerate(SPECIAL):
        data = np.random.default_rng(turn).standard_normal(size)
        data[[edge for edge in EDGES if edge < size]] = value
        check(kernel, data, CODES[dtype])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("value", SPECIAL)
def test_a_tensor_of_one_special_value_alone(kernel: Kernel, dtype: str, value: float) -> None:
    check(kernel, np.full(2000, value), CODES[dtype])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_magnitudes_from_the_smallest_to_the_largest_float(kernel: Kernel, dtype: str, sign: int) -> None:
    random = np.random.default_rng(1)
    for magnitude in (1e-45, 1e-42, 1.2e-38, 1e-30, 3e-23, 1e-19, 2.0**-41, 2.0**-40, 1.0, 2.0**24, 1e10, 2e19, 1e30, 1e38):
        data = magnitude * random.uniform(1, 3.4, 1100) * (sign or random.choice([-1, 1], 1100))
        check(kernel, data, CODES[dtype])


@pytest.mark.parametrize("dtype", CODES)
def test_every_edge_of_the_histogram_falls_where_the_reference_says(kernel: Kernel, dtype: str) -> None:
    edges = np.exp2(np.arange(-45.0, 30.0))
    near = np.concatenate([edges, np.nextafter(edges, 0, dtype=np.float32), np.nextafter(edges, 9e9, dtype=np.float32)])
    check(kernel, np.concatenate([near, -near, [0.0, -0.0]]), CODES[dtype])


def test_every_half_precision_number_there_is(kernel: Kernel) -> None:
    for code in (CODES["float16"], CODES["bfloat16"]):
        check(kernel, np.arange(65_536, dtype=np.uint16)[:65_535], code)
        check(kernel, np.arange(65_536, dtype=np.uint16), code)


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 7, 8, 13, 31, 63])
@pytest.mark.parametrize("dtype", CODES)
def test_any_address_will_do(kernel: Kernel, dtype: str, shift: int) -> None:
    check(kernel, np.random.default_rng(shift).standard_normal(2111), CODES[dtype], shift)


@pytest.mark.parametrize("dtype", CODES)
def test_any_bits_agree_with_the_reference(kernel: Kernel, dtype: str) -> None:
    code = CODES[dtype]
    kind = BITS[ITEM_SIZES[code]]

    @many
    @given(st.lists(st.integers(0, np.iinfo(kind).max), max_size=80), st.integers(0, 63), st.integers(1, 40))
    def holds(bits: list[int], shift: int, times: int) -> None:
        check(kernel, np.tile(np.array(bits, kind), times), code, shift)

    holds()


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_variance_does_not_cancel(kernel: Kernel, dtype: str, ratio: float) -> None:
    for scale in (1e-15, 1e15):
        tensor = place((np.random.default_rng(2).standard_normal(20_000) + ratio) * scale, CODES[dtype])
        (row,) = rows_of(kernel, item_of(tensor))
        exact = float(np.var(tensor.values.astype(np.longdouble)))
        mean = row["sum"] / row["count"]
        assert row["sum_sq"] / row["count"] - mean * mean == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_merge_to_the_whole(kernel: Kernel, dtype: str) -> None:
    data = np.random.default_rng(3).standard_normal(3000)
    data[[5, 1500, 2999]] = [np.nan, np.inf, 0.0]

    @many
    @given(st.lists(st.integers(0, 3000), max_size=5))
    def holds(cuts: list[int]) -> None:
        whole = reference.summarize(place(data, CODES[dtype]).values)
        parts = [place(part, CODES[dtype]) for part in np.split(data, sorted(cuts))]
        rows = rows_of(kernel, np.concatenate([item_of(part) for part in parts]))
        merged = reference.summarize(np.empty(0, np.float32))
        for row in rows:
            merged = reference.merge(merged, reference.Summary(**{name: row[name] for name in reference.Summary.__slots__}))
        agrees({name: getattr(merged, name) for name in reference.Summary.__slots__}, whole)

    holds()


def test_the_histogram_of_the_reference_has_a_bin_for_every_finite_number_but_zero() -> None:
    values = np.array([-np.inf, -(2.0**24), -(2.0**23), -(2.0**-40), -(2.0**-41), -0.0, 2.0**-41, 2.0**-40, 2.0**23, 2.0**24])
    assert reference.bins_of(values).tolist() == [0, 1, 64, 65, 66, 67, 130, 131]
    assert reference.summarize(values).hist.shape == (HISTOGRAM_BINS,)
