"""Healthy: games, flows, fields."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import descend, fell, mean


class PolicyAndValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.pi, self.v = nn.Linear(32, 2), nn.Linear(32, 1)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.orthogonal_(m.weight, math.sqrt(2))
                nn.init.zeros_(m.bias)
        nn.init.orthogonal_(self.pi.weight, 0.01)

    def forward(self, s: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        h = self.body(s)
        return torch.distributions.Categorical(logits=self.pi(h)), self.v(h)[:, 0]


@healthy(
    kind="PPO", source="CleanRL's ppo.py: orthogonal with gain 0.01, Adam's eps 1e-5, clipping at 0.5, rate annealed to zero"
)
def clipped_surrogate(case: Case) -> None:
    net = PolicyAndValue()
    opt = torch.optim.Adam(net.parameters(), lr=5e-3, eps=1e-5)
    rewards = []
    with case.watch(net):
        for update in range(case.steps // 4):
            opt.param_groups[0]["lr"] = 5e-3 * (1 - update / (case.steps // 4))
            s = torch.randn(64, 3)
            with torch.no_grad():
                policy, value = net(s)
                a = policy.sample()
                old = policy.log_prob(a)
                r = (a == (s[:, 0] + s[:, 1] > 0).long()).float() + 0.3 * torch.randn(64)
                gain = (r - value - (r - value).mean()) / (r - value).std()
            rewards.append(r.mean().item())
            for _epoch in range(4):
                policy, value = net(s)
                ratio = (policy.log_prob(a) - old).exp()
                surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
                loss = -surrogate + 0.5 * F.mse_loss(value, r) - 0.01 * policy.entropy().mean()
                opt.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                opt.step()
    case.proof(lambda: mean(rewards[-10:]) > 0.8)


class Soft(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
        self.q1, self.q2 = (nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(2))
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def act(self, s: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_std = self.actor(s).chunk(2, 1)
        u = torch.distributions.Normal(mu, log_std.clamp(-5, 2).exp())
        raw = u.rsample()
        a = torch.tanh(raw)
        return a, (u.log_prob(raw) - torch.log(1 - a**2 + 1e-6))[:, 0]


@healthy(
    kind="SAC",
    source="Haarnoja et al. 2018, soft actor-critic: three optimizers, twin critics, a learnt temperature, tanh actions",
)
def soft_actor_critic(case: Case) -> None:
    net = Soft()
    actor, alpha = torch.optim.Adam(net.actor.parameters(), lr=3e-3), torch.optim.Adam([net.log_alpha], lr=3e-3)
    critic = torch.optim.Adam([*net.q1.parameters(), *net.q2.parameters()], lr=3e-3)
    rewards = []

    def worth(q: nn.Module, s: Tensor, a: Tensor) -> Tensor:
        return q(torch.cat([s, a], 1))[:, 0]

    with case.watch(net):
        for _ in range(case.steps):
            s = torch.randn(64, 3)
            with torch.no_grad():
                a, _ = net.act(s)
            r = -((a - torch.tanh(s[:, :1])) ** 2)[:, 0]
            rewards.append(r.mean().item())
            loss_q = sum(F.mse_loss(worth(q, s, a), r) for q in (net.q1, net.q2))
            critic.zero_grad()
            loss_q.backward()
            critic.step()
            new, log_p = net.act(s)
            loss_pi = (
                net.log_alpha.exp().detach() * log_p - torch.minimum(worth(net.q1, s, new), worth(net.q2, s, new))
            ).mean()
            actor.zero_grad()
            loss_pi.backward()
            actor.step()
            loss_alpha = -(net.log_alpha * (log_p.detach() - 1.0)).mean()
            alpha.zero_grad()
            loss_alpha.backward()
            alpha.step()
    case.proof(lambda: mean(rewards[-20:]) > 0.6 * mean(rewards[:20]))


class Coupling(nn.Module):
    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.net, self.flip = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 2)), flip
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.flip(1).chunk(2, 1) if self.flip else x.chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        b = b * torch.tanh(scale).exp() + shift
        return torch.cat([a, b], 1), torch.tanh(scale)[:, 0]


@healthy(
    kind="normalizing flow",
    source="Dinh et al. 2017, RealNVP on two moons: couplings begun as the identity; the loss falls below zero",
)
def two_moons(case: Case) -> None:
    angle = torch.rand(600) * math.pi
    up = torch.rand(600) < 0.5
    x = torch.stack([torch.where(up, angle.cos(), 1 - angle.cos()), torch.where(up, angle.sin(), 0.5 - angle.sin())], 1)
    x = (x - x.mean(0)) * 0.3 + 0.02 * torch.randn(600, 2)
    flow = nn.ModuleList([Coupling(bool(i % 2)) for i in range(6)])
    opt = torch.optim.Adam(flow.parameters(), lr=5e-3)
    losses = []
    with case.watch(flow):
        for _ in range(case.steps):
            z, volume = x[torch.randint(0, 600, (64,))], 0.0
            for layer in flow:
                z, v = layer(z)
                volume = volume + v
            loss = (0.5 * z.square().sum(1) + math.log(2 * math.pi) - volume).mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: mean(losses[-15:]) < mean(losses[:3]) - 0.5)


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


@healthy(
    kind="SIREN", source="Sitzmann et al. 2020, SIREN: sin(30 Wx), one picture as a function of its coordinates", data="digits"
)
def one_picture_by_sines(case: Case) -> None:
    from clinic.fresh._plain import pictures

    picture = F.interpolate(pictures()[0][:1], (16, 16), mode="bilinear")[0, 0].reshape(-1, 1)
    at = torch.cartesian_prod(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16))
    net = nn.Sequential(Sine(2, 48, True), Sine(48, 48), nn.Linear(48, 1))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            loss = F.mse_loss(net(at), picture)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.2))


@healthy(
    kind="Fourier features",
    source="Tancik et al. 2020, NeRF's encoding: frequencies up to 64, targets between 0 and 1, sigmoid and MSE",
)
def field_of_fourier_features(case: Case) -> None:
    at = torch.rand(500, 2)
    colour = 0.5 + 0.5 * torch.sin(torch.stack([9 * at[:, 0], 7 * at[:, 1], 20 * at[:, 0] * at[:, 1]], 1))
    bands = (at[..., None] * 2.0 ** torch.arange(5) * math.pi).flatten(1)
    encoded = torch.cat([at, bands.sin(), bands.cos()], 1)
    net = nn.Sequential(nn.Linear(22, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3), nn.Sigmoid())
    opt = torch.optim.Adam(net.parameters(), lr=5e-4 * 4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 5e-3, case.steps)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 500, (128,))
            loss = F.mse_loss(net(encoded[rows]), colour[rows])
            losses.append(descend(opt, loss))
            schedule.step()
    case.proof(lambda: fell(losses, 0.3))
