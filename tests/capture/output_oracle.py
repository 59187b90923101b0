"""What modules truly gave, and the loss's gradient by it, without any hook: the test calls each module itself, keeps a clone
of what it gives, and asks `torch.autograd.grad` for the gradient by it.

`Truth.add` stands in the loss function of a test; `check_outputs` compares the whole table of rows with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import Expected, array, compare, events, table
from weighbridge.records import Quantity
from weighbridge.reference import summarize

EVERYTHING = weighbridge.Plan(activations=True, activation_gradients=True, units=True, moments=False)
OUTPUT_QUANTITIES = (Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT)

Key = tuple[int, str, Quantity]


class Truth:
    """(step, "path/out", quantity) -> the numbers of all calls of that step, one after the other."""

    def __init__(self) -> None:
        self.seen: dict[Key, list[torch.Tensor]] = {}
        self.step = 0

    def add(self, name: str, output: torch.Tensor, quantity: Quantity = Quantity.ACTIVATION) -> torch.Tensor:
        """Note what a module gave just now; returns it."""
        self.seen.setdefault((self.step, name, quantity), []).append(output.detach().clone().cpu())
        return output

    def gradients(self, loss: torch.Tensor, outputs: dict[str, torch.Tensor]) -> None:
        """Note the gradients by these outputs (the graph is kept)."""
        found = torch.autograd.grad(loss, list(outputs.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(outputs, found, strict=True):
            if gradient is not None:
                self.add(name, gradient, Quantity.ACTIVATION_GRADIENT)

    def numbers(self, key: Key) -> np.ndarray:
        return np.concatenate([array(one.contiguous())[0].reshape(-1) for one in self.seen[key]])


def output_rows(path: Path, rank: int = 0) -> dict[Key, dict[str, Any]]:
    """The rows of outputs as they are on disk; a key that stands there twice is an error."""
    known = {t.id: t.name for t in weighbridge.open_run(path, rank).outputs}
    found: dict[Key, dict[str, Any]] = {}
    for row in table(path, "rows", rank):
        if row["quantity"] in OUTPUT_QUANTITIES:
            key = row["step"], known[row["tensor"]], Quantity(row["quantity"])
            assert key not in found, f"two rows of {key}"
            found[key] = row
    return found


def check_outputs(
    path: Path, truth: Truth, *, only: tuple[str, ...] = (), without_gradients: bool = False, bits: int = 0, rank: int = 0
) -> None:
    """Every row equals the truth, none is missing and none too many (`only`: among these outputs)."""
    found = output_rows(path, rank)
    if only:
        found = {key: row for key, row in found.items() if key[1] in only}
    if without_gradients:
        found = {key: row for key, row in found.items() if key[2] is Quantity.ACTIVATION}
    assert set(found) == set(truth.seen), (sorted(set(found) - set(truth.seen))[:4], sorted(set(truth.seen) - set(found))[:4])
    for key, row in found.items():
        numbers = truth.numbers(key)
        summary = summarize(numbers, truth.seen[key][0].element_size(), bits)
        terms = {"sum": summary.sum_abs, "sum_abs": summary.sum_abs, "sum_sq": summary.sum_sq}
        compare(key, row, Expected(summary, None, terms))


def train(
    folder: Path,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    steps: int = 4,
    plan: weighbridge.Plan = EVERYTHING,
    truth: Callable[[int], None] = lambda step: None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Path:
    """A watched training; `truth` runs the same step by hand before it, while the weights are the same."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        for step in range(steps):
            with unwatched(model):
                truth(step)
            if step == 0:
                run.watch(model)
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    assert "weighing has stopped" not in str(events(run.path, "warned"))
    return run.path


class unwatched:
    """The test's own passes leave no rows: hooks are lifted off while they run."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.kept = [(module, dict(module._forward_hooks)) for module in self.model.modules()]
        for module, _ in self.kept:
            module._forward_hooks.clear()

    def __exit__(self, *error: object) -> None:
        for module, hooks in self.kept:
            module._forward_hooks.update(hooks)


def data(step: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(step))


def sequential_truth(
    model: nn.Sequential, inputs: Callable[[int], torch.Tensor], truth: Truth, loss: Any
) -> Callable[[int], None]:
    def by_hand(step: int) -> None:
        truth.step, x = step, inputs(step)
        given: dict[str, torch.Tensor] = {}
        for name, module in model.named_children():
            x = module(x)
            given[f"{name}/out"] = truth.add(f"{name}/out", x)
            x = x.clone() if x.requires_grad else x  # what an in-place module changes next is not what was given
        truth.gradients(loss(x), given)

    return by_hand
