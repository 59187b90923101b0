"""Units that are dead, saturated or all one."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import digits, standard
from clinic.tuning._loop import cross_entropy, train


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = digits(1)
    return standard(x, 1e-3), y


def _run(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, truth, best: float
) -> None:
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: truth())
    case.proof(lambda: F.cross_entropy(model(x), y).item() < best)


@faulty(
    "dead-units", places=("2", "2.*", "3"), kind="MLP", source="Lu et al. 2019, Dying ReLU: a bias far below 0", data="digits"
)
def negative_bias(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    if case.ill:
        nn.init.constant_(model[2].bias, -6.0)
    _run(case, model, torch.optim.Adam(model.parameters(), 2e-3), x, y, lambda: _share_dead(model[:4](x)) > 0.5, 1.2)


def _share_dead(h: torch.Tensor) -> float:
    return float((h.flatten(2).amax((0, 2)) <= 0).float().mean()) if h.dim() > 2 else float((h.amax(0) <= 0).float().mean())


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 24, 3), nn.Linear(24 * 16, 10)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x.view(-1, 1, 8, 8)))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(x).flatten(1))


@faulty(
    "dead-units",
    places=("conv2", "conv2.*"),
    kind="CNN",
    data="digits",
    source="weights loaded with the sign lost: all negative behind a ReLU",
)
def negative_kernels(case: Case) -> None:
    x, y = _digits()
    model = _Functional()
    if case.ill:
        model.conv2.weight.data = -model.conv2.weight.data.abs()
        model.conv2.bias.data.zero_()
    _run(case, model, torch.optim.SGD(model.parameters(), 0.05), x, y, lambda: _share_dead(model.hidden(x)) > 0.5, 2.0)


@faulty(
    "dead-units",
    places=("0*", "1", "2*", "3"),
    kind="MLP",
    data="digits",
    source="forum: loss stuck at 2.30 after a jump of the learning rate",
    also=("high-learning-rate",),
)
def late_jump(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    with case.watch(model):
        for step in range(case.steps):
            optimizer.param_groups[0]["lr"] = 1.0 if case.ill and step >= 25 else 2e-3
            rows = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda: max(_share_dead(model[:2](x)), _share_dead(model[:4](x))) > 0.5)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


@faulty(
    "dead-units",
    places=("1.up*", "1.act"),
    kind="residual MLP",
    data="digits",
    source="GELU behind a bias of -10: the slope is below 1e-3 everywhere",
)
def gelu_asleep(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 32), _Block(32), _Block(32), nn.Linear(32, 10))
    if case.ill:
        nn.init.constant_(model[1].up.bias, -10.0)

    def truth() -> bool:
        pre = model[1].up(model[1].norm(model[0](x)))
        return bool((pre.amax(0) < -4.5).float().mean() > 0.5)

    _run(case, model, torch.optim.AdamW(model.parameters(), 1e-3), x, y, truth, 1.2)


@faulty(
    "saturated-units",
    places=("0*", "1"),
    kind="MLP",
    data="digits",
    source="Glorot & Bengio 2010; Karpathy, makemore part 3: tanh too saturated",
    also=("wrong-initial-scale",),
)
def loud_tanh(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    if case.ill:
        nn.init.normal_(model[0].weight, std=1.5)
    _run(
        case,
        model,
        torch.optim.Adam(model.parameters(), 2e-3),
        x,
        y,
        lambda: bool((model[0](x).abs() > 3).float().mean() > 0.5),
        1.0,
    )


class _TanhNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


@faulty(
    "saturated-units",
    places=("second*",),
    kind="MLP",
    data="digits",
    source="weights of N(0, 1) times ten: torch.randn without a scale, written by hand",
    also=("wrong-initial-scale",),
)
def unscaled_randn(case: Case) -> None:
    x, y = _digits()
    model = _TanhNet()
    if case.ill:
        model.second.weight.data = torch.randn(96, 96) * 5.0
    truth = lambda: bool((model.second(torch.tanh(model.first(x))).abs() > 3).float().mean() > 0.5)
    _run(case, model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), x, y, truth, 1.0)


@faulty(
    "saturated-units",
    places=("0*", "1", "2*", "3"),
    kind="MLP",
    data="digits",
    source="sigmoid layers trained with far too large a step",
    also=("high-learning-rate",),
    steps=80,
)
def pushed_sigmoid(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 40), nn.Sigmoid(), nn.Linear(40, 40), nn.Sigmoid(), nn.Linear(40, 10))

    def truth() -> bool:
        return any(bool((layer.abs() > 4.6).float().mean() > 0.75) for layer in (model[0](x), model[:3](x)))

    _run(case, model, torch.optim.Adam(model.parameters(), 1.0 if case.ill else 1e-2), x, y, truth, 1.5)


@faulty(
    "symmetric-initialisation",
    places=("0*", "2*"),
    kind="MLP",
    data="digits",
    source="CS231n: 'pitfall: all zero initialization', with a constant",
)
def all_the_same(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    for layer in model if case.ill else ():
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.05)
            nn.init.zeros_(layer.bias)
    _run(case, model, torch.optim.SGD(model.parameters(), 0.1), x, y, lambda: case_equal(model[0].weight), 1.8)


def case_equal(weight: torch.Tensor) -> bool:
    return bool((weight - weight[:1]).abs().max() <= 1e-6 * weight.abs().max())


@faulty(
    "symmetric-initialisation", places=("0*", "2*", "4*"), kind="MLP", data="digits", source="all parameters zero, biases too"
)
def nothing_at_all(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for p in model.parameters() if case.ill else ():
        nn.init.zeros_(p)
    _run(case, model, torch.optim.Adam(model.parameters(), 5e-3), x, y, lambda: case_equal(model[0].weight), 1.2)


@faulty(
    "symmetric-initialisation",
    places=("1*",),
    kind="CNN",
    data="digits",
    source="one layer filled with a constant while debugging, and left so",
)
def constant_kernels(case: Case) -> None:
    x, y = _digits()
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    if case.ill:
        nn.init.constant_(model[1].weight, 0.1)
        nn.init.zeros_(model[1].bias)
    _run(case, model, torch.optim.Adam(model.parameters(), 2e-3), x, y, lambda: case_equal(model[1].weight.flatten(1)), 1.5)


class _Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x.view(-1, 8, 8))[0][:, -1])


@faulty(
    "symmetric-initialisation",
    places=("cell*",),
    kind="LSTM",
    data="digits",
    source="recurrent weights set by nn.init.constant_ in a loop over parameters",
)
def constant_recurrence(case: Case) -> None:
    x, y = _digits()
    model = _Rows()
    for p in model.parameters() if case.ill else ():
        nn.init.constant_(p, 0.1)
    _run(
        case,
        model,
        torch.optim.Adam(model.parameters(), 1e-2),
        x,
        y,
        lambda: bool(torch.cat([case_rows(p) for p in model.cell.parameters()]).max() < 1e-6),
        1.5,
    )


def case_rows(p: torch.Tensor) -> torch.Tensor:
    return (p.view(4, 24, -1) - p.view(4, 24, -1)[:, :1]).abs().flatten()
