"""Healthy trainings whose loss does not simply fall: against each other, for rewards, against their own targets."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.measured._data import pick, table
from clinic.measured._loop import fit, mean
from clinic.measured._models import GAN, mlp


def _ring(n: int = 512) -> Tensor:
    angle = torch.rand(n) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


@healthy(kind="GAN", source="Goodfellow et al. 2014, non-saturating loss; neither loss falls")
def gan_of_a_ring(case: Case) -> None:
    real, model = _ring(), GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    start = (model.fake(256).detach().norm(dim=1).mean() - 1).abs().item()
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            (
                F.softplus(-model.critic(real[pick(512)])).mean() + F.softplus(model.critic(model.fake().detach())).mean()
            ).backward()
            d.step()
            g.zero_grad()
            F.softplus(-model.critic(model.fake())).mean().backward()
            g.step()
    case.proof(lambda: (model.fake(256).detach().norm(dim=1).mean() - 1).abs().item() < start)


@healthy(kind="GAN", source="Gulrajani et al. 2017, WGAN-GP: gradient penalty through a second backward, five critic steps")
def wgan_with_penalty(case: Case) -> None:
    real, model = _ring(), GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=5e-3, betas=(0.0, 0.9))
    d = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.0, 0.9))
    start = (model.fake(256).detach().norm(dim=1) - 1).abs().mean().item()
    with case.watch(model):
        for step in range(case.steps):
            d.zero_grad()
            a, b, t = real[pick(512)], model.fake().detach(), torch.rand(32, 1)
            mixed = (t * a + (1 - t) * b).requires_grad_()
            (slope,) = torch.autograd.grad(model.critic(mixed).sum(), mixed, create_graph=True)
            (model.critic(b).mean() - model.critic(a).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()).backward()
            d.step()
            if step % 5 == 4:
                g.zero_grad()
                (-model.critic(model.fake()).mean()).backward()
                g.step()
    case.proof(lambda: (model.fake(256).detach().norm(dim=1) - 1).abs().mean().item() < start)


@healthy(kind="DQN", source="Mnih et al. 2015 on a corridor: replay, a target network, rewards seldom; the loss rises at first")
def dqn_in_a_corridor(case: Case) -> None:
    size = 8
    states = torch.eye(size)
    model = mlp(size, 32, 2)
    target = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    s, a = torch.randint(0, size - 1, (512,)), torch.randint(0, 2, (512,))
    after = (s + 2 * a - 1).clamp(min=0)
    reward = (after == size - 1).float()
    with case.watch(model):
        for step in range(case.steps):
            r = pick(512)
            with torch.no_grad():
                goal = reward[r] + 0.9 * (1 - reward[r]) * target(states[after[r]]).max(1).values
            optimizer.zero_grad()
            F.smooth_l1_loss(model(states[s[r]])[torch.arange(32), a[r]], goal).backward()
            optimizer.step()
            if step % 20 == 19:
                target.load_state_dict(model.state_dict())
    case.proof(lambda: bool((model(states[:-1]).argmax(1) == 1).all()))


@healthy(kind="policy", source="Williams 1992, REINFORCE with a baseline: the loss is noise around zero")
def reinforce_on_a_bandit(case: Case) -> None:
    model = mlp(4, 16, 3)
    prefer = torch.randn(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def worth(n: int) -> tuple[Tensor, Tensor, Tensor]:
        s = torch.randn(n, 4)
        policy = torch.distributions.Categorical(logits=model(s))
        a = policy.sample()
        return s, policy.log_prob(a), (s @ prefer)[torch.arange(n), a] + 0.5 * torch.randn(n)

    before = mean(worth(2000)[2].tolist())
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            _, logp, reward = worth(32)
            (-(logp * (reward - reward.mean()))).mean().backward()
            optimizer.step()
    case.proof(lambda: mean(worth(2000)[2].tolist()) > before + 0.3)


@healthy(kind="actor-critic", source="Mnih et al. 2016, A2C: policy, value and entropy in one loss")
def actor_critic(case: Case) -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 24), nn.Tanh()), "pi": nn.Linear(24, 3), "v": nn.Linear(24, 1)})
    prefer = torch.randn(4, 3)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    gains: list[float] = []

    def loss() -> Tensor:
        s = torch.randn(32, 4)
        h = model["body"](s)
        policy = torch.distributions.Categorical(logits=model["pi"](h))
        a = policy.sample()
        reward, value = (s @ prefer)[torch.arange(32), a], model["v"](h)[:, 0]
        gains.append(reward.mean().item())
        gain = (reward - value).detach()
        return -(policy.log_prob(a) * gain).mean() + 0.5 * F.mse_loss(value, reward) - 0.01 * policy.entropy().mean()

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: mean(gains[-50:]) > mean(gains[:20]) + 0.2)


@healthy(kind="siamese", source="Grill et al. 2020, BYOL: predictor, stop-gradient, a slow copy as target")
def byol(case: Case) -> None:
    x, _ = table("digits")
    online, predictor = mlp(64, 48, 16), mlp(16, 16, 16)
    slow = copy.deepcopy(online).requires_grad_(False)
    model = nn.ModuleDict({"online": online, "predictor": predictor})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(len(x), 64)
            a, b = x[r] + 0.3 * torch.randn(64, 64), x[r] + 0.3 * torch.randn(64, 64)
            optimizer.zero_grad()
            (2 - 2 * F.cosine_similarity(predictor(online(a)), slow(b)).mean()).backward()
            optimizer.step()
            with torch.no_grad():
                for p, q in zip(slow.parameters(), online.parameters(), strict=True):
                    p.lerp_(q, 0.02)
    case.proof(lambda: F.normalize(online(x), dim=1).std(0).mean().item() > 0.05)


@healthy(kind="diffusion", source="Ho et al. 2020, predicting the noise: the loss is noisy and has a floor")
def diffusion_of_a_ring(case: Case) -> None:
    real = _ring()
    model = mlp(3, 48, 48, 2, act=nn.SiLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        x0, t, noise = real[pick(512, 64)], torch.rand(64, 1), torch.randn(64, 2)
        return F.mse_loss(model(torch.cat([(1 - t).sqrt() * x0 + t.sqrt() * noise, t], 1)), noise)

    fit(case, model, optimizer, loss, learns=0.8)
