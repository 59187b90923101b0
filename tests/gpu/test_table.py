"""The Triton kernels against reference.py: rows, steps, copies, histograms, each kind of number."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from weighbridge import reference
from weighbridge.capture.devicetable import COPY, GRADIENT, KINDS, PARAMETER, SIZES, UPDATE, Table
from weighbridge.capture.flights import columns_of
from weighbridge.records import histogram_bins

DTYPES = list(KINDS)
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
PAIRS = [*((dtype, F32) for dtype in DTYPES), (F32, BF16), (F32, F64), (BF16, BF16), (F64, F64), (torch.float8_e5m2, F64)]
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SMALLEST_NORMAL = {torch.float8_e4m3fn: 2.0**-6, torch.float8_e5m2: 2.0**-14}
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COUNTS = (0, 1, 64, 511, 513, 5000, 65_535, 65_536, 140_001)


def any_bits(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Every kind of number there is: NaN, infinities, subnormals, zeros of both signs."""
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, count * size, dtype=np.uint8))
    return raw.view(dtype) if count else torch.empty(0, dtype=dtype)


def usual(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(count)).to(dtype)


# An interpreter is slow: it gets the numbers in which every case is, and one resolution for most dtypes.
MAKERS, FINE = ([any_bits], (0,)) if IS_INTERPRETED else ([any_bits, usual], (0, 2))


def summary(x: torch.Tensor, itemsize: int, bits: int = 0) -> dict[str, Any]:
    wide = x if x.dtype == torch.float64 else x.float()
    as_it_is = x if x.dtype in (torch.float16, torch.float32, torch.float64) else wide
    found = reference.summarize(as_it_is.numpy(), itemsize, bits)
    names = (
        "count",
        "nan",
        "pos_inf",
        "neg_inf",
        "zero",
        "subnormal",
        "min",
        "max",
        "sum",
        "sum_abs",
        "sum_sq",
        "hist_count",
        "hist",
    )
    row = {name: getattr(found, name) for name in names}
    if x.dtype in EIGHT_BITS:
        numbers = wide[wide.isfinite() & (wide != 0)].abs()
        row["subnormal"] = int((numbers < SMALLEST_NORMAL[x.dtype]).sum())
    return row


def agrees(row: dict[str, Any], expected: dict[str, Any], what: object) -> None:
    for name in ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "hist_count"):
        assert row[name] == expected[name], (what, name, row[name], expected[name])
    for name in ("min", "max"):
        assert np.array_equal(row[name], expected[name], equal_nan=True), (what, name, row[name], expected[name])
    assert np.array_equal(row["hist"], expected["hist"]), (what, "hist")
    for name, scale in (("sum", "sum_abs"), ("sum_abs", "sum_abs"), ("sum_sq", "sum_sq")):
        if np.isfinite(expected[scale]):
            assert abs(row[name] - expected[name]) <= 1e-7 * expected[scale], (what, name, row[name], expected[name])


class Weighed:
    """Parameters, copies and gradients on the device, and a table of them."""

    def __init__(self, device: torch.device, parameters: list[torch.Tensor], fine: int = 0) -> None:
        self.now = [x.to(device) for x in parameters]
        self.table = Table(device, [len(x) for x in self.now], [KINDS[x.dtype] for x in self.now], fine)
        self.all = np.ones(len(self.now), bool)

    def point(self, row: int, tensors: list[torch.Tensor | None]) -> None:
        for i, x in enumerate(tensors):
            self.table.addresses[row, i] = 0 if x is None else x.data_ptr()
            if row == GRADIENT and x is not None:
                self.table.gradient_kinds[i] = KINDS[x.dtype]

    def rows(self, which: int) -> list[dict[str, Any]]:
        words = self.table.add_up().cpu().numpy()
        wanted = np.zeros((len(self.now), 3), bool)
        wanted[:, which] = True
        columns, hists = columns_of(self.table.layout(), words, wanted)
        return [
            {name: column[i] for name, column in columns.items()} | {"hist": hists[i].astype(np.int64)}
            for i in range(len(self.now))
        ]


@pytest.mark.parametrize(("dtype", "fine"), [*((d, f) for d in DTYPES for f in FINE), (F32, -1), (F32, 1), (F64, 2)])
@pytest.mark.parametrize("make", MAKERS)
def test_a_row_of_any_numbers(device: torch.device, dtype: torch.dtype, fine: int, make: Any) -> None:
    data = [make(count, dtype, count) for count in COUNTS]
    weighed = Weighed(device, data, fine)
    weighed.point(PARAMETER, list(weighed.now))
    weighed.table.send_addresses()
    weighed.table.weigh_alone(weighed.all, PARAMETER, PARAMETER)
    for x, row in zip(data, weighed.rows(PARAMETER), strict=True):
        expected = summary(x, x.element_size(), max(fine, 0))
        if fine < 0:
            expected |= {"hist_count": 0, "hist": np.zeros(0, np.int64)}
        agrees(row, expected, (dtype, len(x)))


