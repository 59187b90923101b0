"""Sets that scikit-learn bundles, and plain measurements. Programs share no model, and of loops the plain step alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from sklearn import datasets
from torch import Tensor, nn

EVERYWHERE = ("", "*")  # places of a fault that has no single one


def bundled(name: str) -> tuple[Tensor, Tensor]:
    """Features and labels or targets, as they are in the file: float32 [n, d], int64 [n] or float32 [n, t]."""
    kept = {"scaled": False} if name == "diabetes" else {}
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, **kept)
    target = torch.as_tensor(y)
    if name in ("diabetes", "linnerud"):
        return torch.as_tensor(x).float(), target.float().reshape(len(x), -1)
    return torch.as_tensor(x).float(), target.long()


def scaled(x: Tensor) -> Tensor:
    """What StandardScaler gives; constant columns become 0."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def pictures() -> tuple[Tensor, Tensor]:
    """Digits as [1797, 1, 8, 8] with mean 0 and deviation 1 over all pixels."""
    x, y = bundled("digits")
    return ((x - x.mean()) / x.std()).reshape(-1, 1, 8, 8), y


def chain(n: int, length: int, words: int) -> Tensor:
    """Each word leads to one of two others."""
    follows = torch.randint(0, words, (words, 2))
    out = torch.randint(0, words, (n, length))
    for t in range(1, length):
        out[:, t] = follows[out[:, t - 1], torch.randint(0, 2, (n,))]
    return out


def descend(opt: torch.optim.Optimizer, loss: Tensor) -> float:
    """One plain step: gradients cleared, made and used. Gives the loss."""
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def fell(losses: Sequence[float], share: float = 0.9) -> bool:
    """The last losses are below this share of the first ones."""
    return mean(losses[-15:]) < share * mean(losses[:3])


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Of all together, in double precision."""
    return sum(t.detach().double().square().sum().item() for t in tensors if t is not None) ** 0.5


def weights(model: nn.Module) -> float:
    return norm(model.parameters())


def gradients(model: nn.Module) -> float:
    return norm(p.grad for p in model.parameters())


def root(x: Tensor | None) -> float:
    """Root of the mean square; 0 of nothing."""
    return 0.0 if x is None else x.detach().double().square().mean().sqrt().item()


def copied(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def distance(model: nn.Module, before: Sequence[Tensor]) -> float:
    """Norm of what the parameters have moved since `before`."""
    return norm(p.detach() - b for p, b in zip(model.parameters(), before, strict=True))


def finite(model: nn.Module) -> bool:
    """All gradients are."""
    return all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
