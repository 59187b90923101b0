"""Steps too short or too long; clipped, decayed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, copied, distance, fell, gradients, mean, pictures, root, scaled, weights

# ---- low-learning-rate


class WaveBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation - dilation
        self.filter, self.gate = nn.Conv1d(width, width, 2, dilation=dilation), nn.Conv1d(width, width, 2, dilation=dilation)
        self.join = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.pad, 0))
        return x + self.join(torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded)))


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(1, 12, 1)
        self.blocks = nn.Sequential(*[WaveBlock(12, 2**i) for i in range(3)])
        self.outlet = nn.Conv1d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outlet(F.relu(self.blocks(self.inlet(x))))


@faulty(
    "low-learning-rate",
    places=EVERYWHERE,
    kind="WaveNet",
    source="Hugging Face forum: num_warmup_steps=1_000_000 kept from pretraining for a run of a hundred steps",
    steps=80,
)
def warm_up_of_a_million_steps(case: Case) -> None:
    t = torch.arange(40)
    song = torch.sin(t * (0.2 + 0.5 * torch.rand(200, 1)) + 6 * torch.rand(200, 1))[:, None]
    net = WaveNet()
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    warmup = 1_000_000 if case.ill else 5
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: min(1.0, (step + 1) / warmup))
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            batch = song[torch.randint(0, 200, (16,))]
            loss = F.mse_loss(net(batch)[..., :-1], batch[..., 1:])
            opt.zero_grad()
            loss.backward()
            before = copied(net)
            opt.step()
            schedule.step()
            case.truth(lambda before=before: 0 < distance(net, before) < 1e-5 * weights(net))
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "low-learning-rate",
    places=EVERYWHERE,
    kind="LSTM",
    source="Stack Overflow, 'LSTM loss not decreasing': lr=1e-6 with SGD because 1e-3 'exploded' before the data were scaled",
    steps=80,
)
def rate_kept_from_unscaled_data(case: Case) -> None:
    x = torch.randn(300, 8, 4)
    y = x[:, -3:, 0].sum(1, keepdim=True)
    lstm = nn.LSTM(4, 16, batch_first=True)
    model = nn.ModuleDict({"lstm": lstm, "out": nn.Linear(16, 1)})
    sgd = torch.optim.SGD(model.parameters(), lr=1e-6 if case.ill else 0.3)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            _, (h, _) = lstm(x[rows])
            loss = F.mse_loss(model["out"](h[-1]), y[rows])
            sgd.zero_grad()
            loss.backward()
            before = copied(model)
            sgd.step()
            case.truth(lambda before=before: 0 < distance(model, before) < 1e-5 * weights(model))
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))


# ---- high-learning-rate


@faulty(
    "high-learning-rate",
    places=EVERYWHERE,
    kind="LSTM",
    source="Machine Learning Mastery comments: Adam with lr=1 for an LSTM forecaster, 'loss jumps up and stays'",
    steps=60,
    also=("saturated-units", "growing-loss"),
)
def adam_with_a_rate_of_one(case: Case) -> None:
    t = torch.arange(24) * 0.3
    x = (torch.sin(t + 6 * torch.rand(256, 1)) + 0.1 * torch.randn(256, 24))[..., None]
    lstm, head = nn.LSTM(1, 20, num_layers=2, batch_first=True), nn.Linear(20, 1)
    model = nn.Sequential(lstm, head)
    adam = torch.optim.Adam(model.parameters(), lr=1.0 if case.ill else 5e-3)

    def error(rows: Tensor | slice) -> Tensor:
        return F.mse_loss(head(lstm(x[rows, :-1])[0][:, -1]), x[rows, -1])

    start, losses = error(slice(None)).item(), []
    with case.watch(model):
        for _ in range(case.steps):
            adam.zero_grad()
            loss = error(torch.randint(0, 256, (32,)))
            loss.backward()
            case.truth(lambda: error(slice(None)).item() > 2 * start)
            adam.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class SAGE(nn.Module):
    def __init__(self, a: Tensor, inputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", a / a.sum(1, keepdim=True))
        self.own, self.near = nn.Linear(inputs, 16), nn.Linear(inputs, 16)
        self.own2, self.near2 = nn.Linear(16, classes), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.own(x) + self.near(self.mean @ x))
        return self.own2(h) + self.near2(self.mean @ h)


@faulty(
    "high-learning-rate",
    places=EVERYWHERE,
    kind="GraphSAGE",
    source="Hamilton et al. 2017 by hand; GitHub issue: lr=0.7 of the supervised script used with momentum 0.99 on all nodes",
    steps=60,
    data="iris",
    also=("dead-units", "growing-loss", "loss-spike", "exploding-weights", "exploding-activation"),
)
def flowers_as_a_graph_stepped_too_far(case: Case) -> None:
    x, y = bundled("iris")
    x = scaled(x)
    near = torch.cdist(x, x).argsort(1)[:, :6]
    a = torch.zeros(150, 150).scatter(1, near, 1.0)
    net = SAGE(a, 4, 3)
    opt = torch.optim.SGD(net.parameters(), lr=8.0 if case.ill else 0.05, momentum=0.95)
    losses: list[float] = []
    with case.watch(net):
        for _ in range(case.steps):
            loss = F.cross_entropy(net(x), y)
            losses.append(loss.item())
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: losses[-1] > 2 * losses[0])
            opt.step()
    case.proof(lambda: fell(losses))


# ---- overtight-clipping


def unitwise(p: Tensor) -> Tensor:
    return p.norm() if p.ndim < 2 else p.flatten(1).norm(dim=1).reshape(-1, *[1] * (p.ndim - 1))


@torch.no_grad()
def adaptive_clip(model: nn.Module, clipping: float) -> None:
    for p in model.parameters():
        limit = unitwise(p).clamp(min=1e-3) * clipping
        p.grad.mul_((limit / unitwise(p.grad).clamp(min=1e-9)).clamp(max=1.0))


@faulty(
    "overtight-clipping",
    places=EVERYWHERE,
    kind="CNN",
    source="Brock et al. 2021, NFNets: adaptive gradient clipping in a port, clipping=1e-5 where the paper has 1e-2",
    steps=80,
    data="digits",
    also=("low-learning-rate", "stalled-loss"),
)
def adaptive_clipping_a_thousandth(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 10, 3),
        nn.SiLU(),
        nn.Conv2d(10, 10, 3),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(40, 10),
    )
    opt = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (64,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            whole = gradients(net)
            adaptive_clip(net, 1e-5 if case.ill else 0.1)
            case.truth(lambda whole=whole: gradients(net) < 0.01 * whole)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- excessive-weight-decay


@faulty(
    "excessive-weight-decay",
    places=EVERYWHERE,
    kind="ViT (transformers)",
    source="Hugging Face forum: weight_decay=20 in AdamW, the percent sign was lost",
    steps=100,
    data="digits",
    also=("collapsed-output", "vanishing-gradient", "stalled-loss"),
)
def decay_in_percent(case: Case) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    x, y = pictures()
    vit = ViTForImageClassification(
        ViTConfig(
            initializer_range=0.1,
            image_size=8, patch_size=4, num_channels=1, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, num_labels=10,
        )
    )  # fmt: skip
    opt = torch.optim.AdamW(vit.parameters(), lr=3e-3, weight_decay=20.0 if case.ill else 0.2)
    matrices = [p for p in vit.parameters() if p.ndim > 1]
    start = mean(root(p) for p in matrices)
    losses = []
    with case.watch(vit):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(vit(pixel_values=x[rows]).logits, y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: mean(root(p) for p in matrices) < 0.25 * start)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "excessive-weight-decay",
    places=EVERYWHERE,
    kind="MLP",
    source="Stack Overflow, 'L2 regularisation in PyTorch': sum of squares added to the loss with lambda 1, as in the snippet",
    steps=100,
    data="breast_cancer",
    also=("collapsed-output", "vanishing-gradient", "high-initial-loss"),
)
def penalty_with_lambda_one(case: Case) -> None:
    x, y = bundled("breast_cancer")
    x = scaled(x)
    net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    l2_lambda = 1.0 if case.ill else 1e-4
    start, losses = weights(net), []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 569, (32,))
            loss = F.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows].float())
            total = loss + l2_lambda * sum(p.pow(2.0).sum() for p in net.parameters())
            opt.zero_grad()
            total.backward()
            case.truth(lambda: weights(net) < 0.25 * start)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
