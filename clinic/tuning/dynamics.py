"""Faults of scale and of step length: gradients, activations and weights that vanish or explode, and learning rates."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty

Batch = tuple[torch.Tensor, torch.Tensor]
LossOf = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def digits_like(classes: int = 6) -> Batch:
    """Pictures 1 x 12 x 12 with a bright stripe, whose direction and place tell the class."""
    y = torch.randint(0, classes, (768,))
    x = 0.4 * torch.randn(768, 1, 12, 12)
    for k in range(classes):
        line = x[y == k]
        line[:, :, :, 2 * k] += 1.0
        x[y == k] = line
    return x, y


def curves() -> Batch:
    x = torch.randn(768, 12)
    return x, torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def words(length: int = 24, size: int = 20) -> Batch:
    """Sequences of letters; the class is the letter that comes most often in the second half."""
    x = torch.randint(0, size, (768, length))
    y = torch.randint(0, 4, (768,))
    x[:, length // 2 :: 2] = y[:, None]
    return x, y


def draw(data: Batch, size: int = 32) -> Iterator[Batch]:
    while True:
        rows = torch.randint(0, len(data[0]), (size,))
        yield data[0][rows], data[1][rows]


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def squares(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def fit(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Batch,
    loss_of: LossOf,
    truth: Callable[[int, Batch], bool],
    after: Callable[[int], None] = lambda step: None,
    learnt: float = 0.9,
) -> None:
    """The usual loop. The twin has learnt where the loss over all data has fallen to this share of the first."""
    first = loss_of(copy.deepcopy(model), *data).item()
    batches = draw(data)
    with case.watch(model):
        for step in range(case.steps):
            batch = next(batches)
            optimizer.zero_grad()
            loss_of(model, *batch).backward()
            case.truth(lambda step=step, batch=batch: truth(step, batch))
            optimizer.step()
            after(step)
    case.proof(lambda: loss_of(model, *data).item() < learnt * first)


def slopes(model: nn.Sequential, batch: Batch, loss: Callable[..., torch.Tensor]) -> list[float]:
    """Norms of the loss's gradient by what each linear or convolutional layer gives, measured by hand."""
    hidden, kept = batch[0], []
    for module in copy.deepcopy(model):
        hidden = module(hidden)
        if isinstance(module, nn.Linear | nn.Conv2d):
            kept.append(hidden)
    return [g.norm().item() for g in torch.autograd.grad(loss(hidden, batch[1]), kept)]


def sizes(model: nn.Sequential, batch: Batch) -> list[float]:
    """Root mean square of what each layer gives."""
    hidden, kept = batch[0], []
    with torch.no_grad():
        for module in copy.deepcopy(model):
            hidden = module(hidden)
            if isinstance(module, nn.Linear | nn.Conv2d):
                kept.append(hidden.square().mean().sqrt().item())
    return kept


def he(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


# ---- vanishing-gradient ----


@faulty(
    "vanishing-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="MLP",
    source="Glorot and Bengio 2010: deep sigmoid networks do not learn from their usual initialisation",
)
def seven_sigmoid_layers(case: Case) -> None:
    data = curves()
    modules: list[nn.Module] = []
    for inputs in [12, *[24] * 6]:
        modules += [nn.Linear(inputs, 24), nn.Sigmoid() if case.ill else nn.ReLU()]
    model = nn.Sequential(*modules, nn.Linear(24, 1))
    if not case.ill:
        model.apply(he)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.mse_loss)
        return found[0] < 1e-4 * found[-1]

    fit(case, model, optimizer, data, squares, truth)


@faulty(
    "vanishing-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="CNN",
    source="He et al. 2015, figure 3: a plain 30-layer network from Xavier's initialisation does not start",
)
def plain_deep_convolutions(case: Case) -> None:
    data = digits_like()
    modules: list[nn.Module] = []
    for inputs in [1, *[8] * 13]:
        modules += [nn.Conv2d(inputs, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(8 * 144, 6))
    if not case.ill:
        model.apply(he)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.cross_entropy)
        return found[0] < 1e-4 * max(found[-3:])

    fit(case, model, optimizer, data, cross_entropy, truth)


