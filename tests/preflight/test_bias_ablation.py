"""Training with and without biases. Oracles: the trainings written out here, and the tutorials' own cases."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.preflight.test_untouched import drawn
from weighbridge.errors import BadInput
from weighbridge.preflight.bias_ablation import BiasAblation


def sgd(lr: float = 0.1, **settings: Any) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **settings)


def linear_data(shift: float = 0.0, centre: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.Generator().manual_seed(0)
    x = torch.randn(80, 3, generator=own)
    x -= x.mean(0)
    y = x.sum(1, keepdim=True) + 0.3 * torch.randn(80, 1, generator=own)
    return x + centre, y - y.mean() + shift


def test_the_tutorials_threshold_needs_a_bias() -> None:
    x = torch.linspace(0, 6, 60)[:, None]
    found = weighbridge.ablate_bias(
        lambda: nn.Linear(1, 1), batches=(x, (x > 3).float()), loss_fn=F.binary_cross_entropy_with_logits,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.5), epochs=100, seeds=3,
    )  # fmt: skip
    assert found.verdict == "needed"
    assert "3 seeds are few" in str(found)
    assert "Needed: without, the loss is" in str(found)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "no effect"), (2.0, "needed")])
def test_centred_inputs_and_targets_need_none_and_targets_that_are_not_do(shift: float, verdict: str) -> None:
    found = weighbridge.ablate_bias(
        lambda: nn.Linear(3, 1), batches=linear_data(shift), loss_fn=nn.MSELoss(), optimizer=sgd(), seeds=3
    )
    assert found.verdict == verdict


def test_before_a_batch_norm_it_is_redundant_by_proof() -> None:
    x, y = linear_data()
    make = lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    found = weighbridge.ablate_bias(make, batches=(x, y), loss_fn=F.mse_loss, optimizer=sgd(), seeds=2, layers="0", epochs=150)
    assert (found.biases, found.redundant, found.verdict) == (("0.bias",), ("0.bias",), "redundant")
    assert found.without == pytest.approx(found.with_biases, rel=1e-3)  # SGD: no drift of a bias without gradient
    every = weighbridge.ablate_bias(make, batches=(x, y), loss_fn=F.mse_loss, optimizer=sgd(), seeds=2, epochs=2)
    assert (every.biases, every.redundant) == (("0.bias", "3.bias"), ("0.bias",))  # the norm's shift stays
    assert every.verdict != "redundant"
    assert "running mean lags behind" in " ".join(str(every).split())  # after two steps it does


def test_the_numbers_are_those_of_trainings_written_out() -> None:
    x, y = linear_data(1.0)
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    make = lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    found = weighbridge.ablate_bias(
        make, batches=batches, loss_fn=F.mse_loss, optimizer=sgd(0.05, momentum=0.9), epochs=7,
        held_out=[(x[:20], y[:20])], seeds=[3, 8, 11],
    )  # fmt: skip
    scores = []
    for seed in (3, 8, 11):
        for has_bias in (True, False):
            torch.manual_seed(seed)
            model = make()
            if not has_bias:
                model[0].bias = model[2].bias = None
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            for _ in range(7):
                for a, b in batches:
                    optimizer.zero_grad()
                    F.mse_loss(model(a), b).backward()
                    optimizer.step()
            scores.append(float(F.mse_loss(model(x[:20]), y[:20]).detach()))
    assert found.with_biases == pytest.approx(scores[0::2], rel=1e-5)
    assert found.without == pytest.approx(scores[1::2], rel=1e-5)
    apart = np.array(scores[1::2]) - np.array(scores[0::2])
    half = stats.t.ppf(0.975, 2) * apart.std(ddof=1) / math.sqrt(3)
    assert found.worth is not None
    assert (found.worth.mean, found.worth.low) == pytest.approx((apart.mean(), apart.mean() - half), rel=1e-2)
    assert found.parameters == (26, 20)


def test_a_seeds_two_trainings_share_weights_order_and_every_draw() -> None:
    seen: list[Any] = []

    def train_and_score(model: nn.Module) -> float:
        loader = torch.utils.data.DataLoader(range(10), shuffle=True)  # type: ignore[arg-type]
        order = [int(one) for one in loader]
        seen.append((model[0].weight.tolist(), model[0].bias is None, order, random.random(), float(np.random.rand())))  # type: ignore[index]
        return len(seen) + float(np.random.rand())

    before = drawn()
    found = weighbridge.ablate_bias(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), train_and_score, seeds=2)
    assert drawn() == before
    for one, two in (seen[:2], seen[2:]):
        assert (one[1], two[1]) == (False, True)
        assert (one[0], one[2:]) == (two[0], two[2:])
    assert all(one != other for one, other in zip(seen[0][2:], seen[2][2:], strict=True))  # torch's, Python's, NumPy's draws
    assert (found.score_name, found.is_loss) == ("score", False)


@pytest.mark.parametrize(("is_loss", "verdict"), [(False, "better without"), (True, "needed")])
def test_a_score_is_better_when_higher_and_a_loss_when_lower(is_loss: bool, verdict: str) -> None:
    def score(model: Any) -> torch.Tensor:
        return torch.rand(()) * 0.01 + (2.0 if model.bias is None else 1.0)

    found = weighbridge.ablate_bias(lambda: nn.Linear(2, 2), score, seeds=4, is_loss=is_loss)
    assert found.verdict == verdict
    assert "1.00 higher (95 % interval of the difference" in " ".join(str(found).split())


def test_seeds_that_change_nothing_are_one_training() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    found = weighbridge.ablate_bias(make, batches=linear_data(2.0), loss_fn=F.mse_loss, optimizer=sgd(), seeds=3, epochs=3)
    assert found.verdict == "cannot tell from this much data"
    assert "Every seed gave the same" in str(found)


def test_one_seed_says_that_it_cannot_tell() -> None:
    found = weighbridge.ablate_bias(
        lambda: nn.Linear(3, 1), batches=linear_data(2.0), loss_fn=F.mse_loss, optimizer=sgd(), seeds=1, epochs=3
    )
    assert found.verdict == "cannot tell from this much data"
    assert "one seed says nothing about the spread" in " ".join(str(found).split())


def test_trainings_that_do_not_end_finite_are_left_out_and_counted() -> None:
    scores = iter([1.0, 2.0, 1.1, math.nan, 1.2, 2.3])
    found = weighbridge.ablate_bias(lambda: nn.Linear(2, 2), lambda _: next(scores), seeds=3)
    assert found.worth is not None
    assert (found.worth.units, found.worth.mean) == (2, pytest.approx(-1.05))
    assert "1 seed left out" in str(found)
    nothing = weighbridge.ablate_bias(lambda: nn.Linear(2, 2), lambda _: math.nan, seeds=2)
    assert (nothing.worth, nothing.verdict) == (None, "cannot tell from this much data")
    assert "did not end finite" in str(nothing)


def test_scores_that_move_in_steps_have_at_least_the_spread_of_rounding() -> None:
    scores = iter([0.9, 0.8, 0.9 + 1e-9, 0.8, 0.9, 0.8])
    found = weighbridge.ablate_bias(lambda: nn.Linear(2, 2), lambda _: next(scores), seeds=3, resolution=0.1)
    assert found.worth is not None
    assert found.worth.high - found.worth.mean == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(6 * 3), rel=1e-3)


class Mixed(nn.Module):
    """Biases that can be None, one that cannot, and a norm's shift."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm, self.head = nn.GRU(3, 4, batch_first=True), nn.LayerNorm(4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.rnn(x[:, None])[0][:, -1]))


