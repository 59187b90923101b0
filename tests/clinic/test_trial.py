"""How a program is tried. Oracle: programs written here, whose truth and end are known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from clinic.frame import trial as trials
from clinic.frame.case import Case
from clinic.frame.program import Program, _enter
from clinic.frame.trial import Result, Trial, run_all, tried


def from_third(case: Case) -> None:
    model = nn.Linear(2, 1)
    with case.watch(model):
        for step in range(case.steps):
            case.truth(lambda step=step: case.ill and step >= 3)
    case.proof(lambda: True)


def program(train: Callable[[Case], None], label: str = "a", ranks: int = 1) -> Program:
    return Program("p", "tuning", train, "MLP", "here", 6, label, ("",), ranks=ranks)


def one(train: Callable[[Case], None], ill: bool = True, label: str = "a", ranks: int = 1) -> Result:
    (result,) = run_all([Trial(program(train, label, ranks), 0, ill)], jobs=1, watched=False)
    return result


def test_the_first_step_of_the_truth_is_measured_and_the_twin_has_none() -> None:
    ill, twin = one(from_third), one(from_third, ill=False)
    assert (ill.name, ill.label, ill.first_true, ill.is_proved) == ("p", "a", 3, True)
    assert (twin.name, twin.label, twin.first_true, twin.is_proved, twin.is_twin) == ("p-repaired", "", None, True, True)


@pytest.mark.parametrize(("ill", "true", "learns"), [(True, False, True), (False, True, True), (False, False, False)])
def test_a_fault_without_truth_a_twin_with_it_and_one_that_does_not_learn_are_not_proved(
    ill: bool, true: bool, learns: bool
) -> None:
    def train(case: Case) -> None:
        case.truth(lambda: true)
        case.proof(lambda: learns)

    assert not one(train, ill).is_proved


def test_measurements_leave_the_random_state_and_are_not_made_while_watched() -> None:
    torch.manual_seed(0)
    plain, watched = Case(0, True, 1), Case(0, True, 1, watch=lambda model: nullcontext())
    asked: list[float] = []
    before = torch.get_rng_state()
    for case in (plain, watched):
        case.truth(lambda: asked.append(torch.rand(()).item()) or True)
    assert len(asked) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_measurement_in_training_mode_leaves_the_running_averages() -> None:
    model = nn.BatchNorm1d(2)
    case = Case(0, True, 1)
    with case.watch(model):
        case.truth(lambda: bool(model(torch.randn(8, 2) + 5).isfinite().all()))
    assert model.running_mean is not None
    assert model.running_mean.tolist() == [0.0, 0.0]


def test_a_program_that_raises_dies_or_does_not_end_is_said_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "TIMEOUT_SECONDS", 20.0)
    stops: list[tuple[Callable[[Case], None], str]] = [
        (lambda case: 1 / 0, "ZeroDivisionError"),
        (lambda case: os._exit(1), "died"),
        (from_third, ""),
    ]
    results = list(run_all([Trial(program(train), 0, True) for train, _ in stops], jobs=1, watched=False))
    assert all(text in r.failure for r, (_, text) in zip(results, stops, strict=True))
    monkeypatch.setattr(trials, "TIMEOUT_SECONDS", 0.5)
    assert "not ended" in one(lambda case: time.sleep(60)).failure


def test_a_training_that_ends_otherwise_when_watched_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meddler:
        def watch(self, model: nn.Module) -> nullcontext[None]:
            torch.nn.init.zeros_(next(model.parameters()))
            return nullcontext()

        def verdicts(self) -> list[object]:
            return []

    monkeypatch.setattr(trials, "tool", lambda name: Meddler())
    assert not tried(Trial(program(from_third), 0, True)).is_same


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_trial_runs_on_one_thread_so_that_its_bits_can_be_compared_with_kept_ones(ranks: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert one(lambda case: case.truth(lambda: torch.get_num_threads() == 1), ranks=ranks).is_proved
    finally:
        torch.set_num_threads(before)


def test_ranks_are_joined_before_the_program_begins() -> None:
    def train(case: Case) -> None:
        mine = torch.tensor([float(torch.distributed.get_rank())])
        torch.distributed.all_reduce(mine)
        case.truth(lambda: mine.item() == 1.0)

    assert one(train, ranks=2).is_proved


def test_two_programs_of_one_name_are_refused() -> None:
    _enter(replace(program(from_third), part="nowhere"))
    with pytest.raises(ValueError, match="two programs"):
        _enter(replace(program(from_third), part="nowhere"))
