"""The rules that speak before training, and what each is: (severity, certainty, finder). They read records, never torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Final

from weighbridge.diagnosis import Answer, Finding, Outcome
from weighbridge.diagnosis.causes import Links, linked
from weighbridge.preflight import lint_biases, lint_parameters, lint_start, lint_structure
from weighbridge.preflight.records import Trial

Finder = Callable[[Trial], Iterable[Finding]]
RULES: Final[dict[str, Finder]] = {
    "parameter-in-no-optimizer": lint_parameters.unoptimized,
    "parameter-without-gradient": lint_parameters.unreached,
    "symmetric-initialisation": lint_parameters.symmetric,
    "doubled-output-activation": lint_structure.doubled,
    "missing-activation": lint_structure.without_activation,
    "redundant-bias": lint_biases.redundant,
    "high-initial-loss": lint_start.high_loss,
    "raw-input-scale": lint_start.raw_scale,
}
LEADS_TO: Final = {"raw-input-scale": Links(("high-initial-loss",))}  # what follows from what, for the cards


def lint(trial: Trial) -> tuple[tuple[Finding, ...], tuple[Answer, ...]]:
    """All findings, and one answer per rule. A rule that fails by its own bug says so; the others go on."""
    findings: list[Finding] = []
    answers = []
    for rule, finder in RULES.items():
        try:
            found = [dataclasses.replace(one, rule=rule) for one in finder(trial)]
        except Exception as error:  # a bug of ours must not cost the user the other answers
            answers.append(Answer(rule, Outcome.FAILED, f"{type(error).__name__}: {error}"))
            continue
        findings += found
        answers.append(Answer(rule, Outcome.FOUND if found else Outcome.CLEAR))
    return linked(findings, LEADS_TO), tuple(answers)
