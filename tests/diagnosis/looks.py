"""Made-up looks at units and at outputs of one network, for the tests of the rules that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.diagnosis.made import NAN, block, step_rows, tensor
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import collapsed_output
from weighbridge.diagnosis.stream import Block

DEAD, SATURATED, SYMMETRIC = rule("dead-units"), rule("saturated-units"), rule("symmetric-initialisation")
COLLAPSED, RANK, LOGITS = rule("collapsed-output"), rule("rank-collapse"), rule("attention-logit-growth")
UNITS, BATCH = 40, 32
# a: Linear(16, 40), an activation, b: Linear(40, 40), another one, c: the last layer.
NET = (
    *(tensor(0, "a.weight", shape=(UNITS, 16)), tensor(1, "a.bias", shape=(UNITS,))),
    *(tensor(2, "b.weight", shape=(UNITS, UNITS)), tensor(3, "b.bias", shape=(UNITS,))),
    *(tensor(4, "c.weight", shape=(10, UNITS)), tensor(5, "a/out", order=0, shape=(BATCH, UNITS))),
    *(tensor(6, "a1/out", "ReLU", order=1, shape=(BATCH, UNITS)), tensor(7, "b/out", order=2, shape=(BATCH, UNITS))),
    *(tensor(8, "b1/out", "Tanh", order=3, shape=(BATCH, UNITS)), tensor(9, "c/out", order=4, shape=(BATCH, 10))),
)
A, RELU, B, TANH, C = 5, 6, 7, 8, 9


def units(step: int, of: int, active: Any, n: int = BATCH, **more: Any) -> dict[str, Any]:
    """A look at the units of an output; usual numbers where none are given."""
    fired = np.asarray(active)
    row = {"step": step, "tensor": of, "quantity": 5, "steps": 1, "n": n, "active": fired, "sum": 1.0 * fired}
    return row | {"sum_sq": 1.0 * fired, "max": np.where(fired > 0, 1.0, 0.0)} | more


def fired(dead: int, number: int = UNITS) -> np.ndarray:
    """So many units silent, the others firing on half of the inputs."""
    return np.where(np.arange(number) < dead, 0, BATCH // 2)


def of_units(looks: Sequence[dict[str, Any]], arrays: Any = None, steps: int = 12, **more: Any) -> Block:
    return block(steps, arrays, NET, units=looks, **more)


LONG = 40
FALLS = step_rows(LONG, loss=[1.0 / (1 + step) for step in range(LONG)])
FLAT = step_rows(LONG, loss=[1.0] * LONG)


def bent(step: int, flat: float, flat_units: float = 0.0, function: str = "tanh") -> dict[str, Any]:
    """A look at an output that is given through a function."""
    return spread(step, A, bend=function, flat=flat, flat_units=flat_units, asleep_units=0.0)


def alike(step: int, of: int = A, other: float = 0.0, square: float = 40.0) -> dict[str, Any]:
    """Units that are one, or one of them `other` more."""
    total = np.full(UNITS, 3.0)
    total[-1] += other
    return units(step, of, np.full(UNITS, 16), sum=total, sum_sq=np.full(UNITS, square), max=np.full(UNITS, 2.0))


MOVES = {"update.zero_fraction": {"a.weight": 0.0}}


def spread(step: int, of: int, varies: float = 0.5, directions: float = 9.0, **more: Any) -> dict[str, Any]:
    """A look at 32 samples of 10 features with a mean square of 1 and this share of variance over samples."""
    row = {"step": step, "tensor": of, "samples": 32, "positions": 1, "features": 10, "sum_sq": 320.0, "vectors": 32}
    row |= {"sample_sq": 320.0 * varies, "position_sq": 0.0, "trace": 320.0, "trace_sq": 320.0**2 / directions, "logit": NAN}
    row |= {"bend": "", "flat": NAN, "flat_units": NAN, "asleep_units": NAN}
    return row | more


def looked(*looks: dict[str, Any], steps: int = 12, arrays: Any = None, tensors: Any = NET, **columns: Any) -> Block:
    return block(steps, arrays, tensors, spread=looks, steps=step_rows(steps, **columns))


INPUTS = tuple(spread(step, -1) for step in range(12))
SAME, ALIKE = collapsed_output.SAME, collapsed_output.ALIKE
