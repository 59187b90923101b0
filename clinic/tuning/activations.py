"""Activations that are missing, doubled, or of another kind than the targets need."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, digits, rows_of
from clinic.tuning._loop import cross_entropy, squares, train


def is_affine(f, x: torch.Tensor) -> bool:
    """f(a + b - c) = f(a) + f(b) - f(c) for affine functions, in float64."""
    with torch.no_grad():
        a, b, c = x[:8].double(), x[8:16].double(), x[16:24].double()
        far = (f(a + b - c) - f(a) - f(b) + f(c)).abs().max()
        return bool(far < 1e-9 * f(a).abs().max().clamp(min=1))


def in_double(model: nn.Module) -> nn.Module:

    return copy.deepcopy(model).double().eval()


class Thrown(nn.Module):
    """The activation is called, and what it gives is thrown away."""

    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.one, self.two, self.three, self.ill = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10), ill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_two(F.relu(self.one(x)))

    def last_two(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(x)
        if self.ill:
            F.relu(x)
        else:
            x = F.relu(x)
        return self.three(x)


@faulty(
    "missing-activation",
    places=("three", "two", ""),
    kind="MLP",
    source="a result that is not assigned: F.relu(x) on a line of its own (PyTorch forum)",
    data="digits",
)
def activation_thrown_away(case: Case) -> None:
    x, y = digits()
    model = Thrown(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            twin = in_double(model)
            case.truth(lambda twin=twin: is_affine(twin.last_two, torch.randn(32, 48)))
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.8)


@faulty(
    "missing-activation",
    places=("*",),
    kind="CNN",
    source="a course's exercise: convolution and batch norm copied from a block whose ReLU was left behind",
    data="digits",
)
def convolutions_without_relu(case: Case) -> None:
    x, y = digits()
    x = (x.view(-1, 1, 8, 8) - x.mean()) / x.std()
    between = nn.Identity if case.ill else nn.ReLU
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), between()),
        *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), between()),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: is_affine(in_double(model), x))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.0)


class Block(nn.Module):
    def __init__(self, width: int, ill: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down, self.ill = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), ill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        x = x + self.attend(h, h, h, need_weights=False)[0]
        h = self.up(self.norm2(x))
        return x + self.down(h if self.ill else F.gelu(h))


class Encoder(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = (
            nn.Embedding(16, 24),
            nn.ModuleList(Block(24, ill) for _ in range(2)),
            nn.Linear(24, 16),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


@faulty(
    "missing-activation",
    places=("blocks.*",),
    kind="transformer",
    source="a feed-forward block rewritten by hand, GELU forgotten (minGPT issues)",
    steps=40,
)
def feed_forward_without_gelu(case: Case) -> None:
    model = Encoder(case.ill)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            ids = torch.randint(0, 16, (16, 12))
            optimizer.zero_grad()
            F.cross_entropy(model(ids).flatten(0, 1), ids.flip(1).flatten()).backward()
            twin = in_double(model).blocks[0]
            case.truth(lambda b=twin: is_affine(lambda h: b.down(b.up(h) if b.ill else F.gelu(b.up(h))), torch.randn(32, 24)))
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(ids).flatten(0, 1), ids.flip(1).flatten()).item() < 2.75)


@faulty(
    "doubled-output-activation",
    places=("5", ""),
    kind="CNN",
    source="Stack Overflow's most read question on torch.nn.CrossEntropyLoss: softmax in the model",
    data="digits",
)
def softmax_and_cross_entropy(case: Case) -> None:
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 10),
        nn.Softmax(dim=1) if case.ill else nn.Identity(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def truth(_: int, batch: Batch) -> bool:
        out = model(batch[0])
        return torch.allclose(out.sum(1), torch.ones(len(out)), atol=1e-5) and bool((out >= 0).all())

    train(case, model, optimizer, (x, y), cross_entropy, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.8)


@faulty(
    "doubled-output-activation",
    places=("end", ""),
    kind="MLP",
    source="BCEWithLogitsLoss taken for BCELoss (PyTorch forum)",
)
def sigmoid_and_bce_with_logits(case: Case) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.end = nn.Sequential(nn.Linear(12, 32), nn.GELU()), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.end(self.body(x))
            return torch.sigmoid(out) if case.ill else out

    x = torch.randn(512, 12)
    y = (x[:, :5] + 0.3 * x[:, 5:10] > 0).float()
    model = Tagger()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(model(x), y)

    def truth(_: int, batch: Batch) -> bool:
        out = model(batch[0])
        return bool((out > 0).all() and (out < 1).all())

    train(case, model, optimizer, (x, y), loss_of, truth)
    case.proof(lambda: loss_of(model, x, y).item() < 0.4)


@faulty(
    "unfit-output-activation",
    places=("4", ""),
    kind="MLP",
    source="a regression whose last layer kept the ReLU of the ones before",
)
def relu_before_signed_targets(case: Case) -> None:
    x = torch.randn(512, 10)
    y = x[:, :1] - x[:, 1:2] * x[:, 2:3]
    model = nn.Sequential(
        nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 1), nn.Identity(), nn.ReLU() if case.ill else nn.Identity()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def truth(_: int, batch: Batch) -> bool:
        return bool((model(batch[0]) >= 0).all()) and (batch[1] < 0).float().mean().item() > 0.2

    train(case, model, optimizer, (x, y), squares, truth)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.6 * y.var().item())


class Forecaster(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.core, self.head, self.ill = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1), ill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.head(self.core(x)[0][:, -1])
        return torch.tanh(out) if self.ill else out


@faulty(
    "unfit-output-activation",
    places=("", "head"),
    kind="LSTM",
    source="a forecast that stops at 1: tanh kept at the end of a series of standardised values",
)
def tanh_before_wide_targets(case: Case) -> None:
    phase = torch.rand(512, 1) * 6.28
    x = (2 * torch.sin(phase + torch.arange(8) * 0.5))[..., None]
    y = 2 * torch.sin(phase + 4.0)
    model = Forecaster(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def truth(_: int, batch: Batch) -> bool:
        return _reach(model, batch[0]) <= 1 and (batch[1].abs() > 1.2).float().mean().item() > 0.2

    train(case, model, optimizer, (x, y), squares, truth)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.5 * y.var().item())


def _reach(model: nn.Module, x: torch.Tensor) -> float:
    """The largest output of the same network with a last layer a thousand times larger."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight *= 1000
        return twin(x).abs().max().item()


@faulty(
    "unfit-output-activation",
    places=("3", "2", ""),
    kind="MLP",
    source="NLLLoss after Softmax: the loss is negative (PyTorch forum)",
    data="digits",
)
def likelihood_without_logarithm(case: Case) -> None:
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(1) if case.ill else nn.LogSoftmax(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.nll_loss(model(x), y)

    train(case, model, optimizer, (x, y), loss_of, lambda _, batch: bool((model(batch[0]) > 0).all()))
    case.proof(lambda: loss_of(model, x, y).item() < 1.5)
