"""The gradient through the time of recurrent layers. Oracle: autograd, asked for the gradient by each step's own state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from weighbridge.capture import throughtime
from weighbridge.capture.throughtime import KIND
from weighbridge.store.record import open_run

TIME = 12


class Cell(nn.Module):
    """A recurrent layer as people write it."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.again, self.head = nn.Linear(3, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 2)
        nn.init.orthogonal_(self.again.weight, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 6)
        self.made = []
        for t in range(x.shape[1]):
            z = self.again(h)
            self.made.append(z)
            h = torch.tanh(self.into(x[:, t]) + z)
        return self.head(h)


def _events(model: nn.Module, where: Path, x: torch.Tensor) -> list[dict[str, Any]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return [json.loads(row["detail"]) for row in open_run(run.path).whole("events").to_pylist() if row["kind"] == KIND]


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_norms_of_a_cell_called_in_a_loop_are_those_of_autograd(gain: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Cell(gain), torch.randn(5, TIME, 3)
    loss = model(x).square().mean()
    wanted = [g.norm().item() for g in torch.autograd.grad(loss, model.made)]
    (event,) = _events(model, tmp_path, x)
    assert (event["module"], event["parameter"]) == ("again", "again.weight")
    assert event["norms"] == pytest.approx(wanted, rel=1e-5)


class Last(nn.Module):
    """The last output of one of torch's layers, behind an embedding."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(7, 4), getattr(nn, kind)(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given = self.embed(x)
        return self.head(self.layer(self.given)[0][:, -1])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_torch_s_own_layers_have_one_number_per_step_of_time(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Last(kind), torch.randint(0, 7, (5, TIME))
    loss = model(x).square().mean()
    (wanted,) = torch.autograd.grad(loss, [model.given])
    by_time = wanted.norm(dim=(0, 2))
    (event,) = _events(model, tmp_path, x)
    assert event["module"] == "layer"
    assert len(event["norms"]) == TIME
    if kind == "LSTM":  # one operation: the gradient by its input, exactly
        assert event["norms"] == pytest.approx(by_time.tolist(), rel=1e-5)
    rate = (event["norms"][-1] / event["norms"][0]) / (by_time[-1] / by_time[0]).item()
    assert 0.05 < rate < 20  # the same decay over these steps, seen at another place of the cell


def test_the_same_layer_side_by_side_is_no_recurrence(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(sum(torch.relu(self.one(x[:, t])) for t in range(TIME)))

    torch.manual_seed(0)
    assert _events(Shared(), tmp_path, torch.randn(5, TIME, 3)) == []


def test_losses_and_weights_are_the_same_with_it(tmp_path: Path) -> None:
    ends = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        model = Last("GRU")
        optimizer = torch.optim.Adam(model.parameters())
        x = torch.randint(0, 7, (5, TIME))
        run = weighbridge.watch(model) if is_watched else None
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        if run is not None:
            run.finish()
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_layer_that_is_used_again_and_beside_itself_has_no_one_time(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x[:, 0]
            for _ in range(TIME):
                h = torch.tanh(self.one(h))
            return self.head(h + self.one(x[:, 1]))

    torch.manual_seed(0)
    assert _events(Both(), tmp_path, torch.randn(5, TIME, 3)) == []


class Cells(nn.Module):
    """Cells side by side, each with its own weights; `times` steps of time."""

    def __init__(self, count: int, times: int) -> None:
        super().__init__()
        self.cells, self.times = nn.ModuleList(Cell(1.0) for _ in range(count)), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(cell(x[:, : self.times]) for cell in self.cells)


def test_a_layer_has_a_course_from_eight_steps_of_time_up_to_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughtime, "MOST_STEPS", 9)
    torch.manual_seed(0)
    lengths = {}
    for times in (7, 8, 9, 10):
        found = _events(Cells(1, times), tmp_path / str(times), torch.randn(5, TIME, 3))
        lengths[times] = [len(event["norms"]) for event in found]
    assert lengths == {7: [], 8: [8], 9: [9], 10: []}


def test_of_many_layers_four_are_followed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = _events(Cells(6, TIME), tmp_path, torch.randn(5, TIME, 3))
    assert len({event["module"] for event in found}) == len(found) == 4


@pytest.mark.parametrize("kind", ["given from outside", "computed", "fixed"])
def test_a_weight_that_is_no_parameter_has_no_course_and_disturbs_nothing(kind: str, tmp_path: Path) -> None:
    """Used at each step of time, but it is not the model's: no name could be given. The layer beside it has its course."""
    outside = torch.eye(6).requires_grad_(kind != "fixed")

    class Borrowed(Cell):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x.new_zeros(len(x), 6)
            for t in range(x.shape[1]):
                weight = outside * torch.sigmoid(self.into.bias) if kind == "computed" else outside
                h = torch.tanh(self.into(x[:, t]) + nn.functional.linear(h, weight))
            return super().forward(x) + self.head(h)

    torch.manual_seed(0)
    (event,) = _events(Borrowed(1.0), tmp_path, torch.randn(5, TIME, 3))
    assert event["module"] == "again"


@pytest.mark.parametrize("times", [7, 8, 9, 10])
def test_a_layer_in_one_piece_is_followed_from_eight_steps_of_time(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughtime, "MOST_STEPS", 9)
    torch.manual_seed(0)
    found = _events(Last("LSTM"), tmp_path, torch.randint(0, 7, (5, times)))
    assert [len(event["norms"]) for event in found] == ([times] if times in (8, 9) else [])


def test_a_layer_that_reads_backwards_has_its_times_in_the_order_of_its_reading(tmp_path: Path) -> None:
    """Oracle: autograd by the input of the half that reads backwards, whose last word is the first of the sequence."""

    class Backwards(Last):
        def __init__(self) -> None:
            super().__init__("LSTM")
            self.layer = nn.LSTM(4, 6, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.given = self.embed(x)
            return self.head(self.layer(self.given)[0][:, 0, 6:])

    torch.manual_seed(0)
    model, x = Backwards(), torch.randint(0, 7, (5, TIME))
    (wanted,) = torch.autograd.grad(model(x).square().mean(), [model.given])
    found = [event["norms"] for event in _events(model, tmp_path, x)]
    assert any(norms == pytest.approx(wanted.norm(dim=(0, 2)).flip(0).tolist(), rel=1e-5) for norms in found)
