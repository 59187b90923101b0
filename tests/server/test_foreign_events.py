"""Events that others wrote, or that are damaged: a field that is missing is absent. Oracle: the run without the event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.server.conftest import client_of
from tests.store import made_rows
from weighbridge.diagnosis.engine import diagnose
from weighbridge.records import EVENTS
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.writer import RankWriter

STEPS = 12
KINDS = ("detail", "optimizer", "inspection", "biases", "config", "warned", "nobody's")
DETAILS: tuple[Any, ...] = (
    {},
    [],
    7,
    {"level": 2},
    {"level": "x", "words": None, "cost": "much", "allowed": []},
    {"optimizer": 0},
    {"optimizer": [0], "class": "SGD", "groups": []},
    {"optimizer": 0, "class": "SGD", "groups": 3},
    {"optimizer": 0, "class": "SGD", "groups": [3]},
    {"optimizer": 0, "class": "SGD", "groups": [{"tensors": [[]], "settings": {}}]},
    {"optimizer": 0, "class": "SGD", "groups": [{"tensors": [99], "settings": {}}]},
    {"layers": 3, "findings": "x", "loss": "x"},
    {"layers": [3, {}, {"module": "layers.0"}, {"layer": "layers.0"}, {"layer": "layers.0", "verdict": 1}]},
    {"layers": [{"layer": "layers.0", "name": "layers.0.bias", "verdict": "worth its place", "size_bytes": "x"}]},
    {"lr": "a text"},
)
PAGES = (
    "run?run=one", "notes?run=one", "before?run=one", "tensors?run=one", "loss?run=one", "findings?run=one", "rows?run=one",
    "worth?run=one&path=layers.0", "network?run=one&stat=gradient.rms",
    "layer?run=one&path=layers.0", "heat?run=one&stat=gradient.rms",
)  # fmt: skip


def made(folder: Path, kinds: Sequence[str] = (), text: str = "") -> Path:
    run = create_run(folder, "one", {})
    writer = RankWriter(run)
    events = pa.Table.from_batches([made_rows.event(3, kind, text) for kind in kinds], EVENTS).combine_chunks()
    told = {"events": events.to_batches()[0]} if kinds else {}
    rows, steps = made_rows.rows(0, STEPS), made_rows.steps(0, STEPS)
    writer.write({"rows": rows, "steps": steps, "tensors": made_rows.tensors(), **told}, 0, STEPS - 1)
    writer.finish(STEPS)
    return run


@pytest.mark.parametrize("text", [*map(json.dumps, DETAILS), "{", ""])
def test_no_page_fails(tmp_path: Path, text: str) -> None:
    made(tmp_path / "runs", KINDS, text)
    client = client_of(tmp_path / "runs", tmp_path)
    answers = {what: client.get(f"/api/{what}") for what in PAGES}
    assert {what: answer.status_code for what, answer in answers.items()} == dict.fromkeys(PAGES, 200)


@pytest.mark.parametrize("text", ["{}", "7", '{"words": "histograms"}'])
def test_detail_without_its_level_leaves_nothing_out(tmp_path: Path, text: str) -> None:
    assert open_run(made(tmp_path, ["detail"], text)).detail is None


def test_an_optimizer_without_its_parts_is_none_and_the_rules_read_on(tmp_path: Path) -> None:
    plain, odd = made(tmp_path / "plain"), made(tmp_path / "odd", ["optimizer"], '{"optimizer": 0}')
    assert open_run(odd).optimizer_groups() == []
    told, wanted = diagnose(odd), diagnose(plain)
    assert [finding.key for finding in told.findings] == [finding.key for finding in wanted.findings]
    assert told.answers == wanted.answers
