"""How far a run is complete. Oracle: by hand, from who has yet to step at this reading of the clock."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from weighbridge.capture.marks import Marks, marks_of
from weighbridge.capture.stepped import Stepped

ALONE, APART, SHARING, NOT_OURS = range(4)
held = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(4)]


def optimizers(known: list[int], done: set[int]) -> Any:
    """Of these, those have stepped. SHARING holds a parameter of ALONE; no tensor of NOT_OURS is watched."""
    made: dict[int, Any] = {number: Stepped(number, held[number]) for number in known}
    for number, one in made.items():
        one.copies = [object()] if number != NOT_OURS else []
        one.clashes |= {ALONE, SHARING} if number in (ALONE, SHARING) else set()
    return SimpleNamespace(known=made, has_stepped=done)


@pytest.mark.parametrize(
    ("known", "done", "likely"),
    [
        ([], set(), 5),
        ([ALONE], set(), 5),
        ([ALONE], {ALONE}, 6),
        ([ALONE, APART], {ALONE}, 5),  # the other one may step yet
        ([ALONE, APART], {ALONE, APART}, 6),
        ([ALONE, SHARING], {ALONE}, 6),  # the other one's step is the next
        ([ALONE, SHARING, APART], {SHARING}, 5),
        ([ALONE, NOT_OURS], {ALONE}, 6),
        ([NOT_OURS], set(), 5),
        ([APART], {ALONE}, 5),  # one that has stepped is gone
    ],
)
def test_a_step_is_likely_complete_when_nobody_is_left_who_could_join_it(known: list[int], done: set[int], likely: int) -> None:
    told = optimizers(known, done)
    assert marks_of(5, told, []) == Marks(5, likely)
    late = [SimpleNamespace(oldest=math.inf), SimpleNamespace(oldest=3), SimpleNamespace(oldest=4)]
    assert marks_of(5, told, late) == Marks(3, 3)
    assert marks_of(5, told, late[:1]) == Marks(5, likely)
    assert marks_of(5, told, [SimpleNamespace(oldest=5)]) == Marks(5, 5)  # this very step waits for a device
