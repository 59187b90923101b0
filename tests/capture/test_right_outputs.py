"""Outputs of modules, and the loss's gradient by them, in passes of unusual kinds. Oracle: output_oracle.py, no hooks.

A row holds all calls of its step: the sums, extremes and histogram are those of their numbers one after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import table
from tests.capture.output_oracle import (
    EVERYTHING,
    Truth,
    check_outputs,
    data,
    sequential_truth,
    train,
    unwatched,
)
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def square(y: torch.Tensor) -> torch.Tensor:
    return y.float().square().mean()


def test_all_closure_calls_of_an_lbfgs_step_are_in_its_row(tmp_path: Path) -> None:
    model, truth = small(), Truth()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
    calls = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for step in range(3):
            calls.append(0)

            def closure(step: int = step) -> torch.Tensor:
                calls[-1] += 1
                with unwatched(model):
                    sequential_truth(model, lambda _: data(step, 4, 3), truth, square)(step)
                optimizer.zero_grad()
                loss = square(model(data(step, 4, 3)))
                loss.backward()
                return loss

            optimizer.step(closure)
    check_outputs(run.path, truth)
    assert min(calls) > 1
    counted = {(row["step"], row["calls"]) for row in table(run.path, "calls")}
    assert counted == set(enumerate(calls))


def test_optimizers_that_step_inside_backward_write_each_module_s_row_once(tmp_path: Path) -> None:
    model, truth = small(), Truth()
    optimizers = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())  # type: ignore[index]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for step in range(4):
            model.zero_grad()
            with unwatched(model):
                sequential_truth(model, lambda step: data(step, 4, 3), truth, square)(step)
            square(model(data(step, 4, 3))).backward()
    check_outputs(run.path, truth)


class Checkpointed(nn.Module):
    """A checkpointed part with an in-place ReLU and a residual added in place, called twice."""

    def __init__(self, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.is_reentrant = nn.Linear(4, 4), is_reentrant
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        for _ in range(2):
            z = checkpoint(self.inner, y, use_reentrant=self.is_reentrant)
            z += y
            y = z
        return y


@pytest.mark.parametrize("half", [True, False], ids=["autocast", "float"])
@pytest.mark.parametrize("is_reentrant", [True, False])
def test_checkpointing_with_autocast_in_place_and_called_twice(tmp_path: Path, is_reentrant: bool, half: bool) -> None:
    torch.manual_seed(0)
    model, truth = Checkpointed(is_reentrant), Truth()

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=half)

    def by_hand(step: int) -> None:
        truth.step = step
        with autocast():
            y = model.first(data(step, 3, 4))
            given = [("first/out", y)]
            for _ in range(2):
                linear = model.inner[0](y)
                relu = linear.relu()
                last = model.inner[2](relu)
                y = last + y
                given += [("inner.0/out", linear), ("inner.1/out", relu), ("inner.2/out", last)]
        loss = square(y)
        for name, output in given:
            truth.add(name, output)
            truth.gradients(loss, {name: output})

    def loss(step: int) -> torch.Tensor:
        with autocast():
            y = model(data(step, 3, 4))
        return square(y)

    path = train(tmp_path, model, loss, truth=by_hand)
    names = ("first/out", "inner.0/out", "inner.1/out", "inner.2/out")
    check_outputs(path, truth, only=names)
    assert {one.dtype for (one, *_) in truth.seen.values()} == {torch.bfloat16 if half else torch.float32}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("how", ["compile", "in place"])
def test_what_stands_beside_compiled_code_is_weighed_as_without(tmp_path: Path, how: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, truth = nn.Sequential(nn.Linear(3, 5), Block(), nn.Linear(5, 2), nn.Tanh()), Truth()
    counter = CompileCounterWithBackend("eager")
    if how == "compile":
        model[1] = torch.compile(model[1], backend=counter)  # type: ignore[assignment]
    else:
        model[1].compile(backend=counter)
    inputs = lambda step: data(step, 4, 3)
    everything = sequential_truth(model, inputs, truth, square)

    def beside(step: int) -> None:
        everything(step)
        for quantity in (ACTIVATION, GRADIENT):
            del truth.seen[step, "1/out", quantity]

    path = train(tmp_path, model, lambda step: square(model(inputs(step))), truth=beside)
    check_outputs(path, truth)


def test_functional_calls_are_weighed_with_the_weights_that_they_were_given(tmp_path: Path) -> None:
    model, other, truth = small(), small(), Truth()
    with torch.no_grad():
        other[0].weight.mul_(2)
    inputs = lambda step: data(step, 4, 3)
    by_hand = sequential_truth(other, inputs, truth, square)

    def loss(step: int) -> torch.Tensor:
        return square(torch.func.functional_call(model, dict(other.named_parameters()), (inputs(step),)))

    path = train(tmp_path, model, loss, truth=by_hand)
    check_outputs(path, truth)


def test_a_frozen_part_s_outputs_are_weighed_and_have_no_gradient(tmp_path: Path) -> None:
    model, truth = small(), Truth()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.05)
    inputs = lambda step: data(step, 4, 3)

    def by_hand(step: int) -> None:
        truth.step, x = step, inputs(step)
        for n, module in enumerate(model):
            x = truth.add(f"{n}/out", module(x))
        truth.gradients(square(x), {"2/out": x})

    path = train(tmp_path, model, lambda step: square(model(inputs(step))), truth=by_hand, optimizer=optimizer)
    check_outputs(path, truth)


def test_a_user_s_hook_that_changes_a_gradient_comes_after_ours(tmp_path: Path) -> None:
    """dL/dh is what autograd has computed; what a hook put on later makes of it is in the gradients of earlier layers."""
    model, truth = small(), Truth()

    def forward(step: int, notes: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model[0](data(step, 4, 3))
        notes["0/out"] = hidden
        after = model[1](hidden)
        notes["1/out"] = after
        after.register_hook(lambda gradient: gradient * 3)
        return square(model[2](after))

    def by_hand(step: int) -> None:
        truth.step = step
        notes: dict[str, torch.Tensor] = {}
        loss = forward(step, notes)
        (last,) = torch.autograd.grad(loss, [notes["0/out"]], retain_graph=True)
        truth.add("0/out", notes["0/out"])
        truth.add("0/out", last, GRADIENT)
        truth.add("1/out", notes["1/out"])
        y = model[2](notes["1/out"].detach().requires_grad_())
        truth.add("2/out", y)
        truth.gradients(square(y), {"2/out": y})
        plain = notes["1/out"].detach().requires_grad_()
        truth.gradients(square(model[2](plain)), {"1/out": plain})

    path = train(tmp_path, model, lambda step: forward(step, {}), truth=by_hand)
    check_outputs(path, truth)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 5)),
    "spectral_norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 5)),
    "weight_norm of old": lambda: _old_weight_norm(nn.Linear(3, 5)),
}


def _old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(module)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_whose_weight_is_computed_anew_gives_what_it_gives(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model, truth = nn.Sequential(KINDS[kind](), nn.Linear(5, 2)), Truth()
    inputs = lambda step: data(step, 4, 3)

    def by_hand(step: int) -> None:
        truth.step, x = step, inputs(step)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # spectral_norm turns them at each forward
        first = model[0](x)
        second = model[1](first)
        truth.add("0/out", first)
        truth.add("1/out", second)
        truth.gradients(square(second), {"0/out": first, "1/out": second})
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])

    path = train(tmp_path, model, lambda step: square(model(inputs(step))), truth=by_hand)
    check_outputs(path, truth)
