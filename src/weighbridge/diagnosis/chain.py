"""Sizes along layers that are no modules, as capture has seen them in a first pass (capture/alongdepth.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from weighbridge.diagnosis.depth import thinned
from weighbridge.diagnosis.evidence import TableEvidence
from weighbridge.diagnosis.stream import Block

KIND = "along_depth"  # the event
LEAST = 3


@dataclass(frozen=True, slots=True)
class Chain:
    """Products with a parameter, the first one first."""

    step: int
    parameters: tuple[str, ...]
    sizes: np.ndarray  # float64 [products]: rms of what each takes
    norms: np.ndarray  # float64 [products]: of the loss's gradient by what each gives

    @property
    def is_through_time(self) -> bool:
        """Is a parameter used again? Then the chain is as long as a sequence, or a solver's steps."""
        return len({*self.parameters}) < len(self.parameters)

    def table(self, title: str, values: np.ndarray) -> TableEvidence:
        """For a finding."""
        rows = tuple(thinned(list(zip(self.parameters, values.tolist(), strict=True))))
        return TableEvidence(f"{title}, in order, at step {self.step}", ("product with", "size"), rows)


def chains(block: Block) -> Iterator[Chain]:
    """Those of this block whose numbers are all finite and not all 0."""
    for row in block.rows("events"):
        if row["kind"] == KIND:
            said = row["detail"]
            sizes, norms = (np.array([np.nan if x is None else x for x in said[k]], float) for k in ("sizes", "norms"))
            if len(norms) >= LEAST and np.isfinite([*sizes, *norms]).all() and norms[-1] > 0:
                yield Chain(max(row["step"], 0), tuple(said["parameters"]), sizes, norms)
