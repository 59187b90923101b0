"""Ready-made lessons of the Lab's page: a link, and what to look at. What each promises is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Lesson:
    """A training that shows one thing. `look` says where to look, never what was measured: the page shows that."""

    title: str
    look: str
    link: str
    steps: int  # until it shows


TUTORIALS: Final = (
    Lesson(
        "2-4-1 on ten sums",
        "The network of the tutorial on weights and biases: the target is x1 + x2. Watch 0.weight and 0.bias.",
        "data=tutorial&layers=4&act=relu&lr=0.01&seed=0",
        200,
    ),
    Lesson(
        "3-4-4-2 as it is printed",
        "The network of the tutorial on the bias has no activations. Three layers do what one can. Its twin has tanh.",
        "data=bends&layers=4,4&act=none&twin=act:tanh&opt=adam&lr=0.03&seed=0",
        600,
    ),
)
LESSONS: Final = (
    Lesson(
        "A bias shifts the line",
        "One unit answers with one straight border. Watch it leave the middle as 0.bias moves; that of its twin, which has no "
        "bias, always goes through (0, 0).",
        "data=line&layers=none",
        300,
    ),
    Lesson(
        "XOR needs a hidden layer",
        "No straight border tells these classes apart, bias or not. Its twin has four hidden units. Take the biases away and "
        "it cannot, either.",
        "data=xor&layers=none&twin=layers:4",
        600,
    ),
    Lesson(
        "A ring without biases",
        "A ring looks the same from both sides. Compare its answers at x and at −x with those of its twin, which has biases.",
        "bias=0",
        900,
    ),
    Lesson(
        "Ten sigmoid layers",
        "Sigmoid makes every signal and every gradient smaller, layer by layer. Which weights move? Its twin has tanh.",
        "layers=4,4,4,4,4,4,4,4,4&act=sigmoid&start=xavier&twin=act:tanh",
        600,
    ),
    Lesson(
        "Zeros as start",
        "All units start the same, and only the last bias has a gradient that is not 0. Its twin starts as PyTorch does.",
        "start=zeros&bstart=zeros&twin=start:torch",
        900,
    ),
    Lesson(
        "Weights that start too large",
        "Each layer makes signal and gradient larger, until the loss jumps and the units die. Its twin starts by He's rule.",
        "layers=8,8,8,8&act=relu&start=normal:2&twin=start:he",
        100,
    ),
    Lesson(
        "Dead units",
        "Biases that start at −3 keep every ReLU below zero: no answer, no gradient, no way back. Which values never move?",
        "layers=8&act=relu&bstart=constant:-3&twin=bstart:torch",
        300,
    ),
    Lesson(
        "Learning rate times a hundred",
        "Each step goes past the valley. Look at the loss and at the size of the weights; its twin takes steps of 0.3.",
        "lr=30&twin=lr:0.3",
        300,
    ),
    Lesson(
        "A bias before batch norm",
        "Batch norm subtracts the mean, and with it whatever the bias added. Its twin has no bias there.",
        "norm=batch&twin=bias:001",
        300,
    ),
    Lesson(
        "Centred data",
        "Inputs and targets have their means taken away, so there is nothing to shift: its twin without a bias is as good. "
        "Under “more”, set centre to none.",
        "data=diabetes&layers=none",
        300,
    ),
    Lesson(
        "Two linear layers, no activation",
        "Two matrices multiplied are one: the border of the colours stays a straight line. Its twin has tanh between.",
        "data=xor&layers=4&act=none&twin=act:tanh",
        600,
    ),
)
