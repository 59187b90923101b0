"""What is taken down of the first backward passes of a watched run. Oracle: the model as it was written, and inspect."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture import firstgraph, graphwalk
from weighbridge.firstpass import FirstPass, from_text
from weighbridge.preflight.signal import try_out


def passes(
    where: Path, *models: nn.Module, loss: Callable[[int], torch.Tensor], steps: int = 2, micro: int = 1
) -> list[FirstPass]:
    """The rows of table `graph` of a short run."""
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    with weighbridge.init(dir=where, name="run", quiet=True) as run:
        for model in models:
            run.watch(model)
        for step in range(steps):
            for number in range(micro):
                loss(step * micro + number).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    return [from_text(row["detail"]) for row in weighbridge.open_run(run.path).whole("graph").to_pylist()]


class Net(nn.Module):
    """Modules, functions between them, and a function at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.block = nn.Linear(8, 16), nn.Sequential(nn.Tanh(), nn.Linear(16, 16), nn.ReLU())
        self.two = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.one(x))
        return torch.sigmoid(self.two(self.block(h)))


def wanted(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(x), 4)


def test_every_operation_is_put_where_its_module_is(tmp_path: Path) -> None:
    model = Net()
    (first,) = passes(tmp_path, model, loss=lambda _: F.mse_loss(model(torch.randn(32, 8)), torch.ones(32, 4)))
    made = [(n.op, n.module) for n in first.graph.nodes if n.op not in ("Parameter", "T")]
    assert made == [
        *[("Addmm", "one"), ("Gelu", ""), ("Tanh", "block.0"), ("Addmm", "block.1"), ("Relu", "block.2")],
        *[("Addmm", "two"), ("Sigmoid", ""), ("MseLoss", "")],
    ]
    assert [p.name for p in first.parameters] == [name for name, _ in model.named_parameters()]
    assert all(p.is_called for p in first.parameters)
    assert first.kinds["block.1"] == "Linear"
    assert first.written["two"] == "Linear(in_features=16, out_features=4, bias=True)"


def test_it_is_the_graph_that_inspect_sees(tmp_path: Path) -> None:
    from tests.preflight.healthy import HEALTHY

    for name in ("mlp_layer_norm", "tutorial_regression", "binary", "log_softmax"):
        torch.manual_seed(0)
        model, (x, y), loss_fn = HEALTHY[name]()
        torch.manual_seed(1)
        trial = try_out(model, (x, y), loss_fn).first
        torch.manual_seed(1)
        (first,) = passes(tmp_path / name, model, loss=lambda _, m=model, b=(x, y), f=loss_fn: f(m(b[0]), b[1]), steps=1)
        assert first.graph == trial.graph
        assert repr(first.scales) == repr(trial.scales)
        assert repr(first.starts) == repr(trial.starts)


