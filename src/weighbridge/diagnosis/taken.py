"""The steps that optimizers took, one by one, each with the tensors that it moved and the settings that these have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weighbridge.diagnosis.stream import Block, Group, summed


class Held:
    """What one optimizer holds in a block, in which nothing of it changes. Arrays have one entry per tensor of `columns`."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = tuple(groups)
        self.columns = np.array([c for g in groups for c in g.columns], np.int64)
        self.kinds = frozenset(g.kind for g in groups)
        self._sizes = [len(g.columns) for g in groups]
        self._settings: dict[tuple[str, float, int | None], np.ndarray] = {}
        self._of_groups: dict[str, tuple[tuple[Any, ...], np.ndarray]] = {}

    def spread(self, values: list[Any]) -> np.ndarray:
        """One number per group, for each tensor of it."""
        return np.repeat(np.array(values, float), self._sizes)

    def of_groups(self, name: str, listed: Sequence[Any]) -> np.ndarray:
        """The same from a list with one entry per group of the optimizer. Read-only: made anew where the list has changed."""
        values = tuple(listed[g.number] if g.number < len(listed) else None for g in self.groups)
        last = self._of_groups.get(name)
        if last is None or last[0] != values:
            last = values, self.spread([np.nan if value is None else value for value in values])
            last[1].flags.writeable = False
            self._of_groups[name] = last
        return last[1]

    def setting(self, name: str, otherwise: float, part: int | None) -> np.ndarray:
        """As `Taken.setting`; asked at each step, worked out once."""
        key = (name, otherwise, part)
        if key not in self._settings:
            self._settings[key] = self.spread([_number(g.settings.get(name), otherwise, part) for g in self.groups])
            self._settings[key].flags.writeable = False
        return self._settings[key]


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of one optimizer. Arrays have one entry per tensor of `columns`."""

    at: int  # row of the block's arrays
    step: int
    optimizer: int
    row: Mapping[str, Any]  # of the table of steps
    held: Held

    @property
    def groups(self) -> tuple[Group, ...]:
        """Of this optimizer."""
        return self.held.groups

    @property
    def columns(self) -> np.ndarray:
        """int64: tensors that this optimizer holds."""
        return self.held.columns

    @property
    def lr(self) -> np.ndarray:
        """Each tensor's learning rate; NaN where it is not known. So are the next two."""
        return self._of_groups("lr")

    @property
    def momentum(self) -> np.ndarray:
        return self._of_groups("momentum")

    @property
    def weight_decay(self) -> np.ndarray:
        return self._of_groups("weight_decay")

    @property
    def loss(self) -> float:
        """NaN where none was seen, or it is NaN."""
        return np.nan if self.row["loss"] is None else float(self.row["loss"])

    @property
    def samples(self) -> int | None:
        """That its backward passes were over; None where that is not known."""
        samples = self.row["samples"]
        return None if samples is None else int(samples)

    @property
    def clip_factor(self) -> float:
        """What multiplied the gradients after the last backward pass; NaN where it is not known."""
        return np.nan if self.row["clip_factor"] is None else float(self.row["clip_factor"])

    def setting(self, name: str, otherwise: float = np.nan, part: int | None = None) -> np.ndarray:
        """A number of each tensor's group; of a pair such as `betas`, one `part`. Read-only."""
        return self.held.setting(name, otherwise, part)

    def _of_groups(self, name: str) -> np.ndarray:
        return self.held.of_groups(name, self.row[name])


def taken(block: Block, skipped: bool = False) -> Iterator[Taken]:
    """All steps of the block in order; with `skipped`, those too that a GradScaler left out."""
    if "taken" not in block.made:  # many rules ask for the same
        block.made["taken"] = [*_taken(block)]
    return (one for one in block.made["taken"] if skipped or not one.row["skipped"])


def _taken(block: Block) -> Iterator[Taken]:
    members: dict[int, list[Group]] = {}
    for group in block.groups:
        members.setdefault(group.optimizer, []).append(group)
    held = {number: Held(groups) for number, groups in members.items()}
    for row in block.rows("steps"):
        mine = held.get(row["optimizer"])
        if mine is not None:
            yield Taken(row["step"] - block.start, row["step"], row["optimizer"], row, mine)


def whole_norm(block: Block, statistic: str, one: Taken) -> float:
    """`norm_of` a step over all tensors that its optimizer holds; statistic: the norm of each. Several rules ask at every step:
    worked out for all steps of the block at once, and once."""
    key = ("whole norm", statistic, one.optimizer)
    if key not in block.made:
        squares = block[statistic][:, one.columns] ** 2
        block.made[key] = np.sqrt(summed(np.where(np.isnan(squares), 0.0, squares))).tolist()
    found: float = block.made[key][one.at]
    return found


def norm_of(norms: np.ndarray) -> float:
    """Of several tensors together, from the norm of each; NaN counts as 0."""
    return float(np.sqrt(np.nansum(norms**2)))


def _number(value: Any, otherwise: float, part: int | None) -> float:
    value = value[part] if part is not None and isinstance(value, list | tuple) else value
    return value if isinstance(value, int | float) else otherwise
