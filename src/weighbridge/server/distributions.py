"""How the values of one tensor are spread, over steps: ridges and densities, and every value of a small tensor as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weighbridge.records import QUANTITIES
from weighbridge.server.arrays import Part, packed
from weighbridge.store.record import RunRecord
from weighbridge.store.views import Series

BINS: Final = 64  # of values that were kept themselves
MOST_STEPS: Final = 240
LINE_STEPS: Final = 600
LINES: Final = 64  # more values than these are no lines any more


def spread_of(record: RunRecord, tensor: str, quantity: str, most: int, start: int | None, stop: int | None) -> bytes:
    """Counts [steps, bins] at no more than `most` steps; `edges` are one more than the bins.

    In equal bins where the values themselves were kept, else in the stored bins of one power of two each, negative ones first.
    """
    most = max(1, min(most, MOST_STEPS))
    kept, numbers = _kept(record, tensor, quantity, start, stop)
    if len(kept) > 1 or (len(kept) and numbers.shape[1] > 1):
        steps, edges, counts = _of_values(kept, numbers, most)
        return packed({"steps": steps.tolist(), "edges": edges.tolist(), "linear": True}, counts=counts.astype(np.float32))
    steps, edges, counts = _of_histograms(record, tensor, quantity, most, start, stop)
    return packed({"steps": steps.tolist(), "edges": edges.tolist(), "linear": False}, counts=counts.astype(np.float32))


def _kept(record: RunRecord, tensor: str, quantity: str, start: int | None, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The steps in the window at which the values themselves were kept, and the values [steps, elements]."""
    if quantity not in QUANTITIES:
        return np.empty(0), np.empty((0, 0))
    steps, numbers = record.values_over(tensor, quantity, 100_000)
    inside = (steps >= (start or 0)) & (steps < (steps.max(initial=0) + 1 if stop is None else stop))
    return steps[inside], numbers[inside]


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


def quantiles_of(
    record: RunRecord, tensor: str, quantity: str, shares: Sequence[float], start: int | None, stop: int | None
) -> list[Part]:
    """For each share (0.05: five of a hundred values lie below) that quantile at no more than MOST_STEPS single steps.

    `min` and `max` are what is known of it for sure, `mean` the number between them to show. Of values that were kept
    themselves all three are the same; from histograms they are the ends of the bin that holds it, cut to the least and greatest
    value of the step, and the number that is wrong by the same share of either end (a third with one bin per power of two).
    """
    steps, numbers = _kept(record, tensor, quantity, start, stop)
    if len(steps) > 1:
        chosen = _spread(steps, MOST_STEPS)
        finite = np.isfinite(numbers[chosen]).all(axis=1)
        steps, numbers = steps[chosen][finite], numbers[chosen][finite]
        found = [np.quantile(numbers, share, axis=1) if len(steps) else np.empty(0) for share in shares]
        return [Part(steps, steps, of, of, of, np.zeros(len(steps))) for of in found]
    ends = record.several_series(tensor, [f"{quantity}.min", f"{quantity}.max"], start, stop)
    counted = ends[0].steps
    steps, edges, counts = record.histograms(tensor, quantity, counted[_spread(counted, MOST_STEPS)].tolist(), finest=True)
    low, high = (_at_steps(end, steps) for end in ends)
    return [_quantile(steps, edges, counts, low, high, share) for share in shares]


def _at_steps(found: Series, steps: np.ndarray) -> np.ndarray:
    """The statistic at these steps; NaN where it was not recorded."""
    at = np.clip(np.searchsorted(found.steps, steps), 0, max(len(found.steps) - 1, 0))
    if not len(found.steps):
        return np.full(len(steps), np.nan)
    return np.where(found.steps[at] == steps, found.values[at], np.nan)


def _quantile(
    steps: np.ndarray, edges: np.ndarray, counts: np.ndarray, least: np.ndarray, greatest: np.ndarray, share: float
) -> Part:
    some = counts.sum(axis=1) > 0  # a step without a finite value has no quantile
    steps, counts, least, greatest = steps[some], counts[some], least[some], greatest[some]
    below = np.cumsum(counts, axis=1)
    wanted = np.maximum(np.ceil(share * below[:, -1:]), 1)  # the value of this rank
    held = (below < wanted).sum(axis=1)
    low, high = np.fmax(edges[held], least), np.fmin(edges[held + 1], greatest)
    with np.errstate(all="ignore"):
        shown = np.where(low * high > 0, 2 * low * high / (low + high), (low + high) / 2)
    shown = np.where(low == high, low, shown)
    known = np.isfinite(low) & np.isfinite(high)
    return Part(steps[known], steps[known], shown[known], low[known], high[known], np.zeros(int(known.sum())))


def lines_of(record: RunRecord, tensor: str, quantity: str, start: int | None, stop: int | None) -> bytes:
    """Every value of a tensor of at most LINES elements, [steps, elements]; nothing where they are more, or were not kept."""
    about: dict[str, Any] = {"steps": [], "elements": 0}
    if record.tensor(tensor).count > LINES:
        return packed(about, values=np.empty(0, np.float32))
    steps, numbers = _kept(record, tensor, quantity, start, stop)
    chosen = _spread(steps, LINE_STEPS)
    about = {"steps": steps[chosen].tolist(), "elements": numbers.shape[1] if numbers.ndim == 2 else 0}
    return packed(about, values=numbers[chosen].astype(np.float32))
