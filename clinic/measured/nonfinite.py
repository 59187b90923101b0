"""Where NaN and infinity come from: data, forward, backward, update."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, images, pick, sentences, table, waves
from clinic.measured._loop import all_finite, fit
from clinic.measured._models import GPT, VAE, Block, Recurrent, mlp

LABEL = "nonfinite-origin"


@faulty(
    LABEL,
    places=("input",),
    kind="MLP",
    source="Kaggle notebooks: missing values of a CSV file go into the network as NaN",
    steps=40,
    data="diabetes",
)
def missing_values_in_the_table(case: Case) -> None:
    x, y = table("diabetes")
    if case.ill:
        x[torch.randint(0, len(x), (3,)), 4] = math.nan
    model = mlp(10, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    met = []

    def loss() -> Tensor:
        rows = pick(len(x), 48)
        met.append(bool(x[rows].isnan().any()))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: met[-1])


class _PerSample(nn.Module):
    """Instance-wise standardisation written by hand, without an epsilon."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps)


@faulty(
    LABEL,
    places=("2",),
    kind="MLP",
    source="Stack Overflow: own normalisation layer divides by a standard deviation of zero",
    steps=60,
)
def own_norm_without_epsilon(case: Case) -> None:
    x, y = blobs()
    x[7] = -5.0  # all hidden units of this sample are silent
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.ReLU(), _PerSample(0.0 if case.ill else 1e-5), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight - model[0].weight.mean(1, keepdim=True) + 0.02)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    met = []

    def loss() -> Tensor:
        rows = pick(len(x), 24)
        met.append(rows)
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: not torch.isfinite(model(x[met[-1]])).all())


