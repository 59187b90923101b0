"""The demo: what two tutorials do by hand, as five small labs, each shown with the call that makes it.

Every number that is printed comes from a training that was just watched; nothing is prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import weighbridge
from weighbridge.teaching.lab import LabResult, lab
from weighbridge.teaching.readback import epoch_means, first_step_without_gradient, values_at
from weighbridge.teaching.training import Training, prepare


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays: the folder of its runs, how long it may take, and who prints."""

    folder: Path
    quick: bool
    say: Callable[[str], None]

    def heading(self, text: str) -> None:
        self.say(f"\n{text}\n{'=' * len(text)}")

    def lab(self, **options: Any) -> LabResult:
        """Show the call, then make it."""
        self.say(f"\n>>> weighbridge.lab({', '.join(f'{name}={value!r}' for name, value in options.items())})")
        return lab(**options, dir=self.folder)


def play(folder: Path, *, quick: bool = False, say: Callable[[str], None] = print) -> list[Path]:
    """All scenes, one after the other; returns the folders of the runs."""
    stage = Stage(folder, quick, say)
    say("weighbridge demo: five small trainings, every weight, bias, gradient and update recorded at every step.")
    paths: list[Path] = []
    for scene in (addition, one_straight_line, origin, digits, starts):
        for result in scene(stage):
            paths += result.paths
    return paths


def addition(stage: Stage) -> list[LabResult]:
    """2-4-1 on ten samples: names and means per epoch, as the tutorial prints them; then why it does not learn."""
    stage.heading("1. Two inputs, four neurons, one sum: weights and biases, epoch by epoch")
    result = stage.lab(layers="2-4-1", data="tutorial", optimizer="sgd", lr=0.01, epochs=20)
    training = result.trainings[0]
    record = weighbridge.open_run(_path(training))
    stage.say("\nBefore training (step 0; one row of 0.weight is one neuron):")
    for tensor in record.tensors:
        values = values_at(record, tensor.name, 0)
        stage.say(f"{tensor.name:9}" + np.array2string(values, precision=4, prefix=" " * 9))
    stage.say("\nMean of each parameter after each epoch, read back from the run:")
    names = [tensor.name for tensor in record.tensors]
    stage.say(f"{'epoch':>5}  {'loss':>9}  " + "  ".join(f"{name:>12}" for name in names))
    shown = [e for e in epoch_means(record) if e.epoch < 5 or e.epoch % 5 == 4]
    for epoch in shown:
        cells = "  ".join(f"{epoch.means[name]:12.8f}" for name in names)
        stage.say(f"{epoch.epoch:5}  {epoch.loss:9.4f}  {cells}")
    stage.say(f"The network itself, at the end: {_own_means(training.model)}")
    dead = first_step_without_gradient(record, "0.weight")
    if dead is not None:
        stage.say(
            f"\nThe loss hardly comes down, and the records say why: from step {dead} on every gradient of 0.weight\n"
            "is exactly 0. "
            "The first steps were so large that all four ReLU neurons are off for all ten samples. They are dead: only\n"
            "2.bias still moves, towards the mean of the targets (11). A smaller step keeps them alive:"
        )
    slower = stage.lab(
        layers="2-4-1", data="tutorial", optimizer="sgd", lr=[0.01, 0.003], epochs=100 if stage.quick else 200, seeds=5
    )
    stage.say(f"\n{slower}")
    return [result, slower]


def one_straight_line(stage: Stage) -> list[LabResult]:
    """3-4-4-2 without activations is one Linear; with them it is not."""
    stage.heading("2. 3-4-4-2 with and without activations: three layers, or one?")
    result = stage.lab(layers="3-4-4-2", data="bends", activation=["none", "tanh"], optimizer="lbfgs", epochs=20, seeds=3)
    stage.say(f"\n{result}")
    training = result.of("activation none")[0]
    weight, bias = compose(training.model)
    parts = prepare(result.data, training.variant.options, training.seed)
    x, y = parts.train_x.double(), parts.train_y.double()
    with torch.no_grad():
        network = training.model(parts.train_x).double()
    apart = float((network - (x @ weight.T + bias)).abs().max())
    fit = best_linear(x, y)
    stage.say(
        "\nWithout activations the three affine layers multiply out to one, W = W3 W2 W1 and b = W3 (W2 b1 + b2) + b3:\n"
        f"  largest difference between the network and that one Linear   {apart:.1e}\n"
        f"  loss of the trained network                                  {float(((network - y) ** 2).mean()):.6f}\n"
        f"  loss of the best possible Linear (least squares)             {float(((fit - y) ** 2).mean()):.6f}\n"
        f"46 parameters trained in three layers do what {weight.numel() + bias.numel()} in one layer do."
    )
    return [result]


