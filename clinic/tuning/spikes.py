"""What comes at one step: a bad batch, one tensor's gradient, a second moment that is out of date; and what only looks so."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import diabetes, digits
from clinic.tuning._loop import accuracy, squares, train


@faulty(
    "loss-spike",
    places=("", "input"),
    kind="MLP",
    source="PaLM, section 5.1: a bad batch late in training (here: features in another unit)",
    data="digits",
    steps=60,
    also=("gradient-spike",),
)
def batch_in_another_unit(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            batch = x[rows] * (64.0 if case.ill and step == 41 else 1.0)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch), y[rows])
            loss.backward()
            case.truth(lambda now=step, value=loss: now == 41 and value.item() > 2.5)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.7)


@faulty(
    "loss-spike",
    places=("", "input"),
    kind="regression",
    source="sensor data with one row of 1e4 in the targets, a forum question on sudden jumps of MSE",
    data="diabetes",
    steps=50,
    also=("gradient-spike",),
)
def an_outlier_among_the_targets(case: Case) -> None:
    x, y = diabetes()
    model = nn.Sequential(nn.Linear(10, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, len(x), (48,))
            targets = y[rows].clone()
            if case.ill and step == 33:
                targets[5] = 60.0
            optimizer.zero_grad()
            loss = F.mse_loss(model(x[rows]), targets)
            loss.backward()
            case.truth(lambda now=step, value=loss: now == 33 and value.item() > 10)
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.8)


@faulty(
    "gradient-spike",
    places=("2", "2.*"),
    kind="MLP",
    source="a custom autograd function that is wrong for one batch: the gradient of one layer is 300 times too large",
    data="digits",
    steps=60,
    also=("loss-spike",),
)
def one_layer_s_gradient_jumps(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            usual = float(model[2].weight.grad.norm())
            if case.ill and step == 30:
                model[2].weight.grad.mul_(300.0)
            case.truth(lambda before=usual: float(model[2].weight.grad.norm()) > 100 * before)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "gradient-spike",
    places=("head.weight", "head*"),
    kind="CNN",
    source="division by a batch statistic that is nearly 0 in one batch (Takase et al. 2023 name such spikes)",
    data="digits",
    steps=70,
    also=("loss-spike", "stale-second-moment"),
)
def division_by_nearly_nothing(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential()
    model.add_module("trunk", nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten()))
    model.add_module("head", nn.Linear(12 * 36, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            spread = 1e-3 if case.ill and step == 50 else 1.0
            hidden = model.trunk(x[rows])
            loss = F.cross_entropy(model.head(hidden) / spread, y[rows])
            loss.backward()
            case.truth(lambda size=spread: size < 0.1)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "stale-second-moment",
    places=("", "*"),
    kind="MLP",
    source="Wortsman et al. 2023: beta2 of 0.999 and data whose gradients become larger",
    steps=200,
    also=("loss-spike", "gradient-spike", "exploding-gradient", "growing-loss", "high-learning-rate"),
)
def data_that_grow_under_a_slow_beta(case: Case) -> None:
    x = torch.randn(4096, 16)
    y = torch.sin(x[:, :1]) + 0.3 * x[:, 1:2]
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.9999 if case.ill else 0.95))
    memory = [torch.zeros_like(p) for p in model.parameters()]
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, 4096, (64,))
            scale = 1.0 + max(0, step - 120) * (0.5 if case.ill else 0.0)
            optimizer.zero_grad()
            F.mse_loss(model(x[rows] * scale), y[rows] * scale).backward()
            case.truth(lambda now=step: case.ill and now > 120 and _is_behind(optimizer, model, memory))
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.3 * y.var().item())


def _is_behind(optimizer: torch.optim.Optimizer, model: nn.Module, memory: list[torch.Tensor]) -> bool:
    """More than a tenth of the elements have a squared gradient above 9 times their second moment."""
    beta = optimizer.param_groups[0]["betas"][1]
    part, whole = 0.0, 0
    for p in model.parameters():
        state = optimizer.state[p]
        v = state["exp_avg_sq"] / (1 - beta ** float(state["step"]))
        part += float((p.grad.square() > 9 * v).float().sum())
        whole += p.numel()
    return part > 0.1 * whole


@healthy(kind="MLP", source="batches of one sample: losses and gradients over five decades", data="digits")
def batches_of_one(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    train(case, model, optimizer, (x, y), size=1, steps=3 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@healthy(
    kind="policy gradient",
    source="REINFORCE on a contextual bandit, returns with a heavy tail (Student t, 2 degrees of freedom)",
)
def heavy_tailed_returns(case: Case) -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    heavy = torch.distributions.StudentT(2.0)
    best = torch.randn(8, 4)
    with case.watch(model):
        for _ in range(case.steps):
            state = torch.randn(64, 8)
            choice = torch.distributions.Categorical(logits=model(state))
            action = choice.sample()
            reward = ((state @ best).argmax(-1) == action).float() + 0.3 * heavy.sample((64,))
            optimizer.zero_grad()
            (-(reward - reward.mean()) * choice.log_prob(action)).mean().backward()
            optimizer.step()
    state = torch.randn(512, 8)
    case.proof(lambda: float(((state @ best).argmax(-1) == model(state).argmax(-1)).float().mean()) > 0.4)


@healthy(
    kind="MLP", source="warm restarts (Loshchilov and Hutter 2017): the rate jumps from 0 to its largest value", data="digits"
)
def warm_restarts(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40)
    train(case, model, optimizer, (x, y), size=64, after=lambda _: schedule.step())
    case.proof(lambda: accuracy(model, x, y) > 0.9)


@healthy(kind="MLP", source="a model that has learned all but a few wrong labels: hard batches stand out", data="digits")
def a_few_wrong_labels(case: Case) -> None:
    x, y = digits(middle=0.3)
    y = y.clone()
    wrong = torch.randperm(len(y))[:20]
    y[wrong] = (y[wrong] + 1) % 10
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    train(case, model, optimizer, (x, y), size=24, steps=2 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.9)


@healthy(
    kind="MLP",
    source="Adam with batches of one sample and sparse features: single gradients many times the root mean square",
    data="digits",
)
def adam_with_batches_of_one(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = (x > 0.4).float()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(case, model, optimizer, (x, y), size=1, steps=3 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.6)


@healthy(kind="MLP", source="a plateau that ends: gradients grow by a decade while the loss falls (Saxe et al. 2014)")
def the_end_of_a_plateau(case: Case) -> None:
    x = torch.randn(512, 12)
    y = x @ torch.randn(12, 6)
    model = nn.Sequential(*[nn.Linear(12, 12, bias=False) for _ in range(3)], nn.Linear(12, 6, bias=False))
    for layer in model:
        layer.weight.data.mul_(0.4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.9999))
    train(case, model, optimizer, (x, y), squares, size=64)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.5 * y.var().item())
