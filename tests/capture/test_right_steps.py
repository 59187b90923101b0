"""Steps that come in unusual ways. Oracle: clones around each step (oracle.py), and what torch itself computes without us."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import weighbridge
from tests.capture.oracle import (
    GRADIENT,
    UPDATE,
    Oracle,
    check,
    closure_of,
    events,
    recorded_rows,
    steps_of,
    table,
    train,
    watched,
)
from tests.capture.output_oracle import data

RATE = 0.1


def small(wide: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, wide), nn.Tanh(), nn.Linear(wide, 1))


class Net(nn.Module):
    """torch compiles none of its own containers in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    loss: torch.Tensor = model(data(step, 4, 3)).square().mean()
    return loss


@pytest.mark.parametrize("micro", [1, 2])
def test_optimizers_that_step_inside_backward_have_the_rows_and_the_loss_of_their_iteration(tmp_path: Path, micro: int) -> None:
    """One optimizer a parameter, stepping as soon as its gradient is there; with two passes an iteration in the second."""
    model, at, losses = small(), [0, 0], []
    optimizers = {p: torch.optim.SGD([p], lr=RATE, momentum=0.9) for p in model.parameters()}
    with watched(tmp_path, model) as (run, oracle):

        def step_at_once(parameter: torch.Tensor) -> None:
            if at[1] == micro - 1:
                oracle.step(optimizers[parameter], at=at[0])  # type: ignore[index]

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(step_at_once)
        for step in range(6):
            model.zero_grad()
            for part in range(micro):
                at[:] = [step, part]
                loss = loss_of(model, 10 * step + part) / micro
                losses.append(loss.item() * micro)
                loss.backward()
    rows = table(run.path, "steps")
    assert sorted((row["step"], row["optimizer"]) for row in rows) == [(step, n) for step in range(6) for n in range(4)]
    means = [sum(losses[i : i + micro]) / micro for i in range(0, 6 * micro, micro)]
    assert weighbridge.open_run(run.path).losses().values.tolist() == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("when", ["before", "after", "in place"])
def test_parameters_of_compiled_code_are_weighed_as_without(tmp_path: Path, when: str, fullgraph: bool) -> None:
    torch._dynamo.reset()
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    counter = CompileCounterWithBackend("aot_eager")
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        oracle = Oracle(model)
        if when == "before":
            run.watch(model)
        compiled: nn.Module = model
        if when == "in place":
            model.compile(backend=counter, fullgraph=fullgraph)
        else:
            compiled = torch.compile(model, backend=counter, fullgraph=fullgraph)  # type: ignore[assignment]
        if when != "before":
            run.watch(compiled)
        for step in range(25):
            optimizer.zero_grad()
            loss_of(compiled, step).backward()
            oracle.step(optimizer)
        oracle.close()
    check(run.path, oracle)
    assert counter.frame_count == 1


def test_gradient_hooks_of_the_user_are_in_the_gradient(tmp_path: Path) -> None:
    model = small()
    model[0].weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    model[2].bias.register_hook(lambda gradient: gradient * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    path, oracle = train(tmp_path, model, optimizer, lambda step: loss_of(model, step), 5)
    check(path, oracle)
    assert max(row["max"] for key, row in recorded_rows(path).items() if key[1:] == ("0.weight", GRADIENT)) <= 0.01


@pytest.mark.parametrize("how", ["copy", "swap_tensors", "data"])
@pytest.mark.parametrize("wide", [5, 2000])
def test_averaged_weights_put_in_for_an_evaluation_and_taken_out_again_are_in_no_row(
    tmp_path: Path, how: str, wide: int
) -> None:
    model = small(wide)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    average = torch.optim.swa_utils.AveragedModel(model)

    @contextlib.contextmanager
    def averaged() -> object:
        mine, its = list(model.parameters()), [p.detach().clone() for p in average.module.parameters()]
        for own, other in zip(mine, its, strict=True):
            exchange(own, other)
        yield
        for own, other in zip(mine, its, strict=True):
            exchange(own, other)

    def exchange(own: nn.Parameter, other: torch.Tensor) -> None:
        if how == "copy":
            kept = own.detach().clone()
            with torch.no_grad():
                own.copy_(other)
            other.copy_(kept)
        elif how == "data":
            own.data, other.data = other.data, own.data
        else:
            torch.utils.swap_tensors(own, replacement := nn.Parameter(other))
            other.data = replacement.data

    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            oracle.step(optimizer)
            average.update_parameters(model)
            if how == "swap_tensors":
                optimizer.zero_grad()  # a swapped parameter takes its gradient along
            with averaged(), torch.no_grad():  # type: ignore[attr-defined]
                model(data(99, 4, 3))
    assert steps_of(recorded_rows(run.path), "0.weight", UPDATE) == [*range(6)]


@pytest.mark.parametrize("watched_part", ["wrapper", "module"])
def test_data_parallel_without_a_gpu_is_the_module_itself(tmp_path: Path, watched_part: str) -> None:
    model = small()
    wrapper = nn.DataParallel(model)
    optimizer, oracle = torch.optim.Adam(model.parameters(), lr=0.01), Oracle(model)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(wrapper if watched_part == "wrapper" else model)
        for step in range(5):
            optimizer.zero_grad()
            loss_of(wrapper, step).backward()
            oracle.step(optimizer)
        oracle.close()
    check(run.path, oracle)
    outputs = {t.name for t in weighbridge.open_run(run.path).outputs}
    assert outputs == {"0/out", "1/out", "2/out"}


def test_gradients_of_autograd_grad_and_updates_by_hand_are_said_not_to_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            found = torch.autograd.grad(loss_of(model, step), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), found, strict=True):
                    parameter -= RATE * gradient
    assert not table(run.path, "steps")
    assert not [key for key in recorded_rows(run.path) if key[2] in (GRADIENT, UPDATE)]
    assert "torch.autograd.grad" in capsys.readouterr().err
    assert "no step is recorded" in events(run.path, "warned")[0].message


