"""The data or the loss is the cause."""

from __future__ import annotations

import torch
from torch import nn

from tests.diagnosis.known.frame import adam, classify, known, sgd, stack
from tests.diagnosis.trainings import Batch, Training, batches, data, mlp


@known("uninformative-data")
def labels_shuffled() -> Training:
    training = classify(model := mlp(), adam(model))
    x, y = data("digits")
    training.batches = batches(x, y[torch.randperm(len(y))], 64)
    return training


@known("uninformative-data")
def pictures_of_nothing() -> Training:
    training = classify(model := mlp(), sgd(model))
    x, y = data("digits")
    training.batches = batches(torch.zeros_like(x), y, 64)
    return training


@known("raw-input-scale")
def inputs_in_thousands() -> Training:
    training = classify(model := mlp(), sgd(model, 0.05))
    x, y = data("digits")
    training.batches = batches(1000.0 * x + 4000.0, y)
    return training


@known("raw-input-scale", below=("saturated-units",))
def inputs_that_saturate() -> Training:
    training = classify(model := stack(3, nn.Tanh), sgd(model, 0.05))
    x, y = data("digits")
    training.batches = batches(500.0 * x + 1000.0, y)
    return training


@known("doubled-output-activation")
def softmax_twice() -> Training:
    model = mlp().append(nn.Softmax(1))
    return classify(model, sgd(model, 0.05))


@known("broadcast-loss", steps=300)
def a_column_against_a_row() -> Training:
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss(batch: Batch) -> torch.Tensor:
        return (model(batch[0]) - batch[1][:, 0]).square().mean()

    return Training(model, [sgd(model, 0.05)], loss, batches(*data("diabetes")))


@known("missing-activation")
def layers_that_are_one() -> Training:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return classify(model, sgd(model))


@known("starved-batch-norm at 1", second="redundant-bias at 0.bias")
def norm_over_one_sample() -> Training:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    training = classify(model, sgd(model, 0.05))
    training.batches = batches(*data("digits"), size=2)
    return training
