"""C does the usual step. Oracle: the same training once more, with every step done by Python."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import weighbridge
from tests.capture.oracle import table
from tests.capture.usual_training import UNUSUAL, Training, check_same, trained
from weighbridge.capture import active
from weighbridge.capture.biases import Biases
from weighbridge.capture.kernel import NativeKernel, load_kernel
from weighbridge.capture.stepper import Stepper
from weighbridge.capture.usual import OFF, Usual

pytestmark = pytest.mark.skipif(not isinstance(load_kernel(), NativeKernel), reason="the C kernel was not built here")


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "fused"])
def test_c_writes_what_python_would(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same(tmp_path, monkeypatch, kind, ["step"] * 130)


def test_a_change_that_only_a_version_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same(tmp_path, monkeypatch, "large", ["step"] * 33 + ["copies_weights"] * 2 + ["step"] * 3)


def test_a_fused_step_that_a_scaler_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ["step"] * 33 + ["is_told_of_infinity"] * 2 + ["step"] * 3
    check_same(tmp_path, monkeypatch, "fused", events)


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_what_is_not_usual_is_pythons(unusual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ["step"] * 33 + [unusual] + ["step"] * 9 + [unusual] * 3 + ["step"] * 5
    check_same(tmp_path, monkeypatch, "momentum", events)


@pytest.mark.parametrize(
    "turn",
    [
        ["step", "clips"],
        ["step", "step", "edits_weights"],
        ["step", "clips", "step", "edits_weights"],
        ["forgets_to_empty_gradients", "step"],
        ["forgets_and_halves", "step", "forgets_to_empty_gradients", "step"],
        ["empties_with_zeros"],
        ["step", "empties_with_zeros", "clips"],
        ["forgets_to_empty_gradients"] * 4,
    ],
    ids=" ".join,
)
def test_in_turns(turn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same(tmp_path, monkeypatch, "sgd", ["step"] * 22 + (turn * 24)[:72])


@pytest.mark.parametrize("seed", range(6))
def test_anything_in_any_order(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    events = ["step"] * 25 + [chance.choice(UNUSUAL) if chance.random() < 0.25 else "step" for _ in range(120)]
    check_same(tmp_path, monkeypatch, chance.choice(["sgd", "momentum", "adam", "fused"]), events)


@pytest.mark.parametrize(
    "plan",
    [
        {"histogram": 0},
        {"sentinel": False},
        {"activations": True, "activation_gradients": True},
        {"activations": False, "activation_gradients": False, "units": False, "sentinel": False},
        {"parameters": 3},
        {"moments": True, "coherence": 7},
        {"values": False},
        {"include": "3.*"},
    ],
    ids=str,
)
def test_any_plan(plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ["step"] * 40 + ["clips", "step", "step", "edits_weights"] + ["step"] * 30
    check_same(tmp_path, monkeypatch, "adam", events, weighbridge.Plan(**plan))


def by_python(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps whose end Python has noted."""
    steps: list[int] = []
    note = Stepper._note_step

    def noted(stepper: Stepper, *arguments: Any) -> Any:
        steps.append(stepper.clock)
        return note(stepper, *arguments)

    monkeypatch.setattr(Stepper, "_note_step", noted)
    return steps


def test_most_steps_are_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = by_python(monkeypatch)
    trained(tmp_path, "adam", ["step"] * 1_500)
    late = [step for step in steps if step >= 1_000]
    assert len(late) <= 20  # where units, moments, successive gradients or samples of values are due


def test_where_it_is_never_usual_c_is_asked_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    start = Usual._until
    monkeypatch.setattr(
        Usual, "_until", lambda usual, stepper, stepped: starts.append(stepper.clock) or start(usual, stepper, stepped)
    )
    trained(tmp_path, "sgd", ["clips"] * 400)
    assert len(starts) < 60


def test_a_budget_leaves_every_step_to_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = by_python(monkeypatch)
    trained(tmp_path, "sgd", ["step"] * 60, weighbridge.Plan(budget=0.5))
    assert steps == list(range(60))


def test_without_what_torch_lends_python_does_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.capture.cfunctions.lent_to_c", lambda: None)
    steps = by_python(monkeypatch)
    trained(tmp_path, "sgd", ["step"] * 60)
    assert steps == list(range(60))


def test_steps_are_handed_over_though_python_sees_none(tmp_path: Path) -> None:
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        training = Training("sgd", run)
        for _ in range(37):
            training.step()
        assert run._stepper.usual is not None
        assert run._stepper.usual.state.done > 0
        run._stepper.recorder.flush()  # as the writer's thread hands over: nobody has asked the stepper before
        assert [row["step"] for row in table(run.path, "steps")] == list(range(37))
        assert run._stepper.steps == 37


def test_an_optimizer_that_is_gone_keeps_nothing(tmp_path: Path) -> None:
    import gc
    import weakref

    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        training = Training("sgd", run)
        for _ in range(36):
            training.step()
        gone = weakref.ref(training.optimizer)
        group = weakref.ref(training.mark())
        usual = run._stepper.usual
        assert usual is not None
        usual._rest = 2  # the next steps are Python's: what C has is not exchanged for something new
        training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.01)
        training.step()
        gc.collect()
        assert group() is None
        assert usual.state.phase == OFF
        for kind in (torch.optim.Adam, torch.optim.SGD, torch.optim.Adam):
            training.optimizer = kind(training.model.parameters(), lr=0.01)
            gc.collect()
            for _ in range(5):
                training.step()
        assert gone() is None
    assert [row["step"] for row in table(run.path, "steps")] == list(range(52))
    assert [row["optimizer"] for row in table(run.path, "steps")][35:39] == [0, 1, 2, 2]


def test_no_row_is_lost_when_the_writer_hands_over_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Biases.rows

    def handed_over_meanwhile(biases: Biases, *arguments: Any) -> Any:
        found = rows(biases, *arguments)
        active._active._recorder.hand_over()  # type: ignore[union-attr]  # the writer's thread does so after a pause
        return found

    monkeypatch.setattr(Biases, "rows", handed_over_meanwhile)
    path, _ = trained(tmp_path, "sgd", ["step"] * 3)
    assert sorted(row["step"] for row in table(path, "biases")) == [0, 0, 1, 1, 2, 2]
