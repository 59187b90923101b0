"""Whole trainings on the device: every row against the oracle that clones tensors around the step, losses, moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.capture.oracle import Expected, Oracle, check, closure_of, compare, dense, events, table, train
from torch import nn

import weighbridge
from weighbridge.capture import flights
from weighbridge.records import Quantity
from weighbridge.reference import summarize

Optimizer = torch.optim.Optimizer


def network(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 70), nn.ReLU(), nn.Linear(70, 70), nn.LayerNorm(70), nn.Linear(70, 3)).to(device, dtype)


def loss_of(model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> Callable[[int], torch.Tensor]:
    def loss(step: int) -> torch.Tensor:
        x = torch.randn(6, 7, generator=torch.Generator().manual_seed(step)).to(device, dtype)
        return model(x).float().square().mean()

    return loss


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw, one by one": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_a_training_is_right(name: str, device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    check(*train(tmp_path, model, OPTIMIZERS[name](model.parameters()), loss_of(model, device), 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype, device: torch.device, tmp_path: Path) -> None:
    model = network(device, dtype)
    check(*train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1), loss_of(model, device, dtype), 3))


def test_the_loss_and_its_scale_are_in_the_table_of_steps(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth, loss = [], loss_of(model, device)
    scale = torch.tensor(1024.0, device=device)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(5):
            parts = [loss(2 * step), loss(2 * step + 1)]
            truth.append(sum(float(part) for part in parts) / 2)
            for part in parts:
                (part / 2 * scale).backward()
            for p in model.parameters():
                assert p.grad is not None
                p.grad /= scale
            optimizer.step()
            optimizer.zero_grad()
    rows = table(run.path, "steps")
    assert [row["loss"] for row in rows] == pytest.approx(truth, rel=1e-6)
    assert {(row["loss_scale"], row["backward_passes"]) for row in rows} == {(1024.0, 2)}


def test_the_factor_of_clipping_is_in_the_table_of_steps(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    optimizer, loss, truth = torch.optim.SGD(model.parameters(), lr=0.1), loss_of(model, device), []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            loss(step).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5 if step % 2 else 1e6)
            truth.append(min(1.0, (0.5 if step % 2 else 1e6) / (float(norm) + 1e-6)))
            optimizer.step()
    assert [row["clip_factor"] for row in table(run.path, "steps")] == pytest.approx(truth, rel=1e-6)
    assert min(truth) < 1 == max(truth)


def test_rows_are_dropped_and_counted_where_the_device_is_too_far_behind(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later:
        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            return None

    send = flights.Flights.send

    def send_late(self: flights.Flights, *arguments: Any, **named: Any) -> None:
        send(self, *arguments, **named)
        for flight in self.under_way:
            flight.done = Later()

    monkeypatch.setattr(flights.Flights, "send", send_late)
    monkeypatch.setattr(flights, "MOST_FLIGHTS", 3)
    model = network(device)
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.1), loss_of(model, device)
    plan = weighbridge.Plan(activations=False, activation_gradients=False, units=False)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(6):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    rows = table(run.path, "rows")
    assert {row["step"] for row in rows if row["quantity"] == Quantity.UPDATE} == {0, 1, 2}
    assert events(run.path, "finished")[0].detail["rows_dropped"] == 3 * 3 * len(list(model.parameters()))
    assert "far behind" in str(events(run.path, "warned"))


def test_moments_are_those_of_the_optimizer(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    truth: dict[tuple[int, str, int], torch.Tensor] = {}
    loss = loss_of(model, device)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=weighbridge.Plan(moments=2)) as run:
        run.watch(model)
        for step in range(5):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
            if step % 2 == 0:
                for name, p in model.named_parameters():
                    truth[step, name, Quantity.MOMENT1] = dense(optimizer.state[p]["exp_avg"])
                    truth[step, name, Quantity.MOMENT2] = dense(optimizer.state[p]["exp_avg_sq"])
    names = {row["tensor"]: row["name"] for row in table(run.path, "tensors")}
    rows = [row for row in table(run.path, "rows") if row["quantity"] in (Quantity.MOMENT1, Quantity.MOMENT2)]
    found = {(row["step"], names[row["tensor"]], row["quantity"]): row for row in rows}
    assert set(found) == set(truth)
    for key, numbers in truth.items():
        summary = summarize(numbers.numpy(), 4)
        compare(key, found[key], Expected(summary, None, {n: getattr(summary, s) for n, s in SCALES.items()}))


SCALES = {"sum": "sum_abs", "sum_abs": "sum_abs", "sum_sq": "sum_sq"}


def test_weights_changed_between_steps(device: torch.device, tmp_path: Path) -> None:
    model = network(device)

    def between(step: int) -> None:
        with torch.no_grad():
            if step == 2:
                model[0].bias.data.clamp_(-0.01, 0.01)  # moves no version counter
            if step == 3:
                model[2].weight.mul_(0.5)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path, oracle = train(tmp_path, model, optimizer, loss_of(model, device), 5, between=between)
    check(path, oracle)
    assert "2.weight" in events(path, "changed")[0].message


@pytest.mark.parametrize("snapshot", ["10 kB", "30 kB"])
def test_copies_of_large_tensors_take_turns(snapshot: str, device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(70, 70) for _ in range(4))).to(device)
    loss = lambda step: model(torch.full((3, 70), 0.1 * step + 0.1, device=device)).square().mean()
    plan = weighbridge.Plan(snapshot=snapshot)
    path, oracle = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1), loss, 7, plan=plan)
    check(path, oracle, lambda key: key[2] == Quantity.UPDATE and "weight" in key[1])
    words = {"10 kB": "a tensor alone is larger", "30 kB": "at one step in 4"}
    assert words[snapshot] in str(events(path, "reduced"))


def test_rows_by_plan(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    plan = weighbridge.Plan(parameters=2, gradients=3, updates=2, histogram=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path, _ = train(tmp_path, model, optimizer, loss_of(model, device), 7, plan=plan)
    due = {Quantity.PARAMETER: 2, Quantity.GRADIENT: 3, Quantity.UPDATE: 2}
    rows = table(path, "rows")
    assert {(r["step"], r["quantity"]) for r in rows if r["step"] < 7 and r["quantity"] in due} == {
        (s, q) for q, k in due.items() for s in range(0, 7, k)
    }


def test_sparse_gradients_frozen_parameters_and_other_strides(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8, sparse=True)
            self.turned = nn.Parameter(torch.randn(6, 8).t())
            self.gaps = nn.Parameter(torch.randn(8, 6)[:, ::2])
            self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.embedding(x) @ self.turned).square().mean() + (self.gaps * self.frozen).square().mean()

    model = Odd().to(device)
    model.gaps.data = torch.randn(8, 6, device=device)[:, ::2]
    loss = lambda step: model(torch.arange(step, step + 5, device=device))
    check(*train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1), loss, 4))


def test_a_closure_evaluated_several_times(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    oracle, loss = Oracle(model), loss_of(model, device)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(3):
            oracle.step(optimizer, closure_of(optimizer, partial(loss, step)))
        oracle.close()
    check(run.path, oracle)


def test_training_is_bit_for_bit_the_same(device: torch.device, tmp_path: Path) -> None:
    def trained(watch: bool) -> tuple[list[float], bytes]:
        model = network(device)
        optimizer, loss = torch.optim.AdamW(model.parameters(), lr=0.01), loss_of(model, device)
        if watch:
            weighbridge.init(dir=tmp_path, name="run", quiet=True).watch(model)
        losses = []
        for step in range(6):
            optimizer.zero_grad()
            value = loss(step)
            value.backward()
            optimizer.step()
            losses.append(float(value))
        weighbridge.finish()
        return losses, b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())

    assert trained(False) == trained(True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a device can be waited for")
def test_nothing_waits_for_the_device(device: torch.device, tmp_path: Path) -> None:
    model = network(device)
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=0.01), loss_of(model, device)
    batches = [torch.randn(6, 7, device=device) for _ in range(100)]
    everything = weighbridge.Plan(moments=True, activations=True, activation_gradients=True)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=everything) as run:
        run.watch(model)
        loss(0).backward()
        optimizer.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for x in batches:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    rows = table(run.path, "rows")
    assert np.unique([row["step"] for row in rows if row["quantity"] == Quantity.UPDATE]).tolist() == list(range(101))
    assert {row["step"] for row in rows if row["quantity"] == Quantity.ACTIVATION_GRADIENT} == set(range(101))
    assert not events(run.path, "warned")
