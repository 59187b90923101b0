"""Numbers of few bits, or what Adam remembers, are the cause."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.known.frame import adam, classify, known, scaled, sgd
from tests.diagnosis.trainings import Batch, Training, batches, data, mlp


@known("lost-updates")
def weights_in_bfloat16() -> Training:
    training = classify(model := mlp().bfloat16(), adam(model, 1e-5))
    training.loss = lambda b: F.cross_entropy(model(b[0].bfloat16()).float(), b[1])
    return training


@known("gradient-underflow")
def loss_too_small_for_float16() -> Training:
    training = classify(model := mlp().half(), sgd(model))
    training.loss = lambda b: F.cross_entropy(model(b[0].half()).float(), b[1]) * 1e-5
    return training


@known("nonfinite-origin", below=("scaler-starvation",))
def a_layer_overflows_float16() -> Training:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.half() * 6e4).float() * 1e-5

    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), Large(), nn.Linear(32, 10))
    return scaled(model, sgd(model), init_scale=1024.0)


@known("scaler-starvation", may=("nonfinite-origin",), steps=60)
def a_scale_that_doubles_at_once() -> Training:
    training = scaled(model := mlp(), sgd(model), init_scale=2.0**16, growth_interval=1)

    def overflow(*_: object) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad.copy_(p.grad.half().float())

    training.optimizers[0].optimizer.register_step_pre_hook(overflow)  # type: ignore[attr-defined]
    for p in model.parameters():
        p.register_hook(lambda grad: grad.half().float())
    return training


@known("dominant-epsilon")
def eps_of_one() -> Training:
    return classify(model := mlp(), adam(model, 1e-4, eps=1.0))


@known("stale-second-moment", steps=90)
def gradients_that_outgrow_their_memory() -> Training:
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64))
    count = itertools.count()

    def loss(batch: Batch) -> torch.Tensor:
        scale = 1.0 + max(0, next(count) - 60)
        return F.mse_loss(model(batch[0] * scale), batch[0] * scale)

    return Training(model, [adam(model, 3e-3, betas=(0.9, 0.9999))], loss, batches(*data("digits")))
