"""A training whose second step is told of, and what waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.diagnosis import Finding, Needs, Rule, ValueEvidence
from weighbridge.diagnosis.kept import findings_in
from weighbridge.diagnosis.stream import Block


class SecondStep(Rule):
    """Told when step 2 is there."""

    id, title, severity, certainty, since = "second-step", "Step 2 is there", "error", "proof", "0"
    needs = Needs(gradient=["rms"], tables=["steps"])

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("steps"):
            if row["step"] == 2:
                yield Finding("fc", 2, 2, "It is\nthere.", (ValueEvidence("loss", float("nan"), 1.0),), "Nothing.")


MINE: dict[str, Any] = {"rules": [SecondStep], "select": ["second-step"]}


class Loop:
    """A small training, a step at a time."""

    def __init__(self, where: Path, name: str = "run", **wishes: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.x = torch.randn(16, 4)
        self.steps = 0
        weighbridge.init(dir=where, name=name)
        self.run = weighbridge.watch(self.model, **wishes)

    def step(self, number: int = 1) -> None:
        for _ in range(number):
            F.mse_loss(self.model(self.x), self.x[:, :1]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1

    def until(self, what: Callable[[], object], seconds: float = 120.0) -> None:
        """Train on until it is so."""
        end = time.monotonic() + seconds
        while not what() and time.monotonic() < end:
            self.step()
            time.sleep(0.01)
        assert what()


def kept(run: weighbridge.Run) -> list[Finding]:
    return list(findings_in(weighbridge.open_run(run.path).whole("findings")))


def wait(what: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()
