"""The numbers of the table. Oracle: the same worked out by hand, without hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.preflight.inspect import inspect
from weighbridge.preflight.records import Layer


def rms(t: torch.Tensor) -> float:
    return float(t.detach().double().pow(2).mean().sqrt())


def rows(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Layer]:
    return {one.module: one for one in inspect(model, (x, y), F.cross_entropy).layers}


def test_each_number_is_what_the_layers_give_one_by_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3, bias=False))
    x, y = torch.randn(16, 6), torch.arange(16) % 3
    table = rows(model, x, y)
    a = model[0](x)
    b = torch.tanh(a)
    c = model[2](b)
    for h in (a, b, c):
        h.retain_grad()
    F.cross_entropy(c, y).backward()
    assert list(table) == ["0", "1", "2"]
    first, second, last = table.values()
    assert (first.kind, first.output_shape, first.calls, first.parameters) == ("Linear", (16, 10), 1, 70)
    assert (first.has_bias, second.has_bias, last.has_bias) == (True, None, False)
    weight, bias = model[0].weight.double(), model[0].bias.double()
    assert first.weight_mean == pytest.approx(float(weight.mean().detach()))
    assert first.weight_std == pytest.approx(float(weight.std(correction=0).detach()))
    assert first.bias_mean == pytest.approx(float(bias.mean().detach()))
    assert last.bias_mean is None
    assert first.output_rms == pytest.approx(rms(a))
    assert first.forward_gain == pytest.approx(rms(a) / rms(x))
    assert first.gradient_rms == pytest.approx(rms(a.grad))
    assert first.backward_gain is None  # the batch needs no gradient
    assert second.backward_gain == pytest.approx(rms(a.grad) / rms(b.grad))
    assert last.backward_gain == pytest.approx(rms(b.grad) / rms(c.grad))


@pytest.mark.parametrize("is_functional", [False, True])
def test_dead_and_saturated_units_are_counted_over_the_whole_batch(is_functional: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), nn.Linear(10, 3)
            self.relu, self.tanh = nn.ReLU(inplace=True), nn.Tanh()
            with torch.no_grad():
                self.one.bias[:2] = -100.0  # 2 of 8 dead
                self.two.bias[:5] = 50.0  # 5 of 10 saturated

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            relu, tanh = (torch.relu, torch.tanh) if is_functional else (self.relu, self.tanh)
            return self.three(tanh(self.two(relu(self.one(x)).mean((2, 3)))))

    torch.manual_seed(0)
    table = rows(Net(), torch.randn(16, 3, 6, 6), torch.arange(16) % 3)
    assert table["one"].dead_share == 0.25
    assert table["two"].saturated_share == 0.5
    assert table["three"].dead_share is None
    if not is_functional:
        assert (table["relu"].dead_share, table["tanh"].saturated_share) == (0.25, 0.5)


def test_rows_stand_in_the_order_of_execution_and_calls_are_counted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.twice, self.never = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.twice(torch.relu(self.twice(x)))))

    table = rows(Net(), torch.randn(8, 4), torch.arange(8) % 2)
    assert [(name, row.calls) for name, row in table.items()] == [("twice", 2), ("last", 1)]


def test_a_module_with_parameters_of_its_own_and_modules_inside_has_a_row() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(32, 2))
    table = rows(model, torch.randn(4, 4, 8), torch.arange(4) % 2)
    assert table["0.self_attn"].kind == "MultiheadAttention"
    assert table["0.self_attn"].parameters == 24 * 8 + 24


def test_a_model_in_evaluation_mode_is_tried_in_training_mode_and_this_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    result = inspect(model, (torch.randn(8, 4), torch.arange(8) % 2), F.cross_entropy)
    assert [f.rule for f in result.findings] == ["redundant-bias"]
    assert "training mode" in str(result)
