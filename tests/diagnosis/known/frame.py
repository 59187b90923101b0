"""What a run with a known cause is, and the pieces that such runs are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.trainings import Batch, Training, batches, data


@dataclass(frozen=True)
class Known:
    """A run and what must be said about it. Keys as `Finding.key`, or rules where the place does not matter; `|` = or."""

    make: Callable[[], Training]
    primary: str  # "" = the cause must be undetermined
    second: str = ""  # another fault, which must be among the causes, too
    may: tuple[str, ...] = ()  # rules that may be causes beside it: they say another true thing
    below: tuple[str, ...] = ()  # rules that must be found, and be explained by the primary
    steps: int = 40

    @property
    def any_order(self) -> bool:
        """Two faults of equal rank; a bias that is superfluous stands behind what does harm."""
        return bool(self.second) and not self.second.startswith("redundant-bias")


RUNS: dict[str, Known] = {}


def known(primary: str, *, second: str = "", may: tuple[str, ...] = (), below: tuple[str, ...] = (), steps: int = 40) -> Any:
    """Marks a function that makes a training."""

    def mark(make: Callable[[], Training]) -> Callable[[], Training]:
        RUNS[make.__name__.replace("_", "-")] = Known(make, primary, second, may, below, steps)
        return make

    return mark


# ---- pieces ------------------------------------------------------------------------------------------------------------


def classify(model: nn.Module, optimizer: torch.optim.Optimizer, kind: str = "digits", **more: Any) -> Training:
    return Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), b[1]), batches(*data(kind)), **more)


def sgd(model: nn.Module, lr: float = 0.1, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **more)


def adam(model: nn.Module, lr: float = 1e-3, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr, **more)


def stack(layers: int, activation: type[nn.Module], scale: float = 1.0, width: int = 32) -> nn.Sequential:
    """Xavier or He, the weights `scale` times as large, then a head."""
    modules: list[nn.Module] = []
    for size in [64, *[width] * (layers - 1)]:
        linear = nn.Linear(size, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu" if activation is nn.ReLU else "linear")
        nn.init.zeros_(linear.bias)
        linear.weight.data.mul_(scale)
        modules += [linear, activation()]
    return nn.Sequential(*modules, nn.Linear(width, 10))


def at(step: int, do: Callable[[], object]) -> Callable[[int], None]:
    """Before this step, this."""

    def also(now: int) -> None:
        if now == step:
            do()

    return also


def between(training: Training, do: Callable[[int], object]) -> Training:
    """Between backward pass and step, with the number of the step."""
    count = itertools.count()

    def hook(*_: object) -> None:
        do(next(count))

    training.optimizers[0].register_step_pre_hook(hook)
    return training


def altered(training: Training, at_step: int, alter: Callable[[torch.Tensor, torch.Tensor], Batch]) -> Training:
    """One batch is another than it should be."""
    usual = training.batches
    training.batches = (alter(*b) if step == at_step else b for step, b in enumerate(usual))
    return training


def raised(training: Training, step: int, times: float) -> Training:
    (group,) = training.optimizers[0].param_groups
    training.also = at(step, lambda: group.update(lr=group["lr"] * times))
    return training


class Steps(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


class AdamSteps(torch.optim.Adam):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


class Scaled:
    """An optimizer behind a GradScaler, with the interface of one."""

    def __init__(self, optimizer: torch.optim.Optimizer, **scaler: Any) -> None:
        self.optimizer, self.scaler = optimizer, torch.amp.GradScaler("cpu", **scaler)

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, **scaler: Any) -> Training:
    behind = Scaled(optimizer, **scaler)
    training = classify(model, optimizer)
    training.optimizers = [behind]  # type: ignore[list-item]
    plain = training.loss
    training.loss = lambda b: behind.scaler.scale(plain(b))
    return training
