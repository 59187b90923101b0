"""Which rules are asked, with which limits, and rules of others. Oracle: files and packages that the test writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.diagnosis.made import LAYERS, block
from weighbridge.diagnosis import Outcome, Rule, registry
from weighbridge.diagnosis.choice import Choice, choose, constants, of_project, parse_settings, with_settings
from weighbridge.diagnosis.engine import Engine
from weighbridge.errors import BadInput

MINE = '''
"""A gradient is large.

Symptom        The loss jumps.
"""
from weighbridge.diagnosis import Finding, Needs, Rule, ValueEvidence

LIMIT = 2.0
TWICE = 2 * LIMIT
KINDS = ("a", "b")


class Large(Rule):
    id, title, severity, certainty, since = "large-gradient", "Large", "note", "proof", "1"
    needs = Needs(gradient=["rms"])

    def read(self, block):
        for i, column in zip(*(block["gradient.rms"] > TWICE).nonzero()):
            step = block.start + int(i)
            yield Finding(block.tensors.name(int(column)), step, step, str(TWICE), (ValueEvidence("v", TWICE),), "f")
'''


def said(message: str) -> None:
    raise AssertionError(message)


def ids(choice: Choice) -> list[str]:
    return [rule.id for rule in choice.rules(said)]


ALL = [rule.id for rule in registry.rules()]


def test_nothing_chosen_is_every_rule(tmp_path: Path) -> None:
    assert ids(choose(folder=tmp_path)) == ALL
    assert choose(folder=tmp_path).is_plain


def test_ids_and_patterns_choose(tmp_path: Path) -> None:
    assert ids(choose(["lost-updates", "step-*"], folder=tmp_path)) == ["lost-updates", "step-not-taken"]
    assert ids(choose(ignore=["lost-updates"], folder=tmp_path)) == [id for id in ALL if id != "lost-updates"]
    assert ids(choose(["lost-updates", "step-*"], ["step-*"], folder=tmp_path)) == ["lost-updates"]


@pytest.mark.parametrize("wrong", [{"select": ["lost-update"]}, {"ignore": ["lost-update"]}, {"settings": {"lost-update": {}}}])
def test_a_mistyped_id_names_the_nearest(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Did you mean lost-updates"):
        choose(**wrong, folder=tmp_path).rules(said)  # type: ignore[arg-type]


def test_the_nearest_file_of_the_project_holds(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(MINE)
    table = "[tool.weighbridge.rules]\nselect = ['lost-*', 'large-*']\nfrom = ['mine.py']\n"
    (tmp_path / "pyproject.toml").write_text(f"{table}[tool.weighbridge.rules.lost-updates]\nPATIENCE = 3\n")
    told = of_project(tmp_path / "a/b")
    assert told == Choice(("lost-*", "large-*"), (), {"lost-updates": {"PATIENCE": 3}}, (tmp_path / "mine.py",))
    assert ids(told) == ["large-gradient", "lost-updates"]
    chosen = choose(["step-*"], ["large-*"], {"lost-updates": {"LIMIT": 0.9}}, folder=tmp_path / "a/b")
    assert ids(chosen) == ["step-not-taken"]  # select takes the place of the file's
    assert chosen.settings == {"lost-updates": {"PATIENCE": 3, "LIMIT": 0.9}}
    (tmp_path / "a/weighbridge.toml").write_text("[rules]\nignore = ['lost-updates']\n")
    assert of_project(tmp_path / "a/b") == Choice(ignore=("lost-updates",))
    (tmp_path / "a/b/pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert of_project(tmp_path / "a/b").is_plain  # a project of its own ends the search


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rules]\nselect = 'lost-updates'", "select is a list of texts"),
        ("[rules]\nselekt = ['a']", "selekt is no table.*Did you mean select"),
        ("rules = 3", "rules is a table"),
        ("[rules", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "weighbridge.toml").write_text(text)
    with pytest.raises(BadInput, match=f"{tmp_path / 'weighbridge.toml'}.*{message}"):
        of_project(tmp_path)


def test_a_broken_pyproject_that_is_not_about_us_is_not_ours_to_judge(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert of_project(tmp_path).is_plain
    (tmp_path / "pyproject.toml").write_text("[tool.weighbridge.rules\n")
    with pytest.raises(BadInput, match="cannot be read"):
        of_project(tmp_path)


# ---- limits ----


def of_mine(where: Path) -> type[Rule]:
    (where / "mine.py").write_text(MINE)
    (found,) = Choice(("large-gradient",), own=(where / "mine.py",)).rules(said)
    return found


def told(rule: type[Rule], gradient: float = 5.0) -> list[str]:
    engine = Engine([rule])
    engine.feed(block(1, {"gradient.rms": {"a.bias": gradient}}, LAYERS))
    assert engine.diagnosis("made").answers[0].outcome is not Outcome.FAILED
    return [finding.message for finding in engine.findings]


def test_another_limit_and_what_is_made_from_it(tmp_path: Path) -> None:
    rule = of_mine(tmp_path)
    assert constants(rule) == {"LIMIT": 2.0, "TWICE": 4.0, "KINDS": ("a", "b")}
    assert told(rule) == ["4.0"]
    assert told(with_settings(rule, {"LIMIT": 3})) == []  # now 6: a constant made from it follows
    assert told(with_settings(rule, {"LIMIT": 1})) == ["2.0"]
    assert told(with_settings(rule, {"TWICE": 1.5})) == ["1.5"]
    assert constants(with_settings(rule, {"KINDS": ["c"]})) == constants(rule)  # for everybody else nothing has changed
    assert told(rule) == ["4.0"]


@pytest.mark.parametrize("id", ALL)
def test_a_limit_of_any_rule_can_be_set_to_itself(id: str) -> None:
    rule = registry.rule(id)
    found = with_settings(rule, constants(rule))
    assert (found.id, found.needs.statistics, found.needs.tables) == (id, rule.needs.statistics, rule.needs.tables)
    assert found is not rule
    assert found()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"LIMITS": 1.0}, "no constant 'LIMITS'. Did you mean LIMIT"),
        ({"LIMIT": "high"}, "its value is 2.0, another float"),
        ({"LIMIT": True}, "another float"),
        ({"KINDS": 3}, "another tuple"),
    ],
)
def test_a_limit_that_is_none_is_refused(values: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        with_settings(of_mine(tmp_path), values)


def test_a_rule_of_the_program_itself_is_not_run_again_for_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = of_mine(tmp_path)
    monkeypatch.setattr(rule, "__module__", "__main__")
    with pytest.raises(BadInput, match="stands in the program itself"):
        with_settings(rule, {"LIMIT": 1.0})


@pytest.mark.parametrize("text", ["lost-updates=3", "LIMIT=3", "lost-updates.LIMIT", "lost-updates.LIMIT=many"])
def test_settings_that_set_nothing_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"lost-updates.LIMIT=0.8|is no value"):
        parse_settings([text])


# ---- rules of others ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no rule"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        (MINE.replace("title, ", "_, "), "has no title"),
        (MINE.replace('"large-gradient"', '"Large Gradient"'), "wrong id 'Large Gradient'"),
        (MINE.replace('"note"', '"info"'), "wrong severity 'info'"),
        (MINE.replace('"large-gradient"', '"lost-updates"'), "Two rules have the id 'lost-updates'"),
    ],
)
def test_a_file_whose_rules_cannot_be_asked_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(text)
    with pytest.raises(BadInput, match=message):
        Choice(own=(tmp_path / "theirs.py",)).rules(said)


def test_an_installed_package_offers_its_rules_and_a_broken_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_of_another.py").write_text(MINE)
    about = tmp_path / "another-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1\n")
    entries = "[weighbridge.rules]\nall = rules_of_another\nbroken = nowhere_to_be_found:Rule\n"
    (about / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    heard: list[str] = []
    rules = Choice(("large-gradient",)).rules(heard.append)
    assert [rule.id for rule in rules] == ["large-gradient"]
    assert len(heard) == 1
    assert "nowhere_to_be_found" in heard[0]
    sys.modules.pop("rules_of_another")