def test_a_bias_that_cannot_be_none_is_held_at_zero_through_training() -> None:
    ends: list[dict[str, Any]] = []

    def train_and_score(model: nn.Module) -> float:
        x, y = linear_data()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        ends.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return float(torch.rand(()))

    found = weighbridge.ablate_bias(Mixed, train_and_score, seeds=1)
    assert found.biases == ("rnn.bias_ih_l0", "rnn.bias_hh_l0", "head.bias")
    assert "head.bias" not in ends[1]
    assert bool((ends[1]["rnn.bias_ih_l0"] == 0).all())
    assert bool((ends[0]["rnn.bias_ih_l0"] != 0).all())
    assert "norm.bias" in ends[1]
    assert found.parameters[0] - found.parameters[1] == 12 + 12 + 1


@pytest.mark.parametrize(
    ("layers", "biases"),
    [("head", ("head.bias",)), (["n*", "head"], ("norm.bias", "head.bias")), ("rnn", ("rnn.bias_ih_l0", "rnn.bias_hh_l0"))],
)
def test_layers_are_chosen_by_name(layers: Any, biases: tuple[str, ...]) -> None:
    assert weighbridge.ablate_bias(Mixed, lambda _: 1.0, seeds=1, layers=layers).biases == biases


def test_a_model_and_an_optimizer_serve_as_patterns_and_are_not_touched() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.123, betas=(0.8, 0.9))
    found = weighbridge.ablate_bias(model, batches=linear_data(1.0), loss_fn=F.mse_loss, optimizer=optimizer, seeds=2, epochs=5)
    for seed, score in zip(found.seeds, found.with_biases, strict=True):
        torch.manual_seed(seed)
        other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        x, y = linear_data(1.0)
        again = torch.optim.Adam(other.parameters(), lr=0.123, betas=(0.8, 0.9))
        for _ in range(5):
            again.zero_grad()
            F.mse_loss(other(x), y).backward()
            again.step()
        assert score == pytest.approx(float(F.mse_loss(other(x), y).detach()), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state


def test_lbfgs_and_batches_that_are_changed_in_place_do_no_harm() -> None:
    x, y = linear_data(1.0)
    kept = x.clone()
    make = lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1))
    found = weighbridge.ablate_bias(make, batches=(x, y), loss_fn=F.mse_loss, optimizer=torch.optim.LBFGS, epochs=5, seeds=2)
    assert torch.equal(x, kept)
    design = np.c_[kept.clamp_min(0).numpy(), np.ones(80)]
    for columns, scores in ((4, found.with_biases), (3, found.without)):
        fit = np.linalg.lstsq(design[:, :columns], y.numpy(), rcond=None)[0]
        assert scores == pytest.approx([float(((design[:, :columns] @ fit - y.numpy()) ** 2).mean())] * 2, rel=1e-3)


