"""The usual way through a forward hook is C's: activations alone, no gradients by them. Oracle: output_oracle.py.

Each test does something that is not usual between or inside the steps; what comes of it must be what Python's way gives,
which is taken where gradients are wanted too.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import table
from tests.capture.output_oracle import Truth, check_outputs, data, sequential_truth, train
from weighbridge.capture.outputhook import OutputHook

IN_C = weighbridge.Plan(activations=True, activation_gradients=False, units=False)
STEPS = 6


class Count:
    """Of calls that C left to Python."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, meet = 0, OutputHook._meet

        def counted(hook: OutputHook, *args: object) -> None:
            self.calls += 1
            meet(hook, *args)

        monkeypatch.setattr(OutputHook, "_meet", counted)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))


def disturbed(folder: Path, model: nn.Sequential, beside: Callable[[int], object]) -> None:
    """Train, with something beside each step that must leave nothing."""
    truth, inputs = Truth(), lambda step: data(step, 7, 6)

    def loss(step: int) -> torch.Tensor:
        beside(step)
        model.train()
        return model(inputs(step)).square().sum()

    by_hand = sequential_truth(model, inputs, truth, lambda y: y.square().sum())
    path = train(folder, model, loss, STEPS, IN_C, by_hand)
    truth.seen = {key: numbers for key, numbers in truth.seen.items() if key[2].name == "ACTIVATION"}
    check_outputs(path, truth)


def test_after_the_first_step_nothing_is_left_to_python(tmp_path: Path, left: Count) -> None:
    disturbed(tmp_path, small(), lambda step: None)
    assert left.calls == 3  # each module once


def test_a_model_in_evaluation_leaves_nothing(tmp_path: Path) -> None:
    model = small()
    disturbed(tmp_path, model, lambda step: model.eval()(data(99, 5, 6)))


def test_a_pass_without_gradients_leaves_nothing(tmp_path: Path) -> None:
    model = small()

    def beside(step: int) -> None:
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                model(data(98, 5, 6) * float("nan"))

    disturbed(tmp_path, model, beside)


def test_a_shallow_copy_of_a_module_leaves_nothing(tmp_path: Path) -> None:
    """It shares the hooks of the one that is watched."""
    model = small()
    disturbed(tmp_path, model, lambda step: copy.copy(model[0])(data(97, 5, 6)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_tracing_leaves_nothing(tmp_path: Path) -> None:
    model = small()
    disturbed(tmp_path, model, lambda step: torch.jit.trace(model[0], data(96, 5, 6), check_trace=False))


def test_a_model_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    """Its module lives on in another one, with its hook."""
    model, other = small(), small()
    kept = other[0]
    with weighbridge.init(dir=tmp_path, quiet=True, plan=IN_C) as run:
        run.watch(model)
        run.watch(other)
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in (model, other)]
        for step in range(STEPS):
            if step == 3:
                del other, optimizers[1]
            for one in (model, *([other] if step < 3 else [])):
                one(data(step, 7, 6)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            kept(data(step, 7, 6))
    wanted = {t.id for t in weighbridge.open_run(run.path).outputs if t.model == "model-2"}
    steps = [row["step"] for row in table(run.path, "rows") if row["tensor"] in wanted]
    assert set(steps) <= {0, 1, 2}


class Checkpointed(nn.Module):
    def __init__(self, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.is_reentrant = is_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = checkpoint(self.inner, self.first(x), use_reentrant=self.is_reentrant)
        return y.sin()


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_what_a_checkpoint_computes_anew_is_weighed_once(tmp_path: Path, is_reentrant: bool) -> None:
    torch.manual_seed(0)
    model, truth = Checkpointed(is_reentrant), Truth()

    def by_hand(step: int) -> None:
        truth.step = step
        first = truth.add("first/out", model.first(data(step, 3, 4)))
        truth.add("inner.1/out", model.inner[1](truth.add("inner.0/out", model.inner[0](first))))

    path = train(tmp_path, model, lambda step: model(data(step, 3, 4)).square().sum(), STEPS, IN_C, by_hand)
    check_outputs(path, truth, only=("first/out", "inner.0/out", "inner.1/out"))


class Marked(torch.Tensor):
    """Of a class of somebody's own: not weighed, its numbers may mean anything."""


class Sometimes(nn.Module):
    """Gives a tensor, and now and then two of them, one in no order, or one of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.step = nn.Parameter(torch.ones(4)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y = x * self.weight
        if self.step == 4:
            marked: torch.Tensor = y.as_subclass(Marked)
            return marked
        return (y, y.t()) if self.step % 2 else y.t() if self.step % 3 else y


def test_a_module_that_gives_something_else_now_and_then(tmp_path: Path) -> None:
    model, truth = Sometimes(), Truth()

    def loss(step: int) -> torch.Tensor:
        model.step = step
        given = model(data(step, 3, 4))
        return sum((one.square().sum() for one in (given if isinstance(given, tuple) else (given,))), torch.zeros(()))

    def by_hand(step: int) -> None:
        truth.step = model.step = step
        given = model(data(step, 3, 4))
        if isinstance(given, Marked):
            return
        for name, one in zip(("/out.0", "/out.1"), given, strict=True) if isinstance(given, tuple) else [("/out", given)]:
            truth.add(name, one)

    check_outputs(train(tmp_path, model, loss, STEPS, IN_C, by_hand), truth)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_batch_that_is_not_finite_is_said(tmp_path: Path, bad: float) -> None:
    """C meets the batch too: the first module's argument."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = weighbridge.Plan(activations=False, activation_gradients=False, units=False)
    with weighbridge.init(dir=tmp_path, quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(STEPS):
            batch = data(step, 7, 6)
            batch[3, 2] = bad if step == 4 else 0
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    calls = [(row["step"], row["tensor"], row["place"]) for row in table(run.path, "calls")]
    assert min(calls, key=lambda call: (call[0], call[2]))[:2] == (4, -1)


def test_a_hook_that_comes_and_goes_stands_once_and_leaves_the_user_s_alone(tmp_path: Path) -> None:
    model = small()

    def own(module: nn.Module, args: object, output: torch.Tensor) -> None:
        pass

    model[0].register_forward_hook(own)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=IN_C) as run:
        run.watch(model)
        hook = run._stepper.outputs.hooks[id(model[0])]
        standing, key = model[0]._forward_hooks, hook.key
        for _ in range(2):
            assert (hook.is_placed, [*standing.values()]) == (True, [own, hook])
            hook.take_away()
            assert (hook.is_placed, [*standing.values()]) == (False, [own])
            hook.place()
            assert hook.key == key
    assert [*standing.values()] == [own]


def test_the_hook_of_a_module_that_is_gone_is_neither_taken_away_nor_placed(tmp_path: Path) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=IN_C) as run:
        run.watch(model)
        hook = run._stepper.outputs.hooks[id(model[1])]
        model[1] = nn.ReLU()
        for _ in range(100):  # a collection that a thread of ours has begun makes this one do nothing
            gc.collect()
            if hook.module() is None:
                break
            time.sleep(0.05)
        assert hook.module() is None
        for _ in range(2):
            hook.take_away()
            hook.place()
            assert not hook.is_placed
