"""Whether inputs and targets go together. Oracles: permutations, scipy's distances, data made dependent or not by the test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture import pairing
from weighbridge.capture.pairing import Pairing
from weighbridge.capture.targets import targets_of


def _rows(
    tmp_path: Path, x: torch.Tensor, y: torch.Tensor, loss: Any = F.cross_entropy, steps: int = 30, model: Any = None
) -> list[dict[str, Any]]:
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4 if loss is F.cross_entropy else 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(steps):
            rows = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return weighbridge.open_run(run.path).whole("pairing").to_pylist()


def _score(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / math.sqrt(sum(row[f"{name}_variance"] for row in rows))


def test_labels_that_go_with_their_inputs_show_and_shuffled_ones_do_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (2000,))
    x = torch.randn(2000, 6) + 1.5 * F.one_hot(y, 6)
    together = _rows(tmp_path / "a", x, y)
    apart = _rows(tmp_path / "b", x, y[torch.randperm(2000)])
    assert len(together) >= 20
    assert _score(together, "distance") > 10
    assert _score(together, "neighbour") > 10
    assert abs(_score(apart, "distance")) < 3.5
    assert abs(_score(apart, "neighbour")) < 3.5


def test_the_sum_is_that_of_u_centred_distances_and_its_variance_that_of_permutations() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), random.normal(size=(40, 2))
    found, variance = pairing._of_distances((x,), y)

    def centred(values: np.ndarray) -> np.ndarray:
        d = squareform(pdist((values - values.mean(0)) / values.std(0)))
        n = len(d)
        u = d - d.sum(1, keepdims=True) / (n - 2) - d.sum(0) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
        return np.where(np.eye(n, dtype=bool), 0.0, u)

    a, b = centred(x), centred(y)
    assert found == pytest.approx((a * b).sum(), rel=1e-9)
    drawn = [(a * b[np.ix_(p, p)]).sum() for p in (random.permutation(40) for _ in range(4_000))]
    assert np.mean(drawn) == pytest.approx(0.0, abs=4 * math.sqrt(variance / 4_000))
    assert np.var(drawn) == pytest.approx(variance, rel=0.2)


def test_a_task_that_no_distance_shows_is_seen_by_neighbours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(2000, 1) * 2 - 1
    rows = _rows(tmp_path, x, torch.sin(25 * x), F.mse_loss)
    assert _score(rows, "neighbour") > 8
    assert rows[0]["loss"] == "MseLoss"


def test_samples_that_are_drawn_twice_do_not_agree_with_themselves(tmp_path: Path) -> None:
    """Forty samples, so that each batch and each memory has many of them again; labels at random, but fixed."""
    torch.manual_seed(1)
    rows = _rows(tmp_path, torch.randn(40, 5), torch.randint(0, 4, (40,)))
    assert rows[0]["samples"] < rows[0]["batch"] == 32
    assert abs(_score(rows, "distance")) < 4
    assert _score(rows, "neighbour") < 5  # the same pairs again and again, but never a sample with itself: that would be 25


def test_equal_batches_have_equal_checksums_and_others_do_not() -> None:
    x = torch.randn(8, 3)
    sums = []
    for batch in (x, x.clone(), x.flip(0), x + 1e-6):
        seen = Pairing()
        seen.meet_batch((batch,))
        sums.append(seen.inputs[0].checksum)
    assert sums[0] == sums[1]
    assert len({*sums}) == 3


def test_targets_are_found_behind_scales_and_divisions_and_nowhere_else() -> None:
    out, y = torch.randn(6, 3, requires_grad=True), torch.randint(0, 3, (6,))
    loss = F.cross_entropy(out, y)
    for root in (loss, loss / 4, 65536.0 * (loss / 4)):
        found = targets_of(root)
        assert found.loss == "NllLoss"
        assert torch.equal(found.values, y)  # type: ignore[arg-type]
    assert targets_of(out.square().mean()).values is None
    with torch.autograd.graph.save_on_cpu():
        kept = F.mse_loss(out, torch.randn(6, 3))
    assert targets_of(kept).values is None


def test_targets_of_losses_by_hand() -> None:
    x, w, b = torch.randn(6, 4), nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
    y, rows = torch.randint(0, 3, (6,)), torch.arange(6)
    out = F.linear(x, w, b)
    hot = F.one_hot(y, 3).float()
    for root in (
        -out.log_softmax(1)[rows, y].mean(),
        -out.log_softmax(1).gather(1, y[:, None]).sum() / 6,
        (torch.logsumexp(out, 1) - out[range(6), y]).mean(),
        -(out.log_softmax(1) * hot).sum(1).mean(),
    ):
        found = targets_of(root)
        assert found.loss == "NllLoss"
        assert torch.equal(found.values, y)  # type: ignore[arg-type]
    p, yes = torch.sigmoid(out), (torch.randn(6, 3) > 0).float()
    found = targets_of(-(yes * torch.log(p + 1e-7) + (1 - yes) * torch.log(1 - p + 1e-7)).mean())
    assert found.loss == "BinaryCrossEntropy"
    assert torch.equal(found.values, yes)  # type: ignore[arg-type]
    wanted = torch.randn(6, 3)
    for root in (((out - wanted) ** 2).mean(), 0.5 * (wanted - out).pow(2).sum(1).mean()):
        found = targets_of(root)
        assert found.loss == "MseLoss"
        assert torch.allclose(found.values.float(), wanted, atol=1e-5)  # type: ignore[union-attr]
        assert found.mean_square == pytest.approx(((out - wanted) ** 2).mean().item(), rel=1e-5)


def test_targets_that_are_probabilities_are_no_classes_and_one_hot_ones_are() -> None:
    """Mixup, soft labels: torch's own graph of this loss divides by a plain number, which is no input."""
    out, y = torch.randn(6, 3, requires_grad=True), torch.randint(0, 3, (6,))
    assert targets_of(F.cross_entropy(out, torch.rand(6, 3).softmax(1))).values is None
    assert targets_of(F.cross_entropy(out, torch.rand(6, 3), label_smoothing=0.1, weight=torch.rand(3))).values is None
    found = targets_of(F.cross_entropy(out, F.one_hot(y, 3).float()))
    assert found.loss == "NllLoss"
    assert torch.equal(found.values, y)  # type: ignore[arg-type]