class Squashed(nn.Module):
    """An encoder and a decoder, activations by function calls."""

    def __init__(self, squash: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        widths = [12, 20, 16, 12, 8, 8, 12, 16, 20, 12]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.squash = squash

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = self.squash(layer(x))
        return self.layers[-1](x)


@faulty(
    "vanishing-gradient",
    places=("", "layers.0", "layers.0.*", "layers.1", "layers.1.*"),
    kind="autoencoder",
    source="Hinton and Salakhutdinov 2006: deep autoencoders of sigmoid units need pretraining",
)
def sigmoid_autoencoder(case: Case) -> None:
    x = torch.randn(768, 4) @ torch.randn(4, 12)
    model = Squashed(torch.sigmoid if case.ill else torch.tanh)
    if not case.ill:
        for layer in model.layers:
            nn.init.xavier_normal_(layer.weight, gain=1.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def truth(step: int, batch: Batch) -> bool:
        copied = copy.deepcopy(model)
        F.mse_loss(copied(batch[0]), batch[0]).backward()
        norms = [layer.bias.grad.norm().item() for layer in copied.layers]
        return norms[0] < 1e-4 * norms[-1]

    fit(case, model, optimizer, (x, x), squares, truth)


# ---- exploding-gradient ----


class Cells(nn.Module):
    """A recurrent cell in a loop of one's own."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(4, 24, nonlinearity="relu"), nn.Linear(24, 4)
        nn.init.orthogonal_(self.cell.weight_hh, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.new_zeros(len(x), 24)
        for part in x.unbind(1):
            hidden = self.cell(part, hidden)
        return self.head(hidden)


def _by_time(model: Cells, batch: Batch) -> float:
    """The loss's gradient by the first state over that by the last."""
    hidden, kept = batch[0].new_zeros(len(batch[0]), 24), []
    for part in batch[0].unbind(1):
        hidden = model.cell(part, hidden)
        kept.append(hidden)
    found = torch.autograd.grad(F.cross_entropy(model.head(hidden), batch[1]), [kept[0], kept[-1]])
    return (found[0].norm() / found[1].norm()).item()


@faulty(
    "exploding-gradient",
    places=("", "cell", "cell.*"),
    kind="RNN",
    source="Pascanu, Mikolov and Bengio 2013: recurrent weights with a radius above 1",
    steps=40,
)
def relu_cell_with_large_radius(case: Case) -> None:
    x, y = words()
    data = F.one_hot(x % 4, 4).float() - 0.25, y
    model = Cells(3.0 if case.ill else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    fit(case, model, optimizer, data, cross_entropy, lambda step, batch: not _by_time(model, batch) < 100)


@faulty(
    "exploding-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="MLP",
    source="Schoenholz et al. 2017, Deep information propagation: tanh networks in the chaotic phase",
)
def chaotic_tanh(case: Case) -> None:
    data = curves()
    modules: list[nn.Module] = []
    for inputs in [12, *[64] * 15]:
        layer = nn.Linear(inputs, 64)
        nn.init.orthogonal_(layer.weight, 4.0 if case.ill else 1.1)
        modules += [layer, nn.Tanh()]
    model = nn.Sequential(*modules, nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 if case.ill else 1e-2)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.mse_loss)
        return found[0] > 30 * found[-2]

    fit(case, model, optimizer, data, squares, truth, learnt=0.97)


# ---- exploding-activation ----


class Unscaled(nn.Module):
    """Residual blocks without any norm."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 6)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(16))
        for block in self.blocks:
            nn.init.kaiming_normal_(block.weight, nonlinearity="relu")
            block.weight.data.mul_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(F.relu(x))
        return self.head(x.mean((2, 3)))


@faulty(
    "exploding-activation",
    places=("", "stem", "blocks*"),
    kind="CNN",
    source="Zhang, Dauphin and Ma 2019, Fixup: residual branches add up where nothing scales them",
    also=("raw-input-scale",),
)
def residual_without_norm(case: Case) -> None:
    data = digits_like()
    model = Unscaled(2.5 if case.ill else 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        with torch.no_grad():
            x = model.stem(batch[0])
            first = x.std()
            for block in model.blocks:
                x = x + block(F.relu(x))
        return bool(x.std() > 500 * first)

    fit(case, model, optimizer, data, cross_entropy, truth)


# ---- exploding-weights ----


@faulty(
    "exploding-weights",
    places=("", "0*", "2*", "4*"),
    kind="MLP",
    source="a penalty on the size of the weights with its sign turned round",
    steps=80,
)
def rewarded_size(case: Case) -> None:
    data = curves()
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    begun = [p.norm().item() for p in model.parameters()]
    sign = -1.0 if case.ill else 0.001

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(model(x), y) + sign * sum(p.square().sum() for p in model.parameters())

    def truth(step: int, batch: Batch) -> bool:
        return any(p.norm() > 10 * b for p, b in zip(model.parameters(), begun, strict=True))

    fit(case, model, optimizer, data, loss_of, truth, learnt=0.97)


@faulty(
    "exploding-weights",
    places=("3*",),
    kind="CNN",
    source="weight decay written by hand, p.add_(p, alpha=lr * decay) in place of alpha=-lr * decay, for one layer",
    steps=80,
)
def decay_with_the_wrong_sign(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(288, 6)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    begun = model[3].weight.norm().item()

    def after(step: int) -> None:
        with torch.no_grad():
            model[3].weight.add_(model[3].weight, alpha=0.08 if case.ill else -1e-3)

    fit(case, model, optimizer, data, cross_entropy, lambda *_: model[3].weight.norm().item() > 10 * begun, after)


# ---- wrong-initial-scale ----


@faulty(
    "wrong-initial-scale",
    places=("", "0*", "2*", "5*"),
    kind="CNN",
    source="torch.randn for the weights of a convolution, a beginner's usual choice on forums",
)
def convolutions_of_std_one(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 6))
    if case.ill:
        for layer in (model[2], model[5]):
            nn.init.normal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if case.ill else 0.03)
    fit(case, model, optimizer, data, cross_entropy, lambda step, batch: model[2].weight.std().item() > 0.5)


@faulty(
    "wrong-initial-scale",
    places=("", "0", "0.*", "2", "2.*", "4", "4.*"),
    kind="MLP",
    source="nn.init.normal_(w, std=1e-3) on a deep network: outputs do not depend on the input",
)
def all_but_zero(case: Case) -> None:
    data = curves()
    model = nn.Sequential(
        *(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1)),
    )
    model.apply(he)
    if case.ill:
        for layer in (model[0], model[2], model[4]):
            nn.init.normal_(layer.weight, std=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def truth(step: int, batch: Batch) -> bool:
        return bool(sizes(model, batch)[2] < 1e-3)

    fit(case, model, optimizer, data, squares, truth)


class Reader(nn.Module):
    """A recurrent reader of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


@faulty(
    "wrong-initial-scale",
    places=("", "lstm", "lstm.*"),
    kind="LSTM",
    source="a loop that sets every parameter with nn.init.normal_ (a thread about an LSTM whose gates are all shut)",
)
def lstm_of_large_weights(case: Case) -> None:
    data = words()
    model = Reader()
    if case.ill:
        for name, parameter in model.lstm.named_parameters():
            if "weight" in name:
                nn.init.normal_(parameter, std=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(case, model, optimizer, data, cross_entropy, lambda *_: model.lstm.weight_hh_l0.std().item() > 1.0)


@faulty(
    "wrong-initial-scale",
    places=("", "4", "4.*"),
    kind="MLP",
    source="Karpathy, makemore part 3: the last layer's weights make a confidently wrong start",
    also=("high-initial-loss",),
)
def confident_head(case: Case) -> None:
    x, y = digits_like()
    data = x.flatten(1), y
    model = nn.Sequential(nn.Linear(144, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 6))
    if case.ill:
        nn.init.normal_(model[4].weight, std=3.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        return F.cross_entropy(model(batch[0]), batch[1]).item() > 3 * math.log(6)

    fit(case, model, optimizer, data, cross_entropy, truth)


# ---- learning rates ----


class Letters(nn.Module):
    """A small transformer, norm first."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


def hardly_moved(model: nn.Module) -> Callable[[int, Batch], bool]:
    """After 15 steps no weight matrix has moved by a thousandth of its size."""
    begun = [p.detach().clone() for p in model.parameters()]

    def truth(step: int, batch: Batch) -> bool:
        pairs = zip(model.parameters(), begun, strict=True)
        return step >= 15 and all((p - b).norm() < 1e-3 * b.norm() for p, b in pairs if b.dim() > 1)

    return truth


@faulty(
    "low-learning-rate",
    places=("",),
    kind="CNN",
    source="lr=1e-6 with Adam, taken over from a finetuning recipe",
)
def cautious_cnn(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(144, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


@faulty(
    "low-learning-rate",
    places=("",),
    kind="LSTM",
    source="the rate of Adam's examples (1e-4, and less) given to plain SGD",
)
def cautious_lstm(case: Case) -> None:
    data = words()
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 if case.ill else 0.5, momentum=0.9 if not case.ill else 0.0)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


@faulty(
    "low-learning-rate",
    places=("",),
    kind="Transformer",
    source="a rate divided by the number of devices twice",
)
def cautious_transformer(case: Case) -> None:
    data = words()
    model = Letters()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-7 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


def gone_wrong(model: nn.Module, data: Batch, loss_of: LossOf, since: int = 10) -> Callable[[int, Batch], bool]:
    """The loss over all data is twice that of the start, or not finite; or after some steps no lower than it was."""
    first = loss_of(copy.deepcopy(model), *data).item()

    def truth(step: int, batch: Batch) -> bool:
        with torch.no_grad():
            now = loss_of(copy.deepcopy(model), *data).item()
        return not now < 2 * first or (step >= since and now > 0.98 * first)

    return truth


@faulty(
    "high-learning-rate",
    places=("",),
    kind="MLP",
    source="SGD on unscaled regression: the loss is NaN after three steps, the best known question about PyTorch's SGD",
    steps=30,
)
def nan_in_three_steps(case: Case) -> None:
    data = curves()
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0 if case.ill else 0.03, momentum=0.9)
    fit(case, model, optimizer, data, squares, gone_wrong(model, data, squares, since=1000), learnt=0.99)


@faulty(
    "high-learning-rate",
    places=("",),
    kind="CNN",
    source="Adam with the rate of SGD's best runs, 1.0: units die and the loss stays at ln C",
)
def adam_with_the_rate_of_sgd(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(144, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="Transformer",
    source="Popel and Bojar 2018: transformers diverge without warm-up at large rates",
)
def transformer_without_measure(case: Case) -> None:
    data = words()
    model = Letters(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="LSTM",
    source="Zaremba et al. 2014 use SGD with rate 1 and clipping; here rate 30 and none",
)
def lstm_with_rate_thirty(case: Case) -> None:
    data = words()
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), lr=60.0 if case.ill else 0.5, momentum=0.9)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="autoencoder",
    source="a step schedule with gamma 10 in place of 0.1: all is well for 30 steps",
    also=("loss-spike",),
)
def schedule_upside_down(case: Case) -> None:
    x = torch.randn(768, 4) @ torch.randn(4, 12)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4), nn.Linear(4, 24), nn.GELU(), nn.Linear(24, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 15, 10.0 if case.ill else 0.5)
    truth = gone_wrong(model, (x, x), squares)
    fit(case, model, optimizer, (x, x), squares, truth, after=lambda step: schedule.step())
