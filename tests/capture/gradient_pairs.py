"""Trainings whose gradients are cloned at each step, and the rows of each pair of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import Oracle, array, events, names, table
from weighbridge import Plan
from weighbridge.capture.sketch import WHOLE_ELEMENTS
from weighbridge.records import SKETCH_NUMBERS
from weighbridge.reference import sketch

ALWAYS = Plan(coherence=True)


Pairs = dict[tuple[int, str], dict[str, Any]]


def model_and_loss() -> tuple[nn.Sequential, Callable[[int], torch.Tensor]]:
    """One tensor that is sketched (70 x 70), and some that are kept whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 1))
    return model, lambda step: model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()


def follow(folder: Path, *models: nn.Module, plan: Plan | None, loop: Callable[[Oracle], object]) -> tuple[Path, Oracle]:
    """Watch the models and let `loop` train them."""
    oracle = Oracle(*models)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        for model in models:
            run.watch(model)
        loop(oracle)
    assert [event.message for event in events(run.path, "warned") if "fast kernel" not in event.message] == []
    return run.path, oracle


def plainly(
    optimizer: torch.optim.Optimizer, loss: Callable[[int], torch.Tensor], steps: int, change: Callable[[int], object] = int
) -> Callable[[Oracle], None]:
    """A training loop; `change` is called before each step, when the gradients are there."""

    def loop(oracle: Oracle) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            loss(step).backward()
            change(step)
            oracle.step(optimizer)

    return loop


def pairs(path: Path) -> Pairs:
    known, found = names(weighbridge.open_run(path)), {}
    for row in table(path, "coherence"):
        key = row["step"], known[row["tensor"]]
        assert key not in found, f"two rows of {key}"
        found[key] = row
    return found


def check_pairs(path: Path, oracle: Oracle) -> Pairs:
    """Every row says what the gradients of its two steps say."""
    found = pairs(path)
    for (step, name), row in found.items():
        both = [oracle.seen[at, name].gradient for at in (row["step_before"], step)]
        assert all(g is not None for g in both)
        a, b = (array(g)[0].ravel().astype(np.float64) for g in both if g is not None)
        is_whole = a.size <= WHOLE_ELEMENTS
        assert (row["count"], row["numbers"]) == (a.size, a.size if is_whole else SKETCH_NUMBERS)
        one, other = (a, b) if is_whole else (sketch(a), sketch(b))
        size = np.linalg.norm(one) * np.linalg.norm(other)
        assert abs(row["dot"] - one @ other) <= 1e-12 * size
        assert row["sum_sq_before"] == pytest.approx(one @ one, rel=1e-12)
        assert row["sum_sq"] == pytest.approx(other @ other, rel=1e-12)
        assert abs(row["dot"] - a @ b) <= 4 / math.sqrt(SKETCH_NUMBERS) * np.linalg.norm(a) * np.linalg.norm(b)
    return found


def steps_of(found: Pairs, name: str = "0.weight") -> list[int]:
    return sorted(step for step, tensor in found if tensor == name)


def cosine(oracle: Oracle, name: str, step: int) -> float:
    a, b = (oracle.seen[at, name].gradient for at in (step - 1, step))
    assert a is not None
    assert b is not None
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def no_nan(loop: Callable[[Oracle], None], model: nn.Module) -> Callable[[Oracle], None]:
    """0 times NaN is NaN: put the weights back after each step, so that only the gradient had it."""
    before = [p.detach().clone() for p in model.parameters()]

    def mended(oracle: Oracle) -> None:
        step = oracle.step

        def and_back(optimizer: torch.optim.Optimizer) -> None:
            step(optimizer)
            for p, then in zip(model.parameters(), before, strict=True):
                p.data.copy_(then)

        oracle.step = and_back  # type: ignore[method-assign,assignment]
        with torch.enable_grad():
            loop(oracle)

    return mended
