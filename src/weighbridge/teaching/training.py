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
ORDER_SEED: Final = 1_000_003


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


class Loop:
    """One training, a step at a time; nothing in it but what a tutorial shows. What it did is in `training`.

    `batch` (rows of a step) and `rate` may be changed at any time: they hold from the next step on, and `changes` has
    (step, "batch" or "rate", value) of those that came to hold after the start.
    """

    def __init__(self, data: Dataset, variant: Variant, seed: int) -> None:
        options = variant.options
        self.data, self.options = data, options
        self.parts = prepare(data, options, seed)
        self.model = networks.build(options, data, seed)
        self.optimizer = networks.make_optimizer(options, self.model)
        self.training = Training(variant, seed, self.model)
        loss = options.loss_for(data)
        self._measure = networks.make_loss(loss)
        self._targets = networks.targets_for(loss, self.parts.train_y, data.task, options.sizes(data)[-1])
        self._generator = torch.Generator().manual_seed(seed + ORDER_SEED)
        self.batch = self._batch = options.batch_for(self.rows)
        self.rate = self._rate = networks.learning_rate(options)
        self.changes: list[tuple[int, str, float]] = []
        self._ahead: list[torch.Tensor] = []  # rows of the steps that this epoch still has
        self._total, self._seen = 0.0, 0
        self.model.train()

    @property
    def rows(self) -> int:
        """Rows trained on."""
        return len(self.parts.train_x)

    def step(self) -> bool:
        """One step of the optimizer. True where it was the last one of its epoch."""
        self._apply_changes()
        if not self._ahead:
            self._ahead = list(batches(self.rows, self.batch, self._generator))
            self._total, self._seen = 0.0, 0
        chosen = self._ahead.pop(0)
        x, y = self.parts.train_x[chosen], self._targets[chosen]

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss: torch.Tensor = self._measure(self.model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):  # the one that asks for the loss several times in a step
            loss = self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        else:
            loss = closure()
            self.optimizer.step()
        self.training.step_losses.append(value := loss.item())
        self._total += value * len(chosen)
        self._seen += len(chosen)
        if self._ahead:
            return False
        self.training.losses.append(self._total / self._seen)
        self.training.scores.append(_score(self.model, self.parts, self.data))
        return True

    def _apply_changes(self) -> None:
        at = len(self.training.step_losses)
        if self.batch != self._batch:
            self._batch, self._ahead = self.batch, []
            self.changes.append((at, "batch", self.batch))
        if self.rate != self._rate:
            self._rate = self.rate
            self.changes.append((at, "rate", self.rate))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate

    def config(self) -> dict[str, Any]:
        """What a run of this training says of itself."""
        return {
            **asdict(self.options),
            "lr": networks.learning_rate(self.options),
            "loss": self.options.loss_for(self.data),
            "data": self.data.name,
            "seed": self.training.seed,
        }


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
    loop = Loop(data, variant, seed)
    training, epochs = loop.training, variant.options.epochs
    began = time.perf_counter()
    if not watch:
        _epochs(loop, range(epochs), None, on_epoch)
    else:
        import weighbridge

        with weighbridge.init(dir=folder, name=name, config=loop.config(), quiet=True) as run:
            run.watch(loop.model, loop.optimizer)
            training.path = Path(run.path)
            _epochs(loop, run.epochs(epochs), run, on_epoch)
    training.seconds = time.perf_counter() - began
    return training


def _epochs(loop: Loop, epochs: Iterable[Any], run: Any, on_epoch: Callable[[Training], None] | None) -> None:
    training = loop.training
    for _ in epochs:
        while not loop.step():
            pass
        if run is not None:
            run.log({loop.data.score_name: training.scores[-1], "epoch loss": training.losses[-1]})
        if on_epoch is not None:
            on_epoch(training)


def _score(model: nn.Module, parts: Parts, data: Dataset) -> float:
    model.eval()
    with torch.no_grad():
        found = networks.score(model(parts.score_x), parts.score_y, data.task)
    model.train()
    return found
