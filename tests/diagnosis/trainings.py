"""Small seeded trainings of many kinds, all healthy, on data that scikit-learn brings, watched with the default plan.

Each gives (model, optimizer, batches -> loss); `train` runs them. A test makes one ill by changing one thing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from torch import nn
from torch.nn import functional as F

import weighbridge

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Training:
    """What a loop needs."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[Batch], torch.Tensor]
    batches: Iterator[Batch]
    accumulate: int = 1
    schedule: Any = None
    also: Callable[[int], None] = lambda step: None


def data(kind: str) -> Batch:
    """Standardised features, and labels or targets."""
    load = {"digits": load_digits, "iris": load_iris, "wine": load_wine, "diabetes": load_diabetes}[kind]
    x, y = load(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = torch.tensor(y)
    return x, ((y - y.mean()) / y.std()).float()[:, None] if kind == "diabetes" else y.long()


def batches(x: torch.Tensor, y: torch.Tensor, size: int = 32) -> Iterator[Batch]:
    """For ever, in an order of the generator's."""
    while True:
        for part in torch.randperm(len(x)).split(size):
            yield x[part], y[part]


def train(training: Training, where: Path, steps: int = 60, name: str = "run", plan: Any = None) -> Path:
    """The loop; gives the run's folder."""
    weighbridge.init(dir=where, name=name, plan=plan)
    with weighbridge.watch(training.model) as run:
        for step in range(steps):
            training.also(step)
            for _ in range(training.accumulate):
                (training.loss(next(training.batches)) / training.accumulate).backward()
            for optimizer in training.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if training.schedule is not None:
                training.schedule.step()
    return Path(run.path)


def mlp(size: int = 64, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes))


def _classify(model: nn.Module, kind: str = "digits", optimizer: Any = None, **more: Any) -> Training:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
    return Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), b[1]), batches(*data(kind)), **more)


def sgd_mlp() -> Training:
    model = mlp()
    return _classify(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def adam_iris() -> Training:
    return _classify(mlp(4, 3), "iris")


def wine_dropout() -> Training:
    return _classify(nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3)), "wine")


def regression() -> Training:
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    return Training(model, [optimizer], lambda b: F.mse_loss(model(b[0]), b[1]), batches(*data("diabetes")))


def cnn() -> Training:
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    ]
    return _classify(nn.Sequential(*layers))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


def lstm() -> Training:
    model = Recurrent()
    clipped = torch.optim.Adam(model.parameters(), lr=2e-3)
    training = _classify(model, optimizer=clipped)
    plain = training.loss
    clipped.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.5) and None)
    training.loss = plain
    return training


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Parameter(torch.zeros(8, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(x.view(-1, 8, 8)) + self.place
        mask = torch.full((8, 8), -torch.inf).triu(1)
        return self.head(self.encoder(hidden, mask=mask).mean(1))


def transformer() -> Training:
    model = Attention()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 20))  # from 0
    return _classify(model, optimizer=optimizer, schedule=warm_up)


def autoencoder() -> Training:
    model = nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 4), nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Training(model, [optimizer], lambda b: F.mse_loss(model(b[0]), b[0]), batches(*data("digits")))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
        self.judge = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


def gan() -> Training:
    model = Pair()
    first = torch.optim.Adam(model.judge.parameters(), lr=2e-4, betas=(0.5, 0.999))
    second = torch.optim.Adam(model.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def loss(batch: Batch) -> torch.Tensor:
        fake = model.generator(torch.randn(len(batch[0]), 8))
        real = F.softplus(-model.judge(batch[0])).mean() + F.softplus(model.judge(fake.detach())).mean()
        first.zero_grad()
        real.backward()
        first.step()
        return F.softplus(-model.judge(fake)).mean()

    return Training(model, [second], loss, batches(*data("digits")))


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def lora() -> Training:
    model = nn.Sequential(LowRank(nn.Linear(64, 32)), nn.ReLU(), LowRank(nn.Linear(32, 10)))
    return _classify(model, optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2))


def frozen_backbone() -> Training:
    model = mlp()
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    return _classify(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(17 * 64, 8, mode="sum", sparse=True), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed((x.clamp(-2, 2) * 4 + 8).long() + 17 * torch.arange(64)))


def sparse_embedding() -> Training:
    model = Words()
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(model.embed.parameters(), lr=1e-2)]
    training = _classify(model, optimizer=torch.optim.Adam(model.head.parameters(), lr=1e-2))
    training.optimizers += optimizers
    return training


def accumulation() -> Training:
    return _classify(mlp(), accumulate=4)


def autocast() -> Training:
    training = _classify(model := mlp())

    def loss(batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(batch[0]), batch[1])

    training.loss = loss
    return training


def validated() -> Training:
    """Evaluated every ten steps, and put back into training mode."""
    training = wine_dropout()

    def evaluate(step: int) -> None:
        if step % 10 == 9:
            training.model.eval()
            with torch.no_grad():
                training.model(data("wine")[0])
            training.model.train()

    training.also = evaluate
    return training


def cosine_to_zero() -> Training:
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return _classify(model, optimizer=optimizer, schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 55))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(nn.Linear(64, 10) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = F.softmax(self.gate(x), -1).max(-1)
        out = torch.zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            if (chosen == i).any():
                out[chosen == i] = expert(x[chosen == i])
        return out * weight[:, None]


def experts() -> Training:
    return _classify(Experts())


HEALTHY: dict[str, Callable[[], Training]] = {
    made.__name__: made
    for made in (
        *(sgd_mlp, adam_iris, wine_dropout, regression, cnn, lstm, transformer, autoencoder, gan, lora, frozen_backbone),
        *(sparse_embedding, accumulation, autocast, validated, cosine_to_zero, experts),
    )
}


def seeded(make: Callable[[], Training], seed: int = 0) -> Training:
    torch.manual_seed(seed)
    return make()


def first(of: Iterator[Batch], number: int) -> list[Batch]:
    return list(itertools.islice(of, number))
