"""Whose numbers are kept when. Oracle: the plan's words, counted one by one: no step and no tensor is skipped ahead."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from weighbridge.capture.addresses import DIRECT, PLAIN
from weighbridge.capture.plan import EVERY_STEP_MODEL_ELEMENTS, EVERY_STEP_UNTIL, SAMPLED_MODEL_TENSORS, is_sampled_step
from weighbridge.capture.values import Values

EVERY, SAMPLED, LAST = 1, 2, EVERY_STEP_UNTIL
LIMIT = 4096


def values_of(*sizes: int, limit: int = LIMIT, reached: int = PLAIN, dtype: torch.dtype = torch.float32) -> Values:
    """Of tensors of these sizes, whose numbers are their places in the list."""
    items = np.zeros(len(sizes), dtype=[("count", np.int64), ("values", np.int64)])
    items["count"] = sizes
    given = SimpleNamespace(
        items=items,
        weighed=[SimpleNamespace(tensor=i) for i in range(len(sizes))],
        parameters=[nn.Parameter(torch.zeros(1, dtype=dtype)) for _ in sizes],
        reached=[reached] * len(sizes),
        sizes=[4 * size for size in sizes],
    )
    return Values(given, limit)  # type: ignore[arg-type]


def wanted(step: int) -> int:
    return SAMPLED if is_sampled_step(step) else EVERY if step < LAST else 0


@pytest.mark.parametrize("first", [0, 1, 37, LAST - 40, 10 * LAST - 10])
def test_what_is_kept_at_a_step_is_what_the_plan_says(first: int) -> None:
    values = values_of(10)
    assert [values.kept_at(step) for step in range(first, first + 80)] == [wanted(step) for step in range(first, first + 80)]


def test_steps_may_be_left_out() -> None:
    values, steps = values_of(10), [0, 3, 3, 11, 13, 200, 5000, LAST - 1, LAST, LAST + 1, 3 * LAST]
    assert [values.kept_at(step) for step in steps] == [wanted(step) for step in steps]


@pytest.mark.parametrize("first", [0, 5, 12, 13, 100, 101, LAST - 300, LAST, LAST + 1, 5 * LAST])
def test_how_long_it_stays_so(first: int) -> None:
    keep, ends = values_of(10).kept_from(first)
    assert keep == wanted(first)
    assert all(wanted(step) == keep for step in range(first, int(ends)))
    assert ends == first + 1 if keep == SAMPLED else wanted(int(ends)) != keep


def test_small_ones_are_kept_at_every_step_until_there_are_enough() -> None:
    values = values_of(64, *[64] * 15, 1, 65, 0, 63)
    assert EVERY_STEP_MODEL_ELEMENTS == 16 * 64
    assert values.every_step == [*range(16)]
    assert values.sampled == [16, 17, 19]
    assert values.snapshots.items["values"].tolist() == [3] * 16 + [2, 2, 0, 2]
    assert values.room == {EVERY: (48, 3 * 4 * 1024), SAMPLED: (57, 3 * 4 * (1024 + 1 + 65 + 63))}


def test_larger_ones_are_kept_at_some_steps_until_there_are_enough() -> None:
    values = values_of(*[LIMIT] * SAMPLED_MODEL_TENSORS, 100, LIMIT + 1)
    assert (values.every_step, values.sampled) == ([], [*range(SAMPLED_MODEL_TENSORS)])


def test_a_limit_holds_for_small_ones_too() -> None:
    values = values_of(10, 11, limit=10)
    assert (values.every_step, values.sampled) == ([0], [])


@pytest.mark.parametrize(("reached", "dtype"), [(DIRECT, torch.float32), (PLAIN, torch.float64)])
def test_what_the_kernel_does_not_keep_goes_another_way(reached: int, dtype: torch.dtype) -> None:
    values = values_of(10, 100, reached=reached, dtype=dtype)
    assert values.rest == [(0, EVERY | SAMPLED), (1, SAMPLED)]
    assert values.snapshots.items["values"].tolist() == [0, 0]
    assert values.room == {EVERY: (0, 0), SAMPLED: (0, 0)}
    assert not values_of(10, 100).rest


def test_of_a_part_of_a_tensor_no_numbers_are_kept() -> None:
    class Part(torch.Tensor):
        """As a DTensor: spread over processes."""

        def to_local(self) -> torch.Tensor:
            return self

    values = values_of(10, 10)
    values.snapshots.parameters[0] = torch.zeros(1).as_subclass(Part)  # type: ignore[call-overload]
    again = Values(values.snapshots, LIMIT)
    assert (again.every_step, again.sampled) == ([1], [])


def test_after_the_last_step_of_samples_nothing_is_infinite() -> None:
    keep, ends = values_of(10).kept_from(LAST + 1)
    assert keep == 0
    assert not math.isinf(ends)
