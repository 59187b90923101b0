"""The loop is the cause."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.known.frame import AdamSteps, Steps, at, between, classify, known, sgd, stack
from tests.diagnosis.trainings import Training, mlp, wine_dropout


@known("gradients-not-zeroed")
def never_zeroed() -> Training:
    return classify(model := mlp(), Steps(model.parameters(), lr=0.2))


@known("gradients-not-zeroed")
def never_zeroed_in_a_deep_net() -> Training:
    return classify(model := stack(8, nn.ReLU), Steps(model.parameters(), lr=0.3, momentum=0.9))


@known("gradients-not-zeroed")
def never_zeroed_with_adam() -> Training:
    return classify(model := mlp(), AdamSteps(model.parameters(), lr=1e-2))


@known("step-not-taken")
def never_stepped() -> Training:
    training = classify(model := mlp(), sgd(model))
    training.optimizers = []
    return training


@known("parameter-in-no-optimizer at 2")
def layer_left_out() -> Training:
    model = mlp()
    return classify(model, torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1))


@known("parameter-without-gradient at 0")
def layer_cut_off() -> Training:
    training = classify(model := mlp(), sgd(model))
    training.loss = lambda b: F.cross_entropy(model[2:](model[:2](b[0]).detach()), b[1])
    return training


@known("overtight-clipping")
def clipped_to_nothing() -> Training:
    training = classify(model := mlp(), sgd(model))
    return between(training, lambda step: nn.utils.clip_grad_norm_(model.parameters(), 1e-4))


@known("excessive-weight-decay")
def decay_of_one() -> Training:
    return classify(model := mlp(), sgd(model, 0.1, weight_decay=1.0))


@known("excessive-weight-decay")
def decay_of_adamw() -> Training:
    return classify(model := mlp(), torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=30.0), "digits")


@known("evaluation-mode-while-training")
def left_in_evaluation_mode() -> Training:
    training = wine_dropout()
    training.also = at(13, training.model.eval)
    return training


@known("wrong-loss-sign")
def loss_climbs() -> Training:
    training = classify(model := mlp(), sgd(model, 0.1))
    training.loss = lambda b: -F.cross_entropy(model(b[0]), b[1])
    return training
