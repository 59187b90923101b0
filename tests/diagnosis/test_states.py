"""What a bias costs with all that an optimizer keeps of it.

Oracle: the optimizers of torch themselves, whose state is counted after a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import weighbridge
from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.states import BY_MOMENTUM, KEPT, tensors_kept
from weighbridge.server.biasworth import worth_of
from weighbridge.store.record import open_run

MakeOptimizer = Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer]


class OfOnesOwn(torch.optim.SGD):
    """An optimizer that torch does not have: nobody knows what it keeps."""


class Thin(torch.optim.Optimizer):
    """One that keeps nothing, and has no momentum to be asked for."""

    def __init__(self, params: Iterator[torch.nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * p.grad


def counted(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> int:
    kept = optimizer.state[parameter].values()
    return sum(isinstance(one, torch.Tensor) and one.shape == parameter.shape for one in kept)


KNOWN: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in (*KEPT, *BY_MOMENTUM)),
    *((name, {"amsgrad": True}) for name in ("Adam", "AdamW")),
    *((name, {"momentum": 0.9}) for name in BY_MOMENTUM),
    ("RMSprop", {"centered": True}),
]


@pytest.mark.parametrize(("name", "settings"), KNOWN)
def test_torchs_optimizers_keep_what_is_said_of_them(name: str, settings: dict[str, Any]) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = getattr(torch.optim, name)([parameter], lr=0.01, **settings)
    parameter.sum().backward()
    optimizer.step()
    assert tensors_kept(name, optimizer.defaults, optimizer.defaults.get("momentum")) == counted(optimizer, parameter)


def trained(folder: Path, make: MakeOptimizer, steps: int = 3) -> tuple[list[Finding], Finding, int]:
    """A bias in front of a batch norm: what is told beside the training, what is told afterwards, and what it really costs."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer, told = make(model.parameters()), list[Finding]()
    run = weighbridge.init(dir=folder, name="first", quiet=True)
    weighbridge.watch(model, run=run, live="silent", on_finding=told.append, select=["redundant-bias"])
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.randint(0, 2, (16,))).backward()
        optimizer.step()
    run.finish()
    (later,) = weighbridge.diagnose(run.path, select=["redundant-bias"])
    bias: Any = model[0].bias
    return told, later, 4 * bias.numel() * (2 + counted(optimizer, bias))


def momentum(params: Iterator[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


def groups_apart(params: Iterator[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The bias in a group without momentum, behind one that has some."""
    weight, bias, *rest = params
    return torch.optim.SGD([{"params": [weight, *rest], "momentum": 0.9}, {"params": [bias]}], lr=0.01)


WAYS: dict[str, MakeOptimizer] = {
    "AdamW": torch.optim.AdamW,
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01),
    "SGD with momentum": momentum,
    "groups apart": groups_apart,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_bias_costs_is_told_exactly_beside_the_training_and_after_it(tmp_path: Path, way: str) -> None:
    told, later, size = trained(tmp_path, WAYS[way])
    assert told == [later]
    assert later.told_step == 0
    assert f" 8 parameters, {size} bytes for nothing" in later.message
    assert ValueEvidence("bytes saved, gradient and optimizer state included", size, unit="bytes") in later.evidence
    proof = worth_of(open_run(tmp_path / "first"), "0")["verdict"]
    assert (proof["bytes"], proof["knows_states"]) == (size, True)


@pytest.mark.parametrize("make", [Thin, lambda params: OfOnesOwn(params, lr=0.01, momentum=0.9)])
def test_what_an_optimizer_of_ones_own_keeps_is_not_known(tmp_path: Path, make: MakeOptimizer) -> None:
    told, later, _ = trained(tmp_path, make)
    assert told == [later]
    assert " 8 parameters, at least 64 bytes for nothing" in later.message
    assert ValueEvidence("bytes saved, gradient included; what an optimizer keeps is not", 64, unit="bytes") in later.evidence
    proof = worth_of(open_run(tmp_path / "first"), "0")["verdict"]
    assert (proof["bytes"], proof["knows_states"]) == (64, False)
