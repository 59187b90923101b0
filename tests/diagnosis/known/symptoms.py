"""Symptoms alone: the cause must be undetermined."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.known.frame import classify, known, sgd
from tests.diagnosis.trainings import Training, mlp


@known("", steps=120)
def a_loss_that_is_not_to_be_lowered() -> Training:
    """Targets drawn anew at each step, by a loss that no rule knows, a cubic one: it cannot fall, and nothing says why."""
    training = classify(model := mlp(), sgd(model, 1e-2))
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    training.loss = lambda b: ((model(b[0]) - torch.randn(len(b[0]), 10).sign()).abs() ** 3).mean()
    return training


@known("", steps=120)
def a_task_that_gets_harder() -> Training:
    training = classify(model := mlp(), sgd(model, 0.05))
    count = itertools.count()
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1]) + 0.1 * next(count)
    return training
