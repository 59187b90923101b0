"""Errors that are made large. Oracles: graphs drawn by hand, and small trainings with a minus put before their loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.graphs import Drawing, rows
from tests.diagnosis.made import block, found, outcome, step_rows
from tests.diagnosis.trainings import data, gan, seeded, sgd_mlp, train
from weighbridge.capture.graphwalk import walk
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.lossterms import terms
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules.wrong_loss_sign import PATIENCE, judged
from weighbridge.firstpass import FirstPass

SIGN = rule("wrong-loss-sign")


def _pass(*ops: str, factor_shape: tuple[int, ...] = ()) -> FirstPass:
    """A linear layer, then these operations; LogSoftmax and Mul as they come."""
    made = Drawing()
    last = made.linear("a", None, 32, 8, 4)
    for op in ops:
        inputs = [last, None] if op in ("Mul", "Div", "Sub", "MseLoss") else [last]
        facts: dict[str, Any] = {"other_shape": factor_shape} if op in ("Mul", "Div") else {}
        facts |= {"exponent": 2} if op == "Pow" else {}
        wide = (32, 4) if op in ("LogSoftmax", "Sub", "Pow", "Abs") else factor_shape if op in ("Mul", "Div") else ()
        last = made.op(op, inputs, wide, **facts)
    return made.done()


def _told(first: FirstPass, loss: float = -2.0, steps: int = PATIENCE, **more: Any) -> bool:
    return bool(found(SIGN, block(steps, graph=rows(first), steps=step_rows(steps, loss=loss), **more)))


@pytest.mark.parametrize(
    ("ops", "is_told"),
    [
        (("LogSoftmax", "NllLoss", "Neg"), True),
        (("LogSoftmax", "NllLoss", "Mul"), True),
        (("MseLoss", "Neg"), True),
        (("Sub", "Pow", "Mean", "Neg"), True),
        (("Sub", "Abs", "Neg", "Mean"), True),
        (("LogSoftmax", "Gather", "Mean"), True),  # nobody has turned the log-probability around
        (("LogSoftmax", "Gather", "Mean", "Div"), True),  # nor a factor above 0: else the loss would be
        (("LogSoftmax", "NllLoss"), False),  # below 0 without a sign: weights of classes, perhaps
        (("NllLoss", "Neg"), False),  # of probabilities
        (("Pow", "Mean", "Neg"), False),  # no target: outputs that are to be spread out
        (("Mean", "Neg"), False),
    ],
)
def test_which_roots_are_errors_with_a_minus(ops: tuple[str, ...], is_told: bool) -> None:
    assert _told(_pass(*ops)) is is_told


def test_weights_of_single_samples_are_not_judged() -> None:
    assert not _told(_pass("LogSoftmax", "Gather", "Mul", "Mean", factor_shape=(32,)))
    assert _told(_pass("LogSoftmax", "NllLoss", "Mul", factor_shape=(1,)))


def test_it_takes_three_steps_below_0_in_a_row() -> None:
    made = _pass("MseLoss", "Neg")
    assert not _told(made, steps=PATIENCE - 1)
    assert not _told(made, loss=2.0, steps=40)
    assert not _told(made, loss=[-1.0, -1.0, 1.0, -1.0, -1.0], steps=5)  # type: ignore[arg-type]


def test_an_optimizer_that_climbs_turns_it_around() -> None:
    climbing = {"settings": {"maximize": True}}
    assert not _told(_pass("MseLoss", "Neg"), **climbing)
    assert _told(_pass("MseLoss"), loss=2.0, **climbing)
    assert not _told(_pass("LogSoftmax", "Gather", "Mean"), loss=-2.0, **climbing)


def test_passes_of_several_kinds_are_not_judged() -> None:
    both = rows(_pass("MseLoss", "Neg"), _pass("MseLoss"))
    assert found(SIGN, block(9, graph=both, steps=step_rows(9, loss=-1.0))) == []
    assert outcome(SIGN, block(9, graph=both, steps=step_rows(9, loss=-1.0))) is Outcome.NOT_APPLICABLE


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "negated": lambda out, y: -F.cross_entropy(out, y),
    "by a factor": lambda out, y: F.cross_entropy(out, y) * -0.5,
    "a log-probability": lambda out, y: F.log_softmax(out, 1).gather(1, y[:, None]).mean(),
    "indexed": lambda out, y: F.log_softmax(out, 1)[torch.arange(len(y)), y].mean(),
    "squared": lambda out, y: -((out - F.one_hot(y, 10)) ** 2).mean(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_trainings_with_a_minus(name: str, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model
    training.loss = lambda batch: LOSSES[name](model(batch[0]), batch[1])
    training.optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3)]
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 10)) if f.rule == "wrong-loss-sign"]
    assert [(f.place, f.first_step, f.told_step, f.severity) for f in told] == [("", 0, 2, "error")]


HEALTHY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "its own minus": lambda out, y: -F.log_softmax(out, 1).gather(1, y[:, None]).mean(),
    "likeness": lambda out, y: -F.cosine_similarity(out, F.one_hot(y, 10).float()).mean(),
    "an advantage": lambda out, y: -(F.log_softmax(out, 1).gather(1, y[:, None])[:, 0] * torch.randn(len(y))).mean(),
    "less entropy": lambda out, y: F.cross_entropy(out, y) * 1e-3 + (out.softmax(1) * out.log_softmax(1)).sum(1).mean(),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_losses_below_0_that_are_meant(name: str, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model
    training.loss = lambda batch: HEALTHY[name](model(batch[0]), batch[1])
    assert [f for f in weighbridge.diagnose(train(training, tmp_path, 10)) if f.rule == "wrong-loss-sign"] == []


def test_a_generator_that_climbs_its_judge_s_error_is_none(tmp_path: Path) -> None:
    training = seeded(gan)
    model, usual = training.model, training.loss

    def saturating(batch: Any) -> torch.Tensor:
        usual(batch)
        fake = model.judge(model.generator(torch.randn(len(batch[0]), 8)))
        return -F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))

    training.loss = saturating
    assert [f for f in weighbridge.diagnose(train(training, tmp_path, 20)) if f.rule == "wrong-loss-sign"] == []
    assert isinstance(model, nn.Module)
    assert len(data("digits")[0]) > 100


@pytest.mark.parametrize(("down", "is_told"), [(0, True), (1, False)])
def test_momentum_carries_a_descent_uphill_for_some_steps(down: int, is_told: bool) -> None:
    """Norms of 1, so the dot product is the cosine. So many steps down first, then six up."""
    sizes = {"gradient.l2_norm": {"a.weight": 1.0}, "update.l2_norm": {"a.weight": 1.0}}
    dots = {"update.dot_gradient_update": {"a.weight": [-0.9] * down + [0.9] * 6}}
    made = block(down + 6, sizes | dots, graph=rows(_pass("MseLoss")), steps=step_rows(down + 6, loss=2.0))
    assert bool(found(SIGN, made)) is is_told


def _alike(out: torch.Tensor) -> torch.Tensor:
    return F.normalize(out, dim=1) @ F.normalize(out.roll(1, 1), dim=1).T / 0.2


def _of_views(likeness: torch.Tensor) -> torch.Tensor:
    return (torch.exp(likeness).diag() / torch.exp(likeness).sum(1)).log().mean()


def _but_themselves(likeness: torch.Tensor) -> torch.Tensor:
    others = likeness.masked_fill(torch.eye(len(likeness)).bool(), -1e9)
    return (likeness.diag(1) - others.logsumexp(1)[:-1]).mean()


def _picked(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.log_softmax(out, 1).gather(1, y[:, None])


def _soft(y: torch.Tensor) -> torch.Tensor:
    return F.one_hot(y, 10) * 0.9 + 0.01


def _overlap(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p, wanted = out.sigmoid(), F.one_hot(y, 10).float()
    return (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)


def _density(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    density: torch.Tensor = Normal(out[:, :5], out[:, 5:].exp()).log_prob(y[:, None])  # type: ignore[no-untyped-call]
    return density


def _mixture(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    density = Normal(out[:, :5], 1.0).log_prob(y[:, None].float())  # type: ignore[no-untyped-call]
    return torch.logsumexp(out[:, 5:].log_softmax(1) + density, 1)


def _entropy(out: torch.Tensor) -> torch.Tensor:
    return -(out.softmax(1) * out.log_softmax(1)).sum(1).mean()


WRONG: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "root of squares": lambda out, y: -F.mse_loss(out, F.one_hot(y, 10).float()).sqrt(),
    "logits less their logsumexp": lambda out, y: (out[torch.arange(len(y)), y] - out.logsumexp(1)).mean(),
    "means of both": lambda out, y: out.gather(1, y[:, None]).mean() - out.exp().sum(1).log().mean(),
    "a quotient of exponentials": lambda out, y: (out.exp()[torch.arange(len(y)), y] / out.exp().sum(1)).log().mean(),
    "two views": lambda out, y: _of_views(_alike(out)),
    "views but themselves": lambda out, y: _but_themselves(_alike(out)),
    "normal density": lambda out, y: _density(out, y).mean(),
    "normal density by hand": lambda out, y: (-0.5 * ((y - out[:, 0]) / out[:, 1].exp()) ** 2 - out[:, 1] - 0.92).mean(),
    "mixture": lambda out, y: _mixture(out, y).mean(),
    "focal": lambda out, y: ((1 - _picked(out, y).exp()) ** 2 * _picked(out, y)).mean(),
    "divergence": lambda out, y: -F.kl_div(out.log_softmax(1), _soft(y), reduction="batchmean"),
    "overlap": lambda out, y: _overlap(out, y),
    "likeness": lambda out, y: F.cosine_similarity(out, _soft(y)).mean(),
    "likeness of unit vectors": lambda out, y: (F.normalize(out, dim=1) * F.normalize(_soft(y), dim=1)).sum(1).mean(),
}
RIGHT: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "density": lambda out, y: -_density(out, y).mean(),
    "mixture": lambda out, y: -_mixture(out, y).mean(),
    "overlap": lambda out, y: -_overlap(out, y),
    "error and overlap": lambda out, y: F.cross_entropy(out, y) * 0 + _overlap(out, y),
    "views": lambda out, y: -_of_views(_alike(out)),
    "focal": lambda out, y: -((1 - _picked(out, y).exp()) ** 2 * _picked(out, y)).mean(),
    "weighed by its own doubt": lambda out, y: ((-out[:, 1]).exp() * (out[:, 0] - y) ** 2 + out[:, 1]).mean(),
    "returns below 0": lambda out, y: -(_picked(out, y) * -torch.rand(len(y), 1)).mean(),
    "costs of an episode": lambda out, y: -_picked(out, y).sum() * -200.0,
    "returns below 0, cross-entropy": lambda out, y: (F.cross_entropy(out, y, reduction="none") * -torch.rand(len(y))).mean(),
    "returns below 0, normal policy": lambda out, y: -(_density(out, y) * -torch.rand(len(y), 1)).mean(),
    "correntropy": lambda out, y: -(-((out[:, 0] - y) ** 2)).exp().mean(),
    "pushed from a bank": lambda out, y: (-((out - _soft(y)) ** 2).sum(1)).logsumexp(0),
    "pushed from a bank by hand": lambda out, y: (-((out - _soft(y)) ** 2).sum(1)).exp().mean().log(),
    "most entropy": lambda out, y: -_entropy(out),
    "of probabilities": lambda out, y: (out.log_softmax(1).exp() * out.log_softmax(1)).sum(1).mean(),
    "of a distribution": lambda out, y: -Categorical(logits=out).entropy().mean(),  # type: ignore[no-untyped-call]
    "of yes and no": lambda out, y: -Bernoulli(logits=out).entropy().mean(),  # type: ignore[no-untyped-call]
    "by hand": lambda out, y: (out.sigmoid() * out.sigmoid().log() + (1 - out.sigmoid()) * (1 - out.sigmoid()).log()).mean(),
    "expected cost": lambda out, y: (out.softmax(1) * (1 - F.one_hot(y, 10))).sum(1).mean(),
    "bound of information": lambda out, y: -(out[:9].mean() - out[9:].exp().mean().log()),
    "the same turned around": lambda out, y: out[:9].mean() - out[9:].exp().mean().log(),
}


def _judged(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> tuple[str, int]:
    torch.manual_seed(0)
    model, y = nn.Linear(8, 10), torch.arange(32) % 10
    graph, _ = walk([loss(model(torch.randn(32, 8)), y)], {id(p): name for name, p in model.named_parameters()}, lambda _: "")
    return judged(terms(graph))


@pytest.mark.parametrize("name", WRONG)
def test_losses_by_hand_with_the_wrong_sign(name: str) -> None:
    assert _judged(WRONG[name])[1] == -1
    assert _judged(WRONG[name])[0]


@pytest.mark.parametrize("name", RIGHT)
def test_losses_by_hand_with_the_right_sign(name: str) -> None:
    assert _judged(RIGHT[name])[1] >= 0


@pytest.mark.parametrize("name", WRONG)
def test_a_minus_before_the_wrong_sign_makes_it_right(name: str) -> None:
    assert _judged(lambda out, y: -WRONG[name](out, y))[1] >= 0
