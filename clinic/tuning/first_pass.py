"""Faults that the first forward pass shows: missing and doubled activations, biases, scales, starved norms."""

import torch
from sklearn.datasets import load_digits, load_wine
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


def rows_of(x: torch.Tensor, size: int = 32) -> torch.Tensor:
    return torch.randint(0, len(x), (size,))


def is_affine(f, x: torch.Tensor) -> bool:
    """f(a + b - c) = f(a) + f(b) - f(c) for affine functions, in float64."""
    with torch.no_grad():
        a, b, c = x[:8].double(), x[8:16].double(), x[16:24].double()
        far = (f(a + b - c) - f(a) - f(b) + f(c)).abs().max()
        return bool(far < 1e-9 * f(a).abs().max().clamp(min=1))


def in_double(model: nn.Module) -> nn.Module:
    import copy

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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda: is_affine(in_double(model), x))
            optimizer.step()
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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            out = model(x[rows])
            optimizer.zero_grad()
            F.cross_entropy(out, y[rows]).backward()
            case.truth(lambda out=out: torch.allclose(out.sum(1), torch.ones(len(out)), atol=1e-5) and bool((out >= 0).all()))
            optimizer.step()
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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            out = model(x[rows])
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(out, y[rows]).backward()
            case.truth(lambda out=out: bool((out > 0).all() and (out < 1).all()))
            optimizer.step()
    case.proof(lambda: F.binary_cross_entropy_with_logits(model(x), y).item() < 0.4)


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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            out = model(x[rows])
            optimizer.zero_grad()
            F.mse_loss(out, y[rows]).backward()
            case.truth(lambda out=out, t=y[rows]: bool((out >= 0).all()) and (t < 0).float().mean().item() > 0.2)
            optimizer.step()
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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            out = model(x[rows])
            optimizer.zero_grad()
            ((out - y[rows]) ** 2).mean().backward()
            case.truth(lambda x=x[rows], t=y[rows]: _reach(model, x) <= 1 and (t.abs() > 1.2).float().mean().item() > 0.2)
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.5 * y.var().item())


def _reach(model: nn.Module, x: torch.Tensor) -> float:
    """The largest output of the same network with a last layer a thousand times larger."""
    import copy

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
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            out = model(x[rows])
            optimizer.zero_grad()
            F.nll_loss(out, y[rows]).backward()
            case.truth(lambda out=out: bool((out > 0).all()))
            optimizer.step()
    case.proof(lambda: F.nll_loss(model(x), y).item() < 1.5)


@faulty(
    "raw-input-scale",
    places=("input",),
    kind="MLP",
    source="images as bytes: no ToTensor, no division by 255",
    data="digits",
)
def images_as_bytes(case: Case) -> None:
    x, y = digits()
    x = x * 255 if case.ill else (x - x.mean()) / x.std()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda x=x[rows]: x.square().mean().sqrt().item() > 20)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


@faulty(
    "raw-input-scale",
    places=("input",),
    kind="MLP",
    source="a table whose columns have units of their own (scikit-learn's wine: proline in the hundreds)",
    data="wine",
)
def table_of_raw_columns(case: Case) -> None:
    x, y = load_wine(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    if not case.ill:
        x = (x - x.mean(0)) / x.std(0)
    model = nn.Sequential(nn.Linear(13, 24), nn.SiLU(), nn.Linear(24, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda x=x[rows]: x.square().mean(0).sqrt().max().item() > 100)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)


@faulty(
    "high-initial-loss",
    places=("4", ""),
    kind="MLP",
    source="Karpathy's makemore lectures: a last layer drawn from N(0, 1), and the hockey stick",
    data="digits",
    steps=40,
)
def last_layer_from_a_unit_normal(case: Case) -> None:
    x, y = digits()
    x = (x - x.mean()) / x.std()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    if case.ill:
        nn.init.normal_(model[4].weight, std=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for step in range(case.steps):
            rows = rows_of(x)
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda loss=loss, step=step: step == 0 and loss.item() > 2 * 2.303)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


@faulty(
    "high-initial-loss",
    places=("*", ""),
    kind="CNN",
    source="logits divided by a temperature of 0.02 from the start",
    data="digits",
    steps=40,
)
def cold_temperature(case: Case) -> None:
    x, y = digits()
    x = (x.view(-1, 1, 8, 8) - x.mean()) / x.std()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with case.watch(model):
        for step in range(case.steps):
            rows = rows_of(x)
            loss = F.cross_entropy(model(x[rows]) / (0.01 if case.ill else 1.0), y[rows])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda loss=loss, step=step: step == 0 and loss.item() > 2 * 2.303)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)


