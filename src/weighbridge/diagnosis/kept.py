"""Findings as rows of the run's table `findings`, and back."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from weighbridge.diagnosis import registry
from weighbridge.diagnosis.causes import Links, linked
from weighbridge.diagnosis.evidence import (
    KINDS,
    Evidence,
    HistogramEvidence,
    SeriesEvidence,
    TableEvidence,
    ValueEvidence,
    as_record,
)
from weighbridge.diagnosis.rule import Answer, Diagnosis, Finding, Outcome
from weighbridge.diagnosis.stream import tensors_at
from weighbridge.records import FINDINGS

if TYPE_CHECKING:
    from weighbridge.store.record import RunRecord

_PLAIN = ("rule", "severity", "certainty", "place", "first_step", "depth", "message", "fix", "experiment")
_AS_THEY_ARE = (str, int, bool)
_CLASSES = {word: kind for kind, word in KINDS.items()}


def row_of(finding: Finding, attempt: int) -> tuple[Any, ...]:
    """In the order of `records.FINDINGS`."""
    evidence = json.dumps([jsonable(as_record(e)) for e in finding.evidence], ensure_ascii=False, allow_nan=False)
    plain = (getattr(finding, name) for name in _PLAIN)
    return (finding.told_step, attempt, *plain, evidence, time.time_ns())


def findings_in(table: pa.Table) -> tuple[Finding, ...]:
    """The findings of a run's table, in the order in which they were told; each rule and place once."""
    found: dict[str, Finding] = {}
    for row in table.to_pylist():
        finding = _finding(row)
        found.setdefault(finding.key, finding)
    return tuple(found.values())


def _finding(row: Mapping[str, Any]) -> Finding:
    evidence = tuple(_evidence(one) for one in json.loads(row["evidence"]))
    depth = float(row["depth"])
    return Finding(told_step=row["step"], evidence=evidence, **{name: row[name] for name in _PLAIN} | {"depth": depth})


def told_of(record: RunRecord, also: Diagnosis | None = None) -> Diagnosis:
    """What rules beside the training have told so far; with `also`, what that adds to this diagnosis."""
    said = findings_in(record.whole("findings"))
    known = Diagnosis(str(record.path), ()) if also is None else also  # one without findings is false
    new = [finding for finding in said if finding.key not in {one.key for one in known.findings}]
    if not new:
        return known
    links = {rule.id: Links.of(rule) for rule in registry.rules()}
    spans = tensors_at(record.descriptions(), max(finding.told_step for finding in said)).spans()
    steps = max([known.steps, *(finding.told_step + 1 for finding in new)])
    return dataclasses.replace(known, findings=linked([*known.findings, *new], links, spans), steps=steps)


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """All of it, as JSON can hold it."""
    findings = [dict(zip(FINDINGS.names, row_of(one, 0), strict=True)) for one in diagnosis.findings]
    answers = [(answer.rule, answer.outcome.value, answer.reason) for answer in diagnosis.answers]
    told: dict[str, Any] = jsonable({"steps": diagnosis.steps, "findings": findings, "answers": answers})
    return told | {"explains": [one.explains for one in diagnosis.findings]}


def diagnosis_from_json(told: Mapping[str, Any], subject: str) -> Diagnosis:
    """The inverse of `diagnosis_to_json`."""
    findings = [
        dataclasses.replace(_finding(row), explains=tuple(keys))
        for row, keys in zip(told["findings"], told["explains"], strict=True)
    ]
    answers = tuple(Answer(rule, Outcome(outcome), reason) for rule, outcome, reason in told["answers"])
    return Diagnosis(subject, tuple(findings), answers, told["steps"])


def jsonable(value: Any) -> Any:
    """As JSON can hold it: NaN and infinity as the words that Python's float() reads; tuples as lists."""
    if value is None or type(value) in _AS_THEY_ARE or (type(value) is float and math.isfinite(value)):
        return value  # nearly all there is: the layers' page of a deep model has ten thousand of them
    if isinstance(value, Mapping):
        return {key: jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.item() if hasattr(value, "item") else value  # a NumPy scalar of a rule's


def _evidence(record: dict[str, Any]) -> Evidence:
    kind = _CLASSES[record.pop("kind")]
    if kind is TableEvidence:
        return TableEvidence(record["name"], tuple(record["columns"]), tuple(map(tuple, record["rows"])))
    if kind is SeriesEvidence:
        steps, values = tuple(record["steps"]), tuple(map(float, record["values"]))
        return SeriesEvidence(record["name"], steps, values, _number(record["limit"]))
    if kind is HistogramEvidence:
        return HistogramEvidence(record["name"], tuple(map(float, record["edges"])), tuple(record["counts"]))
    if kind is ValueEvidence:
        return ValueEvidence(record["name"], float(record["value"]), _number(record["limit"]), record["unit"])
    made: Evidence = kind(**record)
    return made


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
