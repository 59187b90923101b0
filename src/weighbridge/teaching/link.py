"""What a link to the Lab's page asks for, and the same as a command line: `data=ring&layers=4,3&act=tanh&bias=1&lr=0.3`.

A link has short words for the options of a lab; what they may be is read by the readers of these options (words.py).
    layers  units of the hidden layers; the last layer follows from the data (one output for two classes)
    bias    1, 0, or one digit per layer: 110
    twin    the one thing that is changed in the network trained beside: act:relu, lr:9, ...; off for none
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from weighbridge.errors import BadInput, nearest
from weighbridge.teaching import networks
from weighbridge.teaching.data import NAMES, Dataset, load
from weighbridge.teaching.lab import prepare_lab
from weighbridge.teaching.options import Options, Variant
from weighbridge.teaching.words import whole

# Word of a link -> option of a lab.
OPTIONS: Final = {
    "layers": "layers", "act": "activation", "bias": "bias", "norm": "norm", "start": "init", "bstart": "init_bias",
    "opt": "optimizer", "lr": "lr", "batch": "batch", "centre": "centre", "scale": "scale",
}  # fmt: skip
WORDS: Final = ("data", *OPTIONS, "seed", "twin")
DEFAULTS: Final = {"data": "ring", "layers": "4,3", "act": "tanh", "bias": "1", "start": "torch", "opt": "sgd", "batch": "all"}
MOST_VALUES: Final = 5_000
MOST_LAYERS: Final = 16
# Rates of plain gradient descent over all rows, with which small networks learn in a few hundred steps.
CLASSES_RATE: Final = 0.3
NUMBERS_RATE: Final = 0.05
TUTORIAL_RATE: Final = 0.01  # as the tutorial has it; its numbers are not scaled
SEED: Final = 5
LONGEST: Final = 500  # characters of a link


@dataclass(frozen=True, slots=True)
class Wish:
    """A training that a link asks for, checked, and its twin: the same with one thing changed."""

    words: Mapping[str, str]  # of the link, those given or fixed by a default
    data: Dataset
    variant: Variant
    seed: int
    twin: Wish | None = None
    change: tuple[str, str] = ("", "")  # of a twin: word and value

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.variant.options.sizes(self.data)

    @property
    def biased(self) -> list[bool]:
        """By layer, the first first."""
        having = self.variant.options.biased(self.data)
        return [number in having for number in range(1, len(self.sizes))]

    @property
    def biases(self) -> int:
        return sum(units for units, has in zip(self.sizes[1:], self.biased, strict=True) if has)

    @property
    def values(self) -> int:
        """Weights, biases, and the two vectors of each norm."""
        weights = sum(a * b for a, b in itertools.pairwise(self.sizes))
        norms = 2 * sum(self.sizes[1:-1]) if self.variant.options.norm != "none" else 0
        return weights + self.biases + norms


def read(query: str) -> Wish:
    """Raises BadInput with what to write instead."""
    if len(query) > LONGEST:
        raise BadInput(f"This link has {len(query)} characters; a link to the Lab has {LONGEST} at most.")
    words: dict[str, str] = {}
    for word, value in parse_qsl(query.lstrip("?"), keep_blank_values=True):
        if word not in WORDS:
            raise BadInput(
                f"{word}={value}: a link to the Lab has no {word!r}.{nearest(word, WORDS)} It has: {', '.join(WORDS)}."
            )
        words[word] = value.strip()
    wish = _wish(words)
    change = _change(words.get("twin", ""), wish)
    if change is None:
        return wish
    twin = _wish({**words, change[0]: change[1]}, change)
    return Wish(wish.words, wish.data, wish.variant, wish.seed, twin)


def _wish(given: Mapping[str, str], change: tuple[str, str] = ("", "")) -> Wish:
    words = {**DEFAULTS, **{word: value for word, value in given.items() if word != "twin"}}
    data = _data(words["data"])
    hidden = _hidden(words["layers"])
    last = "1" if data.task == "classification" and len(data.classes) == 2 else "out"
    _check_size(words["layers"], [data.inputs, *hidden, 1 if last == "1" else data.outputs])
    options: dict[str, Any] = {OPTIONS[word]: value for word, value in words.items() if word in OPTIONS}
    options["layers"] = "-".join(["in", *map(str, hidden), last])
    options["bias"] = _bias(words["bias"], len(hidden) + 1)
    if words["start"] == "torch":
        options["init"] = "default"
    if words.get("bstart") == "torch":
        options["init_bias"] = "default"
    if options["optimizer"].lower().startswith("lbfgs"):
        raise BadInput(
            "opt=lbfgs asks for the loss several times in a step, which this page does not show. "
            "On the command line: weighbridge lab --optimizer lbfgs"
        )
    if options["batch"] != "all":
        whole("batch", options["batch"], 1)
    if "lr" not in words:
        options["lr"] = usual_rate(data, options["optimizer"])
    ready = prepare_lab(data, seeds=[whole("seed", words.get("seed", SEED), 0)], **options)
    return Wish(words, data, ready.variants[0], ready.seeds[0], None, change)


def _check_size(layers: str, sizes: list[int]) -> None:
    """Before anything of that size is made."""
    values = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    if values > MOST_VALUES:
        raise BadInput(
            f"layers={layers} makes {'-'.join(map(str, sizes))}, {values:,} weights and biases; this page trains up to "
            f"{MOST_VALUES:,}. Take fewer units, or train it on the command line: weighbridge lab"
        )


def _data(word: str) -> Dataset:
    if word.lower().replace("-", "_") not in NAMES:  # a link may not name a file of this machine
        own = " Data of your own: weighbridge lab --data FILE.csv"
        raise BadInput(f"data={word}: there is no such data set.{nearest(word, NAMES)} Known: {', '.join(NAMES)}.{own}")
    return load(word)


def _hidden(text: str) -> list[int]:
    if text in ("", "none", "0"):
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part[:9]) > 0 for part in parts):
        raise BadInput(
            f"layers={text}: give the units of the hidden layers with a comma between, such as 4,3; none for no hidden layer."
        )
    if len(parts) >= MOST_LAYERS:
        raise BadInput(f"layers={text}: {len(parts)} hidden layers; the page draws {MOST_LAYERS - 1} at most.")
    return [int(part[:9]) for part in parts]


def _bias(text: str, layers: int) -> str:
    """All, none or numbers of layers, as a lab takes it."""
    if text in ("0", "1"):
        return "all" if text == "1" else "none"
    if set(text) - {"0", "1"} or len(text) != layers:
        raise BadInput(
            f"bias={text}: 1 for biases everywhere, 0 for none, or one digit for each of the {layers} layers: "
            f"{'1' * (layers - 1)}0 leaves out the last one's."
        )
    return ",".join(str(i) for i, digit in enumerate(text, 1) if digit == "1") or "none"


def usual_rate(data: Dataset, optimizer: str) -> float:
    """The rate of a link that has none."""
    if optimizer.partition(":")[0] != "sgd":
        return networks.learning_rate(Options(optimizer=optimizer))
    return CLASSES_RATE if data.task == "classification" else TUTORIAL_RATE if data.name == "tutorial" else NUMBERS_RATE


def _change(text: str, wish: Wish) -> tuple[str, str] | None:
    """What the twin differs in; without a word it is the biases: off, or on where there are none."""
    if text == "off":
        return None
    if text == "":
        return ("bias", "0" if any(wish.biased) else "1")
    word, _, value = text.partition(":")
    if word not in OPTIONS and word != "seed":
        known = [*OPTIONS, "seed"]
        raise BadInput(
            f"twin={text}: say what is changed and to what, such as bias:0, act:relu, lr:9, or off.{nearest(word, known)}"
        )
    return (word, value)


def address(words: Mapping[str, str]) -> str:
    """The link, without the parts that every link has by default."""
    kept = {word: words[word] for word in WORDS if word in words and words[word] != DEFAULTS.get(word)}
    return urlencode(kept, safe=",:")


def command(wish: Wish, epochs: int) -> str:
    """The same training, and its twin beside it, as a line for the terminal."""
    of, twin = wish.variant.options, wish.twin or wish
    line = ["weighbridge", "lab", "--data", wish.data.name]
    for sizes in dict.fromkeys((wish.sizes, twin.sizes)):
        line += ["--layers", "-".join(map(str, sizes))]
    for field in fields(of):
        values = list(dict.fromkeys((getattr(of, field.name), getattr(twin.variant.options, field.name))))
        if field.name not in ("layers", "epochs") and values != [field.default]:
            for value in values:
                line += [f"--{field.name.replace('_', '-')}", _said(field.name, value)]
    line += ["--epochs", str(epochs)]
    for seed in dict.fromkeys((wish.seed, twin.seed)):
        line += ["--seed", str(seed)]
    return shlex.join(line)


def _said(option: str, value: Any) -> str:
    if value is None:
        return "auto"
    return "all" if option == "batch" and value == 0 else str(value)
