"""Steps without an optimizer. Oracle: clones around the update (oracle.py), where the test itself makes it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import UPDATE, Oracle, Seen, check, dense, events, table, watched

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


# ---- ways that go neither along the gradient nor along its sign ----


def _run(model: nn.Module, update: Callable[[int], None], where: Path, steps: int = 8) -> Path:
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for step in range(steps):
            model.zero_grad()
            backward(model, step)
            with torch.no_grad():
                update(step)
    return run.path


def test_a_step_across_the_gradient_is_one_when_it_is_taken_again_and_again(tmp_path: Path) -> None:
    """Decay that outweighs the gradient: known from the third move on, and that one is recorded."""
    model = small()

    def update(_: int) -> None:
        for p in model.parameters():
            p.mul_(1.05).sub_(1e-3 * p.grad.sign())

    path = _run(model, update, tmp_path)
    assert [row["step"] for row in table(path, "steps")] == [*range(6)]  # of eight moves


def test_weights_that_are_drawn_anew_twice_are_no_step(tmp_path: Path) -> None:
    model = small(40)

    def update(step: int) -> None:
        for p in model.parameters() if step in (1, 2, 5, 6) else ():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))

    assert not table(_run(model, update, tmp_path), "steps")


def test_a_first_step_that_makes_some_weights_not_a_number(tmp_path: Path) -> None:
    """g / |g|, which is 0 / 0 where a unit is dead."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    model[0].bias.data[0] = -100.0

    def update(_: int) -> None:
        for p in model.parameters():
            p.sub_(1e-3 * p.grad / p.grad.abs())

    assert [row["step"] for row in table(_run(model, update, tmp_path), "steps")][:1] == [0]


@pytest.mark.parametrize("stepped", [2, 4])
def test_a_parameter_that_no_update_by_hand_moves_is_in_no_step(stepped: int, tmp_path: Path) -> None:
    model = small()

    def update(_: int) -> None:
        for p in list(model.parameters())[:stepped]:
            p.sub_(RATE * p.grad)

    path = _run(model, update, tmp_path)
    told = [(f.rule, f.place, f.told_step) for f in weighbridge.diagnose(path) if f.rule == "parameter-in-no-optimizer"]
    assert told == ([] if stepped == 4 else [("parameter-in-no-optimizer", "2", 2)])


def test_a_parameter_whose_gradient_is_0_at_first_may_be_stepped(tmp_path: Path) -> None:
    """The layers in front of a head that begins at 0."""
    model = small()
    nn.init.zeros_(model[2].weight)

    def update(_: int) -> None:
        for p in model.parameters():
            p.sub_(RATE * p.grad)

    path = _run(model, update, tmp_path)
    assert not [f for f in weighbridge.diagnose(path) if f.rule == "parameter-in-no-optimizer"]


@pytest.mark.parametrize(
    ("weight", "gradient", "dtype", "is_stepped"),
    [
        (1.0, 1.0, torch.float32, False),
        (1.0, 1.0, torch.float64, False),
        (1e7, 1.0, torch.float32, True),  # rounds to nothing
        (1.0, 1.0, torch.bfloat16, True),  # may be lost
        (1.0, math.inf, torch.float32, True),  # may have been left out for that
        (1.0, 0.0, torch.float32, True),
    ],
)
def test_what_stands_still_is_in_no_step_by_hand_only_where_a_step_would_show(
    weight: float, gradient: float, dtype: torch.dtype, is_stepped: bool, tmp_path: Path
) -> None:
    """Oracle: which parameters the test moves, and the gradients that it makes."""
    model = small()
    model[2].weight.data = torch.full((1, 5), weight, dtype=dtype)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(6):
            model.zero_grad()
            (model[0](batch(step)).square().mean() + (gradient * model[2].weight).sum()).backward()
            with torch.no_grad():
                model[0].weight.sub_(RATE * model[0].weight.grad)
                model[0].bias.sub_(RATE * model[0].bias.grad)
    updates = {row["tensor"] for row in table(run.path, "rows") if row["quantity"] == UPDATE}
    named = {t.id: t.name for t in weighbridge.open_run(run.path).tensors}
    assert ("2.weight" in {named[i] for i in updates}) is is_stepped
    assert {"0.weight", "0.bias"} <= {named[i] for i in updates}
