"""`weighbridge.lab`: describe a network and a question about it; it is trained, weighed and answered.

    result = weighbridge.lab(layers="4-16-3", data="iris", bias=["all", "none"], seeds=5)
    print(result)                         # what the bias is worth here
    result.trainings[0].model             # a plain torch.nn.Sequential
    result.trainings[0].path              # its run: weighbridge show PATH

A list given for an option is several variants, set side by side; every combination is trained with every seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from weighbridge import html
from weighbridge.errors import BadInput, nearest
from weighbridge.teaching import answer, compare, networks
from weighbridge.teaching.data import Dataset, Task, load
from weighbridge.teaching.options import Variant, only_difference, variants
from weighbridge.teaching.progress import Progress
from weighbridge.teaching.training import Training, one_thread, train
from weighbridge.teaching.words import whole


@dataclass(frozen=True, slots=True, repr=False)
class LabResult:
    """Every training of a lab, and what their comparison says. `print` it for the table and the answer."""

    data: Dataset
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    trainings: tuple[Training, ...]  # variant by variant, in the order of the seeds

    def of(self, variant: Variant | str) -> tuple[Training, ...]:
        """The trainings of one variant ("bias none"), in the order of the seeds."""
        name = variant if isinstance(variant, str) else variant.name
        names = [v.name for v in self.variants]
        if name not in names:
            raise BadInput(f"This lab has no variant {name!r}.{nearest(name, names)} It has: {'; '.join(names)}.")
        return tuple(t for t in self.trainings if t.variant.name == name)

    @property
    def model(self) -> nn.Sequential:
        """The network of the first training."""
        return self.trainings[0].model

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the runs are; empty where nothing was watched."""
        return tuple(t.path for t in self.trainings if t.path is not None)

    def scores(self, variant: Variant | str) -> tuple[float, ...]:
        """The last score of each seed; NaN where a loss was ever not finite, whatever came out of that network later."""
        return tuple(math.nan if t.diverged_at is not None else t.scores[-1] for t in self.of(variant))

    def summary(self, variant: Variant | str) -> compare.Summary:
        """Mean and spread of the last score over the seeds."""
        return compare.summarise(self.scores(variant))

    @property
    def differences(self) -> tuple[compare.Difference, ...]:
        """Variants that differ in one option, the value that was named first being the base, paired by seed."""
        name, data = self.data.score_name, self.data
        step = 1 / (data.held_out or data.rows) if data.task == "classification" else 0.0
        pairs = [
            (base, other)
            for i, base in enumerate(self.variants)
            for other in self.variants[i + 1 :]
            if (option := only_difference(base.options, other.options))
            and getattr(base.options, option) == getattr(self.variants[0].options, option)
        ]
        return tuple(compare.compare(a.name, b.name, name, self.scores(a), self.scores(b), step) for a, b in pairs)

    def to_json(self) -> str:
        """The table and the answers for programs."""
        return answer.machine(self)

    def __str__(self) -> str:
        return answer.text(self)

    def __repr__(self) -> str:
        return f"<LabResult of {', '.join(one.name for one in self.variants)}: {len(self.trainings)} trainings>"

    def _repr_html_(self) -> str:
        return html.block(html.preformatted(answer.text(self)))


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is checked and ready: nothing has been trained yet."""

    data: Dataset
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    @property
    def trainings(self) -> int:
        return len(self.variants) * len(self.seeds)

    def run(self, dir: str | Path | None = None, *, watch: bool = True, progress: bool | None = None) -> LabResult:
        """Train every variant with every seed."""
        folder = Path(dir) if dir is not None else Path("weighbridge-runs")
        done = []
        with one_thread(), Progress(progress, self.trainings) as shown:
            for variant in self.variants:
                for seed in self.seeds:
                    name = answer.run_name(self.data, variant, seed, alone=len(self.variants) == 1)
                    on_epoch = shown.training(f"{variant.name}, seed {seed}", variant.options.epochs)
                    done.append(train(self.data, variant, seed, folder=folder, watch=watch, name=name, on_epoch=on_epoch))
        return LabResult(self.data, self.variants, self.seeds, tuple(done))


def prepare_lab(
    data: Any = "tutorial", target: str | None = None, task: Task | None = None, seeds: int | Sequence[int] = 1, **options: Any
) -> Lab:
    """Read and check everything that was asked for. Raises BadInput before anything is trained."""
    if isinstance(data, list):
        raise BadInput("A lab compares networks on one data set; run one lab per data set.")
    rows = load(data, target, task)
    found = variants({"layers": "in-16-out", **options})
    for variant in found:
        variant.options.sizes(rows)
        variant.options.biased(rows)
        variant.options.loss_for(rows)
        networks.make_optimizer(variant.options, networks.build(variant.options, rows, 0))
    return Lab(rows, found, _seeds(seeds))


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, (list, tuple, range)):
        found = tuple(whole("seeds", seed, 0) for seed in seeds)
        if not found or len(set(found)) != len(found):
            raise BadInput(f"seeds={list(seeds)}: give at least one seed, each once.")
        return found
    return tuple(range(whole("seeds", seeds, 1)))


def lab(
    layers: Any = "in-16-out",
    data: Any = "tutorial",
    activation: Any = "relu",
    bias: Any = "all",
    norm: Any = "none",
    init: Any = "default",
    init_bias: Any = "default",
    centre: Any = "auto",
    scale: Any = "auto",
    loss: Any = "auto",
    optimizer: Any = "adam",
    lr: Any = None,
    epochs: Any = 50,
    seeds: int | Sequence[int] = 1,
    dir: str | Path | None = None,
    batch: Any = None,
    watch: bool = True,
    progress: bool | None = None,
    target: str | None = None,
    task: Task | None = None,
) -> LabResult:
    """Train networks on small data, watched, and set them side by side.

    layers      units of each layer, "3-4-4-2"; "in" and "out" stand for what the data has
    data        "tutorial", "ring", "xor", "moons", "spiral", "bends", "iris", "wine", "digits", "diabetes", "breast_cancer",
                a CSV file, or (inputs, targets)
    bias        "all", "none", or the numbers of the layers that have one, "1,3"; True and False too
    centre, scale  "inputs", "targets", "both", "none"; "auto" = both parts of numbers, the inputs of classes, as most
                practice has it, but the tutorial's samples as they are
    seeds       how many (0, 1, 2, ...), or the seeds themselves; a seed sets weights, split and order of the rows
    dir         where the runs go, one per training; by default ./weighbridge-runs
    batch       rows per step; None = all of up to 32 rows, else 32; "all"
    progress    None = in a terminal only

    The options from `layers` to `epochs`, and `batch`, take a list: each value is a variant. The networks returned are plain
    torch modules. Raises BadInput where something asked for does not exist or does not fit the data.

    >>> result = lab(layers="2-4-1", data="tutorial", optimizer="sgd", epochs=5, watch=False)
    >>> len(result.trainings[0].losses)
    5
    """
    ready = prepare_lab(
        data, target, task, seeds,
        layers=layers, activation=activation, bias=bias, norm=norm, init=init, init_bias=init_bias, centre=centre, scale=scale,
        loss=loss, optimizer=optimizer, lr=lr, epochs=epochs, batch=batch,
    )  # fmt: skip
    return ready.run(dir, watch=watch, progress=progress)
