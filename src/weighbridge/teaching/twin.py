"""What the difference between a training and its twin shows: a sentence made of what was measured in both.

The twin has the same seed, the same rows and the same order of rows; one thing is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from weighbridge.format import number
from weighbridge.teaching import networks
from weighbridge.teaching.answers import Observer
from weighbridge.teaching.link import Wish
from weighbridge.teaching.training import Loop

GUESSES: Final = 0.9  # of the loss of guessing: above it nothing was learned
LEARNED: Final = 0.5
APART: Final = 1.25  # factor between two losses from which on they are called different
SAME: Final = 1e-5  # of the largest answer: rounding of float32 through a few layers


@dataclass(frozen=True, slots=True)
class Said:
    """What the page says beside the twin's picture."""

    title: str
    text: str


def lead(wish: Wish) -> str:
    """What is changed, as the beginning of a sentence: "Without biases"."""
    assert wish.twin is not None
    word, value = wish.twin.change
    of = wish.twin.variant.options
    if word == "bias":
        return {"all": "With biases", "none": "Without biases"}.get(
            of.bias, f"With biases in layer {of.bias.replace(',', ', ')} only"
        )
    if word == "act":
        return "Without activations" if of.activation == "none" else f"With {of.activation}"
    if word == "norm":
        return "Without norm" if of.norm == "none" else f"With {of.norm} norm"
    if word in ("start", "bstart"):
        return f"With {'weights' if word == 'start' else 'biases'} that start as {value}"
    if word == "layers":
        hidden = wish.twin.sizes[1:-1]
        units = ", ".join(map(str, hidden))
        return (
            f"With hidden layers of {units} units"
            if len(hidden) > 1
            else f"With {units} hidden units"
            if hidden
            else "Without hidden layers"
        )
    plain = {"lr": "learning rate", "opt": "optimizer", "batch": "batch", "seed": "seed"}
    return f"With {plain.get(word, word)} {value}"


def compare(wish: Wish, one: Loop, other: Loop, guess: float, x: torch.Tensor) -> Said:
    """one: the network, other: its twin, both after the same number of steps; x: where they are asked [points, inputs]."""
    ours, theirs = one.training.step_losses, other.training.step_losses
    name = lead(wish)
    if not theirs:
        return Said(f"{name}: not trained yet", "Both begin at step 0 with the same seed. Play, and see where they part.")
    text = [
        _losses(len(theirs), ours[-1], theirs[-1], guess),
        *_fit(one, other),
        *_facts(one, other, x),
    ]
    return Said(f"{name} {_verdict(ours[-1], theirs[-1], guess)}", " ".join(text))


def _losses(steps: int, ours: float, theirs: float, guess: float) -> str:
    said = f"After {steps:,} step{'s' if steps > 1 else ''} its loss is {number(theirs, 4)}, here it is {number(ours, 4)}"
    return said + (f"; guessing gives {number(guess, 4)}." if math.isfinite(guess) else ".")


def _fit(one: Loop, other: Loop) -> list[str]:
    """How many rows each is right for, where the rows are classes."""
    rights = []
    for loop in (other, one):
        outputs, y = Observer(loop).layers(loop.parts.score_x)[-1], loop.parts.score_y
        found = networks.score(outputs, y, loop.data.task)
        if loop.data.task != "classification" or not math.isfinite(found):
            return []
        rights.append(round(found * len(y)))
    rows = f"{len(y)} rows{' kept back' if one.data.held_out else ''}"
    return [f"It is right for {rights[0]} of {rows}, this network for {rights[1]}."]


def _verdict(ours: float, theirs: float, guess: float) -> str:
    if not math.isfinite(theirs):
        return "the loss is not finite any more" if math.isfinite(ours) else "neither loss is finite"
    if not math.isfinite(ours):
        return "the loss stays finite"
    if theirs > GUESSES * guess and ours < LEARNED * guess:
        return "it has learned nothing so far"
    if ours > GUESSES * guess and theirs < LEARNED * guess:
        return "it learns, and this network does not"
    if theirs > ours * APART:
        return f"its loss is {number(theirs / ours, 2)} times as high" if ours > 0 else "its loss is higher"
    if ours > theirs * APART:
        return f"its loss is {number(ours / theirs, 2)} times lower" if theirs > 0 else "its loss is lower"
    return "there is hardly a difference so far"


def _facts(one: Loop, other: Loop, x: torch.Tensor) -> list[str]:
    """What else can be seen in the two answers, each put to the test on these very points."""
    here, there = Observer(one).layers(x)[-1], Observer(other).layers(x)[-1]
    if not bool(torch.isfinite(here).all() and torch.isfinite(there).all()):
        return []
    if here.shape == there.shape and float((here - there).abs().max()) <= SAME * max(1.0, float(here.abs().max())):
        return [f"Their answers are the same at all {len(x):,} points asked, to rounding."]
    for loop, whose in ((other, "Its"), (one, "This network's")):
        if not _has_bias(loop):
            return _without_bias(loop, whose, x)
    return []


def _has_bias(loop: Loop) -> bool:
    return any(getattr(module, "bias", None) is not None for module in loop.model)


def _without_bias(loop: Loop, whose: str, x: torch.Tensor) -> list[str]:
    observer = Observer(loop)
    answer, opposite = observer.layers(x)[-1], observer.layers(-x)[-1]
    twice, nothing = observer.layers(2 * x)[-1], observer.layers(torch.zeros_like(x[:1]))[-1]
    scale = float(answer.abs().max()) or 1.0
    found = []
    if float(nothing.abs().max()) == 0.0:
        found.append(f"{whose} output where all inputs are 0 is exactly 0.")
    if float((answer + opposite).abs().max()) <= SAME * scale:
        found.append(f"{whose} output for −x is the opposite of that for x at all {len(x):,} points asked, to rounding.")
    elif float((twice - 2 * answer).abs().max()) <= SAME * 2 * scale:
        found.append(f"{whose} output for twice the input is twice that for it at all {len(x):,} points asked, to rounding.")
    return found
