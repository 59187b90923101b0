"""What modules truly gave, and the loss's gradient by it, without any hook: the test calls each module itself, keeps a clone
of what it gives, and asks `torch.autograd.grad` for the gradient by it.

`Truth.add` stands in the loss function of a test; `check_outputs` compares the whole table of rows with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import weighbridge
from tests.capture.oracle import Expected, array, compare, table
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
        self.seen.setdefault((self.step, name, quantity), []).append(output.detach().clone())
        return output

    def gradients(self, loss: torch.Tensor, outputs: dict[str, torch.Tensor]) -> None:
        """Note the gradients by these outputs (the graph is kept)."""
        found = torch.autograd.grad(loss, list(outputs.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(outputs, found, strict=True):
            if gradient is not None:
                self.add(name, gradient, Quantity.ACTIVATION_GRADIENT)

    def numbers(self, key: Key) -> np.ndarray:
        return np.concatenate([array(one.contiguous())[0].reshape(-1) for one in self.seen[key]])


def output_rows(path: Path) -> dict[Key, dict[str, Any]]:
    """The rows of outputs as they are on disk; a key that stands there twice is an error."""
    known = {t.id: t.name for t in weighbridge.open_run(path).outputs}
    found: dict[Key, dict[str, Any]] = {}
    for row in table(path, "rows"):
        if row["quantity"] in OUTPUT_QUANTITIES:
            key = row["step"], known[row["tensor"]], Quantity(row["quantity"])
            assert key not in found, f"two rows of {key}"
            found[key] = row
    return found


def check_outputs(path: Path, truth: Truth, *, only: tuple[str, ...] = (), without_gradients: bool = False) -> None:
    """Every row equals the truth, none is missing and none too many (`only`: among these outputs)."""
    found = output_rows(path)
    if only:
        found = {key: row for key, row in found.items() if key[1] in only}
    if without_gradients:
        found = {key: row for key, row in found.items() if key[2] is Quantity.ACTIVATION}
    assert set(found) == set(truth.seen), (sorted(set(found) - set(truth.seen))[:4], sorted(set(truth.seen) - set(found))[:4])
    for key, row in found.items():
        numbers = truth.numbers(key)
        summary = summarize(numbers, truth.seen[key][0].element_size())
        terms = {"sum": summary.sum_abs, "sum_abs": summary.sum_abs, "sum_sq": summary.sum_sq}
        compare(key, row, Expected(summary, None, terms))