def test_alike_passes_are_taken_once_and_different_ones_each(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(32, 8)
    found = passes(tmp_path, model, loss=lambda i: (model(x) - 1).pow(2).mean() if i % 2 else model(x).sum(), micro=4, steps=3)
    assert [[n.op for n in first.graph.nodes][-2:] for first in found] == [["Sigmoid", "Sum"], ["Pow", "Mean"]]


def test_of_two_models_names_say_which(tmp_path: Path) -> None:
    one, two = nn.Linear(8, 4), nn.Linear(4, 2)
    (first,) = passes(tmp_path, one, two, loss=lambda _: two(torch.relu(one(torch.randn(16, 8)))).square().mean())
    assert [p.name for p in first.parameters] == ["model:weight", "model:bias", "model-2:weight", "model-2:bias"]
    assert {n.module for n in first.graph.nodes if n.op == "Addmm"} == {"model:", "model-2:"}


# --- numbers -------------------------------------------------------------------------------------------------------------


def test_cross_entropy_beside_the_uniform_guess(tmp_path: Path) -> None:
    model, x, y = nn.Linear(8, 5), torch.randn(64, 8), torch.arange(64) % 5
    y[:4] = -100
    with torch.no_grad():
        logits = model(x)[4:].double()
        losses = F.cross_entropy(logits, y[4:], reduction="none")
    (first,) = passes(tmp_path, model, loss=lambda _: F.cross_entropy(model(x), y, weight=torch.rand(5)), steps=1)
    (start,) = first.starts
    assert (start.kind, start.place, start.samples, start.trivial) == ("cross-entropy", "", 60, math.log(5))
    assert start.loss == pytest.approx(float(losses.mean()), rel=1e-6)  # without the weights of classes
    assert start.error == pytest.approx(float(losses.std() / 60**0.5), rel=1e-5)
    assert start.prediction_std == pytest.approx(
        float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt()), rel=1e-5
    )
    assert start.input_rms == pytest.approx(float(x.square().mean().sqrt()), rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [F.mse_loss, F.smooth_l1_loss, F.huber_loss, lambda p, t: (p - t).pow(2).mean(), lambda p, t: (t - p).abs().mean()],
)
def test_a_squared_error_beside_the_mean_of_the_targets(tmp_path: Path, loss: Any) -> None:
    model, x = nn.Sequential(nn.Linear(8, 3), nn.ReLU()), torch.randn(64, 8)
    y = torch.randn(64, 3) * 2 + 1
    with torch.no_grad():
        p = model(x).double()
    (first,) = passes(tmp_path, model, loss=lambda _: loss(model(x), y), steps=1)
    (start,) = first.starts
    t = y.double()
    expected = {
        "loss": (p - t).square().mean(),
        "trivial": t.var(correction=0),
        "target_mean": t.mean(),
        "target_std": t.std(correction=0),
        "target_low": t.min(),
        "target_high": t.max(),
        "prediction_std": p.std(correction=0),
        "floor": t.clamp(max=0).square().mean(),
        "input_rms": x.square().mean().sqrt(),
    }
    for name, value in expected.items():
        assert getattr(start, name) == pytest.approx(float(value), rel=1e-5), name
    assert start.samples == 192


def test_the_scale_of_what_comes_in(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 2))
    x = torch.rand(32, 3, 8, 8) * torch.tensor([255.0, 1.0, 10.0])[:, None, None]
    x[:, 1] = 1.0
    with torch.no_grad():
        given = model[0](x)
    (first,) = passes(tmp_path, model, loss=lambda _: model(x).square().mean(), steps=1)
    (scale,) = first.scales
    features = x.double().movedim(1, -1).reshape(-1, 3)
    assert (scale.place, scale.samples, scale.constants) == ("0", 32 * 64, 1)
    assert scale.rms == pytest.approx(float(features.square().mean().sqrt()))
    assert scale.largest_rms == pytest.approx(float(features.square().mean(0).max().sqrt()))
    assert scale.largest == pytest.approx(float(x.max()))
    assert scale.mean_power == pytest.approx(float(features.mean(0).square().sum()))
    assert scale.variance == pytest.approx(float(features.var(0, correction=0).sum()))
    assert 0.5 < scale.output_rms / float(given.square().mean().sqrt()) < 2  # expected over weights, not that of these


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_take_the_batch_too(tmp_path: Path, kind: Any) -> None:
    model, x = kind(4, 16), torch.randn(7, 8, 4) * 30
    (first,) = passes(tmp_path, model, loss=lambda _: model(x)[0].square().mean(), steps=1)
    assert first.scales[0].rms == pytest.approx(float(x.square().mean().sqrt()))


def test_a_batch_that_wants_a_gradient_is_a_batch(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 3), torch.randn(8, 4, requires_grad=True)
    (first,) = passes(tmp_path, model, loss=lambda _: model(x).square().mean(), steps=1)
    assert first.scales[0].samples == 8


def test_similarities_are_no_last_layer(tmp_path: Path) -> None:
    """Logits of a contrastive loss: what they are made of is not what a layer takes."""
    model, x = nn.Linear(8, 4), torch.randn(16, 8)
    loss = lambda _: F.cross_entropy(F.normalize(model(x)) @ F.normalize(model(x.flip(0))).T / 0.05, torch.arange(16))
    (first,) = passes(tmp_path, model, loss=loss, steps=1)
    assert math.isnan(first.starts[0].input_rms)


