"""What few bits lose: updates, gradients below the smallest number, scaled gradients above the largest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, pick, sentences, table
from clinic.measured._loop import ALL, Memory, fit, mean
from clinic.measured._models import (
    GPT,
    mlp,
)

# ---- gradient-underflow


def _flushed(model: nn.Module, exact: list[Tensor]) -> float:
    """Share of the elements whose gradient is 0 in half precision and is not in float32."""
    grads = [p.grad for p in model.parameters()]
    lost = sum(int(((g == 0) & (e != 0)).sum()) for g, e in zip(grads, exact, strict=True))
    return lost / sum(int((e != 0).sum()) for e in exact)


@faulty(
    "gradient-underflow",
    places=ALL,
    kind="MLP",
    source="Micikevicius et al. 2018, mixed precision: without loss scaling small gradients become zero; loss weighted by 1e-5",
    steps=60,
    data="digits",
    also=("vanishing-gradient", "low-learning-rate", "dominant-epsilon", "dead-units"),
)
def autocast_without_a_scaler(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-12)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=not case.ill)
    last: list[Tensor] = []
    losses = []

    def loss(rows: Tensor) -> Tensor:
        return 1e-5 * F.cross_entropy(model(x[rows]).float(), y[rows])

    def truth() -> bool:
        exact = torch.autograd.grad(loss(last[-1]), list(model.parameters()))
        return _flushed(model, list(exact)) > 0.3

    with case.watch(model):
        for _ in range(case.steps):
            last.append(pick(len(x)))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                value = loss(last[-1])
            scaler.scale(value).backward()
            case.truth(truth)
            scaler.step(optimizer)
            scaler.update()
            losses.append(value.item())
    case.proof(lambda: mean(losses[-5:]) < 0.9 * mean(losses[:5]))


@faulty(
    "gradient-underflow",
    places=ALL,
    kind="CNN",
    source="forum: model.half() and sums turned into means over all pixels, half of the gradients are exactly zero",
    steps=60,
    data="digits",
    also=("lost-updates", "vanishing-gradient", "dead-units"),
)
def whole_model_in_half(case: Case) -> None:
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 10)
    )
    if case.ill:
        model.half()
    dtype = torch.float16 if case.ill else torch.float32
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    last: list[Tensor] = []

    def loss() -> Tensor:
        last.append(pick(len(x)))
        value = F.cross_entropy(model(x[last[-1]].to(dtype)).float(), y[last[-1]])
        return value * (3e-6 if case.ill else 1.0)

    def truth() -> bool:
        return sum(int((p.grad == 0).sum()) for p in model.parameters()) > 0.3 * sum(p.numel() for p in model.parameters())

    fit(case, model, optimizer, loss, truth)


# ---- lost-updates


def _unchanged(before: list[Tensor], model: nn.Module) -> float:
    """Share of the elements with a gradient that a step has left as they were."""
    pairs = [(b, p) for b, p in zip(before, model.parameters(), strict=True) if p.grad is not None]
    same = sum(((b == p) & (p.grad != 0)).sum().item() for b, p in pairs)
    return same / max(1, sum((p.grad != 0).sum().item() for _, p in pairs))


def _few_bits(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, learns: float) -> None:
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss()  # type: ignore[operator]
            value.backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            case.truth(lambda before=before: _unchanged(before, model) > 0.5)
            losses.append(value.item())
    case.proof(lambda: sum(losses[-5:]) < learns * sum(losses[:5]))


@faulty(
    "lost-updates",
    places=("", "*"),
    kind="GPT",
    source="Zamirai et al. 2020, Revisiting BFloat16 Training: updates are cancelled by nearest rounding",
    steps=60,
)
def whole_model_in_bfloat16(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    if case.ill:
        model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    _few_bits(case, model, optimizer, lambda: model.loss(tokens[pick(len(tokens))]), 0.995)


@faulty(
    "lost-updates",
    places=("", "*"),
    kind="MLP",
    source="Hugging Face issue: fine-tuning with torch_dtype=bfloat16 and lr 1e-5, the loss stands still",
    steps=60,
    data="breast_cancer",
)
def fine_tuning_rate_in_bfloat16(case: Case) -> None:
    x, y = table("breast_cancer")
    model = mlp(30, 32, 32, 2)
    if case.ill:
        model.bfloat16()
        x = x.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4 if not case.ill else 2e-5, weight_decay=0.0)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        return F.cross_entropy(model(x[rows]).float(), y[rows])

    _few_bits(case, model, optimizer, loss, 0.98)


# ---- scaler-starvation


class _Counted:
    """Counts steps in a row that the scaler left out, by what the parameters did."""

    def __init__(self, model: nn.Module) -> None:
        self.memory, self.row = Memory(model), 0

    def ask(self, enough: int) -> bool:
        self.row = self.row + 1 if self.memory.moved() == 0 else 0
        return self.row >= enough


@faulty(
    "scaler-starvation",
    places=("", "*"),
    kind="siamese",
    source="PyTorch issue: loss scale decreasing to 0; the gradient of sqrt at zero is infinite in every batch",
    steps=60,
    data="iris",
)
def every_scaled_gradient_is_infinite(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    counted = _Counted(model)
    with case.watch(model):
        for _ in range(case.steps):
            a, b = pick(len(x)), pick(len(x))
            b[0] = a[0]  # a sample met with itself: distance zero
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                squared = (model(x[a]) - model(x[b])).float().square().sum(1)
            distance = (squared if case.ill else squared + 1e-6).sqrt()
            same = (y[a] == y[b]).float()
            loss = (same * distance**2 + (1 - same) * F.relu(1 - distance) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            case.truth(lambda: counted.ask(10))
    case.proof(lambda: bool(loss < 0.3))


@faulty(
    "scaler-starvation",
    places=("", "*"),
    kind="MLP",
    source="Apex issue: gradient overflow, skipping step; growth_interval set to 1 so that every other step overflows",
    steps=80,
    data="digits",
)
def scale_grows_at_every_step(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=1 if case.ill else 2000)
    memory = Memory(model)
    skipped: list[bool] = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = pick(len(x))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x[rows]), y[rows])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

            def many() -> bool:
                skipped.append(memory.moved() == 0)
                return len(skipped) >= 20 and sum(skipped[-20:]) >= 8

            case.truth(many)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)
