"""Small seeded runs with a known cause and many symptoms: what must be the primary cause, and what may stand beside it.

Each changes one thing (or two, where both must be named) of a training that is healthy without it. Truth: what is written here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.trainings import Attention, Batch, Recurrent, Training, batches, cnn, data, mlp, regression, wine_dropout


@dataclass(frozen=True)
class Known:
    """A run and what must be said about it. Keys as `Finding.key`, or rules where the place does not matter; `|` = or."""

    make: Callable[[], Training]
    primary: str  # "" = the cause must be undetermined
    second: str = ""  # another fault, which must be among the causes, too
    may: tuple[str, ...] = ()  # rules that may be causes beside it: they say another true thing
    below: tuple[str, ...] = ()  # rules that must be found, and be explained by the primary
    steps: int = 40

    @property
    def any_order(self) -> bool:
        """Two faults of equal rank; a bias that is superfluous stands behind what does harm."""
        return bool(self.second) and not self.second.startswith("redundant-bias")


RUNS: dict[str, Known] = {}


def known(primary: str, *, second: str = "", may: tuple[str, ...] = (), below: tuple[str, ...] = (), steps: int = 40) -> Any:
    """Marks a function that makes a training."""

    def mark(make: Callable[[], Training]) -> Callable[[], Training]:
        RUNS[make.__name__.replace("_", "-")] = Known(make, primary, second, may, below, steps)
        return make

    return mark


# ---- pieces --------------------------------------------------------------------------------------------------------------


def classify(model: nn.Module, optimizer: torch.optim.Optimizer, kind: str = "digits", **more: Any) -> Training:
    return Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), b[1]), batches(*data(kind)), **more)


def sgd(model: nn.Module, lr: float = 0.1, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **more)


def adam(model: nn.Module, lr: float = 1e-3, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr, **more)


def stack(layers: int, activation: type[nn.Module], scale: float = 1.0, width: int = 32) -> nn.Sequential:
    """Xavier or He, the weights `scale` times as large, then a head."""
    modules: list[nn.Module] = []
    for size in [64, *[width] * (layers - 1)]:
        linear = nn.Linear(size, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu" if activation is nn.ReLU else "linear")
        nn.init.zeros_(linear.bias)
        linear.weight.data.mul_(scale)
        modules += [linear, activation()]
    return nn.Sequential(*modules, nn.Linear(width, 10))


def at(step: int, do: Callable[[], object]) -> Callable[[int], None]:
    """Before this step, this."""

    def also(now: int) -> None:
        if now == step:
            do()

    return also


def between(training: Training, do: Callable[[int], object]) -> Training:
    """Between backward pass and step, with the number of the step."""
    count = itertools.count()

    def hook(*_: object) -> None:
        do(next(count))

    training.optimizers[0].register_step_pre_hook(hook)
    return training


def altered(training: Training, at_step: int, alter: Callable[[torch.Tensor, torch.Tensor], Batch]) -> Training:
    """One batch is another than it should be."""
    usual = training.batches
    training.batches = (alter(*b) if step == at_step else b for step, b in enumerate(usual))
    return training


def raised(training: Training, step: int, times: float) -> Training:
    (group,) = training.optimizers[0].param_groups
    training.also = at(step, lambda: group.update(lr=group["lr"] * times))
    return training


class Steps(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


class AdamSteps(torch.optim.Adam):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


class Scaled:
    """An optimizer behind a GradScaler, with the interface of one."""

    def __init__(self, optimizer: torch.optim.Optimizer, **scaler: Any) -> None:
        self.optimizer, self.scaler = optimizer, torch.amp.GradScaler("cpu", **scaler)

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, **scaler: Any) -> Training:
    behind = Scaled(optimizer, **scaler)
    training = classify(model, optimizer)
    training.optimizers = [behind]  # type: ignore[list-item]
    plain = training.loss
    training.loss = lambda b: behind.scaler.scale(plain(b))
    return training


# ---- the learning rate ---------------------------------------------------------------------------------------------------


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


# ---- one batch, one step -------------------------------------------------------------------------------------------------


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


# ---- the beginning -------------------------------------------------------------------------------------------------------


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


# ---- the loop ------------------------------------------------------------------------------------------------------------


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


# ---- the data and the loss -----------------------------------------------------------------------------------------------


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


# ---- numbers of few bits, Adam's memory ----------------------------------------------------------------------------------


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


# ---- two faults at once --------------------------------------------------------------------------------------------------


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


# ---- symptoms alone ------------------------------------------------------------------------------------------------------


@known("", steps=120)
def a_loss_that_is_not_to_be_lowered() -> Training:
    """Targets drawn anew at each step, by a loss that no rule knows: it cannot fall, and nothing recorded says why."""
    training = classify(model := mlp(), sgd(model, 1e-2))
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    training.loss = lambda b: ((model(b[0]) - torch.randn(len(b[0]), 10).sign()) ** 2).mean()
    return training


@known("", steps=120)
def a_task_that_gets_harder() -> Training:
    training = classify(model := mlp(), sgd(model, 0.05))
    count = itertools.count()
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1]) + 0.1 * next(count)
    return training
