"""Parameters that are not where or what they seem. Oracle: clones around each step (oracle.py), and torch's own functions.

A parametrized weight is computed anew at each read and is no parameter: what is weighed is the original beneath it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import weighbridge
from tests.capture.oracle import PARAMETER, UPDATE, events, recorded_rows, steps_of, watched

Step = Callable[[torch.optim.Optimizer], None]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def followed(folder: Path, model: nn.Module, steps: int, loop: Callable[[int, Step], None]) -> Path:
    """Watch the model, let `loop` train, and compare every row with what happened."""
    with watched(folder, model) as (run, oracle):
        for step in range(steps):
            loop(step, oracle.step)
    return run.path


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize("kind", ["doubled", "weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_weight_is_weighed_by_its_originals(kind: str, tmp_path: Path) -> None:
    model = small()
    if kind == "doubled":
        parametrize.register_parametrization(model[0], "weight", Doubled())
    else:
        getattr(parametrizations, kind)(model[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def loop(step: int, take: Step) -> None:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizer)

    path = followed(tmp_path, model, 6, loop)
    names = {t.name for t in weighbridge.open_run(path).tensors if t.role != "output"}
    assert names == {name for name, _ in model.named_parameters()}
    assert "0.weight" not in names


def test_a_parametrization_put_on_while_training_ends_one_series_and_begins_another(tmp_path: Path) -> None:
    model = small()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]

    def loop(step: int, take: Step) -> None:
        if step == 3:
            parametrizations.weight_norm(model[0])
            optimizers[0] = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizers[0].zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizers[0])

    path = followed(tmp_path, model, 6, loop)
    rows = recorded_rows(path)
    assert steps_of(rows, "0.weight", UPDATE) == [0, 1, 2]
    assert steps_of(rows, "0.parametrizations.weight.original1", UPDATE) == [3, 4, 5]


@pytest.mark.parametrize("how", ["update_parameters", "deepcopy each step"])
def test_an_average_of_the_model_leaves_no_row_of_its_own(how: str, tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    kept: list[nn.Module] = []

    def loop(step: int, take: Step) -> None:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizer)
        if how == "update_parameters":
            average.update_parameters(model)
        else:
            kept.append(copy.deepcopy(model))
        with torch.no_grad():
            average(batch(step))

    path = followed(tmp_path, model, 6, loop)
    assert {t.model for t in weighbridge.open_run(path).tensors} == {"model"}


def test_an_optimizer_of_a_functional_call_s_own_tensors_is_no_step_of_the_model(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fast = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    inner = torch.optim.SGD(list(fast.values()), lr=0.5)

    def loop(step: int, take: Step) -> None:
        inner.zero_grad()
        torch.func.functional_call(model, fast, (batch(step),)).square().mean().backward()
        inner.step()
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizer)

    path = followed(tmp_path, model, 5, loop)
    assert weighbridge.open_run(path).steps_table().num_rows == 5


def test_gradients_of_torch_func_are_weighed_as_the_optimizer_used_them(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (x,)).square().mean()

    def loop(step: int, take: Step) -> None:
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch(step).unsqueeze(1))
        for name, parameter in model.named_parameters():
            parameter.grad = each[name].mean(0)
        take(optimizer)

    followed(tmp_path, model, 5, loop)


@pytest.mark.parametrize("how", ["module", "assign"])
def test_modules_replaced_while_training_go_on_under_their_names(how: str, tmp_path: Path) -> None:
    model = small()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01)]

    def loop(step: int, take: Step) -> None:
        if step == 3:
            if how == "module":
                model[2] = nn.Linear(5, 1)
            else:
                model.load_state_dict(small().state_dict(), assign=True)
            optimizers[0] = torch.optim.Adam(model.parameters(), lr=0.01)
        optimizers[0].zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizers[0])

    path = followed(tmp_path, model, 6, loop)
    assert steps_of(recorded_rows(path), "2.weight", PARAMETER) == [*range(7)]


def test_an_optimizer_left_with_the_parameters_before_the_replacement_moves_nothing_that_is_shown(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        train_steps(model, optimizer, range(3))
        model[2] = nn.Linear(5, 1)
        train_steps(model, optimizer, range(3, 6))
    rows = recorded_rows(run.path)
    assert steps_of(rows, "0.weight", UPDATE) == [*range(6)]
    assert steps_of(rows, "2.weight", UPDATE) == [0, 1, 2]


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "attention"])
def test_parameters_of_fused_layers_are_weighed_like_any_other(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True) if kind == "attention" else getattr(nn, kind)(4, 4, 2)
    model = nn.ModuleList([nn.Linear(3, 4), layer])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def loop(step: int, take: Step) -> None:
        optimizer.zero_grad()
        x = model[0](batch(step)).unsqueeze(0)
        given = layer(x, x, x)[0] if kind == "attention" else layer(x)[0]
        given.square().mean().backward()
        take(optimizer)

    followed(tmp_path, model, 5, loop)


def test_weights_clipped_after_each_step_start_the_next_one(tmp_path: Path) -> None:
    """A critic whose weights are clipped (WGAN): the row's parameter is the clipped one, its update the optimizer's own."""
    model = small()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.05)

    def loop(step: int, take: Step) -> None:
        optimizer.zero_grad()
        model(batch(step)).mean().backward()
        take(optimizer)
        for parameter in model.parameters():
            parameter.data.clamp_(-0.05, 0.05)

    path = followed(tmp_path, model, 6, loop)
    assert len(events(path, "changed")) == 4


def test_evaluation_and_other_backward_passes_between_steps_leave_no_row(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop(step: int, take: Step) -> None:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizer)
        model.eval()
        with torch.no_grad():
            model(batch(100))
        model.train()
        torch.autograd.grad(model(batch(101)).sum(), list(model.parameters()))

    path = followed(tmp_path, model, 5, loop)
    assert weighbridge.open_run(path).steps_table().num_rows == 5


def test_each_group_s_settings_and_tensors_are_told_once_and_again_when_they_change(tmp_path: Path) -> None:
    model = small()
    groups = [{"params": [model[0].weight, model[2].weight]}, {"params": [model[0].bias], "weight_decay": 0.0, "eps": 1e-6}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)

    def loop(step: int, take: Step) -> None:
        if step == 3:
            optimizer.add_param_group({"params": [model[2].bias], "lr": 0.5})
        optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        take(optimizer)

    record = weighbridge.open_run(followed(tmp_path, model, 6, loop))
    told = [(one.optimizer, one.kind, one.group, one.step, one.tensors) for one in record.optimizer_groups()]
    first = [(0, "AdamW", 0, 0, ("0.weight", "2.weight")), (0, "AdamW", 1, 0, ("0.bias",))]
    again = [(0, "AdamW", 0, 3, ("0.weight", "2.weight")), (0, "AdamW", 1, 3, ("0.bias",)), (0, "AdamW", 2, 3, ("2.bias",))]
    assert told == first + again
    settings = [dict(one.settings) for one in record.optimizer_groups()]
    assert [one["eps"] for one in settings[:2]] == [1e-8, 1e-6]
    assert all(one["betas"] == [0.8, 0.95] for one in settings)
    rates = [row["lr"] for row in record.steps_table().to_pylist()]
    assert rates == [[0.01 / (n + 1), 0.01] + [0.5] * (n >= 3) for n in range(6)]
