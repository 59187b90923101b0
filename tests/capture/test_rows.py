"""Every optimizer of torch.optim, weighed at every step. Oracle: clones around `step`, and weighbridge.reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import GRADIENT, PARAMETER, UPDATE, Oracle, check, recorded_rows, steps_of, train, watched
from weighbridge.records import HISTOGRAM_WHOLE_BELOW

STEPS = 6
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
optim = torch.optim

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD momentum nesterov decay": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD foreach": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD maximize": lambda p: optim.SGD(p, lr=0.1, maximize=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "Adam decay amsgrad": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "Adam foreach": lambda p: optim.Adam(p, lr=0.01, foreach=True),
    "Adam fused": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "Adam tensor lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW foreach": lambda p: optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01, weight_decay=0.1),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "Adadelta": lambda p: optim.Adadelta(p),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.01),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "Adagrad fused": lambda p: optim.Adagrad(p, lr=0.1, fused=True),
    "ASGD": lambda p: optim.ASGD(p, lr=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Rprop": lambda p: optim.Rprop(p),
}
if hasattr(optim, "Muon"):  # since torch 2.9
    OPTIMIZERS["Muon"] = lambda p: optim.Muon([x for x in p if x.ndim == 2], lr=0.01)
APART = {"Optimizer", "LBFGS", "SparseAdam"}  # each has its own test below


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 20), nn.LayerNorm(20), nn.Tanh(), nn.Linear(20, 2))


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return F.mse_loss(model(x), x[:, :2] * 2)


def trained(folder: Path, name: str) -> tuple[Path, Oracle]:
    """A watched training of the network by the optimizer of that name."""
    model = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    return train(folder, model, optimizer, lambda step: loss_of(model, step), STEPS)


def test_no_optimizer_of_torch_is_left_out() -> None:
    classes = {name for name, one in vars(optim).items() if inspect.isclass(one) and issubclass(one, optim.Optimizer)}
    assert classes - APART <= {name.split()[0] for name in OPTIMIZERS}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_every_step_is_what_the_optimizer_did(name: str, tmp_path: Path) -> None:
    path, oracle = trained(tmp_path, name)
    check(path, oracle)
    rows = recorded_rows(path)
    assert steps_of(rows, "0.weight", PARAMETER) == [*range(STEPS), STEPS]  # the last one closes
    assert steps_of(rows, "0.weight", GRADIENT) == steps_of(rows, "0.weight", UPDATE) == [*range(STEPS)]


@pytest.mark.parametrize("name", ["SGD", "Adam foreach", "AdamW fused"])
def test_the_torch_fallback_writes_the_same_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_KERNEL", "torch")
    check(*trained(tmp_path, name))


def test_lbfgs_calls_its_closure_many_times_and_steps_once(tmp_path: Path) -> None:
    model = network()
    optimizer = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    passes = 0

    def closure() -> torch.Tensor:
        nonlocal passes
        passes += 1
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    with watched(tmp_path, model) as (run, oracle):
        for _ in range(STEPS):
            oracle.step(optimizer, closure)
    steps = weighbridge.open_run(run.path).steps_table()
    assert steps.column("step").to_pylist() == [*range(STEPS)]
    assert sum(steps.column("backward_passes").to_pylist()) == passes > STEPS


def test_sparse_adam_with_a_sparse_embedding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.EmbeddingBag(50, 4, sparse=True, mode="sum")
    optimizer = optim.SparseAdam(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(STEPS):
            optimizer.zero_grad()
            model(torch.tensor([[step, step + 1, step, 7]])).square().sum().backward()
            assert model.weight.grad is not None
            assert model.weight.grad.is_sparse
            oracle.step(optimizer)
    row = recorded_rows(run.path)[0, "weight", GRADIENT]
    assert row["count"] == 200  # it counts as the dense tensor that it stands for
    assert row["zero"] == 200 - 3 * 4


def test_muon_and_adamw_share_one_clock(tmp_path: Path) -> None:
    model = network()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizers = [optim.SGD(matrices, lr=0.1), optim.AdamW(others, lr=0.01)]
    with watched(tmp_path, model) as (run, oracle):
        for step in range(STEPS):
            model.zero_grad()
            loss_of(model, step).backward()
            for optimizer in optimizers:
                oracle.step(optimizer, at=step)
    assert weighbridge.open_run(run.path).last_step == STEPS


def test_clipping_and_accumulation_are_in_the_gradient_that_is_weighed(tmp_path: Path) -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    with watched(tmp_path, model) as (run, oracle):
        for step in range(STEPS):
            optimizer.zero_grad()
            for part in range(3):
                (loss_of(model, 3 * step + part) / 3).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            oracle.step(optimizer)
    record = weighbridge.open_run(run.path)
    total = sum(record.series(t.name, "gradient.l2_norm").values ** 2 for t in record.tensors)
    assert (abs(total**0.5 - 0.01) < 1e-6).all()


def test_a_large_weight_has_every_eighth_line_in_its_histogram(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(300, 300)
    assert model.weight.numel() > HISTOGRAM_WHOLE_BELOW
    optimizer = optim.Adam(model.parameters())
    loss: Callable[[int], torch.Tensor] = lambda step: model(torch.randn(4, 300)).square().mean()
    check(*train(tmp_path, model, optimizer, loss, 2))


def test_nan_and_infinity_are_counted_and_harm_no_other_number(tmp_path: Path) -> None:
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            bias = model[0].bias
            assert bias.grad is not None
            bias.grad[0], bias.grad[1], bias.grad[2] = torch.nan, torch.inf, -torch.inf
            oracle.step(optimizer)
    row = recorded_rows(run.path)[0, "0.bias", GRADIENT]
    assert (row["nan"], row["pos_inf"], row["neg_inf"]) == (1, 1, 1)
