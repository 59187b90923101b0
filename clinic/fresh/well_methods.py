"""Healthy: pictures of digits, trained in ways that look strange from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from clinic.frame import Case, healthy
from clinic.fresh._plain import bundled, descend, fell, pictures, scaled


@healthy(
    kind="distillation",
    source="Hinton, Vinyals & Dean 2015: a student learns the teacher's soft labels at temperature 4",
    data="digits",
)
def student_of_a_teacher(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    teacher = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    first = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(60):
        first.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        first.step()
    student, T = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), 4.0
    opt = torch.optim.Adam(student.parameters(), lr=5e-3)
    losses = []
    with case.watch(student):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (64,))
            with torch.no_grad():
                soft = F.softmax(teacher(x[rows]) / T, 1)
            out = student(x[rows])
            loss = T * T * F.kl_div(F.log_softmax(out / T, 1), soft, reduction="batchmean") + 0.1 * F.cross_entropy(
                out, y[rows]
            )
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.4))


class KSparse(nn.Module):
    """Keeps the k largest units of each sample: most are zero, by design."""

    def __init__(self, hidden: int = 96, k: int = 6) -> None:
        super().__init__()
        self.encode, self.decode, self.k = nn.Linear(64, hidden), nn.Linear(hidden, 64), k

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        least = h.topk(self.k, 1).values[:, -1:]
        return self.decode(torch.where(h >= least, h, torch.zeros_like(h)))


@healthy(kind="sparse autoencoder", source="Makhzani & Frey 2014, k-sparse autoencoders: six of 96 units speak", data="digits")
def six_of_ninety_six(case: Case) -> None:
    x = scaled(bundled("digits")[0])
    net = KSparse()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 1797, (64,))]
            loss = F.mse_loss(net(batch), batch)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.8))


@healthy(
    kind="CNN",
    source="detectron2's FrozenBatchNorm: fine-tuning with norms in eval() and their affine parameters frozen",
    data="digits",
)
def norms_frozen_on_purpose(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, bias=False), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip
    first = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(40):
        first.zero_grad()
        rows = torch.randint(0, 1797, (64,))
        F.cross_entropy(net(x[rows]), (y[rows] + 3) % 10).backward()
        first.step()
    first.zero_grad()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval().requires_grad_(False)
    opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.3))


class Shallower(nn.Module):
    """Stochastic depth: a block is left out at random and then has no gradient in that step."""

    def __init__(self, blocks: int = 6, keep: float = 0.7) -> None:
        super().__init__()
        self.inlet, self.outlet, self.keep = nn.Linear(64, 40), nn.Linear(40, 10), keep
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 40)) for _ in range(blocks)]
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.inlet(x)
        for block in self.blocks:
            if not self.training or torch.rand(()) < self.keep:
                h = h + block(h)
        return self.outlet(h)


@healthy(
    kind="ResNet",
    source="Huang et al. 2016, deep networks with stochastic depth; an average of the weights is kept beside",
    data="digits",
)
def blocks_left_out_at_random(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    net = Shallower()
    slow = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (48,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
            slow.update_parameters(net)
    case.proof(lambda: fell(losses, 0.3))


@healthy(
    kind="lottery ticket",
    source="PyTorch pruning tutorial and Frankle & Carbin 2019: four weights in five masked to zero",
    data="digits",
)
def four_weights_in_five_pruned(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in (net[0], net[2]):
        prune.l1_unstructured(layer, "weight", amount=0.8)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (64,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.2))


@healthy(
    kind="CNN", source="Howard & Ruder 2018, ULMFiT: layers are unfrozen one after the other, from the head down", data="digits"
)
def unfrozen_from_the_head_down(case: Case) -> None:
    x, y = pictures()
    parts = [
        nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(10, 16, 3), nn.ReLU(), nn.Flatten()),
        nn.Linear(256, 10),
    ]
    net = nn.Sequential(*parts)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    for part in parts[:2]:
        part.requires_grad_(False)
    losses = []
    with case.watch(net):
        for step in range(case.steps):
            if step == 100:
                parts[1].requires_grad_(True)
            if step == 200:
                parts[0].requires_grad_(True)
            rows = torch.randint(0, 1797, (48,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="CNN",
    source="Goodfellow et al. 2015, PyTorch's FGSM tutorial turned into adversarial training: gradients for the inputs first",
    data="digits",
)
def trained_on_its_adversaries(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 10))
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            attacked = x[rows].clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(net(attacked), y[rows]), attacked)
            loss = F.cross_entropy(net((attacked + 0.15 * slope.sign()).detach()), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, w: Tensor) -> Tensor:
        return w.sign()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


class BinaryLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Sign.apply(self.weight) * self.weight.abs().mean(), self.bias)


@healthy(
    kind="binary network",
    source="Courbariaux et al. 2015, BinaryConnect: weights of two values in the forward pass, straight through",
    data="digits",
)
def weights_of_two_values(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    net = nn.Sequential(BinaryLinear(64, 64, bias=False), nn.BatchNorm1d(64), nn.Hardtanh(), nn.Linear(64, 10))
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (48,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                net[0].weight.clamp_(-1, 1)
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.4))
