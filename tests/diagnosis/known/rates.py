"""The learning rate is the cause."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.known.frame import adam, classify, known, raised, sgd, stack
from tests.diagnosis.trainings import Attention, Recurrent, Training, batches, cnn, data, mlp, regression


@known("high-learning-rate")
def rate_times_thirty() -> Training:
    return classify(model := mlp(), sgd(model, 3.0))


@known("high-learning-rate")
def rate_times_three_hundred() -> Training:
    return classify(model := mlp(), sgd(model, 30.0))


@known("high-learning-rate")
def adam_at_a_third() -> Training:
    return classify(model := mlp(), adam(model, 0.3))


@known("high-learning-rate")
def rate_raised_in_mid_run() -> Training:
    return raised(classify(model := mlp(), sgd(model, 0.1, momentum=0.9)), 20, 30.0)


@known("high-learning-rate")
def rate_raised_in_a_deep_net() -> Training:
    return raised(classify(model := stack(8, nn.ReLU), sgd(model, 0.05)), 22, 100.0)


@known("high-learning-rate")
def adam_raised_in_mid_run() -> Training:
    return raised(classify(model := stack(6, nn.ReLU), adam(model, 2e-3)), 21, 200.0)


@known("high-learning-rate")
def tanh_net_raised_in_mid_run() -> Training:
    return raised(classify(model := stack(4, nn.Tanh), sgd(model, 0.1)), 21, 100.0)


@known("high-learning-rate")
def convolutions_raised_in_mid_run() -> Training:
    training = cnn()
    training.optimizers = [sgd(training.model, 0.1, momentum=0.9)]
    return raised(training, 21, 300.0)


@known("high-learning-rate")
def regression_at_two() -> Training:
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    return Training(model, [sgd(model, 2.0)], lambda b: F.mse_loss(model(b[0]), b[1]), batches(*data("diabetes")))


@known("high-learning-rate")
def regression_raised_in_mid_run() -> Training:
    training = regression()
    training.optimizers = [sgd(training.model, 0.05)]
    return raised(training, 21, 100.0)


@known("high-learning-rate")
def transformer_without_warm_up() -> Training:
    return classify(model := Attention(), torch.optim.AdamW(model.parameters(), lr=0.3))


@known("high-learning-rate")
def transformer_raised_in_mid_run() -> Training:
    return raised(classify(model := Attention(), torch.optim.AdamW(model.parameters(), lr=3e-3)), 21, 200.0)


@known("high-learning-rate")
def lstm_raised_in_mid_run() -> Training:
    return raised(classify(model := Recurrent(), sgd(model, 0.5)), 21, 200.0)


@known("high-learning-rate")
def loss_summed() -> Training:
    training = classify(model := mlp(), sgd(model, 0.1))
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1], reduction="sum")
    return training


@known("low-learning-rate")
def rate_of_a_millionth() -> Training:
    return classify(model := mlp(), adam(model, 1e-6))
