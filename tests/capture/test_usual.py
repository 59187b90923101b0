"""C does the usual step. Oracle: the same training once more, with every step done by Python."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import table
from weighbridge.capture import active
from weighbridge.capture.biases import Biases
from weighbridge.capture.follower import Follower
from weighbridge.capture.kernel import NativeKernel, load_kernel
from weighbridge.capture.stepper import Stepper
from weighbridge.capture.usual import OFF, Usual

pytestmark = pytest.mark.skipif(not isinstance(load_kernel(), NativeKernel), reason="the C kernel was not built here")
TABLES = ("rows", "steps", "values", "events", "tensors", "passes", "logs", "calls", "units", "biases", "coherence")
APART = {"time_ns", "own_ns", "time", "own", "wall_ns"}  # another clock reading each time


class Training:
    """A small network with everything that a user may do to it between two steps."""

    def __init__(self, kind: str, run: weighbridge.Run) -> None:
        torch.manual_seed(3)
        self.run, self.step_number = run, 0
        width = 1_100 if kind == "large" else 8  # of a large tensor no byte is compared: its version says that it was changed
        self.model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 3))
        groups = [{"params": self.model[0].parameters()}, {"params": self.model[3].parameters(), "lr": 0.02}]
        self.optimizer: torch.optim.Optimizer = {
            "sgd": lambda: torch.optim.SGD(groups, lr=0.05),
            "large": lambda: torch.optim.SGD(groups, lr=0.05),
            "momentum": lambda: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3),
            "adam": lambda: torch.optim.Adam(groups, lr=0.01),
            "fused": lambda: torch.optim.AdamW(groups, lr=0.01, fused=True),
        }[kind]()
        self.other = nn.Linear(2, 1)
        self.foreign = torch.optim.SGD(self.other.parameters(), lr=0.1)
        self.x, self.y = torch.randn(16, 4), torch.randint(0, 3, (16,))
        run.watch(self.model)

    def loss(self) -> torch.Tensor:
        return F.cross_entropy(self.model(self.x), self.y)

    def step(self, before: Callable[[], object] = lambda: None) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        before()
        self.optimizer.step()
        self.step_number += 1

    def mark(self) -> object:
        """Something that lives as long as the groups of the optimizer."""
        self.optimizer.param_groups[0]["mark"] = nn.Identity()
        return self.optimizer.param_groups[0]["mark"]

    # ---- what is not usual ----

    def edits_weights(self) -> None:
        self.model[0].weight.data.mul_(0.99)
        self.step()

    def copies_weights(self) -> None:
        with torch.no_grad():
            self.model[3].weight.copy_(self.model[3].weight * 1.01)
            self.model[0].weight.copy_(self.model[0].weight * 1.01)
        self.step()

    def clips(self) -> None:
        self.step(lambda: nn.utils.clip_grad_norm_(self.model.parameters(), 0.1))

    def clips_by_hand(self) -> None:
        self.step(lambda: [p.grad.mul_(0.5) for p in self.model.parameters() if p.grad is not None])

    def accumulates(self) -> None:
        (self.loss() / 2).backward()
        self.step()

    def forgets_to_empty_gradients(self) -> None:
        self.loss().backward()
        self.optimizer.step()

    def forgets_and_halves(self) -> None:
        self.loss().backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)
        self.optimizer.step()

    def empties_with_zeros(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        self.loss().backward()
        self.optimizer.step()

    def goes_backward_twice(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.loss().backward()
        self.optimizer.step()

    def goes_backward_in_halves(self) -> None:
        self.optimizer.zero_grad()
        self.model[:3](self.x).square().mean().backward()  # leaves the smallest parameter's gradient untouched
        self.loss().backward()
        self.optimizer.step()

    def evaluates(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.loss()
        self.model.train()
        self.step()

    def steps_in_evaluation_mode(self) -> None:
        self.model.eval()
        self.step()
        self.model.train()

    def steps_without_loss(self) -> None:
        self.optimizer.step()
        self.step()

    def lets_another_step(self) -> None:
        F.cross_entropy(self.other(torch.ones(1, 2)), torch.tensor([0])).backward()
        self.foreign.step()
        self.step()

    def schedules(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9
        self.step()

    def has_a_tensor_as_rate(self) -> None:
        kept = self.optimizer.param_groups[0]["lr"]
        self.optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        with contextlib.suppress(ValueError, RuntimeError):  # not every optimizer takes it
            self.step()
        self.optimizer.param_groups[0]["lr"] = kept

    def freezes(self) -> None:
        self.model[0].bias.requires_grad_(not self.model[0].bias.requires_grad)
        self.model[0].bias.grad = None
        self.step()

    def has_nan_in_its_batch(self) -> None:
        kept = self.x
        self.x = kept.clone()
        self.x[0, 0] = math.nan
        saved = [p.detach().clone() for p in self.model.parameters()]
        self.step()
        self.x = kept
        for p, old in zip(self.model.parameters(), saved, strict=True):
            p.data.copy_(old)

    def weighs_its_loss(self) -> None:
        self.optimizer.zero_grad()
        (self.loss() * 3.0).backward()
        self.optimizer.step()

    def scales_its_loss(self) -> None:
        self.optimizer.zero_grad()
        (self.loss() * torch.tensor(1024.0)).backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= 1024
        self.optimizer.step()

    def sums_its_loss(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y, reduction="sum").backward()
        self.optimizer.step()

    def has_another_loss(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.x).double().square().mean().backward()
        self.optimizer.step()

    def logs(self) -> None:
        self.run.log(accuracy=self.step_number)
        self.step()

    def logs_inside(self) -> None:
        self.step(lambda: self.run.log(inside=self.step_number))

    def begins_an_epoch(self) -> None:
        self.run.log(epoch=self.step_number)
        self.step()

    def loops_over_epochs(self) -> None:
        for _ in self.run.epochs(2):
            self.step()

    def flushes(self) -> None:
        self.run.flush()
        self.step()

    def raises_inside(self) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("in the middle of a step")

        handle = self.optimizer.register_step_post_hook(fail)  # runs before those of all optimizers
        with contextlib.suppress(RuntimeError):
            self.step()
        handle.remove()
        self.step()

    def takes_a_closure(self) -> None:
        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]

    def moves_its_groups(self) -> None:
        self.optimizer.load_state_dict(self.optimizer.state_dict())
        self.optimizer.param_groups[0]["lr"] *= 0.5
        self.step()

    def leaves_out_a_parameter(self) -> None:
        bias = self.optimizer.param_groups[0]["params"].pop()
        self.step()
        self.optimizer.param_groups[0]["params"].append(bias)

    def is_told_of_infinity(self) -> None:
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
            self.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.step()

    def exchanges_a_parameter_of_a_group(self) -> None:
        group = self.optimizer.param_groups[0]["params"]
        group[0], group[1] = group[1], group[0]
        self.step()

    def has_another_parameter_in_a_group(self) -> None:
        group = self.optimizer.param_groups[0]["params"]
        group[1], kept = self.other.bias, group[1]
        self.step()
        group[1] = kept

    def adds_a_group(self) -> None:
        if len(self.optimizer.param_groups) == 2:
            self.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})
        self.step()

    def exchanges_data(self) -> None:
        self.model[0].weight.data = self.model[0].weight.data.clone() + 0.01
        self.step()

    def has_gradients_in_another_order(self) -> None:
        def turn() -> None:
            self.model[0].weight.grad = self.model[0].weight.grad.t().contiguous().t()

        self.step(turn)
        self.optimizer.zero_grad()


UNUSUAL = [
    name
    for name, value in vars(Training).items()
    if callable(value) and not name.startswith("_") and name not in ("loss", "step", "mark")
]


def trained(
    folder: Path, kind: str, events: list[str], plan: weighbridge.Plan | None = None
) -> tuple[Path, dict[str, torch.Tensor]]:
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        training = Training(kind, run)
        for event in events:
            getattr(training, event)()
        end = {name: value.clone() for name, value in training.model.state_dict().items()}
    return run.path, end


def compared(path: Path, name: str) -> list[dict[str, Any]]:
    rows = [{key: value for key, value in row.items() if key not in APART} for row in table(path, name)]
    for row in rows:
        if row.get("kind") == "finished":
            row["detail"] = ""
        if row.get("kind") == "findings":
            row.clear()
    return rows


def same(a: object, b: object) -> bool:
    return str(a) == str(b)  # NaN equals NaN there, and floats are printed to the last bit


def check_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, events: list[str], plan: weighbridge.Plan | None = None
) -> None:
    path, end = trained(folder / "c", kind, events, plan)
    with monkeypatch.context() as patch:
        patch.setattr(Follower, "_made", lambda follower, kernel: None)
        expected_path, expected_end = trained(folder / "python", kind, events, plan)
    for name in end:
        torch.testing.assert_close(end[name], expected_end[name], rtol=0, atol=0, equal_nan=True)
    for name in TABLES:
        found, expected = compared(path, name), compared(expected_path, name)
        assert len(found) == len(expected), f"{name}: {len(found)} rows, {len(expected)} expected"
        for mine, other in zip(found, expected, strict=True):
            assert same(mine, other), f"{name}: {mine} is not {other}"


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
