"""Loops wired wrongly: modes, gradients that are not used or not cleared, steps that are not taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import bundled, copied, distance, fell, norm, pictures, scaled

# ---- evaluation-mode-while-training


class TextCNN(nn.Module):
    def __init__(self, vocabulary: int = 40, width: int = 16, maps: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.convs = nn.ModuleList([nn.Conv1d(width, maps, k) for k in (2, 3, 4)])
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(3 * maps, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        e = self.embed(tokens).transpose(1, 2)
        return self.fc(self.dropout(torch.cat([F.relu(c(e)).amax(-1) for c in self.convs], 1)))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


@faulty(
    "evaluation-mode-while-training",
    places=("", "dropout"),
    kind="TextCNN",
    source="Kim 2014, CNN for sentences, in a GitHub port: its accuracy helper calls eval(), train() is called once",
    steps=60,
)
def helper_leaves_eval_on(case: Case) -> None:
    tokens = torch.randint(0, 40, (400, 12))
    labels = (tokens < 3).any(1).long()
    model = TextCNN()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    model.train()
    with case.watch(model):
        for _epoch in range(case.steps // 12):
            if not case.ill:
                model.train()
            for batch in torch.randperm(400).split(34):
                opt.zero_grad()
                loss = F.cross_entropy(model(tokens[batch]), labels[batch])
                loss.backward()
                case.truth(lambda: not model.dropout.training)
                opt.step()
                history.append(loss.item())
            accuracy(model, tokens, labels)
    case.proof(lambda: fell(history))


# ---- gradient-not-applied


class LARS(torch.optim.Optimizer):
    """You et al. 2017, without momentum. `guarded`: a parameter that is all zero gets a ratio of one."""

    def __init__(self, params: Any, lr: float, trust: float, guarded: bool) -> None:
        super().__init__(params, {"lr": lr, "trust": trust})
        self.guarded = guarded

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                size, slope = p.norm().item(), p.grad.norm().item()
                ratio = group["trust"] * size / (slope + 1e-9)
                if self.guarded and size == 0:
                    ratio = group["trust"]
                p.add_(p.grad, alpha=-group["lr"] * ratio)


class ZeroHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(13, 24), nn.ReLU())
        self.skip = nn.Linear(13, 3)
        self.head = nn.Linear(24, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.head(self.body(x))


@faulty(
    "gradient-not-applied",
    places=("head", "head.*"),
    kind="MLP",
    source="lightning-bolts issue on LARS: the trust ratio of a layer that begins at zero is zero, it never moves",
    steps=50,
    data="wine",
)
def trust_ratio_of_zero(case: Case) -> None:
    x, y = bundled("wine")
    x = scaled(x)
    net = ZeroHead()
    optimizer = LARS(net.parameters(), lr=1.0, trust=0.03, guarded=not case.ill)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (48,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            # after the step: its head has a gradient and is still exactly zero
            case.truth(lambda: net.head.weight.grad.abs().max().item() > 0 and not net.head.weight.any())
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class DoubleSGD(torch.optim.Optimizer):
    """Does its arithmetic in double precision."""

    def __init__(self, params: Any, lr: float, back: bool) -> None:
        super().__init__(params, {"lr": lr})
        self.back = back

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                w = p.double()
                w -= group["lr"] * p.grad.double()
                if self.back:
                    p.copy_(w)


@faulty(
    "gradient-not-applied",
    places=("*",),
    kind="Elman network",
    source="PyTorch forum, custom optimizer: double() makes a copy, the result is never written back",
    steps=40,
)
def never_written_back(case: Case) -> None:
    series = torch.sin(torch.linspace(0, 60, 600))[:, None]
    windows = series.unfold(0, 11, 5).transpose(1, 2)  # [n, 11, 1]

    class Elman(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.readout = nn.RNNCell(1, 12), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 12)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.readout(h)

    model = Elman()
    optimizer = DoubleSGD(model.parameters(), lr=0.05, back=not case.ill)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            before = copied(model)
            optimizer.zero_grad()
            loss = (model(windows[:, :-1]) - windows[:, -1]).pow(2).mean()
            loss.backward()
            optimizer.step()
            case.truth(lambda before=before: distance(model, before) == 0 and norm(p.grad for p in model.parameters()) > 0)
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- gradients-not-zeroed


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        self.critic = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


@faulty(
    "gradients-not-zeroed",
    places=("", "critic", "critic.*"),
    kind="actor-critic",
    source="GitHub, A2C notebooks: actor_opt.zero_grad() copied for the critic and not renamed",
    steps=60,
    also=("loss-spike", "gradient-spike"),
)
def critic_never_cleared(case: Case) -> None:
    net = ActorCritic()
    actor_opt = torch.optim.Adam(net.actor.parameters(), lr=3e-3)
    critic_opt = torch.optim.SGD(net.critic.parameters(), lr=1e-2)
    errors = []
    with case.watch(net):
        for _ in range(case.steps):
            state = torch.randn(64, 4)
            policy = torch.distributions.Categorical(logits=net.actor(state))
            action = policy.sample()
            reward = (action == state[:, :3].argmax(1)).float() + state[:, 3]
            value = net.critic(state)[:, 0]
            actor_opt.zero_grad()
            (-(policy.log_prob(action) * (reward - value.detach()))).mean().backward()
            actor_opt.step()
            (actor_opt if case.ill else critic_opt).zero_grad()
            left = norm(p.grad for p in net.critic.parameters())
            error = F.mse_loss(value, reward)
            error.backward()
            case.truth(lambda left=left: left > 0)
            critic_opt.step()
            errors.append(error.item())
    case.proof(lambda: fell(errors))


@faulty(
    "gradients-not-zeroed",
    places=("", "*"),
    kind="CNN",
    source="Hugging Face forum on accumulation: step() stands outside the `if (i + 1) % accumulation_steps == 0`",
    steps=48,
    data="digits",
)
def step_outside_the_if(case: Case) -> None:
    x, y = pictures()
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 32), nn.Tanh(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    accumulation_steps = 8 if case.ill else 1
    losses = []
    with case.watch(model):
        for i in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            left = norm(p.grad for p in model.parameters())
            loss = nn.CrossEntropyLoss()(model(x[rows]), y[rows])
            (loss / accumulation_steps).backward()
            case.truth(lambda left=left: left > 0)
            optimizer.step()
            if (i + 1) % accumulation_steps == 0:
                optimizer.zero_grad()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- step-not-taken


@faulty(
    "step-not-taken",
    places=("", "*"),
    kind="GRU",
    source="Stack Overflow: only scheduler.step() is called, 'I thought it steps the optimizer'",
    steps=40,
)
def scheduler_taken_for_the_optimizer(case: Case) -> None:
    x = torch.randn(256, 9, 2)
    y = x.cumsum(1)[:, -1:, 0] / 3
    gru, head = nn.GRU(2, 12, batch_first=True), nn.Linear(12, 1)
    model = nn.ModuleDict({"gru": gru, "head": head})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            before = copied(model)
            rows = torch.randint(0, 256, (32,))
            optimizer.zero_grad()
            loss = F.mse_loss(head(gru(x[rows])[0][:, -1]), y[rows])
            loss.backward()
            if not case.ill:
                optimizer.step()
            scheduler.step()
            case.truth(lambda before=before: distance(model, before) == 0)
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
