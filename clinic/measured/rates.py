"""The step's length and direction: learning rates too low and too high, a loss with the wrong sign."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import friedman, images, pick, sentences, table
from clinic.measured._loop import ALL, Memory, fit, gradient, on_batches, weight
from clinic.measured._models import (
    GPT,
    VAE,
    ConvNet,
    LoRA,
    ResNet,
    UNet,
    ViT,
    gpt2,
    mlp,
)

# ---- low-learning-rate


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="GPT-2 (transformers)",
    source="forum: fine-tuning rate 1e-8 from a typo, the loss is flat",
    steps=60,
)
def rate_with_two_zeros_too_many(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8 if case.ill else 2e-3, weight_decay=0.0)
    memory = Memory(model)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return model(input_ids=tokens[rows], labels=tokens[rows]).loss

    seen: list[float] = []

    def truth() -> bool:
        seen.append(memory.moved())
        return 0 < seen[-1] < 1e-5 * weight(model)

    fit(case, model, optimizer, loss, truth)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="CNN",
    source="PyTorch forum: scheduler.step() called per batch instead of per epoch, StepLR has decayed to nothing",
    steps=100,
    data="digits",
)
def scheduler_stepped_per_batch(case: Case) -> None:
    x, y = images()
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4 if case.ill else 80, gamma=0.1)
    memory = Memory(model)
    seen: list[float] = []

    def truth() -> bool:
        seen.append(memory.moved())
        return len(seen) > 1 and seen[-1] < 1e-6 * weight(model)

    fit(case, model, optimizer, on_batches(model, x, y), truth, schedule=schedule)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="MLP",
    source="scikit-learn user's first torch net: SGD with Adam's rate over ten, on standardised targets",
    steps=150,
    data="diabetes",
)
def sgd_with_a_rate_of_a_millionth(case: Case) -> None:
    x, y = table("diabetes")
    model = mlp(10, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6 if case.ill else 0.05)

    loss = on_batches(model, x, y, F.mse_loss)

    def truth() -> bool:
        """To first order this many steps would be needed for a hundredth of the loss: more than a million."""
        rate = optimizer.param_groups[0]["lr"]
        return 0.01 * F.mse_loss(model(x), y).item() / (rate * gradient(model) ** 2) > 1e3

    fit(case, model, optimizer, loss, truth)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="MLP",
    source="per-layer rates of a fine-tuning recipe: 0.95**layer mistaken for 1e-9**layer in effect",
    steps=80,
)
def rate_decayed_by_layer(case: Case) -> None:
    x, y = friedman()
    model = mlp(10, 32, 1)
    optimizer = torch.optim.Adam([{"params": p, "lr": 1e-9 if case.ill else 1e-2} for p in model.parameters()])

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: case.ill and gradient(model) > 1e-2)


# ---- high-learning-rate


def _worse_after(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, all_loss: object, rows: int, factor: float
) -> None:
    """Truth: the loss over all data is `factor` times what it was before training, or no number."""
    start = all_loss().item()  # type: ignore[operator]
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss(pick(rows))  # type: ignore[operator]
            value.backward()
            optimizer.step()
            case.truth(lambda: not all_loss().item() < factor * start)  # type: ignore[operator]
            losses.append(value.item())
    case.proof(lambda: all_loss().item() < 0.8 * start)  # type: ignore[operator]


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="CNN",
    source="CS231n, babysitting the learning process: cost goes to infinity with rate 1e1",
    steps=40,
    data="digits",
)
def rate_of_ten(case: Case) -> None:
    x, y = images()
    model = ConvNet(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0 if case.ill else 0.05, momentum=0.0 if case.ill else 0.9)
    _worse_after(
        case, model, optimizer, lambda r: F.cross_entropy(model(x[r]), y[r]), lambda: F.cross_entropy(model(x), y), len(x), 2.0
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="ViT",
    source="timm discussion: Adam with SGD's learning rate of 0.5",
    steps=100,
    data="digits",
)
def adam_with_the_rate_of_sgd(case: Case) -> None:
    x, y = images()
    model = ViT()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5 if case.ill else 5e-3)
    _worse_after(
        case,
        model,
        optimizer,
        lambda r: F.cross_entropy(model(x[r]), y[r]),
        lambda: F.cross_entropy(model(x[:300]), y[:300]),
        len(x),
        2.0,
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="LoRA",
    source="peft discussion: adapters trained with 0.3, the frozen model is forgotten within steps",
    steps=40,
    data="digits",
)
def adapters_trained_too_fast(case: Case) -> None:
    x, y = table("digits")
    base = mlp(64, 48, 48, 10)
    warm = torch.optim.Adam(base.parameters(), lr=1e-2)
    for _ in range(40):
        warm.zero_grad()
        r = pick(len(x))
        F.cross_entropy(base(x[r]), y[r] % 5).backward()
        warm.step()
    for p in base.parameters():
        p.requires_grad_(False).grad = None
    model = nn.Sequential(base[0], nn.ReLU(), LoRA(base[2], 4), nn.ReLU(), LoRA(base[4], 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1.0 if case.ill else 1e-2)
    _worse_after(
        case, model, optimizer, lambda r: F.cross_entropy(model(x[r]), y[r]), lambda: F.cross_entropy(model(x), y), len(x), 2.0
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="linear regression",
    source="Ng's course, week 1: gradient descent overshoots, the cost rises at every step",
    steps=40,
    data="diabetes",
    also=("exploding-weights",),
)
def descent_beyond_two_over_curvature(case: Case) -> None:
    x, y = table("diabetes")
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.35 if case.ill else 0.05)
    start = F.mse_loss(model(x), y).item()
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            case.truth(lambda: F.mse_loss(model(x), y).item() > 1.5 * start)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.8 * start)


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="U-Net",
    source="segmentation course forum: learning rate finder read at the wrong end, momentum on top",
    steps=40,
    data="digits",
)
def denoiser_beyond_the_finder(case: Case) -> None:
    x, _ = images()
    model = UNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0 if case.ill else 0.05, momentum=0.9)
    clean = x[:400]

    def loss(r: Tensor) -> Tensor:
        r = r % 400
        return F.mse_loss(model(clean[r] + 0.5 * torch.randn(len(r), 1, 8, 8)), clean[r])

    _worse_after(case, model, optimizer, loss, lambda: F.mse_loss(model(clean), clean), 400, 2.0)


# ---- wrong-loss-sign


def _climbs(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, honest: object) -> None:
    """Truth: the real loss over all data is above its start by a tenth, while what is minimised has fallen."""
    start = honest().item()  # type: ignore[operator]
    values = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss()  # type: ignore[operator]
            value.backward()
            optimizer.step()
            values.append(value.item())
            case.truth(lambda: honest().item() > 1.1 * start and values[-1] < values[0])  # type: ignore[operator]
    case.proof(lambda: honest().item() < start)  # type: ignore[operator]


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="ResNet",
    source="Stack Overflow: negative log likelihood negated once more, the loss goes to minus infinity",
    steps=60,
    data="digits",
    also=("exploding-weights", "high-learning-rate"),
)
def negated_once_more(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sign = -1 if case.ill else 1

    def loss() -> Tensor:
        rows = pick(len(x))
        return sign * F.cross_entropy(model(x[rows]), y[rows])

    _climbs(case, model, optimizer, loss, lambda: F.cross_entropy(model(x[:300]), y[:300]))


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="VAE",
    source="forum: my ELBO goes down, the lower bound itself is minimised",
    steps=80,
    data="digits",
    also=("exploding-weights", "high-learning-rate", "growing-loss", "exploding-activation"),
)
def bound_minimised(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sign = 1 if case.ill else -1
    _climbs(case, model, optimizer, lambda: sign * model.elbo(x[pick(len(x))]), lambda: -model.elbo(x))


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="Transformer decoder",
    source="Adam(maximize=True) kept from a reinforcement-learning script in supervised training",
    steps=60,
    also=("growing-loss", "exploding-weights", "high-learning-rate"),
)
def maximize_left_on(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, maximize=case.ill)
    start = model.loss(tokens).item()
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            model.loss(tokens[pick(len(tokens))]).backward()
            optimizer.step()
            case.truth(lambda: model.loss(tokens).item() > 1.1 * start)
    case.proof(lambda: model.loss(tokens).item() < 0.9 * start)
