"""torchmortem 0.1 as its README says: `Autopsy(model, optimizer)`, `step(loss=...)` after each step, findings at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torchmortem import Autopsy

from clinic.tools import Verdict
from clinic.tools.loop import optimizer_of, steps

SEVERITIES = {"CRITICAL": "error", "WARNING": "warning", "INFO": "note"}
LABELS = {  # beginnings of its titles, and the id of our rule that means the same
    "Vanishing gradients": "vanishing-gradient",
    "Gradient stalling": "vanishing-gradient",
    "Exploding gradients": "exploding-gradient",
    "Dead units": "dead-units",
    "Activation saturation": "saturated-units",
    "Update ratio too low": "low-learning-rate",
    "Update ratio too high": "high-learning-rate",
    "Rank collapse": "rank-collapse",
    "Weight norm explosion": "exploding-weights",
    "Stagnant weight norms": "step-not-taken",
    "Training divergence": "growing-loss",
    "Loss plateau": "stalled-loss",
}


class Tool:
    """Only the explicit findings count: its correlations of them say no more."""

    def __init__(self) -> None:
        self.autopsy: Autopsy | None = None

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        optimizer = optimizer_of(model)
        with Autopsy(model, optimizer=optimizer) as self.autopsy, steps(optimizer, lambda loss: self.autopsy.step(loss=loss)):
            yield

    def verdicts(self) -> list[Verdict]:
        report = self.autopsy.get_report() if self.autopsy else None
        return [v for f in (report.findings if report else ()) for v in _verdicts(f)]


def _verdicts(finding: object) -> list[Verdict]:
    label = next((ours for begin, ours in LABELS.items() if finding.title.startswith(begin)), finding.title)
    severity, told = SEVERITIES[finding.severity.name], int(finding.step_range[1])
    return [Verdict(label, severity, place, told) for place in (*finding.affected_layers, "")]
