"""Real trainings, used wherever a test asks what watching does to a program that knows nothing of it.

Each is a function (steps, on_model) -> (losses, final tensors): plain torch, seeded, deterministic. `on_model` is called
with every model as soon as it exists; a test passes `run.watch` there, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F

OnModel = Callable[[nn.Module], object]
Outcome = tuple[list[float], list[torch.Tensor]]


def _weights(*models: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for m in models for p in [*m.parameters(), *m.buffers()]]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, losses: Iterable[torch.Tensor]) -> list[float]:
    seen = []
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def mlp_dropout_adam(steps: int, on_model: OnModel) -> Outcome:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    on_model(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = (F.cross_entropy(model(torch.randn(32, 20)), torch.randint(0, 5, (32,))) for _ in range(steps))
    return _train(model, optimizer, losses), _weights(model)


def cnn_batchnorm_sgd(steps: int, on_model: OnModel) -> Outcome:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    on_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = (F.cross_entropy(model(torch.randn(8, 1, 10, 10)), torch.randint(0, 10, (8,))) for _ in range(steps))
    return _train(model, optimizer, losses), _weights(model)


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 24, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def lstm(steps: int, on_model: OnModel) -> Outcome:
    torch.manual_seed(2)
    model = _Lstm()
    on_model(model)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    losses = (F.mse_loss(model(x := torch.randn(8, 12, 6)), x.sum((1, 2))[:, None]) for _ in range(steps))
    return _train(model, optimizer, losses), _weights(model)


def gpt2_accumulating_clipped(steps: int, on_model: OnModel) -> Outcome:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, use_cache=False)
    model = GPT2LMHeadModel(config)
    on_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            tokens = torch.randint(0, 64, (2, 16))
            loss = model(tokens, labels=tokens).loss / 2
            loss.backward()
            seen.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return seen, _weights(model)


def gan(steps: int, on_model: OnModel) -> Outcome:
    torch.manual_seed(4)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    on_model(generator)
    on_model(critic)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    d_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    seen = []
    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
    for _ in range(steps):
        real, fake = torch.randn(16, 2) * 0.5 + 1, generator(torch.randn(16, 4))
        d_loss = F.binary_cross_entropy_with_logits(critic(real), ones)
        d_loss = d_loss + F.binary_cross_entropy_with_logits(critic(fake.detach()), zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = F.binary_cross_entropy_with_logits(critic(fake), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        seen += [d_loss.item(), g_loss.item()]
    return seen, _weights(generator, critic)


PROGRAMS = {f.__name__: f for f in (mlp_dropout_adam, cnn_batchnorm_sgd, lstm, gpt2_accumulating_clipped, gan)}
