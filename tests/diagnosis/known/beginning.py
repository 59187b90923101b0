"""The network is ill from the beginning."""

from __future__ import annotations

from torch import nn

from tests.diagnosis.known.frame import adam, classify, known, sgd, stack
from tests.diagnosis.trainings import Training, mlp


@known("wrong-initial-scale at 2")
def one_wild_layer() -> Training:
    model = mlp()
    nn.init.normal_(model[2].weight, std=10.0)
    return classify(model, adam(model))


@known("wrong-initial-scale")
def weights_of_one() -> Training:
    model = stack(12, nn.ReLU)
    for layer in model[::2]:
        nn.init.normal_(layer.weight)
    return classify(model, adam(model, 1e-4))


@known("wrong-initial-scale")
def weights_of_next_to_nothing() -> Training:
    return classify(model := stack(3, nn.ReLU, 1e-3), sgd(model))


@known("wrong-initial-scale", below=("saturated-units",))
def tanh_that_begins_saturated() -> Training:
    return classify(model := stack(5, nn.Tanh, 30.0), sgd(model, 0.05))


@known("wrong-initial-scale|vanishing-gradient at 0")
def layers_half_too_small() -> Training:
    return classify(model := stack(12, nn.ReLU, 0.3), sgd(model, 0.1))


@known("vanishing-gradient at 0")
def sigmoids_without_norm() -> Training:
    model = nn.Sequential(
        *[part for size in [64, *[32] * 7] for part in (nn.Linear(size, 32), nn.Sigmoid())], nn.Linear(32, 10)
    )
    return classify(model, adam(model))


@known("exploding-gradient|exploding-activation")
def exploding_recurrence() -> Training:
    from tests.diagnosis.test_ill_dynamics import Loop

    return classify(model := Loop(2.0), adam(model))


@known("symmetric-initialisation at 0")
def all_weights_alike() -> Training:
    model = mlp()
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)
    return classify(model, adam(model))


@known("dead-units at 0")
def dead_at_birth() -> Training:
    model = mlp()
    nn.init.constant_(model[0].bias, -20.0)
    return classify(model, sgd(model))
