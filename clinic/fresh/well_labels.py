"""Healthy: digits without their labels, or with labels of another kind."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import bundled, descend, fell, pictures, scaled


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten())
        self.projector = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(self.backbone(x)), dim=1)


@healthy(
    kind="contrastive",
    source="Chen et al. 2020, SimCLR: NT-Xent over two noisy views, itself masked by minus infinity",
    data="digits",
)
def two_views_of_each(case: Case) -> None:
    x, _ = pictures()
    net = Views()
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    partner = torch.arange(64).roll(32)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 1797, (32,))]
            z = net(torch.cat([batch + 0.3 * torch.randn_like(batch), batch.roll(1, 3) + 0.3 * torch.randn_like(batch)]))
            similar = (z @ z.T / 0.5).masked_fill(torch.eye(64, dtype=torch.bool), float("-inf"))
            loss = F.cross_entropy(similar, partner)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.85))


@healthy(
    kind="VQ-VAE",
    source="van den Oord et al. 2017 with the codebook as a moving average: buffers move, no gradient for them",
    data="digits",
)
def codebook_by_moving_averages(case: Case) -> None:
    x = scaled(bundled("digits")[0])

    class VQ(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(64, 4), nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64))
            self.register_buffer("codes", torch.randn(24, 4))

        def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
            z = self.encoder(batch)
            nearest = torch.cdist(z, self.codes).argmin(1)
            with torch.no_grad():
                for i in nearest.unique():
                    self.codes[i].lerp_(z[nearest == i].mean(0), 0.1)
            code = self.codes[nearest]
            return self.decoder(z + (code - z).detach()), F.mse_loss(z, code)

    vq = VQ()
    opt = torch.optim.Adam(vq.parameters(), lr=3e-3)
    losses = []
    with case.watch(vq):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 1797, (64,))]
            out, commitment = vq(batch)
            loss = F.mse_loss(out, batch) + 0.25 * commitment
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.9))


@healthy(
    kind="ViT (transformers)",
    source="Hugging Face image classification: ViT from a config, accumulation of two, autocast to bfloat16",
    data="digits",
)
def vit_from_a_config(case: Case) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    x, y = pictures()
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, num_labels=10,
    )  # fmt: skip
    vit = ViTForImageClassification(config)
    vit.train()
    opt = torch.optim.AdamW(vit.parameters(), lr=3e-3)
    losses = []
    with case.watch(vit):
        for _ in range(case.steps):
            opt.zero_grad()
            for _micro in range(2):
                rows = torch.randint(0, 1797, (16,))
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = vit(pixel_values=x[rows], labels=y[rows]).loss / 2
                loss.backward()
            opt.step()
            losses.append(2 * loss.item())
    case.proof(lambda: fell(losses, 0.6))


@healthy(
    kind="ensemble",
    source="Lakshminarayanan et al. 2017, deep ensembles in one module, the best copy restored at the end",
    data="digits",
)
def an_ensemble_of_three(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    members = nn.ModuleList([nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)) for _ in range(3)])
    opts = [torch.optim.Adam(m.parameters(), lr=lr) for m, lr in zip(members, (1e-3, 3e-3, 1e-2), strict=True)]
    losses = []
    best: dict[str, Tensor] = {}
    with case.watch(members):
        for _ in range(case.steps):
            total = 0.0
            for member, opt in zip(members, opts, strict=True):
                rows = torch.randint(0, 1797, (48,))
                opt.zero_grad()
                loss = F.cross_entropy(member(x[rows]), y[rows])
                loss.backward()
                opt.step()
                total += loss.item()
            if not losses or total < min(losses):
                best = copy.deepcopy(members.state_dict())
            losses.append(total)
    case.proof(lambda: fell(losses, 0.4) and len(best) == 12)


@healthy(
    kind="rotation",
    source="Gidaris et al. 2018, predicting rotations: a label of its own making, loss begins at ln 4",
    data="digits",
)
def which_way_is_up(case: Case) -> None:
    x, _ = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.Mish(), nn.Conv2d(16, 16, 3, stride=2), nn.Mish(), nn.Flatten(), nn.LazyLinear(4)
    )
    net(x[:1])
    opt = torch.optim.NAdam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for step in itertools.islice(itertools.count(), case.steps):
            turns = torch.randint(0, 4, (32,))
            batch = torch.stack(
                [img.rot90(int(k), (1, 2)) for img, k in zip(x[torch.randint(0, 1797, (32,))], turns, strict=True)]
            )
            loss = F.cross_entropy(net(batch), turns)
            opt.zero_grad(set_to_none=bool(step % 2))
            loss.backward()
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.6))