def test_gradients_of_autograd_grad_put_into_grad_are_weighed(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watched(tmp_path, model) as (_run, oracle):
        for step in range(4):
            found = torch.autograd.grad(loss_of(model, step), list(model.parameters()))
            for parameter, gradient in zip(model.parameters(), found, strict=True):
                parameter.grad = gradient
            oracle.step(optimizer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_watched_model_can_be_scripted_and_is_watched_on(tmp_path: Path) -> None:
    model, mine = small(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watched(tmp_path, model) as (run, oracle):
        model[1].register_forward_hook(lambda module, args, output: mine.append(1))
        before = [list(module._forward_hooks.values()) for module in model.modules()]
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            oracle.step(optimizer)
            if step == 1:
                model[1]._forward_hooks.popitem()  # TorchScript has no lambdas
                scripted = torch.jit.script(model)
                assert torch.equal(scripted(data(7, 4, 3)), model.forward(data(7, 4, 3)))
                assert not any(module._forward_hooks for module in scripted.modules())
        assert [list(module._forward_hooks.values()) for module in model.modules()] != before
        assert all(module._forward_hooks for module in (model[0], model[1], model[2]))
    outputs = {row["step"] for row in table(run.path, "rows") if row["quantity"] == weighbridge.records.Quantity.ACTIVATION}
    assert outputs == set(range(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_scripted_model_has_its_parameters_weighed_and_what_is_inside_is_said(tmp_path: Path, how: str) -> None:
    model = torch.jit.script(Net()) if how == "script" else torch.jit.trace(Net(), data(0, 4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    path, oracle = train(tmp_path, model, optimizer, lambda step: loss_of(model, step), 5)
    check(path, oracle)
    assert {t.name for t in weighbridge.open_run(path).outputs} == ({"/out"} if how == "trace" else set())
    said = [event.message for event in events(path, "reduced")]
    assert any("compiled code: their activations are not weighed" in message for message in said)


class Counting(torch.optim.SGD):
    """Keeps a count of steps of each parameter, and nothing else."""

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["step"] = torch.tensor(1.0)
        return super().step(closure)  # type: ignore[arg-type, return-value]


MOMENTS: dict[str, tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], str]] = {
    "Adafactor": (lambda p: torch.optim.Adafactor(p, lr=0.01), "2 tensors"),
    "ASGD": (lambda p: torch.optim.ASGD(p, lr=0.01), "4 tensors"),
    "Rprop": (lambda p: torch.optim.Rprop(p), "4 tensors"),
    "LBFGS": (lambda p: torch.optim.LBFGS(p, max_iter=2), "1 tensors"),
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.01), ""),
    "Counting": (lambda p: Counting(p, lr=0.01), ""),
    "Adam": (lambda p: torch.optim.Adam(p, lr=0.01), ""),
}


@pytest.mark.parametrize("kind", MOMENTS)
def test_a_state_of_no_known_form_is_said_not_to_be_weighed(tmp_path: Path, kind: str) -> None:
    model = small()
    optimizer = MOMENTS[kind][0](list(model.parameters()))
    with watched(tmp_path, model) as (run, oracle):
        for step in range(3):
            oracle.step(optimizer, closure_of(optimizer, partial(loss_of, model, step)))
    said = [event.message for event in events(run.path, "reduced") if "moments" in event.message]
    assert len(said) == bool(MOMENTS[kind][1])
    assert all(kind in one and MOMENTS[kind][1] in one for one in said)
