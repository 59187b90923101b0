"""What one training of a lab is made of, in the words of the command line, checked before anything is trained."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from weighbridge.errors import BadInput, nearest
from weighbridge.teaching.data import Dataset

NORMS: Final = ("none", "batch", "layer")
INITS: Final = ("default", "xavier", "xavier_normal", "he", "he_normal", "orthogonal", "zeros", "ones")
INITS_WITH_NUMBER: Final = ("constant", "normal", "uniform")
BIAS_INITS: Final = ("default", "zeros", "ones")
PARTS: Final = ("auto", "none", "inputs", "targets", "both")
LOSSES: Final = ("auto", "mse", "cross_entropy", "bce", "l1", "huber")
_YES, _NO = ("yes", "true", "on"), ("no", "false", "off")


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


# One reader per option: any value of the Python or command-line form -> the one form that Options holds.


def _word(option: str, known: Sequence[str], value: Any, aliases: dict[str, str] | None = None) -> str:
    word = "none" if value is None else str(value).strip().lower().replace("-", "_")
    word = (aliases or {}).get(word, word)
    if word not in known:
        raise BadInput(f"--{option.replace('_', '-')} {value}: not known.{nearest(word, known)} Known: {', '.join(known)}.")
    return word


def _layers(value: Any) -> str:
    return "-".join(str(v) for v in value) if isinstance(value, (tuple, list)) else str(value)


def _activation(value: Any) -> str:
    from weighbridge.teaching.networks import ACTIVATIONS

    return _word("activation", ["none", *ACTIVATIONS], value, {"leakyrelu": "leaky_relu", "identity": "none", "swish": "silu"})


def _bias(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "all" if value else "none"
    if isinstance(value, (tuple, list, set, frozenset, int)):
        numbers = [value] if isinstance(value, int) else sorted(value)
        return ",".join(str(n) for n in numbers) or "none"
    word = str(value).strip().lower().replace(" ", "")
    if word in ("all", "none"):
        return word
    if word in (*_YES, *_NO):
        return "all" if word in _YES else "none"
    try:
        return ",".join(str(n) for n in sorted({int(part) for part in word.split(",")}))
    except ValueError:
        raise BadInput(
            f"--bias {value}: say all, none, or the numbers of the layers that have one, such as 1,3 "
            f"(counted from 1).{nearest(word, ('all', 'none'))}"
        ) from None


def _norm(value: Any) -> str:
    return _word("norm", NORMS, value, {"batchnorm": "batch", "layernorm": "layer", "no": "none"})


def _init(option: str, known: Sequence[str], value: Any) -> str:
    word, _, number = str(value).strip().lower().replace("-", "_").replace("_uniform", "").partition(":")
    word = {"kaiming": "he", "kaiming_normal": "he_normal", "zero": "zeros", "glorot": "xavier"}.get(word, word)
    if word in INITS_WITH_NUMBER:
        try:
            return f"{word}:{float(str(value).partition(':')[2]):g}"
        except ValueError:
            raise BadInput(f"--{option} {value}: {word} needs a number, such as {word}:0.1.") from None
    if number:
        raise BadInput(f"--{option} {value}: {word} takes no number; {', '.join(INITS_WITH_NUMBER)} do (constant:0.1).")
    every = [*known, *(f"{w}:NUMBER" for w in INITS_WITH_NUMBER)]
    if word not in known:
        more = " A bias is a vector: it has no fan-in to scale by." if word in INITS else ""
        raise BadInput(f"--{option} {value}: not known.{nearest(word, every)}{more} Known: {', '.join(every)}.")
    return word


def _part(option: str, value: Any) -> str:
    word = str(value).lower()
    aliases = dict.fromkeys(_YES, "inputs") | dict.fromkeys(_NO, "none")
    return _word(option, PARTS, aliases.get(word, word))


def _loss(value: Any) -> str:
    aliases = {"crossentropy": "cross_entropy", "ce": "cross_entropy", "mae": "l1", "mean_squared_error": "mse"}
    return _word("loss", LOSSES, value, aliases)


def _optimizer(value: Any) -> str:
    from weighbridge.teaching.networks import optimizer_names

    word, _, rest = str(value).strip().partition(":")
    name = _word("optimizer", optimizer_names(), word.lower())
    optimizer_arguments(f"{name}:{rest}")  # raises where they cannot be read
    if name == "lbfgs" and "line_search_fn" not in rest:
        rest = ",".join(filter(None, ["line_search_fn=strong_wolfe", rest]))  # without one it leaps, and often diverges
    return f"{name}:{rest}" if rest else name


def optimizer_arguments(word: str) -> dict[str, Any]:
    """ "sgd:momentum=0.9,nesterov=true" -> {"momentum": 0.9, "nesterov": True}"""
    found: dict[str, Any] = {}
    for part in filter(None, word.partition(":")[2].split(",")):
        name, equals, value = part.partition("=")
        value = {"true": "True", "false": "False", "none": "None"}.get(value.strip().lower(), value.strip())
        if value.isidentifier() and value not in ("True", "False", "None"):
            value = repr(value)  # a bare word, as in line_search_fn=strong_wolfe
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise BadInput(f"--optimizer {word}: {part!r} is not understood; write it as in sgd:momentum=0.9,nesterov=true.")
    return found


def _lr(value: Any) -> float | None:
    if value is None or value == "auto":
        return None
    return _number("lr", value, least=0.0)


def _number(option: str, value: Any, least: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"--{option} {value}: a number is needed.") from None
    if not least <= number < float("inf"):
        raise BadInput(f"--{option} {value}: must be a finite number of at least {least:g}.")
    return number


def whole(option: str, value: Any, least: int) -> int:
    """A whole number of at least `least`. Raises BadInput."""
    number = _number(option, value, least)
    if number != int(number):
        raise BadInput(f"--{option} {value}: a whole number is needed.")
    return int(number)


def _batch(value: Any) -> int | None:
    if value is None or value == "auto":
        return None
    return 0 if value == "all" else whole("batch", value, 1)


_READERS: Final[dict[str, Any]] = {
    "layers": _layers,
    "activation": _activation,
    "bias": _bias,
    "norm": _norm,
    "init": lambda v: _init("init", INITS, v),
    "init_bias": lambda v: _init("init-bias", BIAS_INITS, v),
    "centre": lambda v: _part("centre", v),
    "scale": lambda v: _part("scale", v),
    "loss": _loss,
    "optimizer": _optimizer,
    "lr": _lr,
    "epochs": lambda v: whole("epochs", v, 1),
    "batch": _batch,
}
assert set(_READERS) == {field.name for field in fields(Options)}


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
        read = [_READERS[option](v) for v in several]
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