@pytest.mark.parametrize(("dtype", "gradient_dtype"), PAIRS)
@pytest.mark.parametrize("make", MAKERS)
def test_a_step(device: torch.device, dtype: torch.dtype, gradient_dtype: torch.dtype, make: Any) -> None:
    counts = (0, 1, 513, 5000, 70_001)
    before, after = [make(n, dtype, n) for n in counts], [make(n, dtype, n + 1) for n in counts]
    half = [
        torch.where(torch.arange(n) % 3 == 0, a.float(), b.float()).to(dtype)
        for n, a, b in zip(counts, before, after, strict=True)
    ]
    after = half if make is usual else after
    gradients: list[torch.Tensor | None] = [make(n, gradient_dtype, n + 2) for n in counts]
    gradients[2] = None
    weighed = Weighed(device, after)
    copies = [x.to(device, copy=True) for x in before]
    used = [copy if g is None else g.to(device) for g, copy in zip(gradients, copies, strict=True)]
    for row, tensors in ((PARAMETER, weighed.now), (COPY, copies), (GRADIENT, used)):
        weighed.point(row, list(tensors))
    weighed.table.send_addresses()
    weighed.table.weigh_steps(weighed.all)
    found = [weighed.rows(row) for row in (PARAMETER, GRADIENT, UPDATE)]
    for i, (was, now, g) in enumerate(zip(before, after, gradients, strict=True)):
        what = (dtype, gradient_dtype, len(was))
        assert as_bytes(copies[i]) == as_bytes(now), "the copy holds the parameter's bytes"
        agrees(found[0][i], summary(was, was.element_size()), what)
        if g is not None:
            agrees(found[1][i], summary(g, g.element_size()), what)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        update = now.to(wide) - was.to(wide)
        agrees(found[2][i], summary(update, was.element_size()), what)
        terms = reference.update_terms(was.to(wide).numpy(), now.to(wide).numpy(), None if g is None else as_numpy(g))
        absolute = [None if x is None else np.abs(as_numpy(x)) for x in (was, update, g)]
        crosses(found[2][i], terms, *absolute)


def as_bytes(x: torch.Tensor) -> bytes:
    return bytes(x.cpu().contiguous().untyped_storage()) if len(x) else b""


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return (x if x.dtype == torch.float64 else x.float()).numpy()


def crosses(row: dict[str, Any], terms: reference.CrossTerms, w: Any, u: Any, g: Any) -> None:
    pairs = {"dot_update_parameter": (u, w)}
    if g is not None:
        pairs |= {"dot_gradient_parameter": (g, w), "dot_gradient_update": (g, u)}
        assert row["lost"] == terms.lost
    for name, (a, b) in pairs.items():
        with np.errstate(all="ignore"):
            scale = reference._dot(a, b)
        if np.isfinite(scale):
            assert abs(row[name] - getattr(terms, name)) <= 1e-7 * scale, name


def test_the_same_bytes_give_the_same_bits(device: torch.device) -> None:
    data = [usual(n, torch.float32, n) for n in (70_001, 200_000)]
    weighed = Weighed(device, data)
    weighed.point(PARAMETER, list(weighed.now))
    weighed.table.send_addresses()
    seen = set()
    for _ in range(3):
        weighed.table.weigh_alone(weighed.all, PARAMETER, PARAMETER)
        numbers, _ = weighed.table.layout().read(weighed.table.add_up().cpu().numpy())
        seen.add(numbers[:, PARAMETER].tobytes())
    assert len(seen) == 1


def test_an_address_of_any_alignment_will_do(device: torch.device) -> None:
    room = usual(10_000, torch.float32, 1).to(device)
    parts = [room[start : start + 3001] for start in (0, 1, 2, 3, 4, 5)]
    weighed = Weighed(device, parts)
    weighed.point(PARAMETER, list(parts))
    weighed.table.send_addresses()
    weighed.table.weigh_alone(weighed.all, PARAMETER, PARAMETER)
    for x, row in zip(parts, weighed.rows(PARAMETER), strict=True):
        agrees(row, summary(x.cpu(), 4), x.data_ptr() % 16)


def test_small_copies_are_refreshed_and_no_others(device: torch.device) -> None:
    data = [usual(n, torch.bfloat16, n) for n in (1, 3, 2000, 4000)]
    weighed = Weighed(device, data)
    copies = [torch.zeros_like(x) for x in weighed.now]
    weighed.point(PARAMETER, list(weighed.now))
    weighed.point(COPY, list(copies))
    weighed.table.send_addresses()
    weighed.table.copy_small(3)
    assert [bool((a == b).all()) for a, b in zip(weighed.now, copies, strict=True)] == [True, True, True, False]
    assert not copies[3].any()


def test_rows_have_the_bins_of_their_resolution(device: torch.device) -> None:
    for fine in (0, 1, 2):
        assert Table(device, [3], [0], fine).bins == histogram_bins(fine)
    assert SIZES[KINDS[torch.bfloat16]] == 2
