"""Blocks, the engine and the ranking of causes. Oracles: RunRecord.series, rules made for the test, edges put in by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weighbridge
from tests.diagnosis.made import LAYERS, block, step_rows, tensor
from tests.diagnosis.trainings import seeded, sgd_mlp, train
from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, ValueEvidence, registry
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.stream import MOST_STEPS, Block, RecordedRun
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.errors import BadInput, NotARun


def _finding(rule: str, step: int, depth: float = 0.0, place: str = "", severity: Any = "error") -> Finding:
    return Finding(place, step, step, "m", (ValueEvidence("v", 1.0),), "f", rule, severity, "proof", depth=depth)


class Large(Rule):
    """Told where a gradient is above 2."""

    id, title, severity, certainty, since = "large", "Large", "note", "proof", "0"
    needs = Needs(gradient=["rms"], tables=["steps"])

    def read(self, block: Block) -> Iterator[Finding]:
        for i, column in zip(*np.nonzero(block["gradient.rms"] > 2), strict=True):
            step = int(block.start + i)
            yield Finding(block.tensors.name(int(column)), step, step, "large", (ValueEvidence("rms", 3.0),), "shrink")


class Broken(Large):
    id = "broken"

    def read(self, block: Block) -> Iterator[Finding]:
        yield from super().read(block)
        raise ZeroDivisionError("of mine")


class Curious(Large):
    id = "curious"

    def read(self, block: Block) -> Iterator[Finding]:
        block["update.rms"].any()
        yield from super().read(block)


def test_a_rule_that_raises_has_failed_and_the_others_go_on() -> None:
    engine = Engine([Broken, Large])
    engine.feed(block(4, {"gradient.rms": {"a.bias": [1.0, 3.0, 3.0, 1.0]}}))
    engine.feed(block(4))  # and is not asked again
    diagnosis = engine.diagnosis("made")
    assert [(a.rule, a.outcome) for a in diagnosis.answers] == [("broken", Outcome.FAILED), ("large", Outcome.FOUND)]
    assert diagnosis.answers[0].reason == "ZeroDivisionError: of mine"
    assert [(f.key, f.first_step) for f in diagnosis] == [("broken at a.bias", 1), ("large at a.bias", 1)]  # once per place


def test_a_rule_sees_only_what_it_declares() -> None:
    engine = Engine([Curious])
    engine.feed(block(2))
    assert engine.diagnosis("made").answers[0].reason == "KeyError: 'update.rms'"


def test_a_finding_without_evidence_is_refused() -> None:
    with pytest.raises(ValueError, match="without evidence"):
        Finding("", 0, 0, "m", (), "f")


def test_unknown_needs_are_refused() -> None:
    with pytest.raises(TypeError, match="knows no gradients, rows"):
        Needs(gradients=["rms"], tables=["rows"])


def test_blocks_of_a_run_hold_what_its_series_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = train(seeded(sgd_mlp), tmp_path, 23)
    record = weighbridge.open_run(path)
    names = (
        "gradient.rms",
        "parameter.abs_max",
        "update.zero_fraction",
        "activation_gradient.sum",
        "activation.nonfinite_count",
    )
    needs = Needs(**{n.split(".")[0]: [n.split(".")[1]] for n in names}, tables=["steps", "events", "groups"])
    monkeypatch.setattr("weighbridge.diagnosis.stream.MOST_STEPS", 7)
    blocks = list(RecordedRun(record, needs).blocks())
    assert [(b.start, b.stop) for b in blocks] == [(0, 7), (7, 14), (14, 21), (21, 24)]  # step 23: the closing rows
    for name in names:
        whole = np.concatenate([b[name] for b in blocks])
        for column, one in enumerate(blocks[0].tensors):
            if one.is_output is name.startswith("activation"):
                series = record.series(one.name, name)
                assert np.flatnonzero(~np.isnan(whole[:, column])).tolist() == series.steps.tolist()
                assert whole[series.steps, column].tolist() == series.values.tolist()
            else:
                assert np.isnan(whole[:, column]).all()
    assert [row["step"] for b in blocks for row in b.rows("steps")] == list(range(23))
    rates = np.concatenate([b.of_steps("lr") for b in blocks])
    parameters = blocks[0].tensors.is_parameter
    assert (rates[:23, parameters] == 0.1).all()
    assert np.isnan(rates[23]).all()
    assert np.isnan(rates[:, ~parameters]).all()
    assert MOST_STEPS > 7


def test_a_block_never_spans_a_change_of_groups_or_tensors(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    last, added = training.model[4], torch.nn.Linear(10, 10)
    optimizer = torch.optim.SGD(training.model[:4].parameters(), lr=0.1)
    training.optimizers = [optimizer]

    def grow(step: int) -> None:
        if step == 5:
            optimizer.add_param_group({"params": last.parameters(), "lr": 0.01})
        if step == 9:
            training.model.append(added)
            optimizer.add_param_group({"params": added.parameters(), "lr": 0.02})

    training.also = grow
    record = weighbridge.open_run(train(training, tmp_path, 12))
    blocks = list(RecordedRun(record, Needs(gradient=["rms"], tables=["steps", "groups"])).blocks())
    assert {0, 5, 9} <= {b.start for b in blocks}
    rates = np.concatenate(
        [np.pad(b.of_steps("lr"), ((0, 0), (0, 20 - len(b.tensors))), constant_values=np.nan) for b in blocks]
    )
    column = {t.name: i for i, t in enumerate(blocks[-1].tensors)}
    assert rates[4:6, column["4.weight"]].tolist() == [pytest.approx(np.nan, nan_ok=True), 0.01]
    assert rates[8:10, column["5.bias"]].tolist() == [pytest.approx(np.nan, nan_ok=True), 0.02]
    assert [b.tensors[i].name for b in blocks for i in (0,)] == ["0.weight"] * len(blocks)


def test_a_block_says_each_group_s_settings_and_each_tensor_s_decay(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    first, *others = training.model.parameters()
    groups = [{"params": [first], "weight_decay": 0.5}, {"params": others}]
    training.optimizers = [torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.25)]
    record = weighbridge.open_run(train(training, tmp_path, 2))
    (made,) = RecordedRun(record, Needs(tables=["steps", "groups"])).blocks()
    assert [(g.kind, g.settings["betas"], g.settings["eps"]) for g in made.groups] == [("AdamW", [0.8, 0.95], 1e-6)] * 2
    assert made.of_steps("weight_decay")[0, :3].tolist() == [0.5, 0.25, 0.25]
    assert made.of_steps("momentum")[1, :2].tolist() == [0.8, 0.8]


def test_a_run_and_its_folder_give_the_same_diagnosis_and_no_run_is_refused(tmp_path: Path) -> None:
    path = train(seeded(sgd_mlp), tmp_path, 5)
    assert weighbridge.diagnose(weighbridge.open_run(path)) == weighbridge.diagnose(path)
    with pytest.raises(NotARun):
        weighbridge.diagnose(tmp_path / "none")


def test_parameters_are_told_as_the_outermost_modules_that_are_meant_as_a_whole() -> None:
    names = ["a.x.weight", "a.x.bias", "a.y.weight", "b.weight", "b.bias", "c"]
    tensors = Tensors(tensor(i, name) for i, name in enumerate(names))
    places = lambda columns: tensors.together(columns, tensors.is_parameter)
    assert places([0, 1, 2, 4]) == [("a", [0, 1, 2]), ("b.bias", [4])]
    assert places([0, 1, 5]) == [("a.x", [0, 1]), ("c", [5])]
    assert places(range(6)) == [("", [0, 1, 2, 3, 4, 5])]
    assert places([]) == []
    two = Tensors([tensor(0, "a.weight", model="first"), tensor(1, "a.weight", model="second")])
    assert two.together([1], two.is_parameter) == [("second:a.weight", [1])]
    assert two.together([0, 1], two.is_parameter) == [("first:a.weight", [0]), ("second:a.weight", [1])]


def test_rules_are_found_by_id_and_a_mistyped_one_names_the_nearest() -> None:
    assert registry.rule("lost-updates").id == "lost-updates"
    with pytest.raises(BadInput, match="Did you mean lost-updates"):
        registry.rule("lost-update")


def test_cutting_a_block_keeps_all_of_it() -> None:
    made = block(6, {"gradient.rms": {"*": list(range(6))}}, LAYERS[:1], steps=step_rows(6))
    parts = list(made.cut(2, 4, 9, 0))
    assert [(p.start, p.stop) for p in parts] == [(0, 2), (2, 4), (4, 6)]
    assert np.array_equal(np.concatenate([p["gradient.rms"] for p in parts]), made["gradient.rms"])
    assert tuple(row for p in parts for row in p.rows("steps")) == made.rows("steps")
