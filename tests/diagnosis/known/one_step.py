"""One batch or one step is the cause."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.diagnosis.known.frame import adam, altered, at, between, classify, known, sgd, stack
from tests.diagnosis.trainings import Training, mlp, regression


@known("nonfinite-origin at input")
def nan_in_one_batch() -> Training:
    return altered(classify(model := mlp(), sgd(model)), 7, lambda x, y: (x.index_fill(1, torch.tensor([3]), math.nan), y))


@known("nonfinite-origin at 3")
def logarithm_of_nothing() -> Training:
    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log()

    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), Log(), nn.Linear(32, 10))
    nn.init.constant_(model[2].bias, 10.0)
    training = classify(model, sgd(model, 1e-2))
    training.also = at(9, lambda: nn.init.constant_(model[2].bias, -9.0))
    return training


@known("loss-spike", may=("gradient-spike",))
def one_huge_batch() -> Training:
    return altered(classify(model := mlp(), adam(model, 2e-3)), 25, lambda x, y: (x * 300.0, y))


@known("loss-spike", may=("gradient-spike",))
def one_huge_target() -> Training:
    training = regression()
    training.optimizers = [sgd(training.model, 0.02)]
    return altered(training, 25, lambda x, y: (x, y * 100.0))


@known("gradient-spike at 2.weight")
def one_layer_s_gradient_jumps() -> Training:
    training = classify(model := mlp(), sgd(model, 0.1))
    return between(training, lambda step: model[2].weight.grad.mul_(1000.0) if step == 25 else None)


@known("gradient-spike", below=("dead-units",))
def units_die_of_a_spike() -> Training:
    training = classify(model := stack(4, nn.ReLU), sgd(model, 0.1))
    return between(training, lambda step: [p.grad.mul_(1000.0) for p in model.parameters()] if step == 15 else None)


@known("gradient-spike")
def tanh_saturates_after_a_spike() -> Training:
    training = classify(model := stack(3, nn.Tanh), sgd(model, 0.1))
    return between(training, lambda step: model[0].weight.grad.mul_(3000.0) if step == 15 else None)
