"""What is counted. Oracle: results made up by hand, and counts worked out by hand."""

from __future__ import annotations

from pathlib import Path

from clinic.frame.score import alarms, delay, score
from clinic.frame.table import save, saved, written
from clinic.frame.trial import Result
from clinic.tools import Verdict


def result(label: str = "", *verdicts: Verdict, proved: bool = True, twin: bool = False, **other: object) -> Result:
    made = Result("p", label, twin, "MLP", 0, ("net.*", "net"), (), "weighbridge", is_proved=proved, verdicts=list(verdicts))
    for name, value in other.items():
        setattr(made, name, value)
    return made


def test_a_cause_named_only_as_a_note_is_not_found() -> None:
    s = score([result("a", Verdict("a", "note", "net", 3)), result("a", Verdict("a", "warning", "net", 3))])
    assert (s.ill, s.found, s.placed) == (2, 1, 1)


def test_another_label_at_the_right_place_is_not_found() -> None:
    assert score([result("a", Verdict("b", "error", "net", 3))]).found == 0


def test_a_place_is_right_where_one_finding_of_the_label_is_at_an_accepted_one() -> None:
    wrong, right = Verdict("a", "error", "head", 3), Verdict("a", "error", "net.0.weight", 5)
    assert [score([result("a", *v)]).placed for v in ([wrong], [wrong, right])] == [0, 1]


def test_a_symptom_that_the_tool_explains_by_another_finding_is_not_among_its_causes() -> None:
    assert score([result("a", Verdict("a", "error", "net", 3, is_cause=False))]).named_first == 0


def test_the_delay_runs_from_the_truth_to_the_earliest_telling_and_is_not_below_0() -> None:
    late = result(
        "a", Verdict("a", "note", "net", 4), Verdict("a", "error", "net", 9), Verdict("a", "error", "x", 7), first_true=5
    )
    early = result("a", Verdict("a", "error", "net", -1), first_true=5)
    assert [delay(r) for r in (late, early, result("a"))] == [2, 0, None]
    assert score([late, early]).median_delay == 1


def test_alarms_are_warnings_and_errors_on_runs_without_a_fault() -> None:
    said = (Verdict("a", "error", "", 1), Verdict("b", "warning", "", 1), Verdict("c", "note", "", 1))
    assert [v.label for v in alarms(result("", *said))] == ["a", "b"]
    assert alarms(result("z", *said)) == []
    assert [v.label for v in alarms(result("", *said, also=("a",)))] == ["b"]


def test_runs_are_counted_not_alarms_and_twins_apart() -> None:
    twice = (Verdict("a", "error", "", 1), Verdict("b", "error", "", 1), Verdict("c", "note", "", 1))
    s = score([result("", *twice), result(""), result("", *twice[1:], twin=True)])
    assert (s.healthy, s.alarmed_healthy, s.twins, s.alarmed_twins, s.errors, s.notes) == (2, 1, 1, 1, 2, 1)


def test_what_is_not_proved_or_failed_is_listed_and_not_counted() -> None:
    results = [result("a", proved=False), result("", failure="Traceback\nValueError: no"), result("", is_same=False)]
    s, table = score(results), written(results, "t")
    assert (s.ill, s.healthy) == (0, 1)
    assert all(text in table for text in ("not proved", "ValueError: no", "another training when watched"))


def test_saved_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    results = [result("a", Verdict("a", "error", "net", 3), first_true=2), result("", seconds=1.5)]
    save(results, "t", tmp_path / "r")
    assert saved(tmp_path / "r.json") == results
    assert (tmp_path / "r.md").read_text() == written(results, "t")
