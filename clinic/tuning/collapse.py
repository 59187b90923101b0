"""Outputs that are the same for all inputs, representations that lose their directions, attention that grows."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import digits
from clinic.tuning._loop import cross_entropy, train


def _same(z: torch.Tensor) -> bool:
    """Is the standard deviation over samples below 5 % of the size?"""
    return bool(z.detach().flatten(1).std(0).norm() < 0.05 * z.detach().flatten(1).norm(dim=1).mean())


@faulty(
    "collapsed-output",
    places=("encoder*", "decoder*", ""),
    kind="autoencoder",
    data="digits",
    source="forum: autoencoder gives the mean image for every input",
    also=("excessive-weight-decay",),
    steps=120,
)
def mean_image(case: Case) -> None:
    x, _ = digits(8, 1)
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8)),
            "decoder": nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 64)),
        }
    )
    groups = [
        {"params": model["encoder"].parameters(), "weight_decay": 5.0 if case.ill else 0.0},
        {"params": model["decoder"].parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.5)
    reconstruct = lambda batch: model["decoder"](model["encoder"](batch))
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.mse_loss(reconstruct(x[rows]), x[rows]).mul(10).backward()
            case.truth(lambda: _same(reconstruct(x)))
            optimizer.step()
    case.proof(lambda: F.mse_loss(reconstruct(x), x).item() < 0.9 * x.var(0).mean().item())


@faulty(
    "collapsed-output",
    places=("*",),
    kind="siamese",
    data="digits",
    source="Chen & He 2021, SimSiam without the stop-gradient and without norms",
    steps=200,
)
def one_point(case: Case) -> None:
    x, _ = digits(8, 1)
    model = nn.ModuleDict(
        {
            "trunk": nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)),
            "guess": nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32)),
        }
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            one, two = (model["trunk"](x[rows] + 0.3 * torch.randn(64, 64)) for _ in range(2))
            optimizer.zero_grad()
            if case.ill:
                loss = F.mse_loss(model["guess"](one), two)
            else:
                logits = F.normalize(one) @ F.normalize(two).T / 0.2
                loss = F.cross_entropy(logits, torch.arange(64)) - F.cosine_similarity(model["guess"](one), two.detach()).mean()
            loss.backward()
            case.truth(lambda: _same(model["trunk"](x)))
            optimizer.step()
    case.proof(lambda: not _same(model["trunk"](x)))


@faulty(
    "collapsed-output",
    places=("generator*",),
    kind="GAN",
    data="digits",
    source="Goodfellow 2016: the generator gives one picture for all noise; here its weights decay",
    also=("excessive-weight-decay",),
    steps=150,
)
def one_picture(case: Case) -> None:
    x, _ = digits(8, 1)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(8, 48), nn.LeakyReLU(0.2), nn.Linear(48, 64), nn.Tanh()),
            "judge": nn.Sequential(nn.Linear(64, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1)),
        }
    )
    first = torch.optim.Adam(model["judge"].parameters(), 1e-3, betas=(0.5, 0.999))
    second = torch.optim.SGD(model["generator"].parameters(), 0.05, weight_decay=3.0 if case.ill else 0.0)
    with case.watch(model):
        for _ in range(case.steps):
            real, fake = x[torch.randint(0, len(x), (32,))], model["generator"](torch.randn(32, 8))
            first.zero_grad()
            (F.softplus(-model["judge"](real)).mean() + F.softplus(model["judge"](fake.detach())).mean()).backward()
            first.step()
            second.zero_grad()
            F.softplus(-model["judge"](fake)).mean().backward()
            case.truth(lambda: _same(model["generator"](torch.randn(256, 8))))
            second.step()
    case.proof(lambda: not _same(model["generator"](torch.randn(256, 8))))


class _Pooled(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.embed, self.mix, self.head = dim, nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.embed(x.view(-1, 8, 8)))
        h = h.mean(self.dim) if self.dim == 1 else h.mean((0, 1)).expand(len(x), 32)
        return self.head(F.gelu(self.mix(h)))


@faulty(
    "collapsed-output",
    places=("mix*", "head*", ""),
    kind="pooling network",
    data="digits",
    source="a mean over the batch instead of over positions",
    steps=60,
)
def wrong_mean(case: Case) -> None:
    x, y = digits(8, 1)
    model = _Pooled(0 if case.ill else 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: _same(model(x)), size=64)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.25)


class _Attention(nn.Module):
    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.residual, self.norm, self.attend = residual, nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.attend(x, x, x, need_weights=False)[0]
        return self.norm(x + h if self.residual else h)


class _Sequences(nn.Module):
    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(torch.randn(8, 32) * 0.5)
        self.blocks = nn.Sequential(*(_Attention(32, residual) for _ in range(depth)))
        self.head = nn.Linear(32, 10)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.embed(x.view(-1, 8, 8)) + self.place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(x)[:, 0])


@faulty(
    "rank-collapse",
    places=("blocks*",),
    kind="Transformer",
    data="digits",
    source="Dong et al. 2021, Attention is not all you need",
    steps=60,
    also=("vanishing-gradient", "collapsed-output"),
)
def attention_alone(case: Case) -> None:
    x, y = digits(8, 1)
    model = _Sequences(6, residual=not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def truth(*_: object) -> bool:
        h = model.tokens(x[:200]).detach()
        return bool((h - h.mean(1, keepdim=True)).norm() < 0.03 * h.norm())

    train(case, model, optimizer, (x, y), cross_entropy, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.25)


@faulty(
    "rank-collapse",
    places=("*",),
    kind="MLP",
    data="digits",
    source="Daneshmand et al. 2020: deep random networks lose rank without batch norm; here weights of nearly rank one",
    steps=60,
)
def nearly_rank_one(case: Case) -> None:
    x, y = digits(8, 1)
    model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(64, 64), nn.Tanh())), nn.Linear(64, 10))
    for layer in model[:-1:2] if case.ill else ():
        layer.weight.data = torch.randn(64, 1) @ torch.randn(1, 64) / 8 + 0.002 * torch.randn(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def truth(*_: object) -> bool:
        values = torch.linalg.svdvals(model[:-1](x[:500]).detach() - model[:-1](x[:500]).detach().mean(0))
        return bool(values[0] ** 2 > 0.9 * (values**2).sum())

    train(case, model, optimizer, (x, y), cross_entropy, truth, size=64)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.2)


@faulty(
    "attention-logit-growth",
    places=("blocks*",),
    kind="Transformer",
    data="digits",
    source="Wortsman et al. 2024: logits grow at a high learning rate without QK-norm",
    steps=120,
    also=("high-learning-rate",),
)
def growing_logits(case: Case) -> None:
    x, y = digits(8, 1)
    model = _Sequences(2, residual=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.1 if case.ill else 1e-3)

    def truth(*_: object) -> bool:
        return any(_largest(block.attend, hidden) > 100 for block, hidden in _inputs(model, x[:64]))

    train(case, model, optimizer, (x, y), cross_entropy, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)


def _inputs(model: _Sequences, x: torch.Tensor):
    h = model.embed(x.view(-1, 8, 8)) + model.place
    for block in model.blocks:
        yield block, h
        h = block(h)


def _largest(attend: nn.MultiheadAttention, h: torch.Tensor) -> float:
    q, k, _ = F.linear(h, attend.in_proj_weight, attend.in_proj_bias).chunk(3, -1)
    q, k = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (q, k))
    return float((q @ k.transpose(-1, -2)).abs().max() / 8**0.5)


class _Heads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 2, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@faulty(
    "attention-logit-growth",
    places=("1*",),
    kind="ViT",
    data="digits",
    source="Zhai et al. 2023: entropy collapse, the query and key weights grow by themselves",
    steps=150,
    also=("high-learning-rate",),
)
def sharpened(case: Case) -> None:
    x, y = digits(8, 1)
    model = nn.Sequential(nn.Unflatten(1, (8, 8)), _Heads(8), nn.Linear(8, 16), nn.GELU(), nn.Flatten(), nn.Linear(128, 10))
    rest = [p for n, p in model.named_parameters() if "qkv" not in n]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "lr": 1e-3}, {"params": model[1].qkv.parameters(), "lr": 0.3 if case.ill else 1e-3}]
    )

    def truth(*_: object) -> bool:
        q, k, _ = model[1].qkv(x[:64].view(-1, 8, 8)).detach().chunk(3, -1)
        q, k = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k))
        return bool((q @ k.transpose(-1, -2)).abs().max() / 2 > 100)

    train(case, model, optimizer, (x, y), cross_entropy, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.8)
