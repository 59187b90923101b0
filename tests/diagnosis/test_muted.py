"""What stands aside with a muted finding. Oracle: chains of made-up findings, followed by hand."""

from __future__ import annotations

import pytest

from tests.diagnosis.test_causes import finding
from weighbridge.diagnosis import Diagnosis
from weighbridge.diagnosis.causes import Links, linked
from weighbridge.diagnosis.muted import covered_by, follows_from, set_aside

LINKS = {"root": Links(("middle", "end", "proof")), "middle": Links(("end",)), "other": Links(("end",))}


def whole(*rules: str, **certainty: str) -> Diagnosis:
    found = [finding(rule, i, certainty=certainty.get(rule, "heuristic"), severity="error") for i, rule in enumerate(rules)]
    return Diagnosis("run", linked(found, LINKS), (), 20)


@pytest.mark.parametrize(
    ("rules", "muted", "covered"),
    [
        (("root", "middle", "end"), ("root",), {"middle", "end"}),
        (("root", "middle", "end"), ("middle",), set()),  # the end follows from the root, too, which stands
        (("root", "middle", "end"), ("root", "middle"), {"end"}),
        (("root", "other", "end"), ("root",), set()),
        (("root", "other", "end"), ("root", "other"), {"end"}),
        (("root", "middle", "alone"), ("root",), {"middle"}),
        (("root", "middle"), (), set()),
    ],
)
def test_what_follows_from_muted_findings_alone_is_covered(
    rules: tuple[str, ...], muted: tuple[str, ...], covered: set[str]
) -> None:
    loud, quiet = set_aside(whole(*rules), dict.fromkeys(muted, "known").items())
    assert covered_by(loud) == covered
    assert [one.finding.key for one in quiet] == [rule for rule in rules if rule in muted]


def test_muting_a_guess_does_not_hide_a_proof() -> None:
    assert covered_by(set_aside(whole("root", "proof", proof="proof"), [("root", "")])[0]) == set()
    assert covered_by(set_aside(whole("root", "proof"), [("root", "")])[0]) == {"proof"}


def test_it_is_said_what_a_finding_follows_from_and_that_this_is_muted() -> None:
    loud, _ = set_aside(whole("root", "middle", "end"), [("root", "known")])
    middle, end = loud.findings
    assert follows_from(middle, loud) == "root, which is muted"
    assert follows_from(end, loud) == "middle"  # the nearest, which is not
    told = loud.record()
    assert [one["follows_from_muted"] for one in told["findings"]] == [["root"], ["root"]]
    assert [(one["rule"], one["reason"]) for one in told["muted"]] == [("root", "known")]
    assert told["causes"] == []
    unmuted = whole("root", "middle")
    assert follows_from(unmuted.findings[0], unmuted) == ""
    assert "muted" not in unmuted.record()
