"""Runs with a known cause and many symptoms: what is told as the cause, live and afterwards. Oracle: what each run does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import weighbridge
from tests.diagnosis.known import RUNS, Known
from tests.diagnosis.test_beside import recorded, replayed
from tests.diagnosis.trainings import seeded
from weighbridge.diagnosis import Diagnosis, Finding, TableEvidence, ValueEvidence

ORIGIN = "nonfinite-origin"  # a proof of an error: it stands behind what explains it (causes.py)


def is_one_of(finding: Finding, wanted: str) -> bool:
    """wanted: keys or rules, with | between."""
    return bool({finding.key, finding.rule} & {*wanted.split("|")})


def wrong(known: Known, diagnosis: Diagnosis) -> list[str]:
    """What is not as it must be."""
    causes = diagnosis.causes
    if not known.primary:
        return [f"a cause: {causes[0]}"] if causes else [] if diagnosis.undetermined else ["nothing is said"]
    faults = [known.primary, *([known.second] if known.second else [])]
    missing = [fault for fault in faults if not any(is_one_of(one, fault) for one in causes)]
    if missing:
        return [f"not a cause: {fault}" for fault in missing]
    first = next(one for one in causes if is_one_of(one, known.primary))
    allowed = {known.primary, known.second} if known.any_order else {known.primary}
    found = [] if any(is_one_of(causes[0], one) for one in allowed) else [f"the primary is {causes[0].key}"]
    beside = [one for one in causes if not any(is_one_of(one, fault) for fault in faults)]
    found += [f"another cause: {one.key}" for one in beside if one.rule not in known.may and one.rule != ORIGIN]
    below = {key.split(" at ")[0] for key in first.explains}
    return found + [f"not explained: {rule}" for rule in known.below if rule not in below]


COUNTED = re.compile(r"[1-9][\d,]* (samples?|inputs?|steps?|elements?)\b")


def says_how_many(finding: Finding) -> bool:
    """Is it told how many samples, inputs, elements or steps a test had?"""
    named = [f"{one.value:.0f} {one.unit or one.name}" for one in finding.evidence if isinstance(one, ValueEvidence)]
    tables = [f"{one.name} {one.columns}" for one in finding.evidence if isinstance(one, TableEvidence)]
    return any(COUNTED.search(text) for text in [finding.message, *named, *tables]) or "'samples'" in " ".join(tables)


@pytest.mark.parametrize("name", RUNS)
def test_the_known_cause_is_told_and_live_as_afterwards(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = RUNS[name]
    path, jobs = recorded(seeded(known.make), tmp_path, monkeypatch, known.steps, seed=len(name))
    after = weighbridge.diagnose(path)
    assert wrong(known, after) == [], str(after)
    assert [str(one) for one in after if one.certainty == "test" and not says_how_many(one)] == []
    live, late = replayed(path, jobs, seed=len(name))
    assert repr(live.record()) == repr(after.record())
    assert late == 0


def test_there_are_enough_of_them() -> None:
    assert len(RUNS) >= 60
    assert sum(bool(known.second) for known in RUNS.values()) >= 8
    assert sum(not known.primary for known in RUNS.values()) >= 2