def test_any_loss_of_torch_is_looked_through() -> None:
    out, other = torch.rand(6, 3, requires_grad=True), torch.rand(6, 3)
    for loss in (
        *(F.kl_div(out.log(), other, reduction=how, log_target=log) for how in ("batchmean", "sum") for log in (True, False)),
        *(F.gaussian_nll_loss(out, other, torch.ones(6, 3)), F.poisson_nll_loss(out, other), F.huber_loss(out, other)),
        *(
            F.soft_margin_loss(out, other.sign()),
            F.cosine_embedding_loss(out, other, torch.ones(6)),
            F.pairwise_distance(out, other),
        ),
        *(F.multilabel_soft_margin_loss(out, other), F.triplet_margin_loss(out, other, other.flip(0)), torch.mul(out, 2.0)),
        *(F.margin_ranking_loss(out, other, other.sign()), F.hinge_embedding_loss(out, other.sign()), out.div(3).sum().mul(2)),
        *(torch.linalg.vector_norm(out - other), torch.rsub(out, 1).mean(), out @ other.T / 2, torch.stack([out, out]).mean()),
    ):
        for root in (loss.mean(), loss.mean() / 4, -loss.sum() * 2 + 1):
            targets_of(root)


def test_what_is_weighted_or_a_sum_of_several_errors_has_no_targets() -> None:
    x, w = torch.randn(6, 4), nn.Parameter(torch.randn(3, 4))
    y, rows, out = torch.randint(0, 3, (6,)), torch.arange(6), F.linear(x, w)
    picked = out.log_softmax(1)[rows, y]
    assert not targets_of(-(picked * torch.randn(6)).mean()).loss  # a policy's gradient
    assert not targets_of(-picked.mean() + (out - torch.randn(6, 3)).pow(2).mean()).loss
    assert not targets_of((out[:3] - out[3:]).pow(2).mean()).loss
    assert not targets_of(-(out.log_softmax(1) * torch.full((6, 3), 0.5)).mean()).loss
    assert not targets_of(out[rows, y].exp().mean()).loss


@pytest.mark.parametrize("what", ["tokens", "sequence targets", "one sample", "targets of another number"])
def test_what_is_compared_and_what_is_left_out(what: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 9, (64, 5))
    y = (x[:, 0] > 3).long() if what != "sequence targets" else x.flip(1)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(40, 2 if what != "sequence targets" else 45))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    size = 1 if what == "one sample" else 16
    with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name="run")) as run:
        for _ in range(5):
            rows = torch.randint(0, 64, (size,))
            out, wanted = model(x[rows]), y[rows]
            if what == "sequence targets":
                out, wanted = out.view(-1, 9), wanted.reshape(-1)
            if what == "targets of another number":
                out, wanted = out[1:], wanted[1:]
            F.cross_entropy(out, wanted).backward()
            optimizer.step()
    found = weighbridge.open_run(run.path).whole("pairing").to_pylist()
    assert bool(found) is (what in ("tokens", "sequence targets"))
    if found:
        assert sum(found[0]["second"]) == wanted.numel()


def test_rows_that_are_the_same_count_once_whatever_the_sign_of_their_zeros() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2, size=(40, 3)) * random.choice([-0.0, 1.0], size=(40, 3))
    assert pairing._first_of_each((values,)) == sorted(np.unique(values, axis=0, return_index=True)[1])
    assert (np.signbit(values) & (values == 0)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_inputs_of_every_dtype_are_seen_with_their_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (8 * torch.randn(6, 3)).to(dtype)
    seen = Pairing()
    seen.meet_batch((x,))
    (given,) = seen.inputs
    assert given.features.tolist() == x.tolist()
    assert given.checksum == pytest.approx(sum(v * math.cos(i) for i, v in enumerate(x.flatten().tolist())))
