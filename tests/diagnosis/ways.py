"""A loop of a stranger's own, and what one rule says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import weighbridge

Batch = tuple[torch.Tensor, torch.Tensor]


def told_by(model: nn.Module, step: Callable[[int], None], where: Path, steps: int, rule_id: str) -> list[tuple[str, int, str]]:
    """(place, told_step, severity) of this rule's findings on a loop of one's own."""
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for i in range(steps):
            step(i)
    return [(f.place, f.told_step, f.severity) for f in weighbridge.diagnose(run.path) if f.rule == rule_id]