def origin(stage: Stage) -> list[LabResult]:
    """3-4-4-2 with and without biases: what comes out when nothing goes in."""
    stage.heading("3. 3-4-4-2 with and without biases: what comes out when nothing goes in?")
    result = stage.lab(
        layers="3-4-4-2",
        data="bends",
        activation="leaky_relu",
        bias=["all", "none"],
        epochs=30 if stage.quick else 100,
        seeds=3,
    )
    stage.say(f"\n{result}")
    stage.say("\nThe targets are 1 and more everywhere. At input (0, 0, 0) and along one line through it:")
    ray = torch.tensor([[0.3, -0.5, 0.6]])
    for name in ("bias all", "bias none"):
        model = result.of(name)[0].model
        with torch.no_grad():
            points = [(scale, model(ray * scale)[0]) for scale in (0.0, 0.5, 1.0, 2.0)]
        cells = "   ".join(f"{scale:g}x: ({float(out[0]):.3f}, {float(out[1]):.3f})" for scale, out in points)
        stage.say(f"  {name:9}  {cells}")
    stage.say(
        "Without biases this network gives 0 for 0, and twice the input gives twice the output: lines through the origin."
    )
    return [result]


def digits(stage: Stage) -> list[LabResult]:
    """What the bias is worth on scikit-learn's digits, with an interval."""
    stage.heading("4. Handwritten digits: what is the bias worth here?")
    result = stage.lab(
        layers="64-32-10", data="digits", bias=["all", "none"], epochs=3 if stage.quick else 8, seeds=3 if stage.quick else 5
    )
    stage.say(f"\n{result}")
    return [result]


def starts(stage: Stage) -> list[LabResult]:
    """Xavier weights and zero biases against PyTorch's default, each by itself and both."""
    stage.heading("5. Where to start: Xavier weights and zero biases against PyTorch's default")
    result = stage.lab(
        layers="64-32-32-10", data="digits", init=["default", "xavier"], init_bias=["default", "zeros"],
        epochs=2 if stage.quick else 5, seeds=2 if stage.quick else 3,
    )  # fmt: skip
    stage.say("\nAt step 0, as recorded (rms of the weights of the first layer, largest bias of it):")
    for variant in result.variants:
        record = weighbridge.open_run(_path(result.of(variant)[0]))
        rms = record.series("0.weight", "parameter.rms").values[0]
        largest = abs(record.series("0.bias", "parameter.abs_max").values[0])
        stage.say(f"  {variant.name:32}  {rms:.4f}  {largest:.4f}")
    stage.say(f"\n{result}")
    return [result]


def compose(model: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiply affine layers out to one: (weight, bias) in float64."""
    inputs = next(layer.in_features for layer in model if isinstance(layer, nn.Linear))
    weight, bias = torch.eye(inputs, dtype=torch.float64), torch.zeros(inputs, dtype=torch.float64)
    for layer in model:
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{layer} is not affine: a network with it is not one Linear")
        own = layer.weight.detach().double()
        weight, bias = own @ weight, own @ bias
        if layer.bias is not None:
            bias = bias + layer.bias.detach().double()
    return weight, bias


def best_linear(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What the best affine map of x gives for y, by least squares in float64."""
    with_one = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    found: torch.Tensor = with_one @ torch.linalg.lstsq(with_one, y).solution
    return found


def _own_means(model: nn.Sequential) -> str:
    return ", ".join(f"{name} {p.detach().mean().item():.8f}" for name, p in model.named_parameters())


def _path(training: Training) -> Path:
    assert training.path is not None, "the demo watches every training"
    return training.path
