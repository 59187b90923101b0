"""Sketches of gradients. Oracle: weighbridge.reference.sketch, and NumPy's exact dot product of the tensors themselves."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from weighing import CODES, Placed, place

from weighbridge.capture.kernel import Kernel
from weighbridge.capture.sketch import SKETCHED, WHOLE_ELEMENTS, numbers_of
from weighbridge.records import SKETCH_NUMBERS
from weighbridge.reference import sketch

SIZES = (0, 1, 7, 1023, 1025, 2048, 4097, 70_001)


def sketched(kernel: Kernel, tensors: list[Placed], numbers: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """What the kernel keeps of each tensor, and its items."""
    items = np.zeros(len(tensors), SKETCHED)
    kept = [np.full(n, 7.0) for n in numbers]
    for item, tensor, n, to in zip(items, tensors, numbers, kept, strict=True):
        item["address"], item["count"], item["dtype"], item["numbers"] = tensor.address, tensor.count, tensor.code, n
        item["kept"] = to.ctypes.data
    kernel.sketch(items)
    return kept, items


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shift", [0, 1])
def test_every_kernel_keeps_the_very_numbers_of_the_reference(kernel: Kernel, dtype: str, shift: int) -> None:
    chance = np.random.default_rng(0)
    tensors = [place(chance.normal(size=n) * 10.0 ** chance.integers(-7, 4), CODES[dtype], shift) for n in SIZES]
    kept, items = sketched(kernel, tensors, [SKETCH_NUMBERS] * len(SIZES))
    whole, _ = sketched(kernel, tensors, list(SIZES))
    for tensor, numbers, elements, item in zip(tensors, kept, whole, items, strict=True):
        exact = tensor.values.astype(np.float64)
        assert elements.tobytes() == exact.tobytes()
        assert numbers.tobytes() == sketch(tensor.values).tobytes()
        assert item["sum_sq"] == pytest.approx((exact**2).sum(), rel=1e-12)
        assert item["sum_abs"] == pytest.approx(np.abs(exact).sum(), rel=1e-12)


def test_without_a_place_for_numbers_only_the_sums_are_taken(kernel: Kernel) -> None:
    tensor = place(np.array([3.0, -4.0]), CODES["float32"])
    items = np.zeros(2, SKETCHED)  # the second has no address: it stays as it is
    items[0]["address"], items[0]["count"] = tensor.address, 2
    items[1]["count"], items[1]["sum_sq"] = 5, 1.5
    kernel.sketch(items)
    assert items["sum_sq"].tolist() == [25.0, 1.5]
    assert items["sum_abs"].tolist() == [7.0, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", CODES)
def test_what_is_not_finite_makes_the_sums_so(kernel: Kernel, dtype: str, bad: float) -> None:
    data = np.ones(5000)
    data[4321] = bad
    kept, items = sketched(kernel, [place(data, CODES[dtype])], [SKETCH_NUMBERS])
    assert not np.isfinite(items["sum_sq"][0])
    assert not np.isfinite(kept[0] @ kept[0])
    assert np.isfinite(kept[0]).sum() == SKETCH_NUMBERS - 1


@pytest.mark.parametrize("kernel", ["plain", "avx2", "avx512"], indirect=True)  # torch's operations do as the process does
def test_subnormal_numbers_count_though_the_process_flushes_them(kernel: Kernel) -> None:
    tensor = place(np.full(2000, 1e-42), CODES["float32"])
    expected = sketch(tensor.values)
    torch.set_flush_denormal(True)
    try:
        kept, items = sketched(kernel, [tensor], [SKETCH_NUMBERS])
    finally:
        torch.set_flush_denormal(False)
    assert kept[0].tobytes() == expected.tobytes()
    assert items["sum_sq"][0] > 0


def structured(kind: str, n: int, chance: np.random.Generator) -> np.ndarray:
    """Gradients of such forms are what a hash without mixing would trip over."""
    if kind == "constant":
        return np.ones(n)
    if kind == "one column":
        return (np.arange(n) % 1024 == 5).astype(float)
    if kind == "outer product":
        rows = -(-n // 512)
        return np.outer(chance.normal(size=rows), chance.normal(size=512)).ravel()[:n]
    return chance.normal(size=n) * (chance.random(n) < 0.01)


@pytest.mark.parametrize("kind", ["constant", "one column", "outer product", "sparse"])
def test_the_dot_product_of_sketches_is_that_of_the_tensors_but_for_a_known_error(kind: str) -> None:
    errors = []
    for n in (5_000, 40_000, 300_000):
        for seed in range(8):
            chance = np.random.default_rng(seed)
            a = structured(kind, n, chance)
            b = 0.5 * a + structured("sparse" if kind == "sparse" else "outer product", n, chance)
            a, b = np.roll(a, 37 * seed), np.roll(b, 37 * seed)
            errors.append((sketch(a) @ sketch(b) - a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    allowed = np.sqrt(2 / SKETCH_NUMBERS)  # a standard deviation, at most
    assert np.abs(errors).max() < 4 * allowed
    assert np.std(errors) < 1.5 * allowed
    assert abs(np.mean(errors)) < 4 * allowed / np.sqrt(len(errors))


def test_how_many_numbers_are_kept_is_bounded() -> None:
    assert numbers_of(np.array([1, 4096, 4097, 10**9])).tolist() == [1, 4096, SKETCH_NUMBERS, SKETCH_NUMBERS]
    many = numbers_of(np.full(10_000, WHOLE_ELEMENTS))
    assert set(many.tolist()) == {SKETCH_NUMBERS}
    assert numbers_of(np.full(10_000, 100)).sum() == 1_000_000  # never more than the tensors themselves have


def test_the_items_are_laid_out_as_c_reads_them(native: Kernel) -> None:
    library: ctypes.PyDLL = native.library  # type: ignore[attr-defined]
    assert library.wb_sketched_size() == SKETCHED.itemsize
