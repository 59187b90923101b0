"""What a network and each of its units answer: over the plane where there are two inputs, else to some rows of the data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from weighbridge.teaching.data import Dataset
from weighbridge.teaching.training import Loop, Parts

ROWS: Final = 24  # that are asked where there is no plane
MOST_UNITS: Final = 12  # of a layer that are drawn
NOT_FINITE: Final = 255  # in a picture; 0 to 254 are the range from one edge to the other


@dataclass(frozen=True, slots=True)
class View:
    """Where a network is asked. x float32 [points, inputs], as the network sees them, in rows of a picture from the top."""

    x: torch.Tensor
    shape: tuple[int, int]  # of the picture: high, wide
    plane: tuple[float, float] | None  # least and greatest of both axes


def view_of(parts: Parts, units: int) -> View:
    """The view for a network of so many units: the more of them, the coarser."""
    x = parts.train_x
    if x.shape[1] == 2:
        low, high = _square(torch.cat([x, parts.score_x]))
        side = 32 if units <= 24 else 20 if units <= 64 else 12
        middle = low + (torch.arange(side) + 0.5) / side * (high - low)
        down, across = torch.meshgrid(middle.flip(0), middle, indexing="ij")
        return View(torch.stack([across.reshape(-1), down.reshape(-1)], dim=1), (side, side), (low, high))
    target = parts.train_y if parts.train_y.ndim == 1 else parts.train_y[:, 0]
    order = torch.argsort(target, stable=True)
    chosen = order[torch.linspace(0, len(order) - 1, min(ROWS, len(order))).long()]
    return View(x[chosen], (1, len(chosen)), None)


def _square(x: torch.Tensor) -> tuple[float, float]:
    """The same range for both axes, a little wider than the rows; around 0 where they lie around it."""
    low, high = float(x.min()), float(x.max())
    if low < 0 < high:
        edge = 1.12 * max(-low, high)
        return -edge, edge
    air = 0.08 * (high - low)
    return low - air, high + air


class Observer:
    """Asks a network without touching it: a copy of its modules takes its values, and is in evaluation mode for good."""

    def __init__(self, loop: Loop) -> None:
        self._model = loop.model
        self._copy = copy.deepcopy(loop.model).eval()

    @torch.no_grad()
    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Of each layer what comes out behind its norm and activation [points, units]; the last one is the answer."""
        self._copy.load_state_dict(self._model.state_dict())
        found: list[torch.Tensor] = []
        for module in self._copy:
            x = module(x)
            if isinstance(module, nn.Linear):
                found.append(x)
            else:
                found[-1] = x
        return found


def edge_of(values: torch.Tensor) -> float:
    """The range ±edge of a layer's pictures: 1 for what saturates there, else the next power of two."""
    finite = values[torch.isfinite(values)]
    largest = float(finite.abs().max()) if len(finite) else 1.0
    return 1.0 if largest <= 1.0 else float(2.0 ** np.ceil(np.log2(largest)))


def picture(values: torch.Tensor, low: float, high: float) -> bytes:
    """[points, units] as bytes, unit by unit."""
    place = np.clip((values.double().numpy().T - low) / ((high - low) or 1.0), 0.0, 1.0)
    return np.where(np.isfinite(place), np.round(place * (NOT_FINITE - 1)), NOT_FINITE).astype(np.uint8).tobytes()


def answer_of(outputs: torch.Tensor, data: Dataset) -> torch.Tensor:
    """One number per point: the probability of class 1, or the first predicted value [points]."""
    if data.task != "classification":
        return outputs[:, 0]
    return torch.sigmoid(outputs[:, 0]) if outputs.shape[1] == 1 else torch.softmax(outputs, dim=1)[:, 1]


def answer_range(data: Dataset, parts: Parts) -> tuple[float, float]:
    """Least and greatest of the colours of an answer."""
    if data.task == "classification":
        return 0.0, 1.0
    return float(parts.train_y.min()), float(parts.train_y.max())


def guessing(data: Dataset, parts: Parts, loss: str) -> float:
    """The loss of the best answer that does not look at the inputs: the entropy of the classes, or the variance."""
    if data.task == "classification":
        shares = np.bincount(parts.train_y.numpy(), minlength=2) / len(parts.train_y)
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())
    if loss == "mse":
        return float(parts.train_y.double().var(dim=0, unbiased=False).mean())
    return float("nan")
