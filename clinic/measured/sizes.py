"""How large things are: gradients, activations, weights, initial scale, learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import graph, images, marked, pick, sentences, standard, table, waves
from clinic.measured._loop import Memory, fit, gradient, rms, weight
from clinic.measured._models import GAN, GCN, ConvNet, LoRA, Mixer, Recurrent, UNet, ViT, gpt2, mlp, normalised

ALL = ("", "*")


# ---- vanishing-gradient


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="MLP",
    source="Nielsen, Neural Networks and Deep Learning, chapter 5: ten layers of sigmoids",
    steps=60,
    data="digits",
)
def ten_layers_of_sigmoids(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, *[32] * 10, 10, act=nn.Sigmoid) if case.ill else mlp(64, *[32] * 3, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model[0].weight.grad) < 1e-4 * rms(model[-1].weight.grad))


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="RNN",
    source="Bengio, Simard & Frasconi 1994: long-term dependencies, the first input decides after 60 steps",
    steps=60,
)
def rnn_over_sixty_steps(case: Case) -> None:
    x, y = marked(length=60 if case.ill else 5)
    cell = nn.RNN(3, 16, batch_first=True)
    model = Recurrent(cell, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        return F.cross_entropy(model(x[rows]), y[rows])

    def truth() -> bool:
        """The gradient of the loss by the first input against that by the last one."""
        inputs = x[:64].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(inputs), y[:64]), inputs)
        return rms(g[:, 0]) < 1e-4 * rms(g[:, -1])

    fit(case, model, optimizer, loss, truth, learns=0.97)


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="CNN",
    source="He et al. 2015, the case for residuals: a plain deep tower of tanh convolutions, no norm",
    steps=40,
    data="digits",
)
def plain_tower_of_convolutions(case: Case) -> None:
    x, y = images()
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.Tanh()]
    for _ in range(14 if case.ill else 2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid() if case.ill else nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x), 24)
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model[0].weight.grad) < 1e-4 * rms(model[-1].weight.grad))


# ---- exploding-gradient


@faulty(
    "exploding-gradient",
    places=ALL,
    kind="RNN",
    source="Pascanu, Mikolov & Bengio 2013: recurrent weights of spectral radius above one",
    steps=40,
    also=("wrong-initial-scale",),
)
def recurrent_radius_above_one(case: Case) -> None:
    x = waves(length=50)
    cell = nn.RNN(1, 32, nonlinearity="tanh", batch_first=True)
    nn.init.normal_(cell.weight_ih_l0, std=0.02)
    if case.ill:
        nn.init.orthogonal_(cell.weight_hh_l0, gain=1.8)
    model = Recurrent(cell, 1)
    target = x[:, -1] * 1.0
    inputs = x[:, :-1] * (1e-3 if case.ill else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(inputs[rows]), target[rows])

    def truth() -> bool:
        rows = inputs[:32].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.mse_loss(model(rows), target[:32]), rows)
        return rms(g[:, 0]) > 1e3 * rms(g[:, -1])

    fit(case, model, optimizer, loss, truth, learns=0.97)


class _Euler(nn.Module):
    """A learnt flow, integrated by Euler's method; the step size is part of it."""

    def __init__(self, steps: int, size: float) -> None:
        super().__init__()
        self.field, self.readout, self.steps, self.size = mlp(4, 24, 4, act=nn.Tanh), nn.Linear(4, 1), steps, size
        self.drift = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x + self.size * (self.field(x) + self.drift(x))
        return self.readout(x)


@faulty(
    "exploding-activation",
    places=ALL,
    kind="neural ODE",
    source="torchdiffeq issue: 80 Euler steps of size one of a field that is not bounded",
    steps=40,
    also=("exploding-gradient", "high-initial-loss"),
)
def euler_steps_of_size_one(case: Case) -> None:
    x, y = table("iris")
    target = standard(y.float()[:, None])
    model = _Euler(80 if case.ill else 8, 0.5 if case.ill else 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2 if not case.ill else 1e-12)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), target[rows])

    fit(case, model, optimizer, loss, lambda: rms(model(x)) > 1e4 * rms(x))


