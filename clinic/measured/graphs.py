"""What the graph of the first loss shows: activations, biases, output against loss, inputs, norms with too few samples."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import friedman, images, pick, raw, sentences, standard, table
from clinic.measured._loop import fit
from clinic.measured._models import GPT, Autoencoder, Recurrent, ResNet, UNet, mlp

ALL = ("", "*")


# ---- missing-activation


def _is_affine(part: nn.Module, x: Tensor) -> bool:
    """f((a + b) / 2) == (f(a) + f(b)) / 2 in float64."""
    f, x = copy.deepcopy(part).double().eval(), x.double()
    a, b = x, x.flip(0)
    return torch.allclose(f((a + b) / 2), (f(a) + f(b)) / 2, rtol=1e-9, atol=1e-9)


@faulty(
    "missing-activation",
    places=("0", "1", "2"),
    kind="MLP",
    source="first torch net of a course: three Linear in a row, and why is it no better than logistic regression",
    steps=60,
    data="wine",
)
def three_linears_in_a_row(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 32), nn.Linear(32, 32), nn.Linear(32, 3)) if case.ill else mlp(13, 32, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _is_affine(model, x))


class _TwoConvs(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc, self.ill = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 12, 3), nn.Linear(192, 10), ill

    def body(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.conv2(h if self.ill else F.relu(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.body(x)).flatten(1))


@faulty(
    "missing-activation",
    places=("conv1", "conv2"),
    kind="CNN",
    source="code review of a student's VGG: F.relu written once per pair of convolutions",
    steps=60,
    data="digits",
)
def relu_once_per_pair(case: Case) -> None:
    x, y = images()
    model = _TwoConvs(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def affine() -> bool:
        m = copy.deepcopy(model).double()
        a, b = x[:8].double(), x[8:16].double()
        return torch.allclose(m.body((a + b) / 2), (m.body(a) + m.body(b)) / 2, rtol=1e-9, atol=1e-9)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, affine)


@faulty(
    "missing-activation",
    places=("encoder*", "decoder*"),
    kind="autoencoder",
    source="Stack Overflow: my deep autoencoder is no better than PCA",
    steps=100,
    data="digits",
)
def deep_autoencoder_without_any(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder(act=nn.Identity if case.ill else nn.GELU)
    if case.ill:  # widths that do not shrink: no bottleneck excuses it
        model.encoder, model.decoder = (
            nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)),
            nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows] + 0.5 * torch.randn(32, 64)), x[rows])

    fit(case, model, optimizer, loss, lambda: _is_affine(model, x))


# ---- redundant-bias


def _moves_nothing(model: nn.Module, bias: Tensor, loss: object) -> bool:
    """Random numbers added to the bias leave the loss as it is, in training mode."""
    with torch.no_grad():
        before = loss().item()  # type: ignore[operator]
        bias.add_(shift := torch.randn_like(bias))
        after = loss().item()  # type: ignore[operator]
        bias.sub_(shift)
    return abs(after - before) < 1e-4 * max(1.0, abs(before))


class _Normed(nn.Module):
    """Convolutions in front of norms, with or without biases."""

    def __init__(self, bias: bool, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=bias), norm(8)
        self.conv, self.norm2 = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        return self.fc(F.relu(self.norm2(self.conv(x))).mean((2, 3)))


@faulty(
    "redundant-bias",
    places=("stem", "stem.bias"),
    kind="CNN",
    source="PyTorch performance tuning guide: disable bias for convolutions directly followed by a batch norm",
    steps=60,
    data="digits",
)
def convolution_before_batch_norm(case: Case) -> None:
    x, y = images()
    model = _Normed(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    def truth() -> bool:
        m = copy.deepcopy(model)
        return m.stem.bias is not None and _moves_nothing(m, m.stem.bias, lambda: F.cross_entropy(m(x[:64]), y[:64]))

    fit(case, model, optimizer, loss, truth)


@faulty(
    "redundant-bias",
    places=("0", "0.bias", "4", "4.bias"),
    kind="MLP",
    source="Ioffe & Szegedy 2015, section 3.2: the bias is subsumed by beta",
    steps=60,
    data="digits",
)
def linear_before_batch_norm(case: Case) -> None:
    x, y = table("digits")
    model = nn.Sequential(
        nn.Linear(64, 32, bias=case.ill),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def truth() -> bool:
        m = copy.deepcopy(model)
        m[3].p = 0.0
        return m[0].bias is not None and _moves_nothing(m, m[0].bias, lambda: F.cross_entropy(m(x[:64]), y[:64]))

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, truth)


@faulty(
    "redundant-bias",
    places=("down.0", "down.0.bias", "down"),
    kind="U-Net",
    source="style-transfer code: convolutions with bias in front of instance norm",
    steps=60,
    data="digits",
)
def convolution_before_instance_norm(case: Case) -> None:
    x, _ = images()
    model = UNet(norm=lambda w: nn.InstanceNorm2d(w, affine=True))
    if case.ill:
        model.down[0] = nn.Conv2d(1, 8, 3, padding=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def truth() -> bool:
        m = copy.deepcopy(model)
        return m.down[0].bias is not None and _moves_nothing(m, m.down[0].bias, lambda: F.mse_loss(m(x[:16]), x[:16]))

    def loss() -> Tensor:
        r = pick(400)
        return F.mse_loss(model(x[r] + 0.3 * torch.randn(32, 1, 8, 8)), x[r])

    fit(case, model, optimizer, loss, truth)


# ---- missing-bias


def _one_constant_helps(out: Tensor, y: Tensor) -> bool:
    """The best constant added to the outputs would halve the squared error."""
    rest = (y - out).detach()
    return bool((rest - rest.mean(0)).square().mean() < 0.5 * rest.square().mean())


@faulty(
    "missing-bias",
    places=ALL,
    kind="linear regression",
    source="scikit-learn's fit_intercept=False rebuilt by accident: Linear(bias=False) on blood values around 150",
    steps=150,
    data="diabetes",
    also=("high-initial-loss", "stalled-loss", "unfit-output-activation"),
)
def regression_through_the_origin(case: Case) -> None:
    x, y = raw("diabetes")
    x, y = standard(x), y / y.std()
    model = nn.Linear(10, 1, bias=not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: case.ill and _one_constant_helps(model(x), y))


@faulty(
    "missing-bias",
    places=ALL,
    kind="MLP",
    source="bias=False everywhere 'as in LLaMA', for a regression whose targets are not centred",
    steps=150,
    also=("high-initial-loss",),
)
def no_bias_anywhere(case: Case) -> None:
    x, y = friedman()
    y = y + 5.0
    model = nn.Sequential(nn.Linear(10, 16, bias=False), nn.Tanh(), nn.Linear(16, 1, bias=not case.ill))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: case.ill and _one_constant_helps(model(x), y))


# ---- doubled-output-activation


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="CNN",
    source="PyTorch forum, many threads: nn.Softmax at the end and nn.CrossEntropyLoss",
    steps=60,
    data="digits",
)
def softmax_before_cross_entropy(case: Case) -> None:
    x, y = images()
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)]
    model = nn.Sequential(*layers, *([nn.Softmax(dim=1)] if case.ill else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()

    def loss() -> Tensor:
        rows = pick(len(x))
        return criterion(model(x[rows]), y[rows])

    fit(
        case,
        model,
        optimizer,
        loss,
        lambda: torch.allclose(model(x[:50]).sum(1), torch.ones(50)) and bool(model(x[:50]).min() >= 0),
    )


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="LSTM",
    source="Stack Overflow: torch.sigmoid in forward, BCEWithLogitsLoss as the criterion",
    steps=60,
)
def sigmoid_twice(case: Case) -> None:
    x = torch.randn(256, 8, 3)
    y = (x[..., 0].sum(1) > 0).float()
    model = Recurrent(nn.LSTM(3, 16, batch_first=True), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def out(rows: Tensor) -> Tensor:
        z = model(x[rows])[:, 0]
        return torch.sigmoid(z) if case.ill else z

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.binary_cross_entropy_with_logits(out(rows), y[rows])

    fit(case, model, optimizer, loss, lambda: bool(((z := out(pick(256, 256))) >= 0).all() and (z <= 1).all()))


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="Transformer decoder",
    source="issue: generate() needed probabilities, so softmax went into forward, and the loss still gets its outputs",
    steps=60,
)
def decoder_gives_probabilities(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def out(t: Tensor) -> Tensor:
        z = model(t)
        return z.softmax(-1) if case.ill else z

    def loss() -> Tensor:
        t = tokens[pick(len(tokens))]
        return F.cross_entropy(out(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten())

    fit(
        case,
        model,
        optimizer,
        loss,
        lambda: torch.allclose((z := out(tokens[:8])).sum(-1), torch.ones(z.shape[:-1]), atol=1e-4),
    )


# ---- unfit-output-activation


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="MLP",
    source="Stack Overflow: my regression never predicts negative values (ReLU after the last layer)",
    steps=80,
    data="diabetes",
    also=("dead-units", "collapsed-output"),
)
def relu_on_signed_targets(case: Case) -> None:
    x, y = table("diabetes")
    layers = [nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)]
    model = nn.Sequential(*layers, *([nn.ReLU()] if case.ill else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: bool((model(x) >= 0).all() and (y < 0).double().mean() > 0.2))


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="autoencoder",
    source="DCGAN generators' Sigmoid kept for images that are standardised to mean 0 and variance 1",
    steps=80,
    data="digits",
)
def sigmoid_for_standardised_images(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    if case.ill:
        model.decoder.append(nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), x[rows])

    fit(case, model, optimizer, loss, lambda: bool((model(x) >= 0).all()) and (x < -0.1).double().mean().item() > 0.3)


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="GRU",
    source="forum: tanh at the end of a forecaster of values between 0 and 50",
    steps=80,
    also=("high-initial-loss", "saturated-units", "missing-bias"),
)
def tanh_for_values_up_to_fifty(case: Case) -> None:
    x = torch.randn(256, 8, 2)
    y = 25 + 8 * x[..., 0].mean(1, keepdim=True) * 3
    model = Recurrent(nn.GRU(2, 16, batch_first=True), 1)
    if not case.ill:
        y = (y - y.mean()) / y.std()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def out(rows: Tensor) -> Tensor:
        return torch.tanh(model(x[rows])) if case.ill else model(x[rows])

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(out(rows), y[rows])

    fit(case, model, optimizer, loss, lambda: bool((out(torch.arange(256)).abs() <= 1).all() and (y > 1).double().mean() > 0.5))


# ---- raw-input-scale


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="MLP",
    source="scikit-learn's wine without StandardScaler: proline of a thousand beside hues of one",
    steps=60,
    data="wine",
    also=("high-initial-loss", "high-learning-rate", "dead-units"),
)
def wine_without_a_scaler(case: Case) -> None:
    x, y = raw("wine")
    x = x if case.ill else standard(x)
    model = mlp(13, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01 if not case.ill else 1e-4)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: x.std(0).max().item() > 100)


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="ResNet",
    source="forum: ToTensor left out, pixels of 0 to 255 go into the net",
    steps=60,
    data="digits",
    also=("high-initial-loss",),
)
def bytes_into_the_network(case: Case) -> None:
    x, y = raw("digits")
    x = (x * 255 / 16).view(-1, 1, 8, 8)
    x = x if case.ill else (x - x.mean()) / x.std()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: x.abs().max().item() > 200)


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="GRU",
    source="Kaggle time series: Unix seconds as a feature",
    steps=60,
    also=("saturated-units", "high-initial-loss"),
)
def unix_seconds_as_a_feature(case: Case) -> None:
    x = torch.randn(256, 6, 2)
    y = x[..., 0].mean(1, keepdim=True) * 2
    seconds = 1.7e9 + 3600.0 * torch.arange(6).expand(256, 6)
    x = torch.cat([x, (seconds if case.ill else (seconds - 1.7e9) / 3600 / 6)[..., None]], 2)
    model = Recurrent(nn.GRU(3, 16, batch_first=True), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: x.abs().max().item() > 1e6)


# ---- high-initial-loss


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="GPT",
    source="Karpathy, makemore part 3 and nanoGPT: tied embedding of deviation one, the first loss is 30 in place of log V",
    steps=60,
    also=("wrong-initial-scale",),
)
def confidently_wrong_at_the_start(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=True)
    if case.ill:
        nn.init.normal_(model.wte.weight, std=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = model.loss(tokens).item()
    fit(
        case,
        model,
        optimizer,
        lambda: model.loss(tokens[pick(len(tokens))]),
        lambda: start > 3 * torch.tensor(24.0).log().item(),
    )


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="ResNet",
    source="Karpathy's recipe, verify the loss at init: head begun with deviation 10",
    steps=100,
    data="digits",
    also=("wrong-initial-scale",),
)
def head_begun_too_wide(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 1)
    nn.init.normal_(model.fc.weight, std=20.0 if case.ill else 0.01)
    nn.init.zeros_(model.fc.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.no_grad():
        start = F.cross_entropy(copy.deepcopy(model)(x[:300]), y[:300]).item()

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: start > 3 * torch.tensor(10.0).log().item())


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="MLP",
    source="Karpathy's recipe: set the final bias to the mean of the targets (house prices of 200 thousand, in thousands)",
    steps=80,
    also=("missing-bias", "stalled-loss", "low-learning-rate"),
)
def prices_far_from_zero(case: Case) -> None:
    x, y = friedman()
    y = 200.0 + 30.0 * y
    model = mlp(10, 32, 1)
    if not case.ill:
        y = (y - 200.0) / 30.0
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    start = F.mse_loss(model(x), y).item()

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: start > 3 * y.var().item())


# ---- starved-batch-norm


@faulty(
    "starved-batch-norm",
    places=("1", "4", "*norm*", "", "*"),
    kind="MLP",
    source="PyTorch forum: batch norm with batches of two, training loss jumps, evaluation is useless",
    steps=100,
    data="wine",
)
def batches_of_two(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    sizes = []

    def loss() -> Tensor:
        rows = pick(len(x), 2 if case.ill else 32)
        sizes.append(len(rows))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: sizes[-1] <= 2)


@faulty(
    "starved-batch-norm",
    places=("2.1", "2", "bottleneck*", "*"),
    kind="U-Net",
    source="segmentation forum: batch of one large picture, the bottleneck has 2 x 1 places left",
    steps=60,
    data="digits",
)
def bottleneck_of_two_values(case: Case) -> None:
    x, _ = images()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)),
        nn.AvgPool2d((1, 2)),
        nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Upsample(size=(8, 8)),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sizes = []

    def loss() -> Tensor:
        r = pick(400, 1 if case.ill else 16)
        sizes.append(len(r) * 2)
        return F.mse_loss(model(x[r]), x[r])

    fit(case, model, optimizer, loss, lambda: sizes[-1] <= 2, learns=0.98)
