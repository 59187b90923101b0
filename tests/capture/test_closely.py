"""The closer look in C. Oracle: the same in NumPy (spread.py, bends.py, biases.py, pairing.py), with oracles of its own."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weighbridge.capture import bends, closely, pairs
from weighbridge.capture.biases import Begun, Biases
from weighbridge.capture.closely import Closely
from weighbridge.capture.kernel import NativeKernel, load_kernel
from weighbridge.capture.pairing import Pairing
from weighbridge.capture.pairs import Pairs
from weighbridge.capture.seats import Library, Pace, Scene, Seat
from weighbridge.capture.spread import FEATURES, POSITIONS, SAMPLES, spread_of
from weighbridge.records import Quantity

KERNEL = load_kernel()
pytestmark = pytest.mark.skipif(not isinstance(KERNEL, NativeKernel), reason="the C kernel was not built")


@pytest.fixture(scope="module")
def look() -> Closely:
    assert isinstance(KERNEL, NativeKernel)
    return Closely(KERNEL.library)


def test_both_sides_lay_out_the_same_bytes() -> None:
    assert isinstance(KERNEL, NativeKernel)
    states = (closely.SpreadState, closely.BendState, closely.BiasState)
    assert [KERNEL.library.wb_closely_sizes(i) for i in range(3)] == [ctypes.sizeof(state) for state in states]
    assert KERNEL.library.wb_pairs_size() == ctypes.sizeof(pairs.PairsState)
    assert closely.SPREAD == (SAMPLES, POSITIONS, FEATURES)
    assert closely.BEND_FEATURES == bends.FEATURES
    assert {one.name for one in bends.FLAT.values()} | {"hardtanh"} == set(closely.FUNCTIONS)


SHAPES = [(10, 4), (2, 1), (33, 130), (100, 40, 300), (5, 3, 7), (40, 6, 5, 5), (3, 4, 2, 3, 2), (70, 9, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("shape", "axis"), [*itertools.product(SHAPES, [-1]), ((6, 5, 4, 3), 1), ((64, 200, 4), 1)])
def test_the_sums_of_vectors_are_those_of_numpy(look: Closely, shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> None:
    torch.manual_seed(len(shape))
    y = (torch.randn(*shape) + 1).to(dtype)
    turned = y.transpose(0, 1).contiguous().transpose(0, 1)  # of other strides
    for one in (y, turned, y.requires_grad_()):
        told = look.spread(one, axis)
        assert (told is None) is (dtype is torch.float16)  # Python's
        found, expected = spread_of(one, axis, look), spread_of(one, axis)
        assert found is not None
        assert expected is not None
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-12)
        assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize(
    "y",
    [
        *(torch.ones(1, 4), torch.ones(4), torch.ones(0, 4), torch.ones(2, 0), torch.tensor(1.0)),
        *(torch.tensor([[1.0, math.nan], [2.0, 3.0]]), torch.full((2, 2), math.inf)),
    ],
)
def test_what_cannot_be_compared_leaves_nothing(look: Closely, y: torch.Tensor) -> None:
    told = look.spread(y, -1)
    assert told is not None
    assert not told.is_there
    assert spread_of(y, -1, look) is None


def test_what_is_the_same_for_all_samples_has_no_spread(look: Closely) -> None:
    found = spread_of(torch.ones(8, 3) * torch.tensor([1.0, 2.0, 4.0]), -1, look)
    assert found is not None
    assert found.sample_sq == found.trace == 0
    assert found.sum_sq == 8 * 21


@pytest.mark.parametrize("shape", [(9, 5), (100, 3), (6, 20, 7), (3, 5, 6, 6), (2, 2000)])
@pytest.mark.parametrize("name", [*bends.FLAT, "HardtanhBackward0"])
def test_a_number_is_flat_where_torch_says_so_in_float32(look: Closely, name: str, shape: tuple[int, ...]) -> None:
    """With numbers that lie at the limits, and next to them."""
    cut: Any = SimpleNamespace(name=lambda: name, _saved_min_val=-0.7, _saved_max_val=0.3)
    function = bends.FLAT.get(name) or bends.cut_off(cut)
    assert function is not None
    edges = [0.0, -0.0, 1.0, -1.0, 1e-4, 9e-4, math.sqrt(0.99), 0.98989794, 0.010102051, -0.7, 0.3]
    near = torch.tensor([*edges, *np.nextafter(np.float32(edges), 2), *np.nextafter(np.float32(edges), -2)])
    torch.manual_seed(0)
    for dtype, spread in itertools.product((torch.float32, torch.float64), (0.001, 1.0)):
        values = torch.cat([near, spread * torch.randn(math.prod(shape))])[: math.prod(shape)]
        values = values[torch.randperm(len(values))].reshape(shape).to(dtype)
        values.flatten(1)[:, 0] = 0.0
        found = bends._measured(values, function, look)
        assert look.bend(values, function.name, function.bounds) is not None
        assert found[1:] == pytest.approx(bends._measured(values, function, None)[1:], rel=1e-12)


def test_what_a_bias_adds_is_that_of_numpy(look: Closely) -> None:
    random, library = np.random.default_rng(0), Library(KERNEL)
    seat = Seat(library, Scene(), Pace(), 0, Quantity.ACTIVATION, 5)
    assert seat.units is not None
    begun = Begun(5)
    for step in range(3):
        begun.note(seat)
        seat.units.sum += random.normal(size=5)
        seat.units.sum_sq += 9 + random.normal(size=5)
        seat.head.unit_count += 7 + step
        for bias in (torch.randn(5), torch.randn(5, dtype=torch.float64), torch.randn(10)[::2], torch.randn(5).half()):
            hook: Any = object()
            in_c, in_numpy = Biases(None, look), Biases(None)  # type: ignore[arg-type]
            in_c.begun[hook] = in_numpy.begun[hook] = begun
            found, expected = in_c._sums(hook, seat, bias), in_numpy._sums(hook, seat, bias)
            assert found[0] == expected[0] == 7 + step
            assert found == pytest.approx(expected, rel=1e-12)
            can_read = bias.is_contiguous() and bias.dtype is not torch.float16
            assert (look.bias(seat, begun.addresses, 7, bias) is not None) is can_read


def _classes(x: torch.Tensor) -> torch.Tensor:
    return (x.reshape(len(x), -1).float().sum(1) > 0.3).long()


def _numbers(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1).float().sum(1, keepdim=True).sin()


def _batches(kind: str) -> list[tuple[torch.Tensor, ...]]:
    """Inputs of 70 batches: more than are remembered, of changing sizes, with samples drawn twice."""
    torch.manual_seed(3)
    known = torch.randn(150, 3)
    known[:, 1] *= 1e-3
    found = []
    for i in range(70):
        x = known[torch.randint(0, 150, (6 + 3 * i % 40,))] if i % 2 else torch.randn(3 + i % 20, 3)
        if kind == "whole":
            found.append((x.mul(2).round().long(),))
        elif kind == "several":
            found.append((x, torch.ones(len(x), 2), x.mul(3).round().long()[:, :2], torch.randn(len(x), 1)))
        else:
            found.append((x,))
    return found


@pytest.mark.parametrize("target", [_classes, _numbers])
@pytest.mark.parametrize("kind", ["plain", "whole", "several"])
def test_both_tests_of_independence_are_those_of_numpy(kind: str, target: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert isinstance(KERNEL, NativeKernel)
    in_c, in_numpy = Pairing(Pairs(KERNEL.library)), Pairing()
    rows: list[list[Any]] = [[], []]
    for inputs in _batches(kind):
        wanted = target(inputs[0])
        for seen, of in zip((in_c, in_numpy), rows, strict=True):
            out = torch.zeros(len(wanted), 2 if target is _classes else 1, requires_grad=True)
            seen.meet_batch(inputs)
            seen.on_backward(F.cross_entropy(out, wanted) if target is _classes else F.mse_loss(out, wanted))
            of += seen.rows(0, 0)
    assert len(rows[0]) == len(rows[1]) == 70
    for found, expected in zip(*rows, strict=True):
        assert found[:3] == expected[:3]
        assert found[3:7] == pytest.approx(expected[3:7], rel=1e-7)  # squares and products lose half of the digits there
        assert found[7:] == expected[7:]
    assert any(row[2] < row[10] for row in rows[0]) or kind == "several"  # some were drawn twice
    assert sum(row[5] != 0 for row in rows[0]) > 60


def test_a_batch_with_a_number_that_is_not_finite_is_left_out_and_not_remembered() -> None:
    assert isinstance(KERNEL, NativeKernel)
    seen = Pairing(Pairs(KERNEL.library))
    for i in range(5):
        x = torch.randn(8, 2)
        x[3, 1] = math.inf if i == 2 else 0.5
        seen.meet_batch((x,))
        seen.on_backward(F.mse_loss(torch.zeros(8, 1, requires_grad=True), torch.randn(8, 1)))
        assert len(seen.rows(0, 0)) == (i != 2)
    assert seen._memory is not None
    assert seen._memory.end - seen._memory.begin == 32
    assert np.isfinite(np.concatenate([part.ravel() for part in seen._memory.known()])).all()


def test_large_batches_are_numpys() -> None:
    assert isinstance(KERNEL, NativeKernel)
    in_c = Pairs(KERNEL.library)
    assert in_c.can_compare((np.zeros((10, 2)),), np.zeros((10, 1)))
    assert not in_c.can_compare((np.zeros((64, 256)),), np.zeros((64, 1)))


def test_targets_that_become_one_number_for_each_sample_are_remembered_from_then_on() -> None:
    """Two outputs at first, then one; in between a batch of another kind, which agrees with nothing that is remembered."""
    assert isinstance(KERNEL, NativeKernel)
    in_c, in_numpy = Pairing(Pairs(KERNEL.library)), Pairing()
    random = np.random.default_rng(0)
    neighbours, scales = [], []
    for step in range(12):
        inputs: tuple[Any, ...] = (random.normal(size=(20, 3)),)
        if step == 8:
            inputs = (random.integers(0, 3, size=(20, 3)), random.normal(size=(20, 2)))
        wanted = np.ascontiguousarray(inputs[0].sum(1, keepdims=True).repeat(1 if step >= 4 else 2, 1).astype(float))
        found, expected = in_c._compare(inputs, wanted), in_numpy._compare(inputs, wanted)
        assert found is not None
        assert found == pytest.approx(expected, rel=1e-7)
        neighbours.append(found.neighbour)
        scales.append([memory.scales for memory in (in_c._memory, in_numpy._memory) if memory is not None])
    assert [sum_ != 0 for sum_ in neighbours] == [step > 4 and step != 8 for step in range(12)]
    assert all(one is first for both in scales for one, first in zip(both, scales[0], strict=True))  # those of the first batch
