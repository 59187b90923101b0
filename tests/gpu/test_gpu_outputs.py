"""What modules give on the device: rows against the test's own calls of each module, flags of NaN, the loss's scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.capture.oracle import events, table
from tests.capture.output_oracle import EVERYTHING, Truth, check_outputs, data, output_rows, sequential_truth, train
from torch import nn

import weighbridge
from weighbridge.records import Quantity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_and_the_gradients_by_them(dtype: torch.dtype, device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 3), nn.Tanh()).to(device, dtype)
    truth, inputs = Truth(), lambda step: data(step, 7, 6).to(device, dtype)
    square = lambda y: y.float().square().sum()
    by_hand = sequential_truth(model, inputs, truth, square)
    path = train(tmp_path, model, lambda step: square(model(inputs(step))), truth=by_hand)
    check_outputs(path, truth)
    assert "not weighed" in events(path, "reduced")[0].message


class Twice(nn.Module):
    """One layer called twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.tanh(self.layer(x)))


def test_several_calls_of_a_module_are_one_row(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = Twice().to(device), Truth()
    inputs = lambda step: data(step, 4, 5).to(device)

    def by_hand(step: int) -> None:
        truth.step = step
        first = model.layer(inputs(step))
        second = model.layer(torch.tanh(first))
        for one in (first, second):
            truth.add("layer/out", one)
        for gradient in torch.autograd.grad(second.sum(), [second, first]):
            truth.add("layer/out", gradient, Quantity.ACTIVATION_GRADIENT)

    path = train(tmp_path, model, lambda step: model(inputs(step)).sum(), truth=by_hand)
    check_outputs(path, truth, only=("layer/out",))


class Breaks(nn.Module):
    """Gives infinity at some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.at = nn.Parameter(torch.ones(1)), torch.ones(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale * self.at


@pytest.mark.parametrize("plan", [weighbridge.Plan(activations=False, activation_gradients=False, units=False), EVERYTHING])
def test_the_first_module_with_nan_is_known_at_any_step(plan: Any, device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Breaks(), nn.Linear(4, 4)).to(device)
    bad, good = torch.tensor([torch.inf], device=device), torch.ones(1, device=device)

    def loss(step: int) -> torch.Tensor:
        model[1].at = bad if step == 3 else good
        return model(data(step, 3, 4).to(device)).sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    path = train(tmp_path, model, loss, steps=5, plan=plan, optimizer=optimizer)
    names = {t.id: t.name for t in weighbridge.open_run(path).outputs}
    flagged = [row for row in table(path, "calls") if row["nonfinite_call"] >= 0 and row["quantity"] == Quantity.ACTIVATION]
    at_3 = sorted((row["place"], names[row["tensor"]]) for row in flagged if row["step"] == 3)
    assert [name for _, name in at_3] == ["1/out", "2/out"]
    assert min(row["step"] for row in flagged) == 3


def test_gradients_are_without_the_scale_of_the_loss(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(device)
    scale, truth = torch.tensor(1024.0, device=device), Truth()
    inputs = lambda step: data(step, 3, 4).to(device)
    by_hand = sequential_truth(model, inputs, truth, lambda y: y.square().sum())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    loss = lambda step: model(inputs(step)).square().sum() * scale
    path = train(tmp_path, model, loss, truth=by_hand, optimizer=optimizer)
    found = output_rows(path)
    rows = {key: row for key, row in found.items() if key[2] is Quantity.ACTIVATION_GRADIENT}
    assert len(rows) == 8
    for key, row in rows.items():
        assert row["sum_sq"] == pytest.approx(float((truth.numbers(key).astype("float64") ** 2).sum()), rel=1e-6)


def test_an_evaluation_leaves_no_rows(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4)).to(device)
    truth, inputs = Truth(), lambda step: data(step, 3, 4).to(device)
    by_hand = sequential_truth(model, inputs, truth, lambda y: y.sum())

    def loss(step: int) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            model(inputs(step + 50))
        model.train()
        return model(inputs(step)).sum()

    check_outputs(train(tmp_path, model, loss, truth=by_hand), truth)
