"""Which findings are causes. Oracles: edges, onsets and places put in by hand; the seeded runs have one known cause."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diagnosis.made import tensor
from weighbridge.diagnosis import INPUT, Diagnosis, Finding, ValueEvidence, registry
from weighbridge.diagnosis.causes import Links, linked, nearest_cause, roots, undetermined
from weighbridge.diagnosis.tensors import Tensors


def finding(rule: str, step: int, depth: float = 0.0, place: str = "", **more: Any) -> Finding:
    rest = {"severity": "error", "certainty": "proof", **more}
    told = rest.pop("told", step)
    return Finding(place, step, told, "m", (ValueEvidence("v", 1.0),), "f", rule, depth=depth, **rest)


def explained(findings: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    return {f.rule: f.explains for f in findings}


def test_what_follows_is_explained_by_what_was_there_before() -> None:
    edges = {"first": Links(("second",)), "second": Links(("third",)), "other": Links(("first",))}
    findings = [finding("third", 9), finding("first", 3), finding("second", 5), finding("other", 7)]
    told = linked(findings, edges)
    assert explained(told) == {"first": ("second", "third"), "second": ("third",), "other": (), "third": ()}
    assert [f.rule for f in roots(told)] == ["first", "other"]  # other began after first


def test_in_one_step_its_own_order_decides() -> None:
    edges = {"forward": Links(("backward",)), "backward": Links(("forward",))}
    told = linked([finding("backward", 4, depth=1.5), finding("forward", 4, depth=0.5)], edges)
    assert explained(told) == {"forward": ("backward",), "backward": ()}


def test_at_most_three_causes_the_gravest_first() -> None:
    many = [finding(f"r{i}", i, severity="warning") for i in range(5)] + [finding("grave", 9)]
    assert [f.rule for f in roots(many)] == ["grave", "r0", "r1"]


def test_an_estimated_onset_may_lie_a_little_late_and_a_proved_one_may_not() -> None:
    edges = {"slow": Links(("dead",))}
    estimated = lambda onset, **more: finding("slow", onset, told=20, certainty="heuristic", **more)
    assert explained(linked([estimated(9), finding("dead", 7)], edges))["slow"] == ("dead",)
    assert explained(linked([estimated(14), finding("dead", 7)], edges))["slow"] == ()  # 7 steps: more than (20 - 14) / 2
    assert explained(linked([finding("slow", 9, told=20), finding("dead", 7)], edges))["slow"] == ()


def test_of_a_spike_nothing_is_the_cause_that_began_with_it_or_later() -> None:
    """The rate looks wild in the step whose gradient has jumped, and because of that."""
    links = {"rate": Links(("spike",)), "spike": Links(is_event=True)}
    late = lambda onset, **more: linked([finding("rate", onset, told=20, **more), finding("spike", 9, depth=1.5)], links)
    assert explained(late(8, certainty="heuristic"))["rate"] == ("spike",)
    assert explained(late(9, certainty="heuristic"))["rate"] == explained(late(11, certainty="heuristic"))["rate"] == ()
    assert explained(late(9, certainty="proof"))["rate"] == ("spike",)  # a proof knows its place in the step
    edges = {"rate": Links(("spike",))}
    told = linked([finding("rate", 11, told=20, certainty="heuristic"), finding("spike", 9)], edges)
    assert explained(told)["rate"] == ("spike",)  # any other finding


def test_what_the_first_forward_pass_shows_was_there_before_any_gradient() -> None:
    edges = {"gradient": Links(("units",)), "weights": Links(("units",))}
    for onset, certain in ((0, {"weights"}), (1, {"weights", "gradient"})):
        made = [finding("units", onset, depth=1e-6, certainty="test"), finding("weights", 0, certainty="heuristic")]
        told = linked([*made, finding("gradient", 0, depth=1.5, told=9, certainty="heuristic")], edges)
        assert {f.rule for f in told if f.explains} == certain


def test_a_proof_of_an_error_is_a_cause_even_where_a_heuristic_explains_it() -> None:
    edges = {"guess": Links(("proof",)), "test": Links(("proof",))}
    guess, proof = finding("guess", 1, certainty="heuristic"), finding("proof", 5)
    assert [f.rule for f in roots(linked([guess, proof], edges))] == ["guess", "proof"]
    assert [f.rule for f in roots(linked([finding("test", 1, certainty="test"), proof], edges))] == ["test"]
    warned = finding("proof", 5, severity="warning")
    assert [f.rule for f in roots(linked([guess, warned], edges))] == ["guess"]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.booleans()), min_size=1, max_size=7), st.data())
def test_nothing_ever_explains_itself_and_something_is_always_a_root(parts: Any, data: st.DataObject) -> None:
    names = [f"r{i}" for i in range(5)]
    edges = {name: Links(tuple(data.draw(st.lists(st.sampled_from(names), max_size=4)))) for name in names}
    made = [
        finding(f"r{rule}", step, place=f"p{i}", told=step + 9, certainty="test" if is_test else "proof")
        for i, (rule, step, is_test) in enumerate(parts)
    ]
    told = linked(made, edges)
    assert all(f.key not in f.explains for f in told)
    by_key = {f.key: f for f in told}
    assert all({*by_key[key].explains} <= {*f.explains} for f in told for key in f.explains)  # complete
    assert roots(told)


NET = Tensors(
    [
        *(tensor(0, "a.weight"), tensor(1, "b.0.weight"), tensor(2, "c.weight")),
        *(
            tensor(3, "a/out", order=0),
            tensor(4, "b.0/out", order=1),
            tensor(5, "b.1/out", order=2),
            tensor(6, "c/out", order=3),
        ),
    ]
)


def test_places_have_their_span_in_the_order_of_execution() -> None:
    spans = {"a": (0, 0), "a.weight": (0, 0), "b": (1, 2), "b.0": (1, 1), "b.0.weight": (1, 1), "b.1": (2, 2), "c": (3, 3)}
    assert NET.spans() == {**spans, "c.weight": (3, 3)}


@pytest.mark.parametrize(
    ("travels", "reached"), [("deeper", {"b.1", "c", "b", ""}), ("shallower", {"a", "b.1", "b", ""}), ("anywhere", None)]
)
def test_an_effect_lies_where_it_can_travel(travels: Any, reached: set[str] | None) -> None:
    places = ["a", "b", "b.1", "c", ""]
    findings = [finding("cause", 1, place="b.1"), *(finding("effect", 2, place=place) for place in places)]
    links = {"cause": Links(("effect",)), "effect": Links((), travels)}
    told = linked(findings, links, NET.spans())
    found = {key.removeprefix("effect").removeprefix(" at ") for f in told for key in f.explains}
    assert found == ({*places} if reached is None else reached)


def test_two_steps_later_an_effect_can_be_anywhere() -> None:
    findings = [finding("cause", 1, place="b.1"), finding("effect", 3, place="a")]
    told = linked(findings, {"cause": Links(("effect",)), "effect": Links((), "deeper")}, NET.spans())
    assert told[0].explains == ("effect at a",)


def test_neither_a_note_nor_a_symptom_is_a_cause() -> None:
    assert roots([finding("redundant-bias", 0, severity="note"), finding("stalled-loss", 3, severity="warning")]) == ()


def test_a_symptom_without_a_cause_is_told_as_undetermined() -> None:
    assert undetermined([finding("stalled-loss", 3, severity="note")]) == "nothing was found that explains stalled-loss"
    assert undetermined([]) == undetermined([finding("redundant-bias", 0, severity="note")]) == ""


def test_two_like_candidates_for_the_same_symptom_are_not_chosen_between() -> None:
    edges = {"one": Links(("stalled-loss",)), "two": Links(("stalled-loss",))}
    symptom = finding("stalled-loss", 9, severity="note")
    alike = linked([finding("one", 1), finding("two", 2), symptom], edges)
    assert undetermined(alike) == "one or two may be the cause of stalled-loss"
    assert undetermined(linked([finding("one", 1), finding("two", 2, certainty="heuristic"), symptom], edges)) == ""
    assert undetermined(linked([finding("one", 1), finding("two", 2)], edges)) == ""  # two faults, nothing in common


def test_a_cause_of_many_outweighs_one_of_few() -> None:
    edges = {"many": Links(("x", "y", "z")), "few": Links(("w",))}
    followed = [finding(rule, 5, severity="warning") for rule in "wxyz"]
    told = linked([finding("few", 1, severity="warning"), finding("many", 2, severity="warning"), *followed], edges)
    assert [f.rule for f in roots(told)] == ["many", "few"]


def test_a_distant_effect_counts_less_than_a_near_one() -> None:
    chain = {"far": Links(("between",)), "between": Links(("effect",)), "near": Links(("effect", "other"))}
    made = [finding(r, i, severity="warning") for i, r in enumerate(("far", "near", "between", "effect", "other"))]
    told = roots(linked(made, chain))
    assert [f.rule for f in told] == ["near", "far"]  # both explain two


def test_edges_name_rules_and_form_no_circle_of_proofs() -> None:
    ids = {rule.id for rule in registry.rules()}
    for rule in registry.rules():
        assert {*rule.causes} <= ids
        assert rule.id not in rule.causes
    certain = {r.id: {*r.causes} for r in registry.rules() if r.certainty == "proof"}
    for one, two in itertools.permutations(certain, 2):
        assert not (two in certain[one] and one in certain[two]), f"{one} and {two} name each other"


def test_the_diagnosis_says_that_the_cause_is_not_determined() -> None:
    diagnosis = Diagnosis("run", (finding("growing-loss", 3, severity="note"),))
    assert diagnosis.record()["undetermined"] == diagnosis.undetermined == "nothing was found that explains growing-loss"


@pytest.mark.parametrize("same", [("collapse",), ()])
def test_another_sight_of_the_same_in_the_first_forward_pass_is_an_effect(same: tuple[str, ...]) -> None:
    shown = (ValueEvidence("n", 1.0),)
    forward = Finding("c", 0, 2, "", shown, "", rule="collapse", depth=0.1)
    backward = Finding("a", 0, 2, "", shown, "", rule="vanishing", depth=1.9)
    found = linked([forward, backward], {"vanishing": Links(("collapse",), same=same)})
    assert [one.explains for one in found] == [(), ("collapse at c",) if same else ()]


def test_of_several_causes_the_one_that_began_last_is_named() -> None:
    shown = (ValueEvidence("n", 1.0),)
    made = [
        Finding("a", 0, 0, "", shown, "", rule="one", explains=("s at c", "two at b")),
        Finding("b", 2, 2, "", shown, "", rule="two", explains=("s at c",)),
        Finding("c", 5, 5, "", shown, "", rule="s"),
    ]
    assert [made[2].key, made[1].key] == ["s at c", "two at b"]
    assert nearest_cause("s at c", made) == "two at b"
    assert nearest_cause("two at b", made) == "one at a"
    assert nearest_cause("one at a", made) == ""


def test_what_comes_with_the_batch_follows_from_nothing_in_the_network() -> None:
    links = {"rate": Links(("nan",)), "scale": Links(("nan",))}
    inside, outside = finding("nan", 5, place="b"), finding("nan", 5, place=INPUT)
    rate, scale = finding("rate", 1, certainty="test"), finding("scale", 1, certainty="test", place=INPUT)
    assert explained(linked([rate, inside], links))["rate"] == ("nan at b",)
    assert explained(linked([rate, outside], links))["rate"] == ()
    assert explained(linked([scale, outside], links))["scale"] == ("nan at input",)


def test_no_update_is_the_cause_of_what_the_first_step_shows_before_it() -> None:
    links = {rule: Links(("gradient", "stalled-loss")) for rule in ("units", "rate", "forward")}
    late = {"told": 39, "certainty": "heuristic"}  # its onset may be 19 steps late
    gradient, stalled = (
        finding("gradient", 0, depth=1.5, certainty="heuristic"),
        finding("stalled-loss", 0, 0.99, severity="note"),
    )
    for cause, effects in (
        (finding("units", 2, depth=1e-6, **late), ("stalled-loss",)),
        (finding("rate", 0, depth=2.0, **late), ("stalled-loss",)),
        (finding("forward", 0, depth=1.9, **late), ("stalled-loss", "gradient")),
    ):
        assert {*explained(linked([gradient, stalled, cause], links))[cause.rule]} == {*effects}


def test_of_one_rule_one_finding_is_a_cause() -> None:
    dead = [finding("dead", i, place=f"l{i}", severity="warning") for i in range(4)]
    assert [f.key for f in roots([*dead, finding("other", 9, severity="warning")])] == ["dead at l0", "other"]


def test_what_costs_memory_alone_stands_behind_what_harms() -> None:
    found = [finding("redundant-bias", 0, severity="warning"), finding("guess", 5, severity="warning", certainty="heuristic")]
    assert [f.rule for f in roots(found)] == ["guess", "redundant-bias"]
