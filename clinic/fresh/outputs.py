"""Outputs: a bias that is missing, activations twice or unfit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, pictures, scaled

# ---- missing-bias


@faulty(
    "missing-bias",
    places=EVERYWHERE,
    kind="polynomial regression",
    source="PyTorch, learning with examples: Linear(3, 1) over x, x^2, x^3; here for cos(x) + 2, and bias=False",
    steps=150,
    also=("high-initial-loss", "stalled-loss"),
)
def cosine_without_a_constant(case: Case) -> None:
    x = torch.linspace(-3.14, 3.14, 500)
    y = (torch.cos(x) + 2)[:, None]
    xx = x[:, None].pow(torch.tensor([1, 2, 3])) / torch.tensor([1.0, 3.0, 9.0])
    model = nn.Sequential(nn.Linear(3, 1, bias=not case.ill))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)

    def constant_helps() -> bool:
        """The best fit through the origin is more than four times as far off as the best fit with a constant."""
        if model[0].bias is not None:
            return False
        far = [
            (a @ torch.linalg.lstsq(a, y).solution - y).square().mean() for a in (xx, torch.cat([xx, torch.ones(500, 1)], 1))
        ]
        return bool(far[0] > 4 * far[1])

    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            loss = F.mse_loss(model(xx), y)
            optimizer.zero_grad()
            loss.backward()
            case.truth(constant_helps)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- doubled-output-activation


class Segmenter(nn.Module):
    """A small U-Net that gives probabilities."""

    def __init__(self, sigmoid: bool) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.join, self.mask = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        m = self.mask(F.relu(self.join(torch.cat([a, self.up(b)], 1))))
        return torch.sigmoid(m) if self.sigmoid else m


@faulty(
    "doubled-output-activation",
    places=EVERYWHERE,
    kind="U-Net",
    source="GitHub, milesial/Pytorch-UNet issues: sigmoid in forward and BCEWithLogitsLoss in train.py",
    steps=60,
    data="digits",
)
def mask_squashed_twice(case: Case) -> None:
    x, _ = pictures()
    target = (x > 0.7).float()
    noisy = x + 0.5 * torch.randn_like(x)
    unet = Segmenter(case.ill)
    optimizer = torch.optim.RMSprop(unet.parameters(), lr=2e-3)
    criterion = nn.BCEWithLogitsLoss()
    losses = []
    with case.watch(unet):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (16,))
            out = unet(noisy[rows])
            loss = criterion(out, target[rows])
            optimizer.zero_grad()
            loss.backward()
            wide = 100 * noisy[rows]  # far from what it was trained on, and still between 0 and 1
            case.truth(lambda wide=wide: bool(unet(wide).sub(0.5).abs().max() <= 0.5))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "doubled-output-activation",
    places=EVERYWHERE,
    kind="DistilBERT (transformers)",
    source="Towards Data Science, fine-tuning BERT: softmax over the logits 'to get probabilities', then CrossEntropyLoss",
    steps=50,
)
def bert_probabilities_into_cross_entropy(case: Case) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = DistilBertModel(
                DistilBertConfig(vocab_size=30, dim=24, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=16)
            )
            self.linear = nn.Linear(24, 3)

        def forward(self, ids: Tensor) -> Tensor:
            scores = self.linear(self.bert(ids).last_hidden_state[:, 0])
            return scores.softmax(-1) if case.ill else scores

    ids = torch.randint(3, 30, (300, 10))
    ids[:, 0] = 0
    y = torch.randint(0, 3, (300,))
    ids[torch.arange(300), torch.randint(1, 10, (300,))] = y
    net = Classifier()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            out = net(ids[rows])
            loss = nn.CrossEntropyLoss()(out, y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda out=out: bool((out.sum(1) - 1).abs().max() < 1e-5))
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.97))


# ---- unfit-output-activation


@faulty(
    "unfit-output-activation",
    places=EVERYWHERE,
    kind="GRU",
    source="Kaggle, stock returns: F.relu around the last layer 'because prices are positive', the targets are returns",
    steps=80,
    also=("dead-units", "collapsed-output"),
)
def returns_are_not_prices(case: Case) -> None:
    x = torch.randn(400, 10, 3)
    y = x[:, -4:, 0].mean(1, keepdim=True) * 1.5 + 0.1 * torch.randn(400, 1)
    net = nn.ModuleDict({"gru": nn.GRU(3, 16, batch_first=True), "out": nn.Linear(16, 1)})
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (40,))
            out = net["out"](net["gru"](x[rows])[0][:, -1])
            out = F.relu(out) if case.ill else out
            loss = F.mse_loss(out, y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(
                lambda out=out, rows=rows: case.ill and bool((out >= 0).all()) and (y[rows] < 0).double().mean().item() > 0.25
            )
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "unfit-output-activation",
    places=EVERYWHERE,
    kind="MLP",
    source="YouTube course, 'predict with a neural network': nn.Sigmoid after the last layer of a regression on 25 to 346",
    steps=80,
    data="diabetes",
    also=(
        "high-initial-loss",
        "saturated-units",
        "vanishing-gradient",
        "stalled-loss",
        "collapsed-output",
        "parameter-without-gradient",
        "missing-bias",
    ),
)
def sigmoid_after_a_regression(case: Case) -> None:
    x, y = bundled("diabetes")
    x = scaled(x)
    layers: list[nn.Module] = [nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)]
    if case.ill:
        layers.append(nn.Sigmoid())
    net = nn.Sequential(*layers)
    if not case.ill:
        nn.init.constant_(net[2].bias, y.mean().item())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            out = net(x[rows])
            loss = F.l1_loss(out, y[rows])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda out=out, rows=rows: bool(out.max() <= 1 < y[rows].min()))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))
