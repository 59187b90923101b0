"""One training: a plain loop over plain torch modules, watched by weighbridge into its own run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from weighbridge.teaching import networks
from weighbridge.teaching.data import Dataset
from weighbridge.teaching.options import Options, Variant

# The order of the rows has a generator of its own, so that it does not hang on how many numbers the network drew.
_ORDER_SEED: Final = 1_000_003


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of one seed, as the network sees them: centred and scaled by the rows that are trained on.

    x [rows, features] float32; y int64 class numbers or float32 [rows, outputs]. Without a held-out part both are the same.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    score_x: torch.Tensor
    score_y: torch.Tensor


@dataclass(slots=True)
class Training:
    """What one training left: the module, its history and where it was recorded."""

    variant: Variant
    seed: int
    model: nn.Sequential
    losses: list[float] = field(default_factory=list)  # per epoch: mean over the rows, each as its own step saw it
    scores: list[float] = field(default_factory=list)  # per epoch, after its last step
    step_losses: list[float] = field(default_factory=list)
    path: Path | None = None  # of the run; None where it was not watched
    seconds: float = 0.0

    @property
    def diverged_at(self) -> int | None:
        """The first step whose loss was not finite, if there was one."""
        return next((step for step, loss in enumerate(self.step_losses) if not math.isfinite(loss)), None)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one core than shared between several; the caller's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(data: Dataset, options: Options, seed: int) -> Parts:
    """Split, centre and scale. The same seed gives the same split to every variant."""
    order = torch.randperm(data.rows, generator=torch.Generator().manual_seed(seed)).numpy()
    held, kept = (order[: data.held_out], order[data.held_out :]) if data.held_out else (np.arange(data.rows),) * 2
    x = _treat(data.x, kept, options, "inputs", data)
    if data.task == "classification":
        y = torch.from_numpy(data.y)
    else:
        y = torch.from_numpy(_treat(data.y, kept, options, "targets", data).astype(np.float32))
    inputs = torch.from_numpy(x.astype(np.float32))
    return Parts(inputs[kept], y[kept], inputs[held], y[held])


def _treat(values: np.ndarray, kept: np.ndarray, options: Options, part: str, data: Dataset) -> np.ndarray:
    """Centre and scale columns by the mean and spread of the rows that are trained on; a constant column is not scaled."""
    mean, spread = values[kept].mean(axis=0), values[kept].std(axis=0)
    if options.treats("scale", part, data):
        centre = mean if options.treats("centre", part, data) else 0.0
        return np.asarray((values - centre) / np.where(spread > 0, spread, 1.0))
    return np.asarray(values - mean) if options.treats("centre", part, data) else values


def batches(rows: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of each step of one epoch. All rows at once keep their order; a last single row joins the step before
    (a batch norm cannot take one row)."""
    if size >= rows:
        yield torch.arange(rows)
        return
    order = torch.randperm(rows, generator=generator)
    pieces = list(torch.split(order, size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    yield from pieces


def train(
    data: Dataset,
    variant: Variant,
    seed: int,
    *,
    folder: Path | None = None,
    watch: bool = True,
    name: str | None = None,
    on_epoch: Callable[[Training], None] | None = None,
) -> Training:
    """Train one variant with one seed. With `watch`, every step is recorded in a run of its own below `folder`."""
    options = variant.options
    parts = prepare(data, options, seed)
    model = networks.build(options, data, seed)
    optimizer = networks.make_optimizer(options, model)
    training = Training(variant, seed, model)
    began = time.perf_counter()
    if not watch:
        _loop(training, data, parts, optimizer, range(options.epochs), None, on_epoch)
    else:
        import weighbridge

        config = {
            **asdict(options),
            "lr": networks.learning_rate(options),
            "loss": options.loss_for(data),
            "data": data.name,
            "seed": seed,
        }
        with weighbridge.init(dir=folder, name=name, config=config, quiet=True) as run:
            run.watch(model, optimizer)
            training.path = Path(run.path)
            _loop(training, data, parts, optimizer, run.epochs(options.epochs), run, on_epoch)
    training.seconds = time.perf_counter() - began
    return training


def _loop(
    training: Training,
    data: Dataset,
    parts: Parts,
    optimizer: torch.optim.Optimizer,
    epochs: Iterable[Any],
    run: Any,
    on_epoch: Callable[[Training], None] | None,
) -> None:
    """The loop itself: nothing in it but what a tutorial shows."""
    options, model, rows = training.variant.options, training.model, len(parts.train_x)
    loss_name = options.loss_for(data)
    measure = networks.make_loss(loss_name)
    targets = networks.targets_for(loss_name, parts.train_y, data.task, options.sizes(data)[-1])
    generator = torch.Generator().manual_seed(training.seed + _ORDER_SEED)
    size = options.batch_for(rows)
    model.train()
    for _ in epochs:
        total = 0.0
        for chosen in batches(rows, size, generator):
            x, y = parts.train_x[chosen], targets[chosen]

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss: torch.Tensor = measure(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            if isinstance(optimizer, torch.optim.LBFGS):  # the one that asks for the loss several times in a step
                loss = optimizer.step(closure)  # type: ignore[no-untyped-call]
            else:
                loss = closure()
                optimizer.step()
            training.step_losses.append(value := loss.item())
            total += value * len(chosen)
        training.losses.append(total / rows)
        training.scores.append(_score(model, parts, data))
        if run is not None:
            run.log({data.score_name: training.scores[-1], "epoch loss": training.losses[-1]})
        if on_epoch is not None:
            on_epoch(training)


def _score(model: nn.Module, parts: Parts, data: Dataset) -> float:
    model.eval()
    with torch.no_grad():
        found = networks.score(model(parts.score_x), parts.score_y, data.task)
    model.train()
    return found
