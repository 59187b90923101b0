"""Asks every rule about every block, and puts together what they say.

    weighbridge.diagnose("weighbridge-runs/first")

Blocks may come from a run's files or from anywhere else. A rule that raises has failed; the others go on.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from weighbridge.diagnosis.causes import Links, linked, ordered
from weighbridge.diagnosis.choice import choose
from weighbridge.diagnosis.rule import Answer, Diagnosis, Finding, Needs, Outcome, Rule
from weighbridge.diagnosis.stream import Block, RecordedRun, needed
from weighbridge.diagnosis.tensors import Tensors

if TYPE_CHECKING:
    from weighbridge.store.record import RunRecord


def diagnose(
    run: str | PathLike[str] | RunRecord,
    rules: Sequence[type[Rule] | str | PathLike[str]] = (),
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Diagnosis:
    """What is wrong with a recorded run: its folder, or an opened one.

    rules      rules of your own beside the built-in ones: classes, or files that hold some
    select     ids of the rules to ask, or patterns such as "*-gradient"; default: all
    ignore     ids or patterns of rules not to ask
    settings   other values for the constants of rules: {"lost-updates": {"LIMIT": 0.8}}

    What a pyproject.toml or weighbridge.toml of the current folder says of rules holds too. Raises NotARun, NewerFormat,
    CorruptRun, or BadInput for rules and constants that do not exist. Reads the run in pieces; a run that is being written is
    read as far as it has come.
    """
    return diagnose_by(run, choose(select, ignore, settings, rules).rules(_warn))


def diagnose_by(run: str | PathLike[str] | RunRecord, rules: Sequence[type[Rule]]) -> Diagnosis:
    """What these rules say, and no others. Raises NotARun, NewerFormat or CorruptRun."""
    from weighbridge.store.record import RunRecord, open_run  # not beside a training: it brings the query engine

    record = run if isinstance(run, RunRecord) else open_run(run)
    record.refresh()
    engine = Engine(rules)
    for block in RecordedRun(record, engine.needs, is_growing=record.info.state == "live").blocks():
        engine.feed(block)
    return engine.diagnosis(str(record.path))


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


class _Asked:
    """One rule, and how far it has come."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.found: dict[str, Finding] = {}
        self.tensors: Tensors | None = None
        self.error = ""

    def read(self, block: Block) -> list[Finding]:
        told: list[Finding] = []
        try:
            if self.tensors is None or self.tensors != block.tensors:
                self.tensors = block.tensors
                self.rule.start(block.tensors)
            for finding in self.rule.read(block.seen_by(self.rule.needs)):
                told.append(_completed(finding, self.rule))
        except Exception as error:  # a bug of the rule, possibly of a user's own
            self.error = f"{type(error).__name__}: {error}"
        told.sort(key=lambda one: one.told_step)  # of two at one place the earlier one is kept, however the steps are cut
        return [one for one in told if self.found.setdefault(one.key, one) is one]

    def answer(self) -> Answer:
        if self.error:
            return Answer(self.rule.id, Outcome.FAILED, self.error)
        if self.found:
            return Answer(self.rule.id, Outcome.FOUND)
        if self.tensors is None:
            return Answer(self.rule.id, Outcome.NOT_ENOUGH_DATA, "no step was recorded")
        try:
            outcome, reason = self.rule.lacking() or (Outcome.CLEAR, "")
        except Exception as error:
            outcome, reason = Outcome.FAILED, f"{type(error).__name__}: {error}"
        return Answer(self.rule.id, outcome, reason)


def _completed(finding: Finding, rule: Rule) -> Finding:
    severity, certainty = finding.severity or rule.severity, finding.certainty or rule.certainty
    experiment = finding.experiment or rule.experiment
    return dataclasses.replace(finding, rule=rule.id, severity=severity, certainty=certainty, experiment=experiment)


class Engine:
    """Feeds blocks to rules. One engine is for one run and used by one thread at a time."""

    def __init__(self, rules: Iterable[type[Rule]]) -> None:
        self._asked = [_Asked(rule()) for rule in rules]
        self.steps = 0

    @property
    def needs(self) -> Needs:
        """What the blocks must hold."""
        return needed(asked.rule.needs for asked in self._asked)

    @property
    def failed(self) -> dict[str, str]:
        """The rules that have failed, by id, and their errors."""
        return {asked.rule.id: asked.error for asked in self._asked if asked.error}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, in the order in which it began, with what follows from what."""
        found = [finding for asked in self._asked for finding in asked.found.values()]
        links = {asked.rule.id: Links.of(asked.rule) for asked in self._asked}
        spans = next((asked.tensors.spans() for asked in self._asked if asked.tensors), {})
        return linked(found, links, spans)

    def feed(self, block: Block) -> tuple[Finding, ...]:
        """The next steps; gives what they have shown, in order."""
        self.steps = max([self.steps, *(row["step"] + 1 for row in block.tables.get("steps", ())[-1:])])
        with np.errstate(all="ignore"):
            return ordered(found for asked in self._asked if not asked.error for found in asked.read(block))

    def diagnosis(self, subject: str) -> Diagnosis:
        """All that was found so far."""
        answers = tuple(asked.answer() for asked in self._asked)
        return Diagnosis(subject, self.findings, answers, self.steps)
