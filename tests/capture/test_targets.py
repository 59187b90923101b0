"""What a loss compares with, read from its graph. Oracle: the classes and numbers that the test itself gives to the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.capture.targets import targets_of

N, CLASSES = 6, 4
torch.manual_seed(0)
X, W, B = torch.randn(N, CLASSES), nn.Parameter(torch.randn(CLASSES, CLASSES)), nn.Parameter(torch.randn(CLASSES))
OUT = F.linear(X, W, B)
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])
HOT = F.one_hot(LABELS, CLASSES).float()
YES = (torch.randn(N, CLASSES) > 0).float()
WANTED = torch.rand(N, CLASSES)
COLUMN = nn.Parameter(torch.ones(CLASSES, 1))
ROWS, SIGNED = torch.arange(N), torch.linspace(-1.0, 1.5, N)


class Marked(torch.Tensor):
    """A subclass: nobody knows what its numbers mean."""


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("meta").requires_grad_(tensor.requires_grad)


def _picked(z: torch.Tensor) -> torch.Tensor:
    return z.log_softmax(1)[ROWS, LABELS]


def _times(factor: torch.Tensor | float, loss: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        loss = factor * loss
    return loss


TOLD: dict[str, tuple[str, torch.Tensor, Callable[[], torch.Tensor]]] = {
    "of images": (
        "NllLoss2D",
        LABELS.view(N, 1, 1),
        lambda: F.cross_entropy(OUT[:, :, None, None], LABELS.view(N, 1, 1)),
    ),
    "mse": ("MseLoss", WANTED, lambda: F.mse_loss(OUT, WANTED)),
    "bce": ("BinaryCrossEntropy", YES, lambda: F.binary_cross_entropy(OUT.sigmoid(), YES)),
    "bce of logits": ("BinaryCrossEntropyWithLogits", YES, lambda: F.binary_cross_entropy_with_logits(OUT, YES)),
    "smooth l1": ("SmoothL1Loss", WANTED, lambda: F.smooth_l1_loss(OUT, WANTED)),
    "huber": ("HuberLoss", WANTED, lambda: F.huber_loss(OUT, WANTED)),
    "behind a factor that comes first": ("MseLoss", WANTED, lambda: torch.tensor(4.0) * F.mse_loss(OUT, WANTED)),
    "l1": ("L1Loss", WANTED, lambda: F.l1_loss(OUT, WANTED)),
    "l1 by hand": ("L1Loss", WANTED, lambda: (WANTED - OUT).abs().mean()),
    "e * e": ("MseLoss", WANTED, lambda: (lambda e: (e * e).mean())(OUT - WANTED)),
    "less a constant": ("MseLoss", WANTED, lambda: 1 - (OUT - WANTED).square().mean() + 2),
    "beside weights of one sign": (
        "MseLoss",
        WANTED,
        lambda: F.mse_loss(OUT, WANTED) + (SIGNED.abs() * OUT.exp()[:, 0]).mean(),
    ),
    "with a penalty": ("MseLoss", WANTED, lambda: (OUT - WANTED).square().mean() + 0.1 * W.square().sum()),
    "divided by a tensor": ("MseLoss", WANTED, lambda: (OUT - WANTED).square().sum() / torch.tensor(3.0)),
    "log-probabilities of yes": ("BinaryCrossEntropy", YES, lambda: -(YES * F.logsigmoid(OUT)).mean()),
    "yes and no": (
        "BinaryCrossEntropy",
        YES,
        lambda: -(YES * torch.log(OUT.sigmoid()) + (1 - YES) * torch.log(1 - OUT.sigmoid())).mean(),
    ),
    "picked": ("NllLoss", LABELS, lambda: -_picked(OUT).mean()),
    "gathered": ("NllLoss", LABELS, lambda: -OUT.log_softmax(1).gather(1, LABELS[:, None]).mean()),
    "less a log of a sum": ("NllLoss", LABELS, lambda: (OUT.logsumexp(1) - OUT[ROWS, LABELS]).mean()),
    "a choice": ("NllLoss", LABELS, lambda: -(HOT * OUT.log_softmax(1)).sum(1).mean()),
    "view": ("MseLoss", WANTED.flatten(), lambda: (OUT.view(-1) - WANTED.view(-1)).square().mean()),
    "no bias, of sequences": (
        "MseLoss",
        WANTED.view(2, 3, 4),
        lambda: (X.view(2, 3, 4) @ W.T - WANTED.view(2, 3, 4)).square().mean(),
    ),
    "unsqueeze": ("MseLoss", WANTED[None], lambda: (OUT[None] - WANTED[None]).square().mean()),
    "squeeze": ("MseLoss", WANTED[:, 0], lambda: ((X @ COLUMN).squeeze(1) - WANTED[:, 0]).square().mean()),
    "alias": ("MseLoss", WANTED, lambda: (OUT[...] - WANTED).square().mean()),
    "clone": ("MseLoss", WANTED, lambda: (OUT.clone() - WANTED).square().mean()),
    "cast": ("MseLoss", WANTED.double(), lambda: (OUT.double() - WANTED.double()).square().mean()),
    "one output selected": ("MseLoss", WANTED[:, 0], lambda: ((X @ COLUMN)[:, 0] - WANTED[:, 0]).square().mean()),
    "one for several": ("MseLoss", WANTED[:, :1].expand(N, 4), lambda: (OUT - WANTED[:, :1]).square().mean()),
}
# What the prediction ends with: autograd keeps what some give, and of others it is made again.
ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda z: z.softmax(1),
    "log_softmax": lambda z: z.log_softmax(1),
    "exp": torch.exp,
    "softplus": lambda z: F.softplus(z, 2.0, 1.0),
    "clamp": lambda z: z.clamp(-0.5, 0.5),
    "hardtanh": lambda z: F.hardtanh(z, -0.3, 0.4),
    "x @ w, square": lambda z: X @ W,
    "x @ w, narrow": lambda z: X[:, :3] @ nn.Parameter(torch.ones(3, 4)),
    "x @ w.T": lambda z: X @ W.T,
    "x @ w + b in one": lambda z: torch.addmm(B, X, W),
    "transposed twice": lambda z: X @ W.T.transpose(0, 1),
}
NOT: dict[str, Callable[[], torch.Tensor]] = {
    "an error beside a policy's gradient": lambda: F.mse_loss(OUT, WANTED) - (SIGNED * _picked(OUT)).mean(),
    "one by hand, behind it": lambda: -(_picked(OUT) * SIGNED).mean() + 0.5 * (OUT - WANTED).square().mean(),
    "one beside PPO's": lambda: F.mse_loss(OUT, WANTED) - torch.min(_picked(OUT) * SIGNED, _picked(OUT).exp() * SIGNED).mean(),
    "a parameter": lambda: W.sum().detach().requires_grad_(),
    "far behind": lambda: _times(1.0, F.mse_loss(OUT, WANTED), 30),
    "far behind, by hand": lambda: _times(1.0, (OUT - WANTED).square().mean(), 30),
    "three of yes and no": lambda: -sum((YES * torch.log(OUT.sigmoid()) for _ in range(3)), torch.zeros(N, 4)).mean(),
    "an error times what is learned": lambda: (OUT - WANTED).square().mean() * torch.exp(-B.sum()),
    "an error for each sample times a weight": lambda: ((OUT - WANTED).square().mean(1) * torch.rand(N)).sum(),
    "an error over a weight for each sample": lambda: ((OUT - WANTED).square().mean(1) / torch.rand(N)).sum(),
    "a weight for each sample, first": lambda: (torch.rand(N) * (OUT - WANTED).square().mean(1)).sum(),
    "a number over an error": lambda: 3.0 / (OUT - WANTED).square().mean(),
    "probabilities": lambda: -OUT.softmax(1)[ROWS, LABELS].mean(),
    "two errors": lambda: (OUT - WANTED).square().mean() + (OUT - WANTED).abs().mean(),
    "a sum of parameters": lambda: B.sum(),
    "a weight for each sample, kept by hooks": lambda: _kept(lambda: ((OUT - WANTED).square().mean(1) * torch.rand(N)).sum()),
    "a cube": lambda: (OUT - WANTED).pow(3).mean(),
    "powers of a tensor": lambda: ((OUT - WANTED) ** torch.tensor([2.0, 2.0, 2.0, 2.0])).mean(),
    "a square of a sum": lambda: (OUT.sigmoid() + WANTED).square().mean(),
    "a difference of two outputs": lambda: (OUT.sigmoid() - OUT.tanh()).square().mean(),
    "one output of several": lambda: (OUT.sigmoid()[:, 0] - WANTED[:, 0]).square().mean(),
    "one output of several, again and again": lambda: (OUT.sigmoid()[:, 0] - WANTED.T).square().mean(),
    "a learned choice": lambda: -(nn.Parameter(HOT) * OUT.log_softmax(1)).sum(1).mean(),
    "numbers that are no logarithms": lambda: -(HOT * OUT).sum(1).mean(),
    "smoothed": lambda: -((0.9 * YES + 0.05) * torch.log(OUT.sigmoid())).mean(),
    "several classes a sample": lambda: -((HOT + HOT.roll(1, 1)) * OUT.log_softmax(1)).sum(1).mean(),
    "classes along another axis": lambda: -(HOT.view(2, 3, 4) * OUT.view(2, 3, 4).log_softmax(2)).sum(2).mean(),
    "one sample": lambda: -(HOT[0] * OUT[0].log_softmax(0)).sum(),
    "a choice in bfloat16": lambda: -(HOT.bfloat16() * OUT.bfloat16().log_softmax(1)).sum(1).mean(),
    "errors in bfloat16": lambda: (OUT.bfloat16().sigmoid() - WANTED.bfloat16()).square().mean(),
    "outputs in bfloat16": lambda: (OUT.bfloat16().sigmoid() - WANTED).square().mean(),
    "kept by hooks": lambda: _kept(lambda: (OUT.sigmoid() - WANTED).square().mean()),
    "a choice kept by hooks": lambda: _kept(lambda: -(HOT * OUT.log_softmax(1)).sum(1).mean()),
    "errors of a subclass": lambda: (OUT.sigmoid() - WANTED.as_subclass(Marked)).square().mean(),
    "a choice of a subclass": lambda: -(HOT.as_subclass(Marked) * OUT.log_softmax(1)).sum(1).mean(),
    "errors on another device": lambda: (_meta(OUT).sigmoid() - _meta(WANTED)).square().mean(),
    "a choice on another device": lambda: -(_meta(HOT) * _meta(OUT).log_softmax(1)).sum(1).mean(),
    "a number": lambda: (B.sum().sigmoid() - WANTED[0, 0]).square(),
    "errors cast to bfloat16": lambda: (OUT.sigmoid().bfloat16() - WANTED.bfloat16()).square().mean(),
    "part of the product": lambda: (torch.addmm(B, X, W, beta=0.5) - WANTED).square().mean(),
    "half the product": lambda: (torch.addmm(B, X, W, alpha=0.5) - WANTED).square().mean(),
    "a product of what is computed": lambda: (X @ W.exp() - WANTED).square().mean(),
    "a bias that is computed": lambda: (torch.addmm(B.exp(), X, W) - WANTED).square().mean(),
    "a bias without a gradient": lambda: (torch.addmm(B.detach(), X, W) - WANTED).square().mean(),
    "a product in bfloat16": lambda: ((X.bfloat16() @ W.bfloat16()).float() - WANTED).square().mean(),
    "a large product": lambda: (torch.ones(64, 512) @ nn.Parameter(torch.ones(512, 2)) - 1.5).square().mean(),
    "a product kept by hooks": lambda: (_kept(lambda: X @ W) - WANTED).square().mean(),
    "a function kept by hooks": lambda: (_kept(lambda: F.softplus(OUT)) - WANTED).square().mean(),
}  # fmt: skip


def _kept(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.autograd.graph.save_on_cpu():
        return make()


@pytest.mark.parametrize("name", TOLD)
def test_targets_are_those_that_were_given(name: str) -> None:
    loss, wanted, make = TOLD[name]
    found = targets_of(make())
    assert found.loss == loss
    _same(found.values, wanted)


def _same(found: Any, wanted: torch.Tensor) -> None:
    assert found is not None
    assert found.shape == wanted.shape
    assert torch.allclose(found.double(), wanted.double(), atol=1e-5)


@pytest.mark.parametrize("name", ENDS)
def test_a_prediction_is_what_its_last_function_gave(name: str) -> None:
    found = targets_of((ENDS[name](OUT) - WANTED).square().mean())
    assert found.loss == "MseLoss"
    _same(found.values, WANTED)
    assert found.mean_square == pytest.approx((ENDS[name](OUT) - WANTED).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", NOT)
def test_nothing_is_told_of_what_is_not_certain(name: str) -> None:
    assert not targets_of(NOT[name]()).loss


@pytest.mark.parametrize("wanted", [WANTED.as_subclass(Marked), torch.tensor(0.5)], ids=["a subclass", "one number"])
def test_torch_s_own_loss_of_targets_that_cannot_be_read(wanted: torch.Tensor) -> None:
    out = OUT if wanted.dim() else OUT[0, 0]
    assert targets_of(F.mse_loss(out, wanted)).values is None


def test_torch_s_own_loss_on_another_device_or_kept_by_hooks() -> None:
    assert targets_of(F.mse_loss(_meta(OUT), _meta(WANTED))).values is None
    assert targets_of(_kept(lambda: F.mse_loss(OUT, WANTED))).values is None
