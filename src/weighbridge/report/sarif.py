"""A diagnosis as SARIF 2.1.0, the form in which code scanning takes findings.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. The artifact of a result is the run's folder; where inside the
network it lies is its logical location.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from weighbridge import __version__
from weighbridge.diagnosis import Diagnosis, Finding, Outcome, Rule
from weighbridge.diagnosis.kept import jsonable
from weighbridge.diagnosis.muted import Muted, covered_by, follows_from
from weighbridge.diagnosis.registry import explanation

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(diagnosis: Diagnosis, rules: Sequence[type[Rule]], muted: Sequence[Muted] = ()) -> dict[str, Any]:
    """The log with its one run. rules: those that were asked. muted: results that are there, and suppressed."""
    places = {rule.id: i for i, rule in enumerate(rules)}
    driver = {"name": "weighbridge", "version": __version__, "semanticVersion": __version__}
    failed = [answer for answer in diagnosis.answers if answer.outcome is Outcome.FAILED]
    notes = [
        {"level": "error", "message": {"text": f"The rule {a.rule} has failed: {a.reason}"}, "associatedRule": {"id": a.rule}}
        for a in failed
    ]
    run = {
        "tool": {"driver": {**driver, "rules": [_descriptor(rule) for rule in rules]}},
        "invocations": [{"executionSuccessful": not failed, "toolExecutionNotifications": notes}],
        "results": [_result(finding, diagnosis, places) | _covered(finding, diagnosis) for finding in diagnosis.findings]
        + [_result(one.finding, diagnosis, places) | _suppressed(one.reason) for one in muted],
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _covered(finding: Finding, diagnosis: Diagnosis) -> dict[str, Any]:
    """What follows from muted findings alone is suppressed with them."""
    return _suppressed(f"follows from {follows_from(finding, diagnosis)}") if finding.key in covered_by(diagnosis) else {}


def _suppressed(why: str) -> dict[str, Any]:
    return {"suppressions": [{"kind": "external", **({"justification": why} if why else {})}]}


def _descriptor(rule: type[Rule]) -> dict[str, Any]:
    told = explanation(rule)
    text = "\n\n".join(f"{name}: {section}" for name, section in told.sections.items())
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.id.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": told.summary or rule.title},
        "help": {"text": text or rule.title},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"certainty": rule.certainty, "since": rule.since},
    }


def _result(finding: Finding, diagnosis: Diagnosis, places: dict[str, int]) -> dict[str, Any]:
    since = f"From step {finding.first_step}" if finding.first_step >= 0 else "Before training"
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(diagnosis.subject)}}}
    if finding.place:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.place, "kind": "module"}]
    told = jsonable({**finding.record(), "is_cause": finding in diagnosis.causes})
    return {
        "ruleId": finding.rule,
        **({"ruleIndex": places[finding.rule]} if finding.rule in places else {}),
        "level": finding.severity,
        "message": {"text": f"{since}: {finding.message} Try: {finding.fix}"},
        "locations": [location],
        "partialFingerprints": {"place/v1": hashlib.sha256(finding.key.encode()).hexdigest()[:32]},
        "properties": told,
    }


def _uri(subject: str) -> str:
    path = Path(subject)
    return path.as_uri() if path.is_absolute() else path.as_posix().replace("%", "%25").replace(" ", "%20")
