"""Parameters that no optimizer holds or no gradient reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import bundled, fell, pictures, scaled

# ---- parameter-in-no-optimizer


class Decoder(nn.Module):
    def __init__(self, vocabulary: int = 20, width: int = 24, length: int = 16) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(vocabulary, width)
        self.pos_emb = nn.Parameter(0.02 * torch.randn(1, length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 48, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, t: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(t.shape[1])
        return self.head(self.layers(self.tok_emb(t) + self.pos_emb[:, : t.shape[1]], mask=mask))


@faulty(
    "parameter-in-no-optimizer",
    places=("pos_emb",),
    kind="GPT",
    source="minGPT configure_optimizers, its assertion deleted: pos_emb is in neither the decay nor the no_decay set",
    steps=50,
)
def falls_between_the_groups(case: Case) -> None:
    ring = (torch.arange(200)[:, None] * 3 + torch.arange(17)) % 20
    model = Decoder()
    decay, plain = [], []
    for name, p in model.named_parameters():
        if name.endswith("weight") and p.ndim > 1:
            decay.append(p)
        elif name.endswith(("bias", "weight")) or not case.ill:
            plain.append(p)
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=3e-3)
    held = {id(p) for g in opt.param_groups for p in g["params"]}
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            t = ring[torch.randint(0, 200, (24,))]
            loss = F.cross_entropy(model(t[:, :-1]).reshape(-1, 20), t[:, 1:].reshape(-1))
            opt.zero_grad(set_to_none=True)
            loss.backward()
            case.truth(lambda: bool(model.pos_emb.grad.any()) and id(model.pos_emb) not in held)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class LateHead(nn.Module):
    """Makes its classifier when it sees how many features come out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 2), nn.ReLU(), nn.Flatten()
        )
        self.classifier: nn.Linear | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        if self.classifier is None:
            self.classifier = nn.Linear(h.shape[1], 10)
        return self.classifier(h)


@faulty(
    "parameter-in-no-optimizer",
    places=("classifier", "classifier.*"),
    kind="CNN",
    source="Stack Overflow: linear layer created in the first forward because its size was unknown, after the optimizer",
    steps=60,
    data="digits",
)
def made_in_the_first_forward(case: Case) -> None:
    x, y = pictures()
    model = LateHead()
    if not case.ill:
        model(x[:1])
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: id(model.classifier.weight) not in held)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- parameter-without-gradient


class Quantised(nn.Module):
    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.codebook = nn.Embedding(16, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
        self.straight = straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        code = self.codebook(torch.cdist(z, self.codebook.weight).argmin(1))
        out = self.decoder(z + (code - z).detach() if self.straight else code)
        return out, F.mse_loss(code, z.detach())


@faulty(
    "parameter-without-gradient",
    places=("encoder", "encoder.*"),
    kind="VQ-VAE",
    source="van den Oord et al. 2017, VQ-VAE re-implementations: the straight-through line is left out, argmin has no gradient",
    steps=100,
    data="digits",
)
def no_straight_through(case: Case) -> None:
    x = scaled(bundled("digits")[0])
    vq = Quantised(straight=not case.ill)
    opt = torch.optim.Adam(vq.parameters(), lr=3e-3)
    losses = []
    with case.watch(vq):
        for _ in range(case.steps):
            batch = x[torch.randint(0, len(x), (64,))]
            out, codes = vq(batch)
            wrong = F.mse_loss(out, batch)
            loss = wrong + codes
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: all(p.grad is None for p in vq.encoder.parameters()))
            opt.step()
            losses.append(wrong.item())
    case.proof(lambda: fell(losses, 0.95))


class StepByStep(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cell, self.out, self.cut = nn.LSTMCell(3, 16), nn.Linear(16, 2), cut

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 16)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            if self.cut:  # "repackage" the hidden state
                h, c = h.detach(), c.detach()
        return self.out(h)


@faulty(
    "parameter-without-gradient",
    places=("cell", "cell.*"),
    kind="LSTM",
    source="pytorch/examples word_language_model: repackage_hidden moved inside the time loop, before the output is read",
    steps=50,
)
def repackaged_too_early(case: Case) -> None:
    x = torch.randn(300, 7, 3)
    y = (x[..., 1].mean(1) > 0).long()
    model = StepByStep(case.ill)
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            opt.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: model.cell.weight_hh.grad is None)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
