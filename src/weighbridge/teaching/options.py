"""What one training of a lab is made of, in the words of the command line, checked before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from weighbridge.errors import BadInput
from weighbridge.teaching.data import Dataset
from weighbridge.teaching.words import READERS


@dataclass(frozen=True, slots=True)
class Options:
    """One training but for its seed. Field names are those of `weighbridge.lab` and of the command line."""

    layers: str = "in-16-out"
    activation: str = "relu"
    bias: str = "all"
    norm: str = "none"
    init: str = "default"
    init_bias: str = "default"
    centre: str = "auto"
    scale: str = "auto"
    loss: str = "auto"
    optimizer: str = "adam"
    lr: float | None = None  # None = the optimizer's usual rate here
    epochs: int = 50
    batch: int | None = None  # None = all rows up to 32, else 32; 0 = all rows

    def sizes(self, data: Dataset) -> tuple[int, ...]:
        """Units of each layer, the inputs first; "in" and "out" stand for what the data has."""
        outs = outputs(data, self.loss)
        words = {"in": data.inputs, "out": outs[0]}
        parts = self.layers.lower().replace(" ", "").split("-")
        try:
            sizes = tuple(words[p] if p in words else int(p) for p in parts)
        except ValueError:
            raise BadInput(
                f"--layers {self.layers} is not understood: give the units of each layer with a - between, such as "
                f"{data.inputs}-16-{outs[0]} or in-16-out."
            ) from None
        if len(sizes) < 2:
            raise BadInput(
                f"--layers {self.layers} names one layer only; the first number is the inputs and the last the outputs. "
                f"For a hidden layer of {self.layers} on {data.name}: --layers in-{self.layers}-out "
                f"({data.inputs}-{self.layers}-{outs[0]})."
            )
        if min(sizes) < 1:
            raise BadInput(f"--layers {self.layers}: every layer needs at least 1 unit.")
        if sizes[0] != data.inputs or sizes[-1] not in outs:
            fit = "-".join(["in", *map(str, sizes[1:-1]), "out"])
            ends = " or ".join(map(str, outs))
            raise BadInput(
                f"--layers {self.layers} does not fit the data. {data.describe()}: the first layer must be {data.inputs}, "
                f"the last {ends}. --layers {fit} always fits."
            )
        return sizes

    def biased(self, data: Dataset) -> frozenset[int]:
        """Numbers (from 1) of the layers that have a bias."""
        count = len(self.sizes(data)) - 1
        if self.bias in ("all", "none"):
            return frozenset(range(1, count + 1)) if self.bias == "all" else frozenset()
        numbers = frozenset(int(part) for part in self.bias.split(","))
        wrong = sorted(n for n in numbers if not 1 <= n <= count)
        if wrong:
            raise BadInput(
                f"--bias {self.bias}: there is no layer {wrong[0]}. --layers {self.layers} has {count} layer(s) with weights, "
                f"counted from 1 to {count}."
            )
        return numbers

    def loss_for(self, data: Dataset) -> str:
        """The loss by its name, "auto" resolved; raises where it cannot be used on the data."""
        if self.loss == "auto":
            if data.task == "regression":
                return "mse"
            return "bce" if self.sizes(data)[-1] == 1 else "cross_entropy"
        if self.loss in ("cross_entropy", "bce") and data.task == "regression":
            raise BadInput(
                f"--loss {self.loss} needs classes, but {data.name} asks for numbers ({data.why}). Use mse, l1 or huber."
            )
        return self.loss

    def treats(self, what: str, part: str, data: Dataset) -> bool:
        """Whether `what` ("centre" or "scale") is done to `part` ("inputs" or "targets")."""
        word = getattr(self, what)
        if word == "auto":
            word = "none" if data.raw else ("inputs" if data.task == "classification" else "both")
        if part == "targets" and data.task == "classification":
            return False
        return word in (part, "both")

    def batch_for(self, rows: int) -> int:
        """Rows of one step when training on `rows`."""
        if self.batch is None:
            # L-BFGS keeps a history of the loss's curvature, which another batch would falsify
            return rows if rows <= 32 or self.optimizer.startswith("lbfgs") else 32
        return min(self.batch, rows) if self.batch else rows


def outputs(data: Dataset, loss: str) -> tuple[int, ...]:
    """Sizes that the last layer may have: two classes may also be told apart by one output and bce."""
    if data.task == "classification" and len(data.classes) == 2:
        return {"bce": (1, 2), "auto": (2, 1)}.get(loss, (2,))
    return (data.outputs,)


assert set(READERS) == {field.name for field in fields(Options)}


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the trainings set side by side: its name says in what it differs from the others."""

    name: str
    options: Options


def variants(given: dict[str, Any]) -> tuple[Variant, ...]:
    """Every combination of the values given. A list of values is several; a tuple of numbers is one value."""
    choices: dict[str, list[Any]] = {}
    for option, value in given.items():
        several = _several(option, value)
        read = [READERS[option](v) for v in several]
        choices[option] = list(dict.fromkeys(read))
        if not several:
            raise BadInput(f"{option} is an empty list: give at least one value.")
    varied = [option for option, values in choices.items() if len(values) > 1]
    found = []
    for values in itertools.product(*choices.values()):
        options = replace(Options(), **dict(zip(choices, values, strict=True)))
        found.append(Variant(_name(options, varied), options))
    return tuple(found)


def only_difference(one: Options, other: Options) -> str:
    """The one option in which two trainings differ; empty where there is none or more than one."""
    differ = [f.name for f in fields(Options) if getattr(one, f.name) != getattr(other, f.name)]
    return differ[0] if len(differ) == 1 else ""


def _several(option: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    if option == "layers" and value and all(isinstance(v, int) for v in value):
        return [tuple(value)]  # [4, 16, 3] is one network
    return value


def _name(options: Options, varied: Iterable[str]) -> str:
    words = []
    for option in varied:
        value = getattr(options, option)
        shown = "auto" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        words.append(f"{option.replace('_', '-')} {'all' if option == 'batch' and value == 0 else shown}")
    return ", ".join(words) or "this network"
