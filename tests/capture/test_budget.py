"""Detail under a budget. Decisions: against a model of what each level costs, in simulated time. Rows: oracle.py."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import PARAMETER, check, compare, events, expected_rows, recorded_rows, table, train
from weighbridge import Plan
from weighbridge.capture import stepper as stepper_module
from weighbridge.capture.budget import BLOCK, EVERY, LEAST_NS, WINDOW, Budget, Change, Level, in_turns, levels
from weighbridge.errors import BadPlan, NothingRecorded
from weighbridge.records import Quantity

STEP_NS = 10_000_000


def cost_of(level: Level, full: float, fixed: float) -> float:
    """What a step of ours takes: a part that no level saves, the rest halved by each."""
    saved = (1.0 if level.has_histograms else 0.6) / level.turns / level.every
    return fixed + (full - fixed) * saved


def run(budget: Budget, steps: int, full: float, fixed: float = 0.0, noise: float = 0.0, step_ns: int = STEP_NS) -> list[Any]:
    """(step, change) of a training in which weighing everything costs this share of a step."""
    chance, changes = random.Random(0), []
    for step in range(steps):
        own = cost_of(budget.level, full, fixed) * step_ns * (1 + noise * chance.uniform(-1, 1))
        change = budget.add(int(own), step_ns + int(own))
        changes += [(step, change)] if change is not None else []
    return changes


@pytest.mark.parametrize("full", [0.001, 0.019, 0.03, 0.1, 0.5, 2.0])
def test_the_cost_comes_inside_the_budget_and_stays_there(full: float) -> None:
    budget = Budget(0.02)
    changes = run(budget, 20_000, full, noise=0.3)
    assert cost_of(budget.level, full, 0.0) <= 0.02 * 1.05
    assert bool(changes) == (full > 0.02)
    assert all(b - a >= WINDOW for (a, _), (b, _) in itertools.pairwise(changes))
    assert all(step + 1 >= WINDOW for step, _ in changes)
    assert all(step < 5_000 for step, _ in changes), "it settles"


def test_no_more_is_given_up_than_is_needed() -> None:
    for full, wanted in [(0.03, Level(False)), (0.06, Level(False, 2)), (0.1, Level(False, 4)), (1.0, Level(False, 8, 4))]:
        budget = Budget(0.02)
        run(budget, 20_000, full)
        assert budget.level == wanted, full


def test_detail_comes_back_when_there_is_room() -> None:
    budget = Budget(0.02)
    run(budget, 5_000, 0.5)
    assert budget.number > 2
    run(budget, 20_000, 0.01)
    assert budget.level == Level()


def test_a_cost_between_two_levels_does_not_swing() -> None:
    for full in (0.021, 0.034, 0.045, 0.07, 0.11):
        changes = run(Budget(0.02), 100_000, full, noise=0.5)
        assert len(changes) <= 4, full


def test_after_each_attempt_that_fails_the_next_is_waited_for_twice_as_long() -> None:
    """Histograms alone cost more than is allowed, and nothing else does. The first attempt comes after one window with room."""
    budget, attempts = Budget(0.02), []
    for step in range(300 * WINDOW):
        own = STEP_NS // (20 if budget.level.has_histograms else 200)
        change = budget.add(own, STEP_NS + own)
        if change is not None and change.number == 0:
            attempts.append((step + 1) // WINDOW)
    assert attempts == [2, 5, 10, 19, 36, 69, 134, 199, 264]  # 1, 2, 4, ... 64 windows after it was lowered again


def test_what_no_level_can_save_is_told_once() -> None:
    budget = Budget(0.02)
    changes = [change for _, change in run(budget, 60_000, 0.5, fixed=0.1)]
    assert budget.level == levels(True)[-1]
    assert [change.is_least for change in changes].count(True) == 1
    assert "no less detail" in changes[-1].message()


def test_never_below_20_microseconds() -> None:
    """A step of 50 us, of which 15 are ours: 30 %, and yet there is nothing worth saving."""
    assert run(Budget(0.02), 5_000, 15_000 / 50_000, step_ns=50_000) == []
    assert run(Budget(0.02), 5_000, 1.1 * LEAST_NS / 50_000, step_ns=50_000) != []


def test_dear_sampled_steps_count_and_a_single_long_step_does_not() -> None:
    """Every 10th step costs 40 % (4 % on average); and apart from that, one step of a second in ours."""
    dear, lone = Budget(0.02), Budget(0.02)
    found = [dear.add(STEP_NS * 4 // 10 if step % BLOCK == 0 else 0, STEP_NS) for step in range(WINDOW)]
    assert any(found)
    assert not any(lone.add(10**9 if step == 17 else 1000, 10**9 if step == 17 else STEP_NS) for step in range(WINDOW * 5))


def test_levels_give_up_histograms_then_turns_then_steps() -> None:
    found = levels(True)
    assert found[:2] == [Level(), Level(False)]
    costs = [cost_of(level, 1.0, 0.0) for level in found]
    assert costs == sorted(costs, reverse=True)
    assert levels(False)[0] == Level(False)
    assert [level.words() for level in (found[0], found[1], found[2], found[-1], Level(True, 1, 2))] == [
        "everything of the plan",
        "no histograms",
        "no histograms, each tensor at one weighed step in 2",
        "no histograms, each tensor at one weighed step in 8, one step in 64 is weighed",
        "one step in 2 is weighed",
    ]


def test_turns_hold_every_tensor_once() -> None:
    for number in (1, 3, 8, 100):
        parts = in_turns(range(number), 8)
        assert sorted(i for part in parts for i in part) == list(range(number))
        assert all(parts)


# --- what is recorded at each level -------------------------------------------------------------------------------


class Scripted:
    """In the place of Budget: these levels at these steps."""

    script: ClassVar[dict[int, Level]] = {}

    def __init__(self, share: float, has_histograms: bool = True) -> None:
        self.level, self.steps = self.script.get(0, Level()), 0

    def add(self, own_ns: int, wall_ns: int) -> Change | None:
        assert wall_ns > own_ns > 0
        self.steps += 1
        level = self.script.get(self.steps + 1)
        return Change(level, 1, 0.1, 0.02, 1e6, False) if level is not None else None


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Scripted]]:
    monkeypatch.setattr(stepper_module, "Budget", Scripted)
    yield Scripted
    Scripted.script = {}


def model_and_loss() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 70), nn.ReLU(), nn.Linear(70, 1))
    return model, lambda step: model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()


def compare_without_histogram(key: object, row: dict[str, Any], expected: Any) -> None:
    assert (row["hist_count"], row["hist"]) == (0, []), key
    whole = expected.summary
    row = row | {"hist_count": whole.hist_count, "hist": whole.hist.tolist(), "hist_first": 0}
    compare(key, row, expected)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "level",
    [Level(False), Level(False, 2), Level(False, 4), Level(False, 8), Level(False, 8, 2), Level(False, 4, 8)],
    ids=lambda level: level.words(),
)
def test_every_row_that_is_left_is_right_and_the_others_are_missing(
    tmp_path: Path, scripted: type[Scripted], level: Level, optimizer: Any
) -> None:
    change, steps = 10, 60
    scripted.script = {change: level}
    model, loss = model_and_loss()
    path, oracle = train(tmp_path, model, optimizer(model.parameters(), lr=0.01), loss, steps, plan=Plan(budget=0.02))
    expected, found = expected_rows(oracle), recorded_rows(path)
    assert set(found) <= set(expected)
    for key, row in found.items():
        (compare_without_histogram if change <= key[0] < steps else compare)(key, row, expected[key])
    for step in range(change):
        assert {key for key in expected if key[0] == step} == {key for key in found if key[0] == step}
    parts = min(level.turns, 6)
    number = len([key for key in found if change <= key[0] < steps and key[2] == PARAMETER])
    assert number == pytest.approx((steps - change) * 6 / parts / level.every, abs=6)
    weighed = {(key[0], key[1]) for key in found if change <= key[0] < steps}
    assert {name for _, name in weighed} == {name for _, name, _ in expected} or level.thinning > steps // 10
    (event,) = events(path, "detail")
    assert event.step == change
    assert event.detail["words"] == level.words()
    assert events(path, "changed") == []


def test_back_to_everything(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.script = {10: Level(False, 4, 2), 40: Level()}
    model, loss = model_and_loss()
    path, oracle = train(tmp_path, model, torch.optim.Adam(model.parameters()), loss, 60, plan=Plan(budget=0.02))
    found, truth = recorded_rows(path), expected_rows(oracle)
    for key, row in found.items():
        if not 10 <= key[0] < 40:
            compare(key, row, truth[key])
    assert all(key in found for key in truth if not 10 <= key[0] < 40)


def test_a_change_between_steps_shows_in_the_values_and_is_no_update(tmp_path: Path, scripted: type[Scripted]) -> None:
    """The copies of the other parts are old: a row must never be taken from them."""
    scripted.script = {0: Level(False, 4)}
    model, loss = model_and_loss()

    def between(step: int) -> None:
        with torch.no_grad():
            model[2].weight.add_(1.0)
            model[4].weight.data = model[4].weight.data * 1.01

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    path, oracle = train(tmp_path, model, optimizer, loss, 30, between=between, plan=Plan(budget=0.02))
    expected = expected_rows(oracle)
    for key, row in recorded_rows(path).items():
        (compare_without_histogram if key[0] < 30 else compare)(key, row, expected[key])


def test_bits_of_the_training_are_the_same(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.script = {3: Level(False, 4), 9: Level(False, 8, 2), 20: Level()}

    def trained(watched: bool) -> list[torch.Tensor]:
        model, loss = model_and_loss()
        optimizer = torch.optim.Adam(model.parameters())
        if watched:
            train(tmp_path, model, optimizer, loss, 30, plan=Plan(budget=0.02))
        else:
            for step in range(30):
                optimizer.zero_grad()
                loss(step).backward()
                optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


def test_activations_and_moments_are_thinned_and_the_sentinel_is_not(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.script = {10: Level(False, 2, 2)}
    model, loss = model_and_loss()
    optimizer = torch.optim.Adam(model.parameters())
    plan = Plan(budget=0.02, activations=True, activation_gradients=True, moments=True)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(50):
            optimizer.zero_grad()
            with torch.no_grad():
                model[2].bias[0] = float("nan") if step == 34 else 0.0
            loss(step).nan_to_num().backward()
            for p in model.parameters():
                p.grad.nan_to_num_()
            optimizer.step()
    steps: dict[Quantity, set[int]] = {}
    for row in table(run.path, "rows"):
        steps.setdefault(Quantity(row["quantity"]), set()).add(row["step"])
        if row["step"] >= 12 and row["quantity"] > 2:
            assert row["hist_count"] == 0
    for quantity in (Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT, Quantity.MOMENT1, Quantity.MOMENT2):
        assert set(range(10)) <= steps[quantity]
        assert len(steps[quantity] - set(range(12))) in range(8, 12), quantity
    assert 34 not in steps[Quantity.ACTIVATION], "else this test says nothing of the sentinel: choose another step"
    found = weighbridge.open_run(run.path).first_nonfinite()
    assert found is not None
    assert (found.step, found.name) == (34, "2/out")


def test_an_optimizer_that_steps_at_every_second_reading_of_the_clock_is_weighed_too(
    tmp_path: Path, scripted: type[Scripted]
) -> None:
    """Every second step of its own, not of the clock: else it would never be met."""
    scripted.script = {0: Level(False, 1, 2)}
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(budget=0.02)) as run:
        run.watch(one)
        run.watch(other)
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other)]
        for step in range(20):
            for model, optimizer in list(zip((one, other), optimizers, strict=True))[: 1 + step % 2]:
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
    named = {row["tensor"] for row in table(run.path, "rows") if row["quantity"] == 2}
    assert len(named) == 4


def test_in_a_real_training_that_is_too_dear_detail_is_lowered_and_the_readers_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(100)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    end = WINDOW + EVERY[-1] + 10  # on a slow machine detail falls to the least at once: one step in EVERY[-1]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(budget=0.001)) as run:
        run.watch(model)
        for _ in range(end):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
    first = events(run.path, "detail")[0]
    assert first.step in range(WINDOW - 5, WINDOW + 5)
    record = weighbridge.open_run(run.path)
    assert record.detail is not None
    assert record.detail.cost > record.detail.allowed
    rms = record.series("0.weight", "parameter.rms")
    assert len(rms.steps) < end - 5
    assert (rms.values > 0).all(), "missing, never zero"
    rows = recorded_rows(run.path)
    step, name, _ = next(key for key in rows if first.step <= key[0] < end and key[2] is PARAMETER)
    with pytest.raises(NothingRecorded, match="without a histogram"):
        record.histogram(name, "parameter", step)


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, "2 %", True])
def test_a_budget_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(BadPlan, match="share of a training step"):
        Plan(budget=budget)


def test_without_a_budget_everything_is_recorded(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    path, oracle = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.01), loss, 2 * WINDOW)
    check(path, oracle)
    assert events(path, "detail") == []