def test_large_tensors_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.capture.firstfacts.MOST", 1000)
    model, x, y = nn.Linear(8, 5), torch.randn(4096, 8), torch.arange(4096) % 5
    (first,) = passes(tmp_path, model, loss=lambda _: F.cross_entropy(model(x), y), steps=1)
    assert first.scales[0].samples <= 125
    assert 150 <= first.starts[0].samples <= 200
    assert first.scales[0].rms == pytest.approx(1, abs=0.2)


# --- what is in the way --------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_holds_is_not_computed_anew(tmp_path: Path) -> None:
    ran: list[int] = []
    one, two = nn.Linear(8, 16), nn.Linear(16, 4)

    def inner(x: torch.Tensor) -> torch.Tensor:
        ran.append(1)
        return torch.relu(one(x))

    model = nn.Sequential(one, two)
    x = torch.randn(16, 8)
    checkpointed = lambda _: two(torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=False)).square().mean()
    (first,) = passes(tmp_path, model, loss=checkpointed, steps=1)
    assert len(ran) == 2  # forward, and once for the backward pass
    assert first.scales == ()  # not seen
    assert {"0.weight", "1.weight"} <= first.graph.leaves.keys()


def test_a_graph_that_is_too_large_is_said_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphwalk, "MOST_NODES", 8)
    model = Net()
    assert passes(tmp_path, model, loss=lambda _: model(torch.randn(4, 8)).sum()) == []
    events = [e.message for e in weighbridge.open_run(tmp_path / "run").events() if e.kind == "reduced"]
    assert any("more than" in message and "operations" in message for message in events)


def test_a_bug_of_ours_costs_the_graph_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(firstgraph, "asked", broken)
    model = Net()
    assert passes(tmp_path, model, loss=lambda _: model(torch.randn(4, 8)).sum(), steps=5) == []
    record = weighbridge.open_run(tmp_path / "run")
    assert any("KeyError: 'a bug'" in e.message for e in record.events())
    assert len(record.series("one.weight", "update.rms").steps) == 5


def test_nothing_is_looked_at_after_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = firstgraph.walk
    monkeypatch.setattr(firstgraph, "walk", lambda *given: (calls.append(1), real(*given))[1])
    model = Net()
    passes(tmp_path, model, loss=lambda _: model(torch.randn(4, 8)).sum(), steps=6)
    assert len(calls) <= 2  # the second backward comes before its step begins


def test_rows_that_are_alike_at_the_start(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(model[0].weight, 0.3)
    nn.init.zeros_(model[2].weight)
    (first,) = passes(tmp_path, model, loss=lambda _: model(torch.randn(4, 8)).square().sum(), steps=1)
    assert {p.name for p in first.parameters if p.has_equal_rows} == {"0.weight"}


class Slow(firstgraph.Late):
    """A device that has given its numbers when it is asked for the fourth time."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__(tensors)
        self.asked = 0

    def has_arrived(self, wait: bool = False) -> bool:
        self.asked += 1
        return wait or self.asked > 3


@pytest.mark.parametrize(("steps", "known_at"), [(6, 1), (1, 0)])
def test_what_a_device_has_yet_to_give_is_written_when_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, known_at: int
) -> None:
    monkeypatch.setattr(firstgraph, "Late", Slow)
    model, x = Net(), torch.randn(16, 8)
    (first,) = passes(tmp_path, model, loss=lambda _: F.mse_loss(model(x), wanted(x)), steps=steps)
    assert first.scales[0].rms == pytest.approx(float(x.square().mean().sqrt()))
    assert weighbridge.open_run(tmp_path / "run").whole("graph").to_pylist()[0]["step"] == known_at


class Around(nn.Module):
    """Does nothing of its own: what runs is the module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_what_a_module_gives_on_unchanged_is_its_child_s(tmp_path: Path) -> None:
    model = nn.Sequential(Around(), nn.Tanh())
    (first,) = passes(tmp_path, model, loss=lambda _: model(torch.randn(4, 8)).sum(), steps=1)
    assert {n.module for n in first.graph.nodes if n.op == "Addmm"} == {"0.inner"}