@faulty(
    "exploding-gradient",
    places=ALL,
    kind="MLP",
    source="Hanin 2018, which architectures give rise to exploding gradients: batch norm in a deep plain net",
    steps=30,
    data="digits",
)
def forty_batch_norms_without_residuals(case: Case) -> None:
    x, y = table("digits")
    layers: list[nn.Module] = [nn.Linear(64, 32)]
    for _ in range(40 if case.ill else 2):
        layers += [nn.ReLU(), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if case.ill else 0.05)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model[0].weight.grad) > 300 * rms(model[-1].weight.grad))


# ---- exploding-activation


class _Stack(nn.Module):
    """Residual branches without norm and without scale."""

    def __init__(self, width: int, depth: int, scale: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([mlp(width, width, width) for _ in range(depth)])
        self.head, self.scale = nn.Linear(width, 10), scale
        for block in self.blocks:
            for m in (block[0], block[2]):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def hidden(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.scale * block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


@faulty(
    "exploding-activation",
    places=ALL,
    kind="ResNet",
    source="Zhang et al. 2019, Fixup: residual branches without norm double the variance at each block",
    steps=40,
    data="digits",
    also=("high-initial-loss",),
)
def residuals_without_norm(case: Case) -> None:
    x, y = table("digits")
    depth = 20
    model = _Stack(64, depth, 1.0 if case.ill else 0.2 / math.sqrt(depth))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model.hidden(x[:200])) > 1e3 * rms(x[:200]))


@faulty(
    "exploding-activation",
    places=ALL,
    kind="GCN",
    source="PyG discussion: sum aggregation over a dense graph without normalising the adjacency",
    steps=40,
    also=("high-initial-loss", "high-learning-rate"),
)
def adjacency_not_normalised(case: Case) -> None:
    x, y, adjacency = graph()
    model = GCN(8, 24, 24, 24, 24, 24, 3)
    a = adjacency if case.ill else normalised(adjacency)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2 if not case.ill else 1e-3)

    def truth() -> bool:
        return rms(model(x, a)) > 1e2 * rms(x)

    fit(case, model, optimizer, lambda: F.cross_entropy(model(x, a), y), truth)


@faulty(
    "exploding-activation",
    places=ALL,
    kind="RNN",
    source="Le, Jaitly & Hinton 2015, IRNN: ReLU recurrence a little above the identity",
    steps=40,
    also=("wrong-initial-scale", "high-initial-loss"),
)
def relu_recurrence_above_identity(case: Case) -> None:
    x = waves(length=50).abs()
    cell = nn.RNN(1, 20, nonlinearity="relu", batch_first=True)
    nn.init.eye_(cell.weight_hh_l0)
    if case.ill:
        with torch.no_grad():
            cell.weight_hh_l0.mul_(1.4)
    else:
        with torch.no_grad():
            cell.weight_hh_l0.mul_(0.7)
    model = Recurrent(cell, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if not case.ill else 1e-4)
    target = x.mean(1)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), target[rows])

    fit(case, model, optimizer, loss, lambda: rms(model.rnn(x[:64])[0][:, -1]) > 1e4 * rms(model.rnn(x[:64])[0][:, 0]))


# ---- exploding-weights


