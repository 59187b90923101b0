"""torch-audit 0.3 as its README says: `autopatch(model, optimizer)`, at every step, `finish` at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch_audit import autopatch

from clinic.tools import Verdict
from clinic.tools.loop import optimizer_of

SEVERITIES = {"FATAL": "error", "ERROR": "error", "WARN": "warning", "INFO": "note"}
LABELS = {
    "TA100": "nonfinite-origin",
    "TA102": "exploding-gradient",
    "TA103": "dead-units",
    "TA104": "parameter-without-gradient",
    "TA105": "dead-units",
    "TA301": "raw-input-scale",
    "TA302": "uninformative-data",
    "TA304": "starved-batch-norm",
    "TA400": "redundant-bias",
    "TA405": "dead-units",
    "TA500": "parameter-without-gradient",
}
INPUTS = ("TA301", "TA302")
NOT_ABOUT_TRAINING = ("TA2", "TA404")  # speed, and a matter of taste: neither hits nor alarms here


class Tool:
    """Audits every step (its default is every thousandth)."""

    def __init__(self) -> None:
        self.findings: list[object] = []

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        auditor = autopatch(model, optimizer=optimizer_of(model), every_n_steps=1)
        try:
            yield
        finally:
            self.findings = list(auditor.finish(report=False).findings)
            auditor.unpatch()

    def verdicts(self) -> list[Verdict]:
        said = [_verdict(f) for f in self.findings if not f.rule_id.startswith(NOT_ABOUT_TRAINING)]
        return list({(v.label, v.severity, v.place): v for v in reversed(said)}.values())  # the first time of each


def _verdict(finding: object) -> Verdict:
    parameter = (finding.entity or "").partition(":")[2]
    place = "input" if finding.rule_id in INPUTS else ".".join(part for part in (finding.module_path, parameter) if part)
    label = LABELS.get(finding.rule_id, finding.rule_id)
    return Verdict(label, SEVERITIES[finding.severity.value], place, -1 if finding.step is None else finding.step)
