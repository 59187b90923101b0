"""How the values of one tensor are spread, over steps: ridges and densities, and every value of a small tensor as a line."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weighbridge.records import QUANTITIES
from weighbridge.server.arrays import packed
from weighbridge.store.record import RunRecord

BINS: Final = 64  # of values that were kept themselves
MOST_STEPS: Final = 240
LINE_STEPS: Final = 600
LINES: Final = 64  # more values than these are no lines any more


def spread_of(record: RunRecord, tensor: str, quantity: str, most: int, start: int | None, stop: int | None) -> bytes:
    """Counts [steps, bins] at no more than `most` steps; `edges` are one more than the bins.

    In equal bins where the values themselves were kept, else in the stored bins of one power of two each, negative ones first.
    """
    most = max(1, min(most, MOST_STEPS))
    kept, numbers = record.values_over(tensor, quantity, 100_000) if quantity in QUANTITIES else (np.empty(0), np.empty((0, 0)))
    inside = (kept >= (start or 0)) & (kept < (kept.max(initial=0) + 1 if stop is None else stop))
    kept, numbers = kept[inside], numbers[inside]
    if len(kept) > 1 or (len(kept) and numbers.shape[1] > 1):
        steps, edges, counts = _of_values(kept, numbers, most)
        return packed({"steps": steps.tolist(), "edges": edges.tolist(), "linear": True}, counts=counts.astype(np.float32))
    steps, edges, counts = _of_histograms(record, tensor, quantity, most, start, stop)
    return packed({"steps": steps.tolist(), "edges": edges.tolist(), "linear": False}, counts=counts.astype(np.float32))


def _of_values(kept: np.ndarray, numbers: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chosen = _spread(kept, most)
    steps, numbers = kept[chosen], numbers[chosen]
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    air = (high - low) * 0.02 or max(abs(high), 1e-12) * 0.5
    edges = np.linspace(low - air, high + air, BINS + 1)
    counts = np.array([np.histogram(row[np.isfinite(row)], edges)[0] for row in numbers])
    return steps, edges, counts.reshape(len(steps), BINS)


def _of_histograms(
    record: RunRecord, tensor: str, quantity: str, most: int, start: int | None, stop: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    recorded = record.series(tensor, f"{quantity}.count", start, stop).steps
    steps, edges, counts = record.histograms(tensor, quantity, recorded[_spread(recorded, most)].tolist())
    used = np.flatnonzero(counts.any(axis=0))
    if not len(used):
        return steps, np.array([0.0, 1.0]), np.zeros((len(steps), 1))
    low, high = used[0], used[-1] + 1
    return steps, np.clip(edges[low : high + 1], -(2.0**24), 2.0**24), counts[:, low:high]


def _spread(steps: np.ndarray, most: int) -> np.ndarray:
    """Places of at most `most` steps, as evenly in steps as those there allow; the first and the last among them."""
    if len(steps) <= most:
        return np.arange(len(steps))
    wanted = np.linspace(steps[0], steps[-1], most)
    right = np.clip(np.searchsorted(steps, wanted), 1, len(steps) - 1)
    nearest = np.where(wanted - steps[right - 1] < steps[right] - wanted, right - 1, right)
    return np.unique(nearest)


def lines_of(record: RunRecord, tensor: str, quantity: str, start: int | None, stop: int | None) -> bytes:
    """Every value of a tensor of at most LINES elements, [steps, elements]; nothing where they are more, or were not kept."""
    about: dict[str, Any] = {"steps": [], "elements": 0}
    if record.tensor(tensor).count > LINES:
        return packed(about, values=np.empty(0, np.float32))
    steps, numbers = record.values_over(tensor, quantity, 100_000)
    inside = (steps >= (start or 0)) & (steps < (steps.max(initial=0) + 1 if stop is None else stop))
    steps, numbers = steps[inside], numbers[inside]
    chosen = _spread(steps, LINE_STEPS)
    about = {"steps": steps[chosen].tolist(), "elements": numbers.shape[1] if numbers.ndim == 2 else 0}
    return packed(about, values=numbers[chosen].astype(np.float32))