@faulty(
    "exploding-weights",
    places=ALL,
    kind="MLP",
    source="forum: hand-written L2 penalty subtracted from the loss instead of added",
    steps=100,
    data="breast_cancer",
    also=("growing-loss", "wrong-loss-sign"),
)
def penalty_with_the_wrong_sign(case: Case) -> None:
    x, y = table("breast_cancer")
    model = mlp(30, 24, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start = weight(model)

    def loss() -> Tensor:
        rows = pick(len(x))
        penalty = sum(p.square().sum() for p in model.parameters())
        return F.cross_entropy(model(x[rows]), y[rows]) + (-0.5 if case.ill else 0.001) * penalty

    fit(case, model, optimizer, loss, lambda: weight(model) > 10 * start)


@faulty(
    "exploding-weights",
    places=("", "critic", "critic.*"),
    kind="GAN",
    source="Arjovsky et al. 2017, WGAN: the critic is neither clipped nor penalised",
    steps=200,
)
def critic_without_a_bound(case: Case) -> None:
    angle = torch.rand(512) * 6.28
    real = torch.stack([angle.cos(), angle.sin()], 1)
    model = GAN()
    g = torch.optim.RMSprop(model.generator.parameters(), lr=1e-4)
    d = torch.optim.RMSprop(model.critic.parameters(), lr=1e-2 if case.ill else 1e-3)
    start = weight(model.critic)
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            (model.critic(model.fake().detach()).mean() - model.critic(real[pick(512)]).mean()).backward()
            d.step()
            if not case.ill:
                with torch.no_grad():
                    for p in model.critic.parameters():
                        p.clamp_(-0.3, 0.3)
            g.zero_grad()
            (-model.critic(model.fake()).mean()).backward()
            case.truth(lambda: weight(model.critic) > 10 * start)
            g.step()
    case.proof(lambda: bool(torch.isfinite(model.fake()).all()))


# ---- wrong-initial-scale


@faulty(
    "wrong-initial-scale",
    places=ALL,
    kind="MLP",
    source="CS231n habit carried over from NumPy: weights from torch.randn without a scale",
    steps=40,
    data="digits",
    also=("high-initial-loss", "saturated-units", "exploding-activation"),
)
def weights_from_randn(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 128, 128, 128, 10)
    if case.ill:
        for p in model.parameters():
            nn.init.normal_(p)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model(x[:200])) > 100 * rms(x[:200]))


@faulty(
    "wrong-initial-scale",
    places=ALL,
    kind="CNN",
    source="Caffe-time habit: every layer Gaussian with deviation 0.001, eight layers deep",
    steps=40,
    data="digits",
    also=("vanishing-gradient", "collapsed-output"),
)
def every_layer_gaussian_of_a_thousandth(case: Case) -> None:
    x, y = images()
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    for m in model:
        if hasattr(m, "weight"):
            nn.init.normal_(m.weight, std=1e-3) if case.ill else nn.init.kaiming_normal_(m.weight)
            nn.init.zeros_(m.bias)
    nn.init.normal_(model[-1].weight, std=1e-3 if case.ill else 0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: rms(model[:-1](x[:200])) < 1e-6 * rms(x[:200]))


@faulty(
    "wrong-initial-scale",
    places=("", "token*", "channel*", "*"),
    kind="MLP-mixer",
    source="timm issue: initialiser applied to (out, in) swapped, fan of one: weights fifty times too wide",
    steps=40,
    data="digits",
    also=("exploding-activation", "high-initial-loss"),
)
def fan_of_one(case: Case) -> None:
    x, y = images()
    model = Mixer()
    if case.ill:
        for m in [*model.token, *model.channel]:
            for part in (m[0], m[2]):
                nn.init.normal_(part.weight, std=6.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def truth() -> bool:
        h = model.patch(x[:64]).flatten(2).transpose(1, 2)
        return rms(model.token[0](model.norms[0](h).transpose(1, 2))) > 50 * rms(model.norms[0](h))

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, truth)


# ---- low-learning-rate


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="GPT-2 (transformers)",
    source="forum: fine-tuning rate 1e-8 from a typo, the loss is flat",
    steps=60,
)
def rate_with_two_zeros_too_many(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8 if case.ill else 2e-3, weight_decay=0.0)
    memory = Memory(model)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return model(input_ids=tokens[rows], labels=tokens[rows]).loss

    seen: list[float] = []

    def truth() -> bool:
        seen.append(memory.moved())
        return 0 < seen[-1] < 1e-5 * weight(model)

    fit(case, model, optimizer, loss, truth)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="CNN",
    source="PyTorch forum: scheduler.step() called per batch instead of per epoch, StepLR has decayed to nothing",
    steps=100,
    data="digits",
)
def scheduler_stepped_per_batch(case: Case) -> None:
    x, y = images()
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4 if case.ill else 80, gamma=0.1)
    memory = Memory(model)
    seen: list[float] = []

    def truth() -> bool:
        seen.append(memory.moved())
        return len(seen) > 1 and seen[-1] < 1e-6 * weight(model)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, truth, schedule=schedule)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="MLP",
    source="scikit-learn user's first torch net: SGD with Adam's rate over ten, on standardised targets",
    steps=150,
    data="diabetes",
)
def sgd_with_a_rate_of_a_millionth(case: Case) -> None:
    x, y = table("diabetes")
    model = mlp(10, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6 if case.ill else 0.05)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    def truth() -> bool:
        """To first order this many steps would be needed for a hundredth of the loss: more than a million."""
        rate = optimizer.param_groups[0]["lr"]
        return 0.01 * F.mse_loss(model(x), y).item() / (rate * gradient(model) ** 2) > 1e3

    fit(case, model, optimizer, loss, truth)


