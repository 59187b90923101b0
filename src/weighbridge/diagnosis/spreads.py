"""Rows of the table `spread`, step by step, as rules ask for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.stream import Block, rows_by_step

BATCH: Final = -1  # in place of a column: what came into the model


@dataclass(frozen=True, slots=True)
class Seen:
    """One output at one step; NaN where it says nothing."""

    samples: int
    features: int
    between_samples: float  # variance over samples, of the mean square: 0 = the same for all samples; 1 = mean of 0
    variance: float  # the same per number
    between_positions: float  # likewise over the positions of a sample; NaN = there is one position only
    directions: float  # participation ratio of its vectors, from 1; NaN = all vectors are alike
    most: int  # that the participation ratio could be

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Seen:
        """From a row."""
        numbers, total = row["samples"] * row["positions"] * row["features"], row["sum_sq"]
        has_spread = row["trace_sq"] > 0 and row["trace"] > ROUNDING * total
        return cls(
            samples=row["samples"],
            features=row["features"],
            between_samples=row["sample_sq"] / total if total > 0 else np.nan,
            variance=row["sample_sq"] / numbers if numbers else np.nan,
            between_positions=row["position_sq"] / total if row["positions"] > 1 and total > 0 else np.nan,
            directions=row["trace"] ** 2 / row["trace_sq"] if has_spread else np.nan,
            most=min(row["features"], row["vectors"] - 1),
        )


ROUNDING: Final = 1e-12  # of float32 numbers, squared: what differs by less does not differ


def looks(block: Block, progress: Progress) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Each step with rows of `spread`, and these. Feeds `progress` on the way, with the losses up to that step."""
    losses = deque(block.rows("steps"))
    for step, rows in sorted(rows_by_step(block.rows("spread")).items()):
        while losses and losses[0]["step"] <= step:
            progress.read(losses.popleft())
        yield step, rows
    for row in losses:
        progress.read(row)


def by_step(block: Block, progress: Progress) -> Iterator[tuple[int, dict[int, Seen], dict[int, float]]]:
    """The same, with what was seen of each column, and attention's largest logits."""
    column = {t.id: c for c, t in enumerate(block.tensors) if t.is_output} | {BATCH: BATCH}
    for step, rows in looks(block, progress):
        mine = [row for row in rows if row["tensor"] in column]
        seen = {column[row["tensor"]]: Seen.of(row) for row in mine if row["samples"] > 1}
        logits = {column[row["tensor"]]: row["logit"] for row in mine if np.isfinite(row["logit"])}
        yield step, seen, logits
