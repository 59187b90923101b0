"""What the reading side hands out. Arrays are read-only; NaN means not recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, repr=False)
class RunInfo:
    """One line about a run."""

    name: str
    path: Path
    state: str  # "live", "finished" or "ended without finish"
    started: datetime
    last_flush: datetime | None
    steps: int
    tensors: int
    size_bytes: int
    last_loss: float | None

    def __repr__(self) -> str:
        loss = "" if self.last_loss is None else f", last loss {self.last_loss:.6g}"
        return f"<RunInfo {self.name}: {self.state}, {self.steps:,} steps, {self.tensors:,} tensors{loss}>"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one process recorded of a run that went on after a restart."""

    number: int
    first_step: int
    last_step: int  # that it took
    kept_until: int  # the last of them that a later attempt did not take again; before first_step where none is left


@dataclass(frozen=True, slots=True)
class Tensor:
    """Something watched, as the run's table of tensors describes it."""

    id: int
    model: str
    name: str
    role: str
    module: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    order: int
    aliases: tuple[str, ...]
    requires_grad: bool
    note: str  # why it is not weighed; empty where it is

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Tensor:
        """From a row of the table of tensors."""
        return cls(
            id=row["tensor"],
            model=row["model"],
            name=row["name"],
            role=row["role"],
            module=row["module"],
            shape=tuple(row["shape"] or ()),
            dtype=row["dtype"],
            count=row["count"],
            order=row["order"],
            aliases=tuple(row["aliases"] or ()),
            requires_grad=row["requires_grad"],
            note=row["note"] or "",
        )

    @property
    def is_output(self) -> bool:
        """Is it what a module gives, and no parameter?"""
        return self.role == "output"


@dataclass(frozen=True, slots=True)
class Units:
    """Each unit of an output, over the steps since the row before this one."""

    step: int
    n: int  # numbers seen of each unit
    active: np.ndarray  # int64 [units]: how many of them were above 0
    sum: np.ndarray  # float64 [units]
    sum_sq: np.ndarray  # float64 [units]
    max: np.ndarray  # float32 [units]: largest absolute value
    steps: int = 1  # weighed steps that were counted together


@dataclass(frozen=True, slots=True)
class NonFinite:
    """NaN or infinity in what a module gave, or in the loss's gradient by it."""

    step: int
    name: str  # of the output, or "the batch"
    quantity: str  # "activation" or "activation_gradient"
    call: int  # of that step, from 0


@dataclass(frozen=True, slots=True)
class BiasShare:
    """What a bias b adds in y = W.x + b, at some steps."""

    steps: np.ndarray  # int64
    share: np.ndarray  # float64: rms(b) / rms(W.x) over all outputs of the step
    cosine: np.ndarray  # float64: between b and W.x; 1 = it only lengthens what is there


@dataclass(frozen=True, slots=True)
class Coherence:
    """The gradient of some steps compared with the one that the same optimizer used at its step before."""

    steps: np.ndarray  # int64
    steps_before: np.ndarray  # int64
    cosine: np.ndarray  # float64: 1 = the same direction; NaN where one of the two is 0
    errors: np.ndarray  # float64: about one standard deviation of each cosine; 0 where it is exact
    count: np.ndarray  # int64: elements compared
    numbers: np.ndarray  # int64: that the cosine rests on; fewer than `count`: an estimate


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """How much of a gradient is noise: tr(Sigma) / (b |G|^2), b the samples of one `batch`; over some steps."""

    value: float  # in batches; NaN where the signal cannot be told from 0
    batch: str  # "step": all samples of a step, "backward pass": those of one of its passes
    signal: float  # mean estimate of |G|^2, and its standard error
    signal_error: float
    noise: float  # mean estimate of tr(Sigma) / b
    samples: int  # steps that were looked at
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Series:
    """One number over steps, in order of steps."""

    name: str
    steps: np.ndarray  # int64
    values: np.ndarray  # float64

    def __repr__(self) -> str:
        last = f", last {self.values[-1]:.6g} at step {self.steps[-1]:,}" if len(self.steps) else ""
        return f"<Series {self.name}: {len(self.steps):,} values{last}>"

    def _repr_html_(self) -> str:
        from weighbridge.store.html import of_series

        return of_series(self)


@dataclass(frozen=True, slots=True)
class Buckets:
    """A series by ranges of steps; `min` and `max` are of the single steps, so no spike is lost."""

    name: str
    step_first: np.ndarray  # int64
    step_last: np.ndarray  # int64, the last step of the range itself
    mean: np.ndarray
    min: np.ndarray
    max: np.ndarray
    bad: np.ndarray  # the most elements of one step that are not finite; NaN = nothing recorded


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One statistic of many tensors by ranges of steps: arrays [tensors, buckets]."""

    statistic: str
    tensors: tuple[Tensor, ...]
    step_first: np.ndarray
    step_last: np.ndarray
    mean: np.ndarray
    min: np.ndarray
    max: np.ndarray
    bad: np.ndarray  # the most elements of one step that are not finite; NaN = nothing recorded


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """The last value of one statistic of one tensor and the way to it."""

    last: float
    last_step: int
    points: np.ndarray  # bucket means, NaN = not recorded


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the run."""

    step: int
    kind: str
    tensor: int  # -1 = the whole run
    message: str
    detail: Mapping[str, Any]
    time_ns: int


@dataclass(frozen=True, slots=True)
class Detail:
    """Less than the plan asks for is recorded from `step` on, to keep inside its budget."""

    step: int
    words: str
    cost: float  # own time over the rest of a step, before this change, and what the budget allowed
    allowed: float


@dataclass(frozen=True, slots=True)
class Group:
    """One parameter group of an optimizer, from the step on at which it was first seen so."""

    optimizer: int  # as in the table of steps
    kind: str  # class of the optimizer
    group: int  # place in its param_groups, and in the lists of the table of steps
    step: int
    settings: Mapping[str, Any]  # all but lr, momentum and weight decay, which every row of steps has
    tensors: tuple[str, ...]


def read_only(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    for array in arrays:
        array.setflags(write=False)
    return arrays
