"""The steps that optimizers took, one by one, each with the tensors that it moved and the settings that these have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weighbridge.diagnosis.stream import Block, Group


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of one optimizer. Arrays have one entry per tensor of `columns`."""

    at: int  # row of the block's arrays
    step: int
    optimizer: int
    row: Mapping[str, Any]  # of the table of steps
    groups: tuple[Group, ...]  # of this optimizer
    columns: np.ndarray  # int64: tensors that this optimizer holds
    lr: np.ndarray
    momentum: np.ndarray
    weight_decay: np.ndarray

    @property
    def loss(self) -> float:
        """NaN where none was seen, or it is NaN."""
        return np.nan if self.row["loss"] is None else float(self.row["loss"])

    @property
    def clip_factor(self) -> float:
        """What multiplied the gradients after the last backward pass; NaN where it is not known."""
        return np.nan if self.row["clip_factor"] is None else float(self.row["clip_factor"])

    def setting(self, name: str, otherwise: float = np.nan, part: int | None = None) -> np.ndarray:
        """A number of each tensor's group; of a pair such as `betas`, one `part`."""
        found = np.full(len(self.columns), otherwise)
        place = {column: i for i, column in enumerate(self.columns.tolist())}
        for group in self.groups:
            value = group.settings.get(name)
            value = value[part] if part is not None and isinstance(value, list | tuple) else value
            if isinstance(value, int | float):
                found[[place[c] for c in group.columns]] = value
        return found


def taken(block: Block, skipped: bool = False) -> Iterator[Taken]:
    """All steps of the block in order; with `skipped`, those too that a GradScaler left out."""
    members: dict[int, list[Group]] = {}
    for group in block.groups:
        members.setdefault(group.optimizer, []).append(group)
    columns = {number: np.array([c for g in groups for c in g.columns], np.int64) for number, groups in members.items()}
    for row in block.rows("steps"):
        groups = tuple(members.get(row["optimizer"], ()))
        if groups and (skipped or not row["skipped"]):
            mine = columns[row["optimizer"]]
            settings = [_of_groups(row[name], groups) for name in ("lr", "momentum", "weight_decay")]
            yield Taken(row["step"] - block.start, row["step"], row["optimizer"], row, groups, mine, *settings)


def _of_groups(listed: Any, groups: tuple[Group, ...]) -> np.ndarray:
    """One number per tensor, from a list with one per group."""
    values = [listed[g.number] if g.number < len(listed) and listed[g.number] is not None else np.nan for g in groups]
    return np.repeat(np.array(values, float), [len(g.columns) for g in groups])