@faulty(
    LABEL,
    places=("attn", "attn.proj", "blocks.0.attn*", "*attn*"),
    kind="Transformer encoder",
    source="PyTorch issue 41508: a row whose keys are all masked gives NaN in attention",
    steps=40,
)
def sample_of_padding_only(case: Case) -> None:
    tokens = sentences(length=10)
    lengths = torch.randint(3, 11, (len(tokens),))
    if case.ill:
        lengths[torch.randint(0, len(tokens), (4,))] = 0
    model = nn.ModuleDict({"embed": nn.Embedding(24, 16), "attn": Block(16), "head": nn.Linear(16, 24)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    met = []

    def loss() -> Tensor:
        rows = pick(len(tokens))
        allowed = torch.arange(10)[None] < lengths[rows][:, None]
        met.append(bool((~allowed).all(1).any()))
        out = model["head"](model["attn"](model["embed"](tokens[rows]), allowed)[:, 0])
        return F.cross_entropy(out, tokens[rows][:, 1])

    fit(case, model, optimizer, loss, lambda: met[-1])


@faulty(
    LABEL,
    places=("", "loss", "3", "head", "2"),
    kind="MLP",
    source="d2l.ai, softmax regression: log of a softmax that has underflowed to zero",
    steps=60,
    data="digits",
)
def log_of_zero_probability(case: Case) -> None:
    x, y = table("digits")
    x = x * 12 if case.ill else x
    model = mlp(64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5 if case.ill else 0.1)
    last = []

    def loss() -> Tensor:
        rows = pick(len(x))
        scores = model(x[rows])
        p = scores.exp() / scores.exp().sum(1, keepdim=True) if case.ill else scores.softmax(1)
        value = -(p[torch.arange(len(rows)), y[rows]] + (0 if case.ill else 1e-9)).log().mean()
        last.append(bool(torch.isfinite(value)))
        return value

    fit(case, model, optimizer, loss, lambda: not last[-1])


@faulty(
    LABEL,
    places=("", "2", "2.*", "0", "0.*", "*"),
    kind="siamese",
    source="PyTorch forum: torch.norm of zero, the loss is finite and its gradient NaN",
    steps=40,
    data="iris",
)
def distance_of_equal_points(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss() -> Tensor:
        a, b = pick(len(x), 64), pick(len(x), 64)
        if len(seen) == 9:
            b[3] = a[3]
        seen.append(0)
        squared = (model(x[a]) - model(x[b])).square().sum(1)
        distance = squared.sqrt() if case.ill else (squared + 1e-9).sqrt()
        same = (y[a] == y[b]).float()
        return (same * distance**2 + (1 - same) * F.relu(1 - distance) ** 2).mean()

    seen: list[int] = []
    fit(case, model, optimizer, loss, lambda: not all(torch.isfinite(p.grad).all() for p in model.parameters()))


@faulty(
    LABEL,
    places=("*", ""),
    kind="GPT",
    source="Adam written with eps=0 to 'match the paper': embedding rows without a gradient become 0/0",
    steps=30,
)
def adam_without_epsilon(case: Case) -> None:
    tokens = sentences(vocabulary=20)  # four rows of the table never occur
    model = GPT(vocabulary=24, tied=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, eps=0.0 if case.ill else 1e-8)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            loss = model.loss(tokens[pick(len(tokens))])
            loss.backward()
            optimizer.step()
            case.truth(lambda: not all_finite(model))
            losses.append(loss.item())
    case.proof(lambda: losses[-1] < losses[0])


class _Spread(nn.Module):
    """exp of a log-variance without a bound."""

    def __init__(self, bound: float | None) -> None:
        super().__init__()
        self.linear, self.bound = nn.Linear(16, 1), bound

    def forward(self, h: Tensor) -> Tensor:
        s = self.linear(h)
        return (s if self.bound is None else s.clamp(-self.bound, self.bound)).exp()


@faulty(
    LABEL,
    places=("2.1", "2", "spread"),
    kind="MLP",
    source="issue on a Gaussian likelihood head: exp(log variance) overflows after an outlier",
    steps=50,
    data="diabetes",
    also=("raw-input-scale", "loss-spike"),
)
def variance_overflows(case: Case) -> None:
    x, y = table("diabetes")
    model = nn.ModuleDict(
        {"body": mlp(10, 16, 16, act=nn.Tanh), "mu": nn.Linear(16, 1), "spread": _Spread(None if case.ill else 5.0)}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    bad = []

    def loss() -> Tensor:
        rows = pick(len(x))
        h = F.relu(model["body"](x[rows]))
        if case.ill and len(bad) == 12:
            h = h * 3e3
        spread = model["spread"](h)
        bad.append(not bool(torch.isfinite(spread).all()))
        return (spread * 0.1 + (model["mu"](h) - y[rows]) ** 2 / (1 + spread)).mean()

    fit(case, model, optimizer, loss, lambda: bad[-1])


@faulty(
    LABEL,
    places=("rnn", "rnn.*", "head", "head.*", "*"),
    kind="RNN",
    source="Pascanu et al. 2013: an unclipped recurrent net that is stepped too far becomes NaN",
    steps=60,
    also=("high-learning-rate", "exploding-gradient"),
)
def recurrent_net_overflows(case: Case) -> None:
    x = waves(length=60)
    model = Recurrent(nn.RNN(1, 24, nonlinearity="relu", batch_first=True), 1, every=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0 if case.ill else 0.02)
    ends = []

    def loss() -> Tensor:
        rows = pick(len(x))
        value = F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])
        ends.append(bool(torch.isfinite(value)))
        return value

    fit(case, model, optimizer, loss, lambda: not ends[-1] or not all(torch.isfinite(p.grad).all() for p in model.parameters()))


@faulty(
    LABEL,
    places=("input",),
    kind="CNN",
    source="Kaggle: one broken image of the set, decoded as infinity",
    steps=60,
    data="digits",
)
def one_broken_image(case: Case) -> None:
    x, y = images()
    x = x.clone()
    if case.ill:
        x[900:904, 0, 3, 3] = math.inf
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.randperm(len(x))
    steps = iter(range(10**6))
    met = []

    def loss() -> Tensor:
        i = next(steps)
        rows = order[(i * 32) % 1760 :][:32]
        met.append(bool(x[rows].isinf().any()))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: met[-1])


@faulty(
    LABEL,
    places=("logvar", "", "decoder*", "*"),
    kind="VAE",
    source="PyTorch examples issue: the KL term's exp overflows with inputs that are not scaled",
    steps=200,
    data="digits",
    also=("raw-input-scale", "high-learning-rate", "high-initial-loss"),
)
def kl_overflows(case: Case) -> None:
    x, _ = table("digits")
    x = x * 200 if case.ill else x
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    ends = []

    def loss() -> Tensor:
        value = -model.elbo(x[pick(len(x))])
        ends.append(bool(torch.isfinite(value)))
        return value

    fit(case, model, optimizer, loss, lambda: not ends[-1])
