"""Healthy trainings on sets that scikit-learn bundles."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.measured._data import images, pick, raw, standard, table
from clinic.measured._loop import fit, mean, on_batches
from clinic.measured._models import VAE, Autoencoder, ConvNet, Mixer, MoE, Recurrent, ResNet, UNet, ViT, mlp


def _classify(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, size: int = 32, **more: object
) -> list[float]:
    def loss() -> Tensor:
        rows = pick(len(x), size)
        return F.cross_entropy(model(x[rows]), y[rows])

    return fit(case, model, optimizer, loss, **more)  # type: ignore[arg-type]


@healthy(kind="logistic regression", source="CS229 notes: full-batch gradient descent", data="breast_cancer")
def full_batch_logistic_regression(case: Case) -> None:
    x, y = table("breast_cancer")
    model = nn.Linear(30, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(x), y), learns=0.5)


@healthy(kind="MLP", source="interpolation: 150 flowers learnt by heart, the loss ends near zero", data="iris")
def iris_by_heart(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 64, 64, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(x), y), learns=0.1)


@healthy(kind="MLP", source="scikit-learn's wine example with dropout and weight decay", data="wine")
def wine_with_dropout(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    _classify(case, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3), x, y, 16, learns=0.5)


@healthy(
    kind="MLP",
    source="Efron et al. 2004: half of the variance cannot be explained, the loss soon stands still",
    data="diabetes",
)
def diabetes_soon_flat(case: Case) -> None:
    x, y = table("diabetes")
    model = mlp(10, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), learns=0.85)


@healthy(kind="CNN", source="the PyTorch MNIST example, smaller", data="digits")
def digits_convnet(case: Case) -> None:
    x, y = images()
    model = ConvNet(8, dropout=0.25)
    _classify(case, model, torch.optim.Adam(model.parameters(), lr=3e-3), x, y, learns=0.3)


@healthy(
    kind="ResNet",
    source="Goyal et al. 2017: last norm of each branch begun at zero; one-cycle schedule (Smith 2018)",
    data="digits",
)
def resnet_zero_gamma_one_cycle(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 2, zero=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=case.steps)
    _classify(case, model, optimizer, x, y, schedule=schedule, learns=0.5)


@healthy(kind="ViT", source="Dosovitskiy et al. 2021: warm-up from zero, cosine to zero, AdamW", data="digits")
def vit_warm_up_and_cosine(case: Case) -> None:
    x, y = images()
    model = ViT()
    nn.init.zeros_(model.head.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    shape = lambda s: s / 40 if s < 40 else 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (s - 40) / (case.steps - 40))).item())
    _classify(case, model, optimizer, x, y, schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, shape), learns=0.8)


@healthy(kind="MLP-mixer", source="Tolstikhin et al. 2021", data="digits")
def mixer_on_digits(case: Case) -> None:
    x, y = images()
    model = Mixer()
    _classify(case, model, torch.optim.AdamW(model.parameters(), lr=3e-3), x, y, learns=0.7)


@healthy(kind="autoencoder", source="Vincent et al. 2008, denoising autoencoder", data="digits")
def denoising_autoencoder(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows] + 0.5 * torch.randn(32, 64)), x[rows])

    fit(case, model, optimizer, loss)


@healthy(kind="VAE", source="Kingma & Welling 2014", data="digits")
def variational_autoencoder(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(case, model, optimizer, lambda: -model.elbo(x[pick(len(x))]), learns=0.95)


@healthy(kind="U-Net", source="Ronneberger et al. 2015, used to take noise away", data="digits")
def unet_denoiser(case: Case) -> None:
    x, _ = images()
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x), 16)
        return F.mse_loss(model(x[rows] + 0.3 * torch.randn(16, 1, 8, 8)), x[rows])

    fit(case, model, optimizer, loss, learns=0.7)


@healthy(kind="LSTM", source="PyTorch tutorial: rows of an image as a sequence; clipping at one", data="digits")
def rows_of_digits_as_a_sequence(case: Case) -> None:
    x, y = images()
    x = x[:, 0]
    model = Recurrent(nn.LSTM(8, 24, batch_first=True), 10)
    clip = lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    _classify(case, model, torch.optim.Adam(model.parameters(), lr=5e-3), x, y, clip=clip, learns=0.6)


@healthy(kind="CNN", source="PyTorch transfer learning tutorial: convnet as a fixed feature extractor", data="digits")
def linear_probe_on_a_frozen_backbone(case: Case) -> None:
    x, y = images()
    model = ConvNet(16)
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("fc"))
    model.norm1.eval(), model.norm2.eval()
    _classify(case, model, torch.optim.Adam(model.fc.parameters(), lr=1e-2), x, y, learns=0.6)


@healthy(kind="siamese", source="Khosla et al. 2020, supervised contrastive learning", data="digits")
def supervised_contrastive(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x), 48)
        z = F.normalize(model(x[rows]), dim=1)
        scores = (z @ z.T / 0.2).masked_fill(torch.eye(48, dtype=torch.bool), -1e9)
        same = (y[rows][:, None] == y[rows][None]) & ~torch.eye(48, dtype=torch.bool)
        per_row = -(scores.log_softmax(1) * same).sum(1) / same.sum(1).clamp(min=1)
        return per_row[same.any(1)].mean()

    fit(case, model, optimizer, loss)


@healthy(kind="MoE", source="Fedus et al. 2022, Switch: each expert sees a part of the batch, some none of it", data="digits")
def switch_layer_on_digits(case: Case) -> None:
    x, y = table("digits")
    model = MoE(64, 10, experts=8, width=24)
    _classify(case, model, torch.optim.Adam(model.parameters(), lr=3e-3), x, y, learns=0.7)


@healthy(
    kind="logistic regression",
    source="torch.optim.LBFGS docs: a closure that is called many times in a step",
    data="breast_cancer",
)
def logistic_regression_by_lbfgs(case: Case) -> None:
    x, y = table("breast_cancer")
    model = nn.Linear(30, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, history_size=5)
    start = F.cross_entropy(model(x), y).item()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + 1e-3 * model.weight.square().sum()
        loss.backward()
        return loss

    with case.watch(model):
        for _ in range(case.steps):
            optimizer.step(closure)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.3 * start)


@healthy(
    kind="MLP",
    source="torch.amp recipe on the CPU: float16 autocast with a GradScaler whose first steps overflow",
    data="digits",
)
def autocast_with_a_scaler(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = pick(len(x))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x[rows]), y[rows])
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.5 * mean(losses[:10]))


@healthy(
    kind="linear regression",
    source="statistics course: targets in their own unit, the bias begun at their mean",
    data="diabetes",
)
def regression_in_the_targets_unit(case: Case) -> None:
    x, y = raw("diabetes")
    x = standard(x)
    model = nn.Linear(10, 1)
    nn.init.constant_(model.bias, y.mean().item())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), learns=0.85)


@healthy(kind="MLP", source="online learning: one sample a step", data="breast_cancer")
def one_sample_a_step(case: Case) -> None:
    x, y = table("breast_cancer")
    model = mlp(30, 16, 2)
    before = F.cross_entropy(model(x), y).item()
    _classify(case, model, torch.optim.SGD(model.parameters(), lr=0.02), x, y, 1, learns=None)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5 * before)


@healthy(
    kind="MLP", source="Zhang et al. 2018, mixup, with label smoothing: the loss has a floor far above zero", data="digits"
)
def mixup_and_label_smoothing(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)

    def loss() -> Tensor:
        a, b, share = pick(len(x)), pick(len(x)), torch.distributions.Beta(0.4, 0.4).sample().item()
        out = model(share * x[a] + (1 - share) * x[b])
        return share * smooth(out, y[a]) + (1 - share) * smooth(out, y[b])

    fit(case, model, optimizer, loss, learns=0.8)


@healthy(
    kind="ResNet",
    source="pre-norm residual MLP of twelve blocks, as in tabular ResNets (Gorishniy et al. 2021)",
    data="breast_cancer",
)
def deep_residual_mlp(case: Case) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.body = nn.LayerNorm(24), mlp(24, 24, 24)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(self.norm(x))

    x, y = table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 24), *[Residual() for _ in range(12)], nn.LayerNorm(24), nn.Linear(24, 2))
    _classify(case, model, torch.optim.AdamW(model.parameters(), lr=1e-3), x, y, learns=0.5)


@healthy(
    kind="CNN",
    source="every beginner's notebook: pixels divided to 0..1 and not centred, conv biases, max pooling, Adam",
    data="digits",
)
def pixels_between_zero_and_one(case: Case) -> None:
    x, y = raw("digits")
    x = (x / 16).view(-1, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 10))
    _classify(case, model, torch.optim.Adam(model.parameters(), lr=3e-3), x, y, learns=0.3)


@healthy(
    kind="MLP",
    source="tabular course: four of five features left in their own units of about ten, no scaler, ReLU",
    data="iris",
)
def iris_in_centimetres(case: Case) -> None:
    x, y = raw("iris")
    model = mlp(4, 16, 3)
    _classify(case, model, torch.optim.Adam(model.parameters(), lr=1e-2), x, y, 16, learns=0.5)


@healthy(kind="softmax regression", source="UFLDL tutorial: one linear layer begun at zero", data="digits")
def softmax_regression_from_zero(case: Case) -> None:
    x, y = table("digits")
    model = nn.Linear(64, 10)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    _classify(case, model, torch.optim.SGD(model.parameters(), lr=0.1), x, y, learns=0.3)


@healthy(kind="CNN", source="Loshchilov & Hutter 2017, SGDR: the rate jumps up at every restart", data="digits")
def warm_restarts(case: Case) -> None:
    x, y = images()
    model = ConvNet(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=50)
    _classify(case, model, optimizer, x, y, schedule=schedule, learns=0.4)
