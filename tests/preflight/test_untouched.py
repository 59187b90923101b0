"""Inspecting leaves everything as it was, bit for bit. Oracle: copies of all state made by hand before."""

from __future__ import annotations

import copy
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture.hooks import unheard
from weighbridge.errors import BadInput
from weighbridge.preflight.biases import without_redundant_biases
from weighbridge.preflight.inspect import inspect


def network() -> nn.Module:
    """With buffers, dropout, an operation in place, a tied weight, a frozen part in evaluation mode, and gradients."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    )
    model[1].eval()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    return model


def state(model: nn.Module) -> dict[str, Any]:
    kept: dict[str, Any] = {f"{n} data": p.detach().clone() for n, p in model.state_dict().items()}
    kept |= {f"{n} gradient": None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    kept |= {f"{n} version": torch.tensor(p._version) for n, p in model.named_parameters()}
    kept |= {
        f"{n} mode": torch.tensor([m.training, len(m._forward_hooks), len(m._forward_pre_hooks)])
        for n, m in model.named_modules()
    }
    kept |= {f"{n} names": sorted(vars(m)) for n, m in model.named_modules()}
    return kept


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    equal = lambda a, b: torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)


def drawn() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]


def draws(model: nn.Module, batch: Any) -> torch.Tensor:
    random.random(), np.random.rand()
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("mode", [True, False])
def test_model_gradients_buffers_modes_and_random_state_stay_bit_for_bit(mode: bool) -> None:
    model = network()
    model.training = mode
    batch = (torch.randn(6, 3, 8, 8), torch.arange(6) % 5)
    before, given, random_before = state(model), copy.deepcopy(batch), drawn()
    inspect(model, batch, draws)
    without_redundant_biases(model, batch)
    assert same(state(model), before)
    assert drawn() == random_before
    assert torch.equal(batch[0], given[0])
    assert torch.equal(batch[1], given[1])


def test_a_model_that_changes_its_input_in_place_does_not_change_the_batch() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = torch.randn(8, 4)
    kept = x.clone()
    inspect(model, (x, torch.arange(8) % 2), F.cross_entropy)
    assert torch.equal(x, kept)


def test_a_loss_that_holds_the_users_own_model_leaves_no_gradient_there() -> None:
    model = nn.Linear(4, 2)
    loss = lambda out, y: F.cross_entropy(out, y) + 0.1 * sum(p.square().sum() for p in model.parameters())
    inspect(model, (torch.randn(8, 4), torch.arange(8) % 2), loss)
    assert all(p.grad is None for p in model.parameters())


def test_after_an_exception_in_the_model_everything_is_as_before() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(1)
            raise RuntimeError(f"no {self.norm(x).shape}")

    model, x = Broken(), torch.randn(8, 4)
    before, random_before = state(model), drawn()
    with pytest.raises(RuntimeError, match="no torch"):
        inspect(model, (x, x), F.mse_loss)
    assert same(state(model), before)
    assert drawn() == random_before


def test_the_training_after_an_inspection_is_bit_for_bit_the_one_without() -> None:
    def train(is_inspected: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters())
        x, y = torch.randn(16, 4), torch.arange(16) % 2
        losses = []
        for step in range(5):
            if is_inspected and step in (0, 3):
                inspect(model, (x, y), F.cross_entropy, optimizer)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    assert train(True) == train(False)


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (lambda out, y: F.cross_entropy(out, y, reduction="none"), "expected a tensor of one number"),
        (lambda out, y: F.cross_entropy(out.detach(), y), "depends on no parameter"),
        (lambda out, y: 3.0, "The loss is a float"),
    ],
)
def test_a_loss_that_is_none_is_refused_in_words(loss_fn: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        inspect(nn.Linear(4, 2), (torch.randn(8, 4), torch.arange(8) % 2), loss_fn)


def test_a_model_that_cannot_be_copied_is_refused_in_words() -> None:
    model = nn.Linear(4, 2)
    model.kept = model(torch.randn(1, 4))  # type: ignore[assignment]
    with pytest.raises(BadInput, match="cannot be copied"):
        inspect(model, (torch.randn(8, 4), torch.arange(8) % 2), F.cross_entropy)


def ask(what: str, model: nn.Module, batch: Any, optimizer: Any) -> None:
    if what == "inspect":
        inspect(model, batch, F.cross_entropy, optimizer)
    elif what == "biases":
        weighbridge.biases(model, batch, F.cross_entropy, optimizer)
    elif what == "ablate":
        weighbridge.ablate_bias(model, batches=batch, loss_fn=F.cross_entropy, optimizer=optimizer, seeds=2, epochs=2)


def watched(what: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(32, 4), torch.arange(32) % 3
    with weighbridge.watch(model) as run:
        for step in range(4):
            if step in (0, 2):
                ask(what, model, (x[:20], y[:20]), optimizer)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    record = weighbridge.open_run(run.path)
    kept = {name: record.whole(name).to_pylist() for name in ("steps", "passes", "graph", "rows", "calls")}
    return {
        name: [{k: v for k, v in row.items() if k not in ("time_ns", "own_ns")} for row in rows] for name, rows in kept.items()
    }


@pytest.mark.parametrize("what", ["inspect", "biases", "ablate"])
def test_a_watched_training_does_not_take_it_for_a_part_of_its_own(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected, found = watched(""), watched(what)
    assert len(expected["steps"]) == 4
    for table in expected:
        assert repr(found[table]) == repr(expected[table]), table  # NaN is no equal of itself


def test_a_training_in_another_thread_is_heard_meanwhile(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train() -> None:
        F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
        optimizer.step()

    with weighbridge.init(dir=tmp_path, quiet=True) as run:
        run.watch(model)
        with unheard(), unheard():
            other = threading.Thread(target=train)
            other.start()
            other.join()
            train()
        train()
    assert weighbridge.open_run(run.path).info.steps == 2
