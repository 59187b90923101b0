"""diagnose, check, rules and explain. Oracle: a run with two known illnesses, and the kept texts in golden/."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from rich.text import Text

import weighbridge
from tests.cli.calling import call, check_golden, refused
from weighbridge.diagnosis import (
    Answer,
    Diagnosis,
    Finding,
    HistogramEvidence,
    Outcome,
    SeriesEvidence,
    SettingEvidence,
    TableEvidence,
    ValueEvidence,
    registry,
)
from weighbridge.diagnosis.causes import Links, linked
from weighbridge.report.findings import card, lines

IDS = [rule.id for rule in registry.rules()]


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer in no optimizer, and gradients that nobody zeroes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=1e-3)
    x = torch.randn(32, 4)
    weighbridge.init(dir=tmp_path_factory.mktemp("runs"), name="ill")
    with weighbridge.watch(model) as run:
        for _ in range(30):
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    return Path(run.path)


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    weighbridge.init(dir=tmp_path_factory.mktemp("runs"), name="well")
    with weighbridge.watch(model) as run:
        for _ in range(30):
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return Path(run.path)


def everything() -> Diagnosis:
    """A diagnosis with each kind of evidence, an explained finding and each outcome."""
    nonfinite = Finding(
        "encoder.layers.3.mlp",
        12,
        12,
        "At step 12 the output of encoder.layers.3.mlp (Linear) is the first that is not finite; all before it is finite.",
        (
            ValueEvidence("loss", float("nan")),
            SeriesEvidence("largest |output|", tuple(range(12)), tuple(2.0**i for i in range(12)), 65504.0),
            HistogramEvidence("output", (0.0, 1.0, 2.0, 3.0), (5, 1, 9)),
            SettingEvidence("dtype", "float16"),
            TableEvidence(
                "first", ("where", "what", "call"), tuple((f"encoder.layers.{i}.mlp/out", "activation", i) for i in range(7))
            ),
        ),
        "Look at how large its inputs are.",
        "nonfinite-origin",
        "error",
        "proof",
    )
    starved = Finding(
        "",
        13,
        24,
        "Steps are left out.",
        (ValueEvidence("steps", 11.0, 10.0, "steps"),),
        "bfloat16",
        "scaler-starvation",
        *("warning", "test"),
    )
    findings = linked([starved, nonfinite], {"nonfinite-origin": Links(("scaler-starvation",))})
    answers = (
        *(
            Answer("nonfinite-origin", Outcome.FOUND),
            Answer("lost-updates", Outcome.CLEAR),
            Answer("step-not-taken", Outcome.CLEAR),
        ),
        Answer("gradients-not-zeroed", Outcome.NOT_ENOUGH_DATA, "too few steps at which both sums tell: 3 are needed"),
        Answer("mine", Outcome.FAILED, "KeyError: 'x'"),
    )
    return Diagnosis("weighbridge-runs/first", findings, answers, 1200)


@pytest.mark.parametrize("width", [80, 200])
def test_a_diagnosis_in_the_terminal(width: int) -> None:
    shown = [line.plain for line in lines(everything(), width)]
    assert max(map(len, shown)) <= width
    check_golden(f"diagnosis-{width}", "\n".join(shown) + "\n")


@pytest.mark.parametrize("width", [30, 40, 60])
def test_a_diagnosis_fits_a_narrow_terminal(width: int) -> None:
    assert max(len(line.plain) for line in lines(everything(), width)) <= width


def test_escape_codes_in_a_name_are_shown_and_not_obeyed() -> None:
    found = Finding("\x1b[31ma", 0, 0, "b\x1b", (SettingEvidence("c\x1b", "d\x1b"),), "e\x1b", "r\x1b"[:1], "note", "proof")
    text = Text("\n").join(card(found, Diagnosis("x", (found,)), 80)).plain
    assert "\x1b" not in text
    assert "\\x1b[31ma" in text


def test_what_is_found_in_a_run(ill: Path) -> None:
    said = call("diagnose", str(ill), columns=100).out
    assert re.search(r"30 steps  1 error, 1 warning\n", said)
    assert said.index("gradients-not-zeroed") < said.index("parameter-in-no-optimizer")
    assert "optimizer.zero_grad()" in said
    assert "2.weight" in said
    check_golden("diagnose-ill", said.replace(str(ill), "ill"))


def test_json_has_all_of_it(ill: Path) -> None:
    told = json.loads(call("diagnose", str(ill), "--json").out)
    assert [(f["rule"], f["place"], f["severity"]) for f in told["findings"]] == [
        ("parameter-in-no-optimizer", "2", "warning"),
        ("gradients-not-zeroed", "", "error"),
    ]
    assert told["causes"] == ["gradients-not-zeroed", "parameter-in-no-optimizer at 2"]
    assert [rule["rule"] for rule in told["rules"]] == IDS
    assert told["steps"] == 30
    assert {e["kind"] for f in told["findings"] for e in f["evidence"]} == {"value", "table"}


def test_not_a_number_is_a_word_in_json(monkeypatch: pytest.MonkeyPatch, well: Path) -> None:
    monkeypatch.setattr("weighbridge.diagnosis.engine.diagnose_by", lambda run, rules: everything())
    assert json.loads(call("diagnose", str(well), "--json").out)["findings"][0]["evidence"][0]["value"] == "NaN"


@pytest.mark.parametrize(("level", "lines"), [("error", 1), ("warning", 2), ("note", 2)])
def test_check_fails_where_something_of_that_severity_is_found(level: str, lines: int, ill: Path) -> None:
    answer = call("check", str(ill), "--fail-on", level)
    assert (answer.code, len(answer.out.splitlines())) == (1, lines)


def test_a_least_possible_loss_is_no_limit(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    weighbridge.init(dir=tmp_path, name="doubled", quiet=True)
    with weighbridge.watch(model) as run:
        torch.nn.functional.cross_entropy(model(torch.randn(6, 4)), torch.arange(6) % 3).backward()
        optimizer.step()
    shown = call("diagnose", str(run.path)).out
    assert "least possible loss (without it 0): 0.551\n" in shown  # ln(1 + 2/e)


def test_check_passes_a_healthy_run(well: Path) -> None:
    answer = call("check", str(well))
    assert (answer.code, answer.out) == (0, f"{well}: no finding of severity error in 30 steps.\n")
    assert call("check", str(well), "--fail-on", "note").code == 0


def test_what_was_muted_is_a_line_and_fails_check_unless_it_is_told_not_to(ill: Path, tmp_path: Path) -> None:
    run = shutil.copytree(ill, tmp_path / "ill")
    loud = json.loads(call("diagnose", str(run), "--json").out)["findings"]
    warned = [f"{f['rule']} at {f['place']}" if f["place"] else f["rule"] for f in loud if f["severity"] != "note"]
    muting = [word for key in warned for word in ("--mute", key)]
    assert "muted: " in call("label", str(run), *muting, "--why", "known").out
    shown = " ".join(call("diagnose", str(run)).out.split())
    assert all(f"muted: warning {key}: known" in shown or f"muted: error {key}: known" in shown for key in warned)
    told = json.loads(call("diagnose", str(run), "--json").out)
    assert len(told["findings"]) == len(loud) - len(warned)
    assert {one["reason"] for one in told["muted"]} == {"known"}
    results = json.loads(call("diagnose", str(run), "--sarif").out)["runs"][0]["results"]
    assert [one["suppressions"] for one in results if "suppressions" in one] == [
        [{"kind": "external", "justification": "known"}]
    ] * len(warned)
    answer = call("check", str(run), "--fail-on", "warning")
    assert (answer.code, answer.out.count("(muted, and --skip-muted is not given)")) == (1, len(warned))
    passed = call("check", str(run), "--fail-on", "warning", "--skip-muted")
    assert passed.code == 0
    assert f"Muted: {', '.join(sorted(warned))}." in passed.out
    assert "no tags" in call("label", str(run), *(word.replace("--mute", "--unmute") for word in muting)).out
    assert call("check", str(run), "--fail-on", "warning", "--skip-muted").code == 1


def test_what_is_no_finding_cannot_be_muted(ill: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ill, run)
    key = weighbridge.diagnose(run).findings[0].key
    before = (run / "labels.json").read_bytes() if (run / "labels.json").exists() else b""
    answer = call("label", str(run), "--mute", key, "--mute", key.replace(" at ", "@"), "--tag", "seen")
    assert answer.code == 2
    assert f"Did you mean {key}" in answer.err
    assert ((run / "labels.json").read_bytes() if (run / "labels.json").exists() else b"") == before


def test_what_follows_from_a_muted_cause_says_so_and_is_muted_with_it(tmp_path: Path) -> None:
    """Oracle: a first layer that is dead from birth, so that its weights take no gradient."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x = torch.randn(64, 4)
    with weighbridge.init(dir=tmp_path, name="dead", quiet=True) as made:
        made.watch(model)
        for _ in range(60):
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    run = str(made.path)
    whole = json.loads(call("diagnose", run, "--json").out)
    cause = next(f for f in whole["findings"] if f["rule"] == "dead-units" and f["explains"])
    key, symptoms = f"{cause['rule']} at {cause['place']}", cause["explains"]
    call("label", run, "--mute", key, "--why", "on purpose")
    told = json.loads(call("diagnose", run, "--json").out)
    listed = {f"{f['rule']} at {f['place']}" if f["place"] else f["rule"]: f for f in told["findings"]}
    assert all(listed[symptom]["follows_from_muted"] == [key] for symptom in symptoms)
    assert f"follows from {key}, which is muted" in " ".join(call("diagnose", run).out.split())
    shown = " ".join(call("show", run).out.split())
    assert f"muted: {key}" in shown
    assert f"follows from {key}, which is muted" in shown
    screen = call("top", run, "--once").out
    assert f"follows from {key}, which is muted" in screen
    assert "1 muted" in screen
    results = json.loads(call("diagnose", run, "--sarif").out)["runs"][0]["results"]
    assert sum("suppressions" in one for one in results) == 1 + len(symptoms)
    failing = call("check", run, "--fail-on", "note")
    assert failing.code == 1
    assert f"(follows from {key}, which is muted, and --skip-muted is not given)" in failing.out
    skipping = call("check", run, "--fail-on", "note", "--skip-muted")
    others = [f for name, f in listed.items() if name not in symptoms]
    assert skipping.code == bool(others)
    assert not any(f": {symptom}, from step" in skipping.out for symptom in symptoms)
    if not others:
        assert f"{symptoms[0]} (follows from {key}, which is muted)" in skipping.out


