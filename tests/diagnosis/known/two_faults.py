"""Two faults at once: both must be named."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.diagnosis.known.frame import adam, altered, at, between, classify, known, sgd
from tests.diagnosis.known.loop import layer_left_out
from tests.diagnosis.trainings import Training, batches, data, mlp


@known("high-learning-rate", second="parameter-in-no-optimizer at 2")
def two_rate_and_layer_left_out() -> Training:
    model = mlp()
    return classify(model, torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=20.0))


@known("doubled-output-activation", second="low-learning-rate")
def two_softmax_and_low_rate() -> Training:
    model = mlp().append(nn.Softmax(1))
    return classify(model, adam(model, 1e-6))


@known("nonfinite-origin at input", second="parameter-in-no-optimizer at 2")
def two_nan_and_layer_left_out() -> Training:
    return altered(layer_left_out(), 17, lambda x, y: (x * math.nan, y))


@known("uninformative-data", second="parameter-in-no-optimizer at 2")
def two_labels_and_layer_left_out() -> Training:
    training = layer_left_out()
    x, y = data("digits")
    training.batches = batches(x, y[torch.randperm(len(y))], 64)
    return training


@known("high-learning-rate", second="evaluation-mode-while-training")
def two_rate_and_evaluation_mode() -> Training:
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))
    training = classify(model, sgd(model, 20.0), "wine")
    training.also = at(0, model.eval)
    return training


@known("parameter-in-no-optimizer at 2", second="loss-spike", may=("gradient-spike",))
def two_layer_left_out_and_bad_batch() -> Training:
    return altered(layer_left_out(), 25, lambda x, y: (x * 300.0, y))


@known("symmetric-initialisation at 0", second="parameter-in-no-optimizer at 2")
def two_alike_and_layer_left_out() -> Training:
    model = mlp()
    nn.init.constant_(model[0].weight, 0.05)
    nn.init.zeros_(model[0].bias)
    return classify(model, torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1))


@known("overtight-clipping", second="parameter-in-no-optimizer at 2")
def two_clipping_and_layer_left_out() -> Training:
    training = layer_left_out()
    return between(training, lambda step: nn.utils.clip_grad_norm_(training.model.parameters(), 1e-4))


@known("nonfinite-origin at input", second="high-learning-rate")
def two_rate_then_nan() -> Training:
    return altered(classify(model := mlp(), sgd(model, 3.0)), 36, lambda x, y: (x * math.nan, y))
