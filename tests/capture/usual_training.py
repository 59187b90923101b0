"""A small training in which anything can be done between the steps, and what two runs of it have to have alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import table
from weighbridge.capture.follower import Follower

TABLES = ("rows", "steps", "values", "events", "tensors", "passes", "logs", "calls", "units", "biases", "coherence")


APART = {"time_ns", "own_ns", "time", "own", "wall_ns"}  # another clock reading each time


class Training:
    """A small network with everything that a user may do to it between two steps."""

    def __init__(self, kind: str, run: weighbridge.Run) -> None:
        torch.manual_seed(3)
        self.run, self.step_number = run, 0
        width = 1_100 if kind == "large" else 8  # of a large tensor no byte is compared: its version says that it was changed
        self.model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 3))
        groups = [{"params": self.model[0].parameters()}, {"params": self.model[3].parameters(), "lr": 0.02}]
        self.optimizer: torch.optim.Optimizer = {
            "sgd": lambda: torch.optim.SGD(groups, lr=0.05),
            "large": lambda: torch.optim.SGD(groups, lr=0.05),
            "momentum": lambda: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3),
            "adam": lambda: torch.optim.Adam(groups, lr=0.01),
            "fused": lambda: torch.optim.AdamW(groups, lr=0.01, fused=True),
        }[kind]()
        self.other = nn.Linear(2, 1)
        self.foreign = torch.optim.SGD(self.other.parameters(), lr=0.1)
        self.x, self.y = torch.randn(16, 4), torch.randint(0, 3, (16,))
        run.watch(self.model)

    def loss(self) -> torch.Tensor:
        return F.cross_entropy(self.model(self.x), self.y)

    def step(self, before: Callable[[], object] = lambda: None) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        before()
        self.optimizer.step()
        self.step_number += 1

    def mark(self) -> object:
        """Something that lives as long as the groups of the optimizer."""
        self.optimizer.param_groups[0]["mark"] = nn.Identity()
        return self.optimizer.param_groups[0]["mark"]

    # ---- what is not usual ----

    def edits_weights(self) -> None:
        self.model[0].weight.data.mul_(0.99)
        self.step()

    def copies_weights(self) -> None:
        with torch.no_grad():
            self.model[3].weight.copy_(self.model[3].weight * 1.01)
            self.model[0].weight.copy_(self.model[0].weight * 1.01)
        self.step()

    def clips(self) -> None:
        self.step(lambda: nn.utils.clip_grad_norm_(self.model.parameters(), 0.1))

    def clips_by_hand(self) -> None:
        self.step(lambda: [p.grad.mul_(0.5) for p in self.model.parameters() if p.grad is not None])

    def accumulates(self) -> None:
        (self.loss() / 2).backward()
        self.step()

    def forgets_to_empty_gradients(self) -> None:
        self.loss().backward()
        self.optimizer.step()

    def forgets_and_halves(self) -> None:
        self.loss().backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)
        self.optimizer.step()

    def empties_with_zeros(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        self.loss().backward()
        self.optimizer.step()

    def goes_backward_twice(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.loss().backward()
        self.optimizer.step()

    def goes_backward_in_halves(self) -> None:
        self.optimizer.zero_grad()
        self.model[:3](self.x).square().mean().backward()  # leaves the smallest parameter's gradient untouched
        self.loss().backward()
        self.optimizer.step()

    def evaluates(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.loss()
        self.model.train()
        self.step()

    def steps_in_evaluation_mode(self) -> None:
        self.model.eval()
        self.step()
        self.model.train()

    def steps_without_loss(self) -> None:
        self.optimizer.step()
        self.step()

    def lets_another_step(self) -> None:
        F.cross_entropy(self.other(torch.ones(1, 2)), torch.tensor([0])).backward()
        self.foreign.step()
        self.step()

    def schedules(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9
        self.step()

    def has_a_tensor_as_rate(self) -> None:
        kept = self.optimizer.param_groups[0]["lr"]
        self.optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        with contextlib.suppress(ValueError, RuntimeError):  # not every optimizer takes it
            self.step()
        self.optimizer.param_groups[0]["lr"] = kept

    def freezes(self) -> None:
        self.model[0].bias.requires_grad_(not self.model[0].bias.requires_grad)
        self.model[0].bias.grad = None
        self.step()

    def has_nan_in_its_batch(self) -> None:
        kept = self.x
        self.x = kept.clone()
        self.x[0, 0] = math.nan
        saved = [p.detach().clone() for p in self.model.parameters()]
        self.step()
        self.x = kept
        for p, old in zip(self.model.parameters(), saved, strict=True):
            p.data.copy_(old)

    def weighs_its_loss(self) -> None:
        self.optimizer.zero_grad()
        (self.loss() * 3.0).backward()
        self.optimizer.step()

    def scales_its_loss(self) -> None:
        self.optimizer.zero_grad()
        (self.loss() * torch.tensor(1024.0)).backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= 1024
        self.optimizer.step()

    def sums_its_loss(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y, reduction="sum").backward()
        self.optimizer.step()

    def has_another_loss(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.x).double().square().mean().backward()
        self.optimizer.step()

    def logs(self) -> None:
        self.run.log(accuracy=self.step_number)
        self.step()

    def logs_inside(self) -> None:
        self.step(lambda: self.run.log(inside=self.step_number))

    def begins_an_epoch(self) -> None:
        self.run.log(epoch=self.step_number)
        self.step()

    def loops_over_epochs(self) -> None:
        for _ in self.run.epochs(2):
            self.step()

    def flushes(self) -> None:
        self.run.flush()
        self.step()

    def raises_inside(self) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("in the middle of a step")

        handle = self.optimizer.register_step_post_hook(fail)  # runs before those of all optimizers
        with contextlib.suppress(RuntimeError):
            self.step()
        handle.remove()
        self.step()

    def takes_a_closure(self) -> None:
        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]

    def moves_its_groups(self) -> None:
        self.optimizer.load_state_dict(self.optimizer.state_dict())
        self.optimizer.param_groups[0]["lr"] *= 0.5
        self.step()

    def leaves_out_a_parameter(self) -> None:
        bias = self.optimizer.param_groups[0]["params"].pop()
        self.step()
        self.optimizer.param_groups[0]["params"].append(bias)

    def is_told_of_infinity(self) -> None:
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
            self.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.step()

    def exchanges_a_parameter_of_a_group(self) -> None:
        group = self.optimizer.param_groups[0]["params"]
        group[0], group[1] = group[1], group[0]
        self.step()

    def has_another_parameter_in_a_group(self) -> None:
        group = self.optimizer.param_groups[0]["params"]
        group[1], kept = self.other.bias, group[1]
        self.step()
        group[1] = kept

    def adds_a_group(self) -> None:
        if len(self.optimizer.param_groups) == 2:
            self.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})
        self.step()

    def exchanges_data(self) -> None:
        self.model[0].weight.data = self.model[0].weight.data.clone() + 0.01
        self.step()

    def has_gradients_in_another_order(self) -> None:
        def turn() -> None:
            self.model[0].weight.grad = self.model[0].weight.grad.t().contiguous().t()

        self.step(turn)
        self.optimizer.zero_grad()


UNUSUAL = [
    name
    for name, value in vars(Training).items()
    if callable(value) and not name.startswith("_") and name not in ("loss", "step", "mark")
]


def trained(
    folder: Path, kind: str, events: list[str], plan: weighbridge.Plan | None = None
) -> tuple[Path, dict[str, torch.Tensor]]:
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        training = Training(kind, run)
        for event in events:
            getattr(training, event)()
        end = {name: value.clone() for name, value in training.model.state_dict().items()}
    return run.path, end


def compared(path: Path, name: str) -> list[dict[str, Any]]:
    rows = [{key: value for key, value in row.items() if key not in APART} for row in table(path, name)]
    for row in rows:
        if row.get("kind") == "finished":
            row["detail"] = ""
        if row.get("kind") == "findings":
            row.clear()
    return rows


def same(a: object, b: object) -> bool:
    return str(a) == str(b)  # NaN equals NaN there, and floats are printed to the last bit


def check_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, events: list[str], plan: weighbridge.Plan | None = None
) -> None:
    path, end = trained(folder / "c", kind, events, plan)
    with monkeypatch.context() as patch:
        patch.setattr(Follower, "_made", lambda follower, kernel: None)
        expected_path, expected_end = trained(folder / "python", kind, events, plan)
    for name in end:
        torch.testing.assert_close(end[name], expected_end[name], rtol=0, atol=0, equal_nan=True)
    for name in TABLES:
        found, expected = compared(path, name), compared(expected_path, name)
        assert len(found) == len(expected), f"{name}: {len(found)} rows, {len(expected)} expected"
        for mine, other in zip(found, expected, strict=True):
            assert same(mine, other), f"{name}: {mine} is not {other}"
