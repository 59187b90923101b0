"""Parameters that are in no optimizer, or that the loss does not reach."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import friedman, images, pick, sentences, table
from clinic.measured._loop import fit, on_batches
from clinic.measured._models import (
    GAN,
    Autoencoder,
    LoRA,
    ResNet,
    ViT,
    mlp,
)

# ---- parameter-in-no-optimizer


@faulty(
    "parameter-in-no-optimizer",
    places=("fc", "fc.*"),
    kind="ResNet",
    source="transfer learning tutorial, comments: model.fc replaced after the optimizer was made",
    steps=40,
    data="digits",
)
def head_replaced_after_the_optimizer(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.fc = nn.Linear(8, 10)
    if not case.ill:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    fit(case, model, optimizer, on_batches(model, x, y), lambda: id(model.fc.weight) not in held)


@faulty(
    "parameter-in-no-optimizer",
    places=("encoder", "encoder.*"),
    kind="autoencoder",
    source="course homework: two networks, Adam(decoder.parameters()) only",
    steps=60,
    data="digits",
)
def only_the_decoder_is_trained(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    trained = model.decoder if case.ill else model
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    loss = on_batches(model, x, x, F.mse_loss)
    fit(case, model, optimizer, loss, lambda: any(id(p) not in held for p in model.encoder.parameters()))


@faulty(
    "parameter-in-no-optimizer",
    places=("pos", "cls"),
    kind="ViT",
    source="timm discussion: parameter groups built from modules leave bare nn.Parameters out",
    steps=60,
    data="digits",
)
def groups_built_from_modules(case: Case) -> None:
    x, y = images()
    model = ViT()
    groups = [{"params": list(m.parameters())} for m in (model.patch, model.blocks, model.norm, model.head)]
    if not case.ill:
        groups.append({"params": [model.pos, model.cls]})
    optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.01)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    fit(case, model, optimizer, on_batches(model, x, y), lambda: id(model.pos) not in held)


# ---- parameter-without-gradient


class _TwoBranches(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.cut = mlp(10, 24, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 1)), cut

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.head(h.detach() if self.cut else h)


@faulty(
    "parameter-without-gradient",
    places=("encoder", "encoder.*"),
    kind="MLP",
    source="Stack Overflow: weights of the encoder do not change, .detach() left over from plotting features",
    steps=40,
)
def detached_features(case: Case) -> None:
    x, y = friedman()
    model = _TwoBranches(case.ill)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: model.encoder[0].weight.grad is None)


class _Quantised(nn.Module):
    """Nearest of a few codes; the gradient passes straight through, unless it is forgotten."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 32, 4), mlp(4, 32, 64)
        self.codebook, self.straight = nn.Embedding(16, 4), straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        code = self.codebook(torch.cdist(z.detach(), self.codebook.weight.detach()).argmin(1))
        pull = F.mse_loss(code, z.detach())
        if self.straight:
            return self.decoder(z + (code - z).detach()), pull + 0.25 * F.mse_loss(z, code.detach())
        return self.decoder(code), pull


@faulty(
    "parameter-without-gradient",
    places=("encoder", "encoder.*"),
    kind="VQ-VAE",
    source="van den Oord et al. 2017: the argmin has no gradient, the straight-through line is easily forgotten",
    steps=60,
    data="digits",
)
def no_straight_through(case: Case) -> None:
    x, _ = table("digits")
    model = _Quantised(not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        out, codes = model(x[rows])
        return F.mse_loss(out, x[rows]) + codes

    fit(case, model, optimizer, loss, lambda: model.encoder[0].weight.grad is None, learns=None)
    case.proof(lambda: F.mse_loss(model(x)[0], x).item() < 1.0)


class _Unused(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(24, 12), nn.LSTM(12, 16, batch_first=True)
        self.attention, self.out, self.ill = nn.Linear(16, 1), nn.Linear(16, 24), ill

    def forward(self, tokens: Tensor) -> Tensor:
        h, _ = self.rnn(self.embed(tokens))
        weights = self.attention(h).softmax(1)
        h = h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None] if self.ill else (weights * h).cumsum(1) / weights.cumsum(1)
        return self.out(h)


@faulty(
    "parameter-without-gradient",
    places=("attention", "attention.*"),
    kind="LSTM",
    source="PyTorch forum: find_unused_parameters; a layer is called and its result never used",
    steps=40,
)
def attention_computed_and_not_used(case: Case) -> None:
    tokens = sentences()
    model = _Unused(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return F.cross_entropy(model(tokens[rows][:, :-1]).flatten(0, 1), tokens[rows][:, 1:].flatten())

    fit(case, model, optimizer, loss, lambda: model.attention.weight.grad is None)


# ---- two networks, one of them left out


@faulty(
    "parameter-in-no-optimizer",
    places=("critic", "critic.*"),
    kind="GAN",
    source="copy and paste in a DCGAN notebook: both optimizers get the generator's parameters",
    steps=60,
)
def both_optimizers_hold_the_generator(case: Case) -> None:
    angle = torch.rand(512) * 6.28
    real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(512, 2)
    model = GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d = torch.optim.Adam((model.generator if case.ill else model.critic).parameters(), lr=1e-3, betas=(0.5, 0.999))
    held = {id(p) for o in (g, d) for group in o.param_groups for p in group["params"]}
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            bce = F.binary_cross_entropy_with_logits
            (bce(model.critic(real[pick(512)]), ones) + bce(model.critic(model.fake().detach()), zeros)).backward()
            d.step()
            g.zero_grad()
            model.critic.zero_grad()
            bce(model.critic(model.fake()), ones).backward()
            case.truth(lambda: any(id(p) not in held for p in model.critic.parameters()))
            g.step()
    case.proof(lambda: bool(torch.isfinite(model.fake()).all()))


@faulty(
    "parameter-without-gradient",
    places=("1.a", "1.b", "1", "*.a", "*.b"),
    kind="LoRA",
    source="peft issue: base layer called in place of the adapted one, adapters have no gradient",
    steps=40,
    data="wine",
)
def adapter_bypassed(case: Case) -> None:
    x, y = table("wine")
    body = mlp(13, 24, 24, 3)
    for p in body.parameters():
        p.requires_grad_(False)
    model = nn.ModuleList([body[0], LoRA(body[2]), nn.Linear(24, 3)])

    def forward(x: Tensor) -> Tensor:
        h = F.relu(model[0](x))
        h = model[1].base(h) if case.ill else model[1](h)
        return model[2](F.relu(h))

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(forward(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: model[1].a.grad is None)