def test_check_takes_the_newest_run_and_says_which(ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no run below ./weighbridge-runs" in refused(call("check"))
    shutil.copytree(ill, tmp_path / "weighbridge-runs" / ill.name)
    answer = call("check", "--fail-on", "warning")
    told = call("check", ill.name, "--fail-on", "warning")
    assert (answer.code, answer.out) == (1, f"the newest run, weighbridge-runs/{ill.name}\n{told.out}")


def test_check_fails_where_a_rule_itself_failed(monkeypatch: pytest.MonkeyPatch, well: Path) -> None:
    broken = Diagnosis("x", (), (Answer("mine", Outcome.FAILED, "KeyError: 'x'"),), 3)
    monkeypatch.setattr("weighbridge.diagnosis.engine.diagnose_by", lambda run, rules: broken)
    assert call("check", str(well)).code == 1


def test_no_run_is_refused_in_words(tmp_path: Path) -> None:
    for command in ("diagnose", "check"):
        assert "There is no run" in refused(call(command, str(tmp_path / "none")))


def test_rules_lists_all_of_them() -> None:
    assert [line.split()[0] for line in call("rules").out.splitlines()] == ["rule", *IDS]
    assert [rule["id"] for rule in json.loads(call("rules", "--json").out)] == IDS


@pytest.mark.parametrize("id", IDS)
def test_every_rule_is_explained(id: str) -> None:
    said = call("explain", id).out
    for section in registry.SECTIONS:
        assert f"\n{section}\n" in said


def test_an_unknown_rule_names_the_nearest() -> None:
    assert "Did you mean lost-updates" in refused(call("explain", "lost-update"))


def test_sarif_is_printed_and_is_of_the_standard(ill: Path) -> None:
    from tests.report.test_sarif import check

    log = json.loads(call("diagnose", str(ill), "--sarif").out)
    check(log, len(registry.rules()))
    assert {r["ruleId"] for r in log["runs"][0]["results"]} >= {"gradients-not-zeroed", "parameter-in-no-optimizer"}
    assert "Choose one" in refused(call("diagnose", str(ill), "--sarif", "--json"))


MINE = '''"""Every step is told.

Symptom        There are steps.
"""
from weighbridge.diagnosis import Finding, Needs, Rule, ValueEvidence

FIRST = 3


class Told(Rule):
    id, title, severity, certainty, since = "step-told", "A step", "warning", "proof", "1"
    needs = Needs(tables=["steps"])

    def read(self, block):
        for row in block.rows("steps"):
            if row["step"] == FIRST:
                yield Finding("", FIRST, FIRST, "here", (ValueEvidence("v", 1.0),), "f")
'''


def test_rules_are_chosen_set_and_added_on_the_command_line(ill: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)

    def found(*options: str) -> list[tuple[str, int]]:
        told = json.loads(call("diagnose", str(ill), "--json", *options).out)
        return [(f["rule"], f["first_step"]) for f in told["findings"]]

    assert found("--select", "gradients-*") == [("gradients-not-zeroed", 1)]
    assert found("--select", "gradients-*", "--ignore", "gradients-not-zeroed") == []
    assert found("--select", "step-told", "--rules-from", "mine.py") == [("step-told", 3)]
    assert found("--select", "step-told", "--rules-from", "mine.py", "--set", "step-told.FIRST=5") == [("step-told", 5)]
    wrong = call("diagnose", str(ill), "--rules-from", "mine.py", "--set", "step-told.FIRSTS=5")
    assert "Did you mean FIRST" in refused(wrong)
    (tmp_path / "weighbridge.toml").write_text("[rules]\nselect=['step-told']\nfrom=['mine.py']\n[rules.step-told]\nFIRST=7\n")
    assert found() == [("step-told", 7)]
    assert call("check", str(ill), "--fail-on", "warning").code == 1
    assert call("check", str(ill), "--fail-on", "error").code == 0
    assert call("check", str(ill), "--fail-on", "warning", "--ignore", "step-told").code == 0
    assert [rule["id"] for rule in json.loads(call("rules", "--json").out)] == ["step-told"]
    told = call("explain", "step-told").out
    assert "There are steps." in told
    assert "FIRST = 3" in told
