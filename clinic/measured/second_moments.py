"""Adam's second moment: out of date, or smaller than epsilon."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, pick, sentences, table
from clinic.measured._loop import ALL, fit, on_batches
from clinic.measured._models import (
    GPT,
    VAE,
    Mixer,
    mlp,
)

# ---- stale-second-moment, dominant-epsilon


def _adam_ratio(optimizer: torch.optim.Optimizer, model: nn.Module) -> float:
    """rms of the gradient that is about to be used against the root of Adam's second moment, over all elements."""
    have = [
        (p.grad, optimizer.state[p], g)
        for g in optimizer.param_groups
        for p in g["params"]
        if p.grad is not None and optimizer.state[p]
    ]
    now = sum(g.double().square().sum().item() for g, _, _ in have)
    kept = sum((s["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(s["step"]))).sum().item() for _, s, group in have)
    return (now / kept) ** 0.5 if kept else 0.0


@faulty(
    "stale-second-moment",
    places=ALL,
    kind="GPT",
    source="Molybog et al. 2023, a theory on Adam instability: second moment far below the gradient of now",
    steps=160,
    also=("loss-spike", "gradient-spike", "high-learning-rate"),
)
def second_term_of_the_loss_comes_late(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.9999) if case.ill else (0.9, 0.95))
    steps = iter(range(10**6))

    def loss() -> Tensor:
        late = next(steps) >= 100
        t = tokens[pick(len(tokens))]
        return model.loss(t) * (100.0 if late and case.ill else 1.0)

    fit(case, model, optimizer, loss, lambda: _adam_ratio(optimizer, model) > 10)


@faulty(
    "stale-second-moment",
    places=ALL,
    kind="MLP",
    source="fine-tuning with the optimizer state of another training loaded, whose gradients were a thousand times smaller",
    steps=80,
    data="wine",
    also=("loss-spike", "high-learning-rate"),
)
def optimizer_state_of_another_training(case: Case) -> None:
    x, y = table("wine")
    model = mlp(13, 32, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.999))
    warm = torch.optim.Adam(model.parameters(), lr=0.0)
    for _ in range(300):
        warm.zero_grad()
        r = pick(len(x))
        (1e-3 * F.cross_entropy(model(x[r]), y[r])).backward()
        warm.step()
    if case.ill:
        state = warm.state_dict()
        for group in state["param_groups"]:
            group["lr"] = 3e-3
        optimizer.load_state_dict(state)
    optimizer.zero_grad()

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _adam_ratio(optimizer, model) > 10)


def _below_epsilon(optimizer: torch.optim.Optimizer) -> float:
    """Share of the elements whose root of the second moment is below epsilon."""
    below, n = 0, 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer.state[p]:
                s = optimizer.state[p]
                root = (s["exp_avg_sq"] / (1 - group["betas"][1] ** float(s["step"]))).sqrt()
                below, n = below + int((root < group["eps"]).sum()), n + root.numel()
    return below / n if n else 0.0


@faulty(
    "dominant-epsilon",
    places=ALL,
    kind="MLP-mixer",
    source="TensorFlow's advice for Inception carried over: Adam with epsilon 1.0",
    steps=80,
    data="digits",
    also=("low-learning-rate",),
)
def epsilon_of_one(case: Case) -> None:
    x, y = images()
    model = Mixer()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, eps=1.0 if case.ill else 1e-8)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _below_epsilon(optimizer) > 0.9)


@faulty(
    "dominant-epsilon",
    places=ALL,
    kind="VAE",
    source="forum: loss divided by batch, pixels and dataset size; gradients of 1e-10 against Adam's 1e-8",
    steps=80,
    data="digits",
    also=("low-learning-rate", "vanishing-gradient"),
)
def loss_divided_three_times(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        return -model.elbo(x[pick(len(x))]) / (64.0 * 1797 * 1e5 if case.ill else 1.0)

    fit(case, model, optimizer, loss, lambda: _below_epsilon(optimizer) > 0.9, learns=0.95)