class Counting(nn.Module):
    """A loss that is another one at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return F.mse_loss(output, target * self.calls)


def test_a_loss_with_a_state_begins_each_training_anew() -> None:
    loss_fn = Counting()
    make = lambda: nn.Linear(3, 1)
    settings: Any = {"batches": linear_data(), "loss_fn": loss_fn, "optimizer": sgd(), "epochs": 3}
    alone = [weighbridge.ablate_bias(make, seeds=[seed], **settings).with_biases[0] for seed in (0, 1)]
    assert float(loss_fn.calls) == 0
    assert weighbridge.ablate_bias(make, seeds=2, **settings).with_biases == tuple(alone)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.one = nn.Parameter(torch.ones(3)), nn.Linear(3, 1)


PLAIN: dict[str, Any] = {"batches": linear_data(), "loss_fn": F.mse_loss, "optimizer": sgd(), "seeds": 1}


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (lambda: nn.Linear(3, 1, bias=False), PLAIN, "no bias to leave out"),
        (lambda: nn.LayerNorm(3), PLAIN, "norms' shifts"),
        (lambda: nn.Linear(3, 1), {**PLAIN, "layers": "head"}, "No layer with a bias is called head"),
        (lambda: nn.Linear(3, 1), {**PLAIN, "batches": None}, "nothing to train on"),
        (lambda: nn.Linear(3, 1), {**PLAIN, "batches": iter([linear_data()])}, "once only"),
        (lambda: nn.Linear(3, 1), {**PLAIN, "optimizer": None}, "No optimizer"),
        (lambda: nn.Linear(3, 1), {**PLAIN, "seeds": [1, 1]}, "each once"),
        (lambda: 3, PLAIN, "returns a int"),
        (Table(), PLAIN, "table cannot be initialised anew"),
        (3, PLAIN, "expected a function that returns a new model"),
        (lambda: nn.Linear(3, 1), {"train_and_score": lambda _: None, "seeds": 1}, "returns a NoneType"),
    ],
)
def test_what_cannot_be_ablated_is_refused_in_words(make: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        weighbridge.ablate_bias(make, **settings)


def test_an_optimizer_of_several_groups_is_no_pattern() -> None:
    model = nn.Linear(3, 1)
    groups = torch.optim.SGD([{"params": [model.weight], "lr": 0.1}, {"params": [model.bias]}], lr=0.2)
    with pytest.raises(BadInput, match="2 groups"):
        weighbridge.ablate_bias(model, **{**PLAIN, "optimizer": groups})


def test_json_has_every_score() -> None:
    found: BiasAblation = weighbridge.ablate_bias(lambda: nn.Linear(3, 1), **{**PLAIN, "seeds": 2, "epochs": 2})
    told = json.loads(found.to_json())
    assert (told["with_biases"], told["verdict"]) == (list(found.with_biases), found.verdict)
    assert told["worth"]["unit"] == "seed"
