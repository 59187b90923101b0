"""Oracle: six runs written down by hand, and for each text the runs that a person would pick."""

from __future__ import annotations

import math
from typing import Any

import pytest

from weighbridge.errors import BadInput
from weighbridge.server.catalogue import Entry
from weighbridge.server.lines import health_of
from weighbridge.server.listing import differing, edge_of, edge_of_steps, grouped, listing, ordered
from weighbridge.server.search import parse
from weighbridge.store.labels import Labels


def entry(name: str, state: str = "finished", loss: float | None = 1.0, labels: Labels | None = None, **settings: Any) -> Entry:
    line = {"name": name, "settings": settings, "metrics": {"accuracy": 0.5}, "last_loss": loss, "steps": 10, "started": name}
    line |= {"seconds": 2.0, "own_cost": 0.01, "size_bytes": 100, "group": None, "project": None}
    health = {**health_of(None), "known": True, "rules": ["dead-units"] if name == "b" else []}
    health["counts"] = {"error": 1} if name == "b" else {}
    return Entry(name, state=state, line=line, labels=labels or Labels(), health=health)


RUNS = [
    entry("a", lr=0.1, layers=3, act="ReLU"),
    entry("b", "live", 0.5, lr=0.001, layers=10, act="Tanh"),
    entry("c", "ended without finish", math.nan, lr="1e-1", layers=10, act="ReLU", note="second try"),
    entry("d", loss=None, labels=Labels(("baseline",), "looks good"), layers=10),
    entry("e", labels=Labels(("old",), "", True), lr=0.1, layers=3, act="ReLU"),
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "abcd"),
        ("tanh", "b"),
        ("RELU 10", "c"),
        ("lr=0.1", "ac"),
        ("lr!=0.1", "b"),
        ("lr>0.01", "ac"),
        ("lr>=0.1 layers<5", "a"),
        ("loss<=1", "ab"),
        ("loss<0.9", "b"),
        ("act=re*", "ac"),
        ("accuracy>0.4 -tanh", "acd"),
        ("finding:dead-units", "b"),
        ("finding:dead-*", "b"),
        ("finding:error", "b"),
        ("state:live", "b"),
        ("state:ended", "c"),
        ("-state:finished", "bc"),
        ("tag:baseline", "d"),
        ("tag:old is:archived", "e"),
        ("is:archived", "e"),
        ('"looks good"', "d"),
        ('note="second try"', "c"),
        ("note=looks*", "d"),
        ("name=a", "a"),
    ],
)
def test_a_text_finds_what_a_person_would_pick(text: str, found: str) -> None:
    search = parse(text)
    assert "".join(run.name for run in RUNS if search.fits(run)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr>abc", "behind > comes a number"),
        ("lr>", "such as lr>0.01"),
        ("act=", "comes a value"),
        ("finding:", "such as finding:dead-units"),
        ("finding:ded-units", "dead-units"),
        ("state:lvie", "A run is live, finished"),
        ("is:new", "is:archived"),
        ("fnding:dead-units", "Known are finding:"),
        ('note="open', "quote is not closed"),
    ],
)
def test_a_wrong_text_is_told_how_it_is_written(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("(", r"\(")):
        parse(text)


def test_a_setting_that_no_run_has_is_named_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match=r"no.* 'lrr'|'lrr'.*lr"):
        listing(RUNS, parse("lrr>1"), "-started", "")


@pytest.mark.parametrize(
    ("sort", "order"),
    [("-started", "edcba"), ("name", "abcde"), ("loss", "baecd"), ("-loss", "eabcd"), ("lr", "baced"), ("-findings", "bedca")],
)
def test_what_has_no_number_comes_last(sort: str, order: str) -> None:
    assert "".join(run.name for run in ordered(RUNS, sort, {"lr"})) == order


def test_nothing_to_sort_or_group_by_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="sort by"):
        ordered(RUNS, "colour", {"lr"})
    with pytest.raises(BadInput, match="group by"):
        grouped(RUNS, "colour", {"lr"})


def test_groups_stand_in_the_order_of_their_values_and_those_without_last() -> None:
    assert [(one["title"], "".join(one["names"])) for one in grouped(RUNS, "layers", {"layers"})] == [
        ("3", "ae"),
        ("10", "bcd"),
    ]
    assert [one["title"] for one in grouped(RUNS, "tag", ())] == ["baseline", "old", "none"]
    assert [one["title"] for one in grouped(RUNS, "state", ())] == ["ended", "finished", "live"]


def test_of_a_run_that_is_not_read_yet_nobody_says_that_it_has_no_such_setting() -> None:
    runs = [*RUNS[:2], Entry("later", line={"name": "later"})]
    told = [(one["title"], one["names"]) for one in grouped(runs, "lr", {"lr"})]
    assert told == [("0.001", ["b"]), ("0.1", ["a"]), ("not read yet", ["later"])]


def test_settings_that_are_the_same_in_all_runs_are_not_named() -> None:
    assert differing(RUNS[:1]) == []
    assert differing([RUNS[0], RUNS[4]]) == []
    assert differing(RUNS[:2]) == ["lr", "layers", "act"]
    assert differing([RUNS[1], RUNS[3]]) == ["lr", "act"] or set(differing([RUNS[1], RUNS[3]])) == {"lr", "act"}


def test_one_loss_that_blew_up_hides_no_other() -> None:
    assert edge_of([2.0, 2.2, 1e9]) == 3.3
    assert edge_of([2.0]) == 2.0
    assert edge_of([]) == 1.0


@pytest.mark.parametrize(("steps", "edge"), [([], 0), ([300], 300), ([300, 1500, 60], 1500), ([300, 300, 1_000_000], 0)])
def test_a_run_much_longer_than_most_does_not_make_dashes_of_the_others(steps: list[int], edge: int) -> None:
    assert edge_of_steps(steps) == edge
