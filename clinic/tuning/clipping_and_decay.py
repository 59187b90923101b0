"""Steps that are made small or that take away: clipping, weight decay."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import diabetes, digits
from clinic.tuning._loop import accuracy, cross_entropy, train


def _norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors))


# ---- overtight-clipping ----


@faulty(
    "overtight-clipping",
    places=("",),
    kind="MLP",
    source="PyTorch forum, 'proper way to do gradient clipping': max_norm copied as 0.001",
    data="digits",
)
def clipped_to_a_thousandth(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    parameters = list(model.parameters())
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            whole = _norm([p.grad for p in parameters])
            nn.utils.clip_grad_norm_(parameters, 1e-3 if case.ill else 5.0)
            case.truth(lambda before=whole: _norm([p.grad for p in parameters]) < before / 100)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.5)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0].mean(1))


@faulty(
    "overtight-clipping",
    places=("",),
    kind="LSTM",
    source="own clipping loop after Pascanu et al. 2013, the limit in the wrong unit (per element instead of the norm)",
    data="digits",
    steps=80,
)
def own_clipping_loop(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    limit = 1e-4 if case.ill else 2.0
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (48,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            total = _norm([p.grad for p in model.parameters()])
            if total > limit:
                for p in model.parameters():
                    p.grad.mul_(limit / total)
            case.truth(lambda before=total: _norm([p.grad for p in model.parameters()]) < before / 100)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@faulty(
    "overtight-clipping",
    places=("",),
    kind="regression",
    source="clip_grad_value_(parameters, 1e-5) left from a run with another loss scale",
    data="diabetes",
    steps=60,
)
def clipped_by_value(case: Case) -> None:
    x, y = diabetes()
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parameters = list(model.parameters())
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.mse_loss(model(x[rows]), y[rows]).backward()
            whole = _norm([p.grad for p in parameters])
            nn.utils.clip_grad_value_(parameters, 1e-5 if case.ill else 1.0)
            case.truth(lambda before=whole: _norm([p.grad for p in parameters]) < before / 100)
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.8 * y.var().item())


@healthy(kind="LSTM", source="always clipped: LSTM with clip_grad_norm_ of 0.05 and a large learning rate", data="digits")
def always_clipped_with_a_large_rate(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
    train(case, model, optimizer, (x, y), size=48, clip=lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.05))
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@healthy(kind="MLP", source="PPO-like: Adam behind max_norm 1e-2, which Adam's division undoes", data="digits")
def adam_behind_tight_clipping(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(case, model, optimizer, (x, y), clip=lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-2))
    case.proof(lambda: accuracy(model, x, y) > 0.8)


# ---- excessive-weight-decay ----


@faulty(
    "excessive-weight-decay",
    places=("",),
    kind="MLP",
    source="Stack Overflow, 'my network outputs the same for all inputs': weight_decay=1 with SGD",
    data="digits",
)
def decay_of_one_with_sgd(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0 if case.ill else 1e-4)
    start = _norm(list(model.parameters()))
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: _norm(list(model.parameters())) < 0.5 * start)
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@faulty(
    "excessive-weight-decay",
    places=("", "encoder*", "head*"),
    kind="CNN",
    source="Loshchilov and Hutter 2019: L2 inside Adam with the value that was meant for SGD times 1000",
    data="digits",
    steps=100,
)
def adam_with_l2(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten()))
    model.add_module("head", nn.Linear(24 * 16, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=3.0 if case.ill else 0.0)
    start = _norm(list(model.parameters()))
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: _norm(list(model.parameters())) < 0.5 * start, size=64)
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "excessive-weight-decay",
    places=("",),
    kind="transformer",
    source="AdamW with weight_decay=20 (0.2 typed without the point), after warm-up of the model",
    data="digits",
    steps=120,
)
def adamw_decay_raised_in_mid_run(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = x.view(-1, 8, 8)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.head = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.embed(x)).flatten(1).unflatten(1, (8, 32)).amax(1))

    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    start = [0.0]
    with case.watch(model):
        for step in range(case.steps):
            if step == 60:
                start[0] = _norm(list(model.parameters()))
                if case.ill:
                    optimizer.param_groups[0]["weight_decay"] = 20.0
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda: 0 < _norm(list(model.parameters())) < 0.5 * start[0])
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@healthy(kind="MLP", source="grokking set-up: AdamW with weight_decay=1 (Power et al. 2022)")
def decay_of_one_with_adamw(case: Case) -> None:
    p = 11
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    y = pairs.sum(1) % p
    model = nn.Sequential(nn.Embedding(p, 32), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, p))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0)
    train(case, model, optimizer, (pairs, y), size=None)
    case.proof(lambda: F.cross_entropy(model(pairs), y).item() < 0.5 * math.log(p))


@healthy(kind="MLP", source="a model that has fitted its few samples and then only decays", data="digits")
def interpolating_with_decay(case: Case) -> None:
    x, y = digits(middle=0.3)
    x, y = x[:64], y[:64]
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    train(case, model, optimizer, (x, y), size=None)
    case.proof(lambda: accuracy(model, x, y) > 0.95)