# ---- high-learning-rate


def _worse_after(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, all_loss: object, rows: int, factor: float
) -> None:
    """Truth: the loss over all data is `factor` times what it was before training, or no number."""
    start = all_loss().item()  # type: ignore[operator]
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss(pick(rows))  # type: ignore[operator]
            value.backward()
            optimizer.step()
            case.truth(lambda: not all_loss().item() < factor * start)  # type: ignore[operator]
            losses.append(value.item())
    case.proof(lambda: all_loss().item() < 0.8 * start)  # type: ignore[operator]


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="CNN",
    source="CS231n, babysitting the learning process: cost goes to infinity with rate 1e1",
    steps=40,
    data="digits",
)
def rate_of_ten(case: Case) -> None:
    x, y = images()
    model = ConvNet(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0 if case.ill else 0.05, momentum=0.0 if case.ill else 0.9)
    _worse_after(
        case, model, optimizer, lambda r: F.cross_entropy(model(x[r]), y[r]), lambda: F.cross_entropy(model(x), y), len(x), 2.0
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="ViT",
    source="timm discussion: Adam with SGD's learning rate of 0.5",
    steps=100,
    data="digits",
)
def adam_with_the_rate_of_sgd(case: Case) -> None:
    x, y = images()
    model = ViT()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5 if case.ill else 5e-3)
    _worse_after(
        case,
        model,
        optimizer,
        lambda r: F.cross_entropy(model(x[r]), y[r]),
        lambda: F.cross_entropy(model(x[:300]), y[:300]),
        len(x),
        2.0,
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="LoRA",
    source="peft discussion: adapters trained with 0.3, the frozen model is forgotten within steps",
    steps=40,
    data="digits",
)
def adapters_trained_too_fast(case: Case) -> None:
    x, y = table("digits")
    base = mlp(64, 48, 48, 10)
    warm = torch.optim.Adam(base.parameters(), lr=1e-2)
    for _ in range(40):
        warm.zero_grad()
        r = pick(len(x))
        F.cross_entropy(base(x[r]), y[r] % 5).backward()
        warm.step()
    for p in base.parameters():
        p.requires_grad_(False).grad = None
    model = nn.Sequential(base[0], nn.ReLU(), LoRA(base[2], 4), nn.ReLU(), LoRA(base[4], 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1.0 if case.ill else 1e-2)
    _worse_after(
        case, model, optimizer, lambda r: F.cross_entropy(model(x[r]), y[r]), lambda: F.cross_entropy(model(x), y), len(x), 2.0
    )


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="linear regression",
    source="Ng's course, week 1: gradient descent overshoots, the cost rises at every step",
    steps=40,
    data="diabetes",
    also=("exploding-weights",),
)
def descent_beyond_two_over_curvature(case: Case) -> None:
    x, y = table("diabetes")
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.35 if case.ill else 0.05)
    start = F.mse_loss(model(x), y).item()
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            case.truth(lambda: F.mse_loss(model(x), y).item() > 1.5 * start)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.8 * start)


@faulty(
    "high-learning-rate",
    places=ALL,
    kind="U-Net",
    source="segmentation course forum: learning rate finder read at the wrong end, momentum on top",
    steps=40,
    data="digits",
)
def denoiser_beyond_the_finder(case: Case) -> None:
    x, _ = images()
    model = UNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0 if case.ill else 0.05, momentum=0.9)
    clean = x[:400]

    def loss(r: Tensor) -> Tensor:
        r = r % 400
        return F.mse_loss(model(clean[r] + 0.5 * torch.randn(len(r), 1, 8, 8)), clean[r])

    _worse_after(case, model, optimizer, loss, lambda: F.mse_loss(model(clean), clean), 400, 2.0)
