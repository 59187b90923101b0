"""Healthy trainings whose units, outputs and attention look ill at first sight."""

import itertools

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.tuning._data import digits, standard, table
from clinic.tuning._loop import squares, train


@healthy(
    kind="dictionary", source="Bricken et al. 2023: a sparse autoencoder four times as wide as what it codes", data="digits"
)
def sparse_dictionary(case: Case) -> None:
    x, _ = digits(8, 1)
    code, back = nn.Linear(64, 256), nn.Linear(256, 64)
    model = nn.Sequential(code, nn.ReLU(), back)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            batch = x[torch.randint(0, len(x), (64,))]
            optimizer.zero_grad()
            h = model[:2](batch)
            (F.mse_loss(back(h), batch) + 2e-3 * h.abs().sum(1).mean()).backward()
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), x).item() < 0.5 * x.var(0).mean().item())


@healthy(kind="MLP", source="the 2-4-1 net of every first tutorial: XOR with tanh and sigmoid, learned by heart", steps=600)
def xor_by_heart(case: Case) -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            F.binary_cross_entropy(model(x), y).backward()
            optimizer.step()
    case.proof(lambda: F.binary_cross_entropy(model(x), y).item() < 0.1)


@healthy(kind="GAN", source="DCGAN's generator ends in tanh, and most pixels of digits are at -1", data="digits")
def generator_with_tanh(case: Case) -> None:
    x, _ = digits(8, 1)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(
                nn.Linear(16, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh()
            ),
            "judge": nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)),
        }
    )
    first = torch.optim.Adam(model["judge"].parameters(), 1e-3, betas=(0.5, 0.999))
    second = torch.optim.Adam(model["generator"].parameters(), 2e-3, betas=(0.5, 0.999))
    with case.watch(model):
        for _ in range(case.steps):
            real, fake = x[torch.randint(0, len(x), (64,))], model["generator"](torch.randn(64, 16))
            first.zero_grad()
            loss = F.softplus(-model["judge"](real)).mean() + F.softplus(model["judge"](fake.detach())).mean()
            loss.backward()
            first.step()
            second.zero_grad()
            F.softplus(-model["judge"](fake)).mean().backward()
            second.step()
    case.proof(lambda: (model["generator"](torch.randn(500, 16)).mean(0) - x.mean(0)).abs().mean().item() < 0.4)


@healthy(kind="MLP", source="Papyan et al. 2020, neural collapse: two classes end in one direction", data="breast cancer")
def two_classes(case: Case) -> None:
    x, y = table(load_breast_cancer)
    x = standard(x)
    layers = [m for _ in range(4) for m in (nn.Linear(48, 48), nn.ReLU())]
    model = nn.Sequential(nn.Linear(30, 48), nn.ReLU(), *layers, nn.Linear(48, 2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    train(case, model, optimizer, (x, y), size=None)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.05)


@healthy(kind="MLP", source="temperatures in kelvin: targets of 300 with a spread of 5", data="diabetes")
def kelvin(case: Case) -> None:
    x, y = table(load_diabetes)
    x = standard(x)
    y = (300 + 5 * (y - y.mean()) / y.std()).float()[:, None]
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, 300.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(case, model, optimizer, (x, y), squares, size=64)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.7 * y.var().item())


class _Recall(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(16, width), nn.Embedding(length, width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.num_heads, self.head = 2, nn.Linear(width, 16)

    def forward(self, ids: torch.Tensor, ask: torch.Tensor) -> torch.Tensor:
        at = torch.arange(ids.shape[1]).expand_as(ids)
        h = self.embed(ids) + self.place(at)
        q = self.q_proj(self.place(ask)[:, None])
        q, k, v = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in (q, self.k_proj(h), self.v_proj(h)))
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


@healthy(
    kind="attention", source="associative recall: the right answer needs attention that looks at one position only", steps=400
)
def sharp_recall(case: Case) -> None:
    model = _Recall(32, 12)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            ids, ask = torch.randint(0, 16, (64, 12)), torch.randint(0, 12, (64,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids, ask), ids[torch.arange(64), ask])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: sum(losses[-10:]) / 10 < 0.5)


