"""Steps without an optimizer. Oracle: clones around the update (oracle.py), where the test itself makes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import Oracle, Seen, check, dense, events, table, watched

RATE = 0.1


def small(wide: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, wide), nn.Tanh(), nn.Linear(wide, 1))


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def backward(model: nn.Module, step: int) -> None:
    model(batch(step)).square().mean().backward()


class Updates:
    """What the oracle asks an optimizer for, with an update of the test's own."""

    def __init__(self, model: nn.Module, update: Callable[[], None]) -> None:
        self.param_groups, self.step = [{"params": list(model.parameters())}], update


def descend(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATE * parameter.grad


def descend_by_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data - RATE * parameter.grad


def follow_the_sign(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad.sign()


@pytest.mark.parametrize("forget", [True, False], ids=["None", "zeros"])
@pytest.mark.parametrize("update", [descend, descend_by_data, follow_the_sign])
def test_updates_written_by_hand_are_steps(update: Callable[[nn.Module], None], forget: bool, tmp_path: Path) -> None:
    model = small()
    with watched(tmp_path, model) as (run, oracle):
        losses = []
        for step in range(8):
            loss = model(batch(step)).square().mean()
            losses.append(loss.item())
            loss.backward()
            oracle.step(Updates(model, lambda: update(model)))  # type: ignore[arg-type]
            model.zero_grad(set_to_none=forget)
    assert len(events(run.path, "by_hand")) == 1
    assert [row["loss"] for row in sorted(table(run.path, "steps"), key=lambda row: row["step"])] == losses


def test_accumulation_by_hand_is_one_step_of_several_passes(tmp_path: Path) -> None:
    model = small()
    with watched(tmp_path, model) as (run, oracle):
        for step in range(12):
            backward(model, step)
            if step % 3 == 2:
                oracle.step(Updates(model, lambda: descend(model)))  # type: ignore[arg-type]
                model.zero_grad()
    assert [row["backward_passes"] for row in table(run.path, "steps")] == [3, 3, 3, 3]


def test_parameters_that_an_update_by_hand_replaces_keep_their_names(tmp_path: Path) -> None:
    model = small()
    with watched(tmp_path, model) as (_run, oracle):
        for step in range(6):
            backward(model, step)
            for name, old in list(model.named_parameters()):
                layer, kind = name.split(".")
                new = nn.Parameter(old.detach() - RATE * old.grad)
                setattr(model.get_submodule(layer), kind, new)
                oracle.seen[step, name] = Seen(dense(old), dense(old.grad), dense(new))
        oracle.clock = 6


def test_weights_loaded_or_drawn_anew_are_no_step(tmp_path: Path) -> None:
    """A trial pass, then other weights, then a training with an optimizer."""
    model = small(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watched(tmp_path, model) as (run, oracle):
        backward(model, 0)
        torch.manual_seed(1)
        for layer in (model[0], model[2]):
            layer.reset_parameters()
        for step in range(4):
            optimizer.zero_grad()
            backward(model, step)
            oracle.step(optimizer)
    assert not events(run.path, "by_hand")


def test_an_optimizer_that_begins_later_takes_over(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    # the last by hand: no pass began before the optimizer stepped
    with watched(tmp_path, model, may_lack=lambda key: key[0] == 2) as (_run, oracle):
        for step in range(6):
            model.zero_grad()
            backward(model, step)
            oracle.step(Updates(model, lambda: descend(model)) if step < 3 else optimizer)  # type: ignore[arg-type]


def test_a_large_model_updated_by_hand_is_said_to_have_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(1100, 1000)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(3):
            model(torch.ones(1, 1100)).square().mean().backward()
            descend(model)
            model.zero_grad()
    assert not table(run.path, "steps")
    assert "written by hand" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_step_has_nothing_of_ours_in_its_graph_and_its_rows(tmp_path: Path) -> None:
    torch.compiler.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    oracle = Oracle(model)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compiled = torch.compile(lambda: optimizer.step(), backend=backend)
        run.watch(model)
        for step in range(5):
            optimizer.zero_grad()
            backward(model, step)
            oracle.step(Updates(model, compiled))  # type: ignore[arg-type]
        oracle.close()
    check(run.path, oracle)
    assert graphs


def test_a_climb_before_the_first_step_of_an_optimizer_is_no_step(tmp_path: Path) -> None:
    """Sharpness-aware minimisation: uphill by the gradient, a second pass, back, and the optimizer steps."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(4):
            backward(model, step)
            climb = [0.05 * p.grad for p in model.parameters()]
            with torch.no_grad():
                torch._foreach_add_([*model.parameters()], climb)
            optimizer.zero_grad()
            backward(model, step)
            with torch.no_grad():
                torch._foreach_sub_([*model.parameters()], climb)
            oracle.step(optimizer)
            optimizer.zero_grad()
    assert [row["step"] for row in table(run.path, "steps")] == [0, 1, 2, 3]
    assert events(run.path, "by_hand") == []


def test_an_ascent_by_hand_is_recorded_from_its_second_step_on(tmp_path: Path) -> None:
    model = small()
    weighbridge.init(dir=tmp_path, name="up", quiet=True)
    with weighbridge.watch(model) as run:
        for step in range(6):
            backward(model, step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.01 * parameter.grad
            model.zero_grad()
    assert len(table(Path(run.path), "steps")) == 5
