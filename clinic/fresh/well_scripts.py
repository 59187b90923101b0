"""Healthy: more tables; trainers, proximal steps, unusual losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from clinic.frame import Case, healthy
from clinic.fresh._plain import bundled, descend, fell, scaled


class Radial(nn.Module):
    def __init__(self, centres: Tensor, classes: int) -> None:
        super().__init__()
        self.centres, self.width = nn.Parameter(centres.clone()), nn.Parameter(torch.zeros(len(centres)))
        self.linear = nn.Linear(len(centres), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.exp(-torch.cdist(x, self.centres).square() * self.width.exp()))


@healthy(
    kind="RBF network",
    source="Broomhead & Lowe 1988, radial basis functions: most of them are near zero for a sample",
    data="iris",
)
def radial_basis(case: Case) -> None:
    x, y = bundled("iris")
    x = scaled(x)
    net = Radial(x[torch.randperm(150)[:12]], 3)
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 150, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="logistic regression",
    source="Beck & Teboulle 2009, ISTA: a proximal step sets most weights to exactly zero",
    data="breast_cancer",
)
def soft_thresholds(case: Case) -> None:
    x, y = bundled("breast_cancer")
    x = scaled(x)
    net = nn.Linear(30, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            loss = F.binary_cross_entropy_with_logits(net(x)[:, 0], y.float())
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                net.weight.copy_(net.weight.sign() * (net.weight.abs() - 0.1 * 0.02).clamp(min=0))
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.5) and (net.weight == 0).float().mean().item() > 0.3)


@healthy(
    kind="multi-task regression",
    source="scikit-learn's linnerud: twenty men, three targets, full batch, Rprop",
    data="linnerud",
)
def twenty_men(case: Case) -> None:
    x, y = bundled("linnerud")
    x, y = scaled(x), scaled(y)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = torch.optim.Rprop(net.parameters(), lr=1e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            opt.zero_grad()
            loss = F.mse_loss(net(x), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.8))


@healthy(
    kind="MLP",
    source="scikit-learn's breast cancer in a Lightning-like Trainer class: epochs, a validation loop, a plateau's patience",
    data="breast_cancer",
)
def trainer_with_validation(case: Case) -> None:
    x, y = bundled("breast_cancer")
    x = scaled(x)
    order = torch.randperm(569)
    train = DataLoader(TensorDataset(x[order[:450]], y[order[:450]]), 15, shuffle=True)

    class Trainer:
        def __init__(self) -> None:
            self.model = nn.Sequential(
                nn.Linear(30, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2)
            )
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=2)
            self.losses: list[float] = []

        def fit(self, epochs: int) -> None:
            for _ in range(epochs):
                self.model.train()
                for bx, by in train:
                    self.optimizer.zero_grad()
                    loss = F.cross_entropy(self.model(bx), by)
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.losses.append(loss.item())
                self.plateau.step(self.validate())

        @torch.no_grad()
        def validate(self) -> float:
            self.model.eval()
            return F.cross_entropy(self.model(x[order[450:]]), y[order[450:]]).item()

    trainer = Trainer()
    with case.watch(trainer.model):
        trainer.fit(case.steps // 30)
    case.proof(lambda: fell(trainer.losses, 0.5))


@healthy(
    kind="autoencoder",
    source="Keras anomaly detection example: one class only, undercomplete, inputs between 0 and 1 and a sigmoid",
    data="breast_cancer",
)
def benign_only(case: Case) -> None:
    x, y = bundled("breast_cancer")
    x = x[y == 1]
    x = (x - x.amin(0)) / (x.amax(0) - x.amin(0))
    net = nn.Sequential(nn.Linear(30, 12), nn.ReLU(), nn.Linear(12, 30), nn.Sigmoid())
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            batch = x[torch.randint(0, len(x), (32,))]
            loss = F.binary_cross_entropy(net(batch), batch)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.95))


@healthy(
    kind="survival",
    source="Katzman et al. 2018, DeepSurv: Cox partial likelihood over the whole batch, no bias in the head",
    data="diabetes",
)
def partial_likelihood(case: Case) -> None:
    x, y = bundled("diabetes")
    x = scaled(x)
    net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 1, bias=False))
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 442, (64,))
            order = y[rows, 0].argsort(descending=True)
            risk = net(x[rows[order]])[:, 0]
            loss = (risk.logcumsumexp(0) - risk).mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.99))


@healthy(
    kind="MLP",
    source="PyTorch forum on imbalance: WeightedRandomSampler, MultiMarginLoss, an exponential rate, Adagrad",
    data="wine",
)
def hinge_of_several_classes(case: Case) -> None:
    x, y = bundled("wine")
    x = scaled(x)
    sampler = WeightedRandomSampler(
        (1.0 / torch.bincount(y).float())[y], 300 * 24, generator=torch.Generator().manual_seed(case.seed)
    )
    loader = DataLoader(TensorDataset(x, y), 24, sampler=sampler)
    net = nn.Sequential(nn.Linear(13, 24), nn.CELU(), nn.Linear(24, 3))
    opt = torch.optim.Adagrad(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.99)
    losses = []
    with case.watch(net):
        for bx, by in loader:
            loss = F.multi_margin_loss(net(bx), by)
            losses.append(descend(opt, loss))
            schedule.step()
    case.proof(lambda: fell(losses, 0.3))