class _Queries(nn.Module):
    """As DETR: learned queries, the same for every sample, look at each other before they look at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.queries = nn.Linear(8, 32), nn.Parameter(torch.randn(4, 32))
        self.place = nn.Parameter(torch.randn(8, 32) * 0.3)
        self.among = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.across, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.view(-1, 8, 8)) + self.place
        q = self.queries.expand(len(x), 4, 32)
        q = self.norm(q + self.among(q, q, q)[0])
        return self.head(self.norm2(q + self.across(q, h, h)[0]).flatten(1))


@healthy(
    kind="DETR", source="Carion et al. 2020: learned queries give the same for every image in their first layer", data="digits"
)
def learned_queries(case: Case) -> None:
    x, y = digits(8, 1)
    model = _Queries()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    train(case, model, optimizer, (x, y), size=64)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.0)


@healthy(kind="siamese", source="Chen & He 2021, SimSiam as it should be: the gradient of one branch is stopped", data="digits")
def siamese(case: Case) -> None:
    x, _ = digits(8, 1)
    trunk = nn.Sequential(
        *(nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()),
        *(nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32)),
    )
    model = nn.ModuleDict({"trunk": trunk, "guess": nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32))})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            one, two = (trunk(x[rows] + 0.3 * torch.randn(64, 64)) for _ in range(2))
            optimizer.zero_grad()
            loss = -F.cosine_similarity(model["guess"](one), two.detach()).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: losses[-1] < -0.5 and F.normalize(trunk(x)).std(0).mean().item() > 0.5 / 32**0.5)


class _Highway(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.turn, self.gate, self.bend, self.open = nn.Linear(width, width), nn.Linear(width, width), nn.Tanh(), nn.Sigmoid()
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.open(self.gate(x))
        return gate * self.bend(self.turn(x)) + (1 - gate) * x


@healthy(kind="highway", source="Srivastava et al. 2015: ten highway layers whose gates start nearly closed", data="digits")
def closed_gates(case: Case) -> None:
    x, y = digits(8, 1)
    model = nn.Sequential(nn.Linear(64, 32), *(_Highway(32) for _ in range(10)), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    train(case, model, optimizer, (x, y), size=64)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)


@healthy(
    kind="autoencoder", source="Hinton & Salakhutdinov 2006: two numbers in the middle of a deep autoencoder", data="digits"
)
def two_numbers(case: Case) -> None:
    x, _ = digits(8, 1)
    sizes = (64, 48, 24, 2, 24, 48, 64)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers[:5], *layers[6:-1])  # nothing bends the two numbers
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    train(case, model, optimizer, (x, x), squares, size=64)
    case.proof(lambda: F.mse_loss(model(x), x).item() < 0.8 * x.var(0).mean().item())


class _Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32))
        self.into, self.norm, self.mid, self.out = nn.Linear(64, 96), nn.LayerNorm(96), nn.Linear(96, 96), nn.Linear(96, 64)
        self.shift = nn.Linear(32, 96)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.into(x))
        h = h + F.silu(self.mid(self.norm(h) + self.shift(F.silu(self.time(t)))))
        return self.out(h)


@healthy(
    kind="diffusion",
    source="Ho et al. 2020 and Peebles & Xie 2023: time in one number, zero-initialised last layers",
    data="digits",
)
def denoiser(case: Case) -> None:
    x, _ = digits(8, 1)
    model = _Conditioned()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            batch, t, noise = x[torch.randint(0, len(x), (64,))], torch.rand(64, 1), torch.randn(64, 64)
            optimizer.zero_grad()
            loss = F.mse_loss(model((1 - t).sqrt() * batch + t.sqrt() * noise, t), noise)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: sum(losses[-20:]) / 20 < 0.8)


@healthy(kind="actor-critic", source="PPO's Gaussian policy with tanh layers and a tiny last one, on a noisy bandit", steps=300)
def noisy_bandit(case: Case) -> None:
    actor = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.normal_(actor[4].weight, std=0.01)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    rewards, turn = [], torch.randn(6, 2)
    with case.watch(model):
        for _ in range(case.steps):
            seen = torch.randn(64, 6)
            mean = actor(seen)
            did = (mean + 0.5 * torch.randn(64, 2)).detach()
            reward = -((did - torch.sin(seen @ turn)) ** 2).sum(1) + torch.randn(64)
            value = critic(seen)[:, 0]
            log_p = -((did - mean) ** 2).sum(1) / 0.5
            optimizer.zero_grad()
            (-(log_p * (reward - value.detach())).mean() + 0.5 * F.mse_loss(value, reward)).backward()
            optimizer.step()
            rewards.append(reward.mean().item())
    case.proof(lambda: sum(rewards[-50:]) > sum(rewards[:50]) + 10)
