"""What holds for every rule. Oracle: house style, and the same run cut in another way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import weighbridge
from tests.diagnosis.graphs import all_wrong, all_wrong_again
from tests.diagnosis.graphs import rows as graph_rows
from tests.diagnosis.made import LAYERS, NAN, block, said, step_rows, tensor
from tests.diagnosis.trainings import HEALTHY, seeded, train
from weighbridge.catalog import all_names, parse
from weighbridge.diagnosis import Diagnosis, Outcome, Rule, registry
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.pages import pages
from weighbridge.diagnosis.rule import SEVERITIES
from weighbridge.diagnosis.stream import Block
from weighbridge.records import QUANTITIES, Quantity

ROOT = Path(__file__).parents[2]
RULES = registry.rules()
ALL = pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])


@ALL
def test_a_rule_has_its_sections_in_order_and_says_what_it_is(rule: type[Rule]) -> None:
    told = registry.explanation(rule)
    assert told.summary.endswith(".")
    assert tuple(told.sections) == registry.SECTIONS
    assert all(len(text) > 20 for text in told.sections.values())
    assert rule.severity in SEVERITIES
    assert rule.title
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.id)
    assert not rule.id.startswith("no-")


@ALL
def test_what_a_rule_may_lead_to_exists(rule: type[Rule]) -> None:
    assert {*rule.causes} <= {one.id for one in RULES}


@ALL
def test_a_rule_needs_only_what_the_default_plan_records(rule: type[Rule]) -> None:
    plan = weighbridge.Plan()
    for name in rule.needs.statistics:
        quantity, _ = parse(name)
        schedule = plan.schedule("moments" if quantity.word.startswith("moment") else f"{quantity.word}s")
        assert schedule.due(0)
        assert schedule.due(10)


def _run(steps: int, value: float) -> Block:
    """Nothing recorded, or the same number of everything that is finite."""
    names = [name for name in all_names(tuple(Quantity)) if not name.endswith("nonfinite_count")]
    return block(steps, {name: {"*": value} for name in names})


@ALL
def test_an_error_is_no_heuristic(rule: type[Rule]) -> None:
    """`stop_on="error"` ends a training: that takes a proof, or a test that says how sure it is."""
    assert (rule.severity, rule.certainty) != ("error", "heuristic")


@ALL
@pytest.mark.parametrize("made", [_run(0, 1.0), _run(1, 1.0), _run(1, NAN), _run(50, NAN), block(5, tensors=())])
def test_empty_short_and_unrecorded_runs_raise_nothing_and_say_nothing(rule: type[Rule], made: Block) -> None:
    engine = Engine([rule])
    engine.feed(made)
    diagnosis = engine.diagnosis("made")
    assert diagnosis.findings == ()
    assert diagnosis.answers[0].outcome is not Outcome.FAILED, diagnosis.answers[0].reason


def test_no_block_at_all_is_not_enough_data() -> None:
    assert {a.outcome for a in Engine(RULES).diagnosis("made").answers} == {Outcome.NOT_ENOUGH_DATA}


def _of(made: Block, cuts: list[int]) -> Diagnosis:
    engine = Engine(RULES)
    for part in made.cut(*cuts):
        engine.feed(part)
    return engine.diagnosis("made")


TENSORS = (*LAYERS, tensor(7, "c.weight", dtype="bfloat16"), tensor(8, "d.weight", order=8))


def run_of(steps: int, seed: int) -> Block:
    """A run with much wrong in it: numbers from a few values, so that whatever a rule waits for happens often."""
    random = np.random.default_rng(seed)
    some = {"zero_fraction": [0.0, 1.0, 1.0], "lost_fraction": [0.2, *[0.9] * 60], "nonfinite_count": [0.0] * 200 + [3.0]}
    arrays: dict[str, dict[str, Any]] = {}
    for quantity in QUANTITIES:
        for statistic in ("count", "sum", "l1_norm", "l2_norm", "rms", "abs_max", *some):
            name = f"{quantity}.{statistic}"
            if name in all_names(tuple(Quantity)):
                values = [*some.get(statistic, [0.5, 1.0, 2.0]), NAN]
                held = {t.name: random.choice(values, steps) if random.random() < 0.8 else NAN for t in TENSORS}
                arrays[name] = held
    skipped = (random.random(steps) < random.choice([0.0, 0.2, 1.0])).tolist()
    losses = random.choice([1.0] * 50 + [NAN], steps).tolist()
    rates = random.choice([0.1, 0.0, 0.05], steps).tolist() if random.random() < 0.3 else [0.1] * steps
    calls = [
        {"step": int(step), "tensor": int(random.integers(-1, 7)), "quantity": int(random.integers(5, 7)), "calls": 1}
        | {"nonfinite_call": 0, "place": place}
        for place, step in enumerate(sorted(random.integers(0, steps, random.integers(0, 4))))
    ]
    affected = {
        "kind": "evaluation_mode",
        "tensor": -1,
        "message": "",
        "detail": {"model": "model", "affected": {"a": "Dropout"}},
    }
    end = {"step": steps - 1, "kind": "finished", "tensor": -1, "message": "", "detail": {}}
    events = [{"step": int(random.integers(0, steps)), **affected}, end]
    table = step_rows(steps, skipped=skipped, loss=losses, lr=rates) if random.random() < 0.9 else []
    passes = [{"step": 0, "loss": 1.0}] * int(random.integers(0, 40))
    return block(
        steps,
        arrays,
        TENSORS,
        ["a.weight", "a.bias", "b.bias", "c.weight"],
        steps=table,
        calls=calls,
        events=events,
        passes=passes,
        graph=graph_rows(all_wrong(), all_wrong_again()),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 60), max_size=6))
@example(38, 4_294_967_294, [])  # one rule finds two things at one place
def test_how_the_steps_are_cut_changes_no_finding(steps: int, seed: int, cuts_at: list[int]) -> None:
    made = run_of(steps, seed)
    whole = _of(made, [])
    assert not [a for a in whole.answers if a.outcome is Outcome.FAILED], whole.answers
    for cuts in ([*range(60)], cuts_at):
        assert said(_of(made, cuts)) == said(whole)


# What these wait for comes by chance; of every other rule, a test beside its own cuts a run of which it speaks.
BY_CHANCE = {
    *(
        "evaluation-mode-while-training",
        "gradient-not-applied",
        "lost-updates",
        "nonfinite-origin",
        "parameter-in-no-optimizer",
    ),
    *("parameter-without-gradient", "scaler-starvation", "step-not-taken"),
}


def test_the_runs_of_that_test_make_rules_speak() -> None:
    assert {finding.rule for seed in range(60) for finding in _of(run_of(60, seed), [])} >= BY_CHANCE


def test_cutting_changes_nothing_where_sums_pile_up() -> None:
    new = np.array([1.0, -0.4, 0.7, NAN, 0.9, -1.3, 0.2])
    arrays = {"gradient.sum": {"a.bias": np.nancumsum(new)}, "activation_gradient.sum": {"a/out": new}}
    arrays |= {"gradient.l1_norm": {"*": 9.0}, "activation_gradient.l1_norm": {"*": 9.0}}  # type: ignore[dict-item]
    made = block(7, arrays)
    assert len(_of(made, [])) == 1
    for cut in range(8):
        assert said(_of(made, [cut, 3])) == said(_of(made, []))


@pytest.mark.parametrize("name", HEALTHY)
def test_no_rule_says_anything_of_a_healthy_training(name: str, tmp_path: Path) -> None:
    diagnosis = weighbridge.diagnose(train(seeded(HEALTHY[name]), tmp_path))
    assert str(diagnosis).endswith("nothing found")
    assert not [a for a in diagnosis.answers if a.outcome is Outcome.FAILED]
    assert diagnosis.steps == 60


def test_there_are_healthy_trainings_of_at_least_twelve_kinds() -> None:
    assert len(HEALTHY) >= 12


def test_the_pages_are_those_that_the_docstrings_make() -> None:
    folder = ROOT / "docs" / "rules"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == pages()