@faulty(
    "missing-bias",
    places=("0", "", "weight"),
    kind="linear",
    source="a line that does not go through the origin, fitted with bias=False (first exercise of many courses)",
)
def line_through_the_origin(case: Case) -> None:
    x = torch.randn(512, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 3.0 + 0.1 * torch.randn(512, 1)
    model = nn.Sequential(nn.Linear(4, 1, bias=not case.ill))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x, 64)
            optimizer.zero_grad()
            F.mse_loss(model(x[rows]), y[rows]).backward()
            # the best that can be had with and without a constant, in float64
            case.truth(lambda: _rest(x, y, model) > 2 * _rest(torch.cat([x, torch.ones(512, 1)], 1), y, None))
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.2 * y.var().item())


def _rest(x: torch.Tensor, y: torch.Tensor, model: nn.Module | None) -> float:
    """Least mean squared error of a linear function of x, and of a constant where the model has one."""
    if model is not None and model[0].bias is not None:
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
    x, y = x.double(), y.double()
    return (y - x @ torch.linalg.lstsq(x, y).solution).square().mean().item()


@faulty(
    "missing-bias",
    places=("0", "layers.0", ""),
    kind="MLP",
    source="temperatures in kelvin, and a network without biases",
    also=("dead-units",),  # units that see only one side of 0 are dead from the start, in the twin too
)
def inputs_far_from_zero(case: Case) -> None:
    x = 8 + torch.randn(512, 6)
    y = torch.tanh(x[:, :1] - 8) + 0.5 * (x[:, 1:2] - 8)
    model = nn.Sequential(nn.Linear(6, 48, bias=not case.ill), nn.ReLU(), nn.Linear(48, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.mse_loss(model(x[rows]), y[rows]).backward()
            # no unit of the first layer changes its sign within the data's bulk, and none can be moved there
            case.truth(lambda: model[0].bias is None and (x.mean(0).abs() > 5 * x.std(0)).all())
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.6 * y.var().item())


@faulty(
    "starved-batch-norm",
    places=("*", ""),
    kind="MLP",
    source="two samples a batch for want of memory, with BatchNorm1d",
    data="wine",
)
def batch_norm_of_two(case: Case) -> None:
    x, y = load_wine(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    x = (x - x.mean(0)) / x.std(0)
    size = 2 if case.ill else 32
    model = nn.Sequential(nn.Linear(13, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randperm(len(x))[:size]
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda rows=rows: len(rows) <= 2)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.6)


@faulty(
    "starved-batch-norm",
    places=("*", ""),
    kind="CNN",
    source="segmentation with one image at a time",
    data="digits",
)
def one_image_at_a_time(case: Case) -> None:
    x, _ = digits()
    x = x.view(-1, 1, 8, 8)
    y = (x > 0.5).long()[:, 0]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x, 1 if case.ill else 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda rows=rows: len(rows) == 1)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)


@faulty(
    "redundant-bias",
    places=("0", "0.bias"),
    kind="CNN",
    source="Conv2d before BatchNorm2d with its default bias (torchvision's style guide: bias=False)",
    data="digits",
)
def bias_before_batch_norm(case: Case) -> None:
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=case.ill),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda b=(x[rows], y[rows]): _without_effect(model, "0.bias", *b))
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


def _without_effect(model: nn.Module, name: str, x: torch.Tensor, y: torch.Tensor) -> bool:
    """The truth, measured: the loss in training mode is the same whatever the bias is."""
    import copy

    twin = copy.deepcopy(model).double()
    if name not in dict(twin.named_parameters()):
        return False
    with torch.no_grad():
        before = F.cross_entropy(twin(x.double()), y)
        twin.get_parameter(name).add_(torch.randn_like(twin.get_parameter(name)))
        return bool((F.cross_entropy(twin(x.double()), y) - before).abs() < 1e-9)


class Normed(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 16, 5, bias=ill), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(F.instance_norm(self.conv(x.view(-1, 1, 64))))
        return self.head(h.amax(-1))


@faulty(
    "redundant-bias",
    places=("conv", "conv.bias"),
    kind="CNN",
    source="style transfer networks: a bias before an instance norm, called as a function",
    data="digits",
)
def bias_before_instance_norm(case: Case) -> None:
    x, y = digits()
    model = Normed(case.ill)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda b=(x[rows], y[rows]): _without_effect(model, "conv.bias", *b))
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.25)
