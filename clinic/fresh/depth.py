"""What vanishes or explodes on its way."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, pictures, root, scaled, weights

# ---- vanishing-gradient


def lenet(act: type[nn.Module], depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), act()]
    for _ in range(depth):
        layers += [nn.Conv2d(8, 8, 3, padding=1), act()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 32), act(), nn.Linear(32, 10))


@faulty(
    "vanishing-gradient",
    places=EVERYWHERE,
    kind="LeNet",
    source="d2l.ai, LeNet exercise 'make it deeper': eight convolutions with sigmoids do not start to learn",
    steps=70,
    data="digits",
)
def deeper_lenet_with_sigmoids(case: Case) -> None:
    x, y = pictures()
    net = lenet(nn.Sigmoid if case.ill else nn.ReLU, 7)
    if not case.ill:
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(m.weight)
                nn.init.zeros_(m.bias)
    trainer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            trainer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: root(net[0].weight.grad) < 1e-4 * root(net[-1].weight.grad))
            trainer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class Stack(nn.Module):
    def __init__(self, sizes: list[int], act: type[nn.Module]) -> None:
        super().__init__()
        back = sizes[::-1]
        self.encode = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
        self.decode = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(back)])
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.encode, *self.decode][:-1]:
            x = self.act(layer(x))
        return self.decode[-1](x)


@faulty(
    "vanishing-gradient",
    places=EVERYWHERE,
    kind="autoencoder",
    source="Hinton & Salakhutdinov 2006: deep autoencoders of logistic units do not train without pretraining",
    steps=50,
    data="digits",
    also=("collapsed-output",),
)
def deep_autoencoder_not_pretrained(case: Case) -> None:
    x = bundled("digits")[0] / 16
    x = x - x.mean()
    model = Stack([64, 48, 40, 32, 24, 16, 12, 8], nn.Sigmoid if case.ill else nn.ELU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 1797, (48,))]
            optimizer.zero_grad()
            loss = F.mse_loss(model(batch), batch)
            loss.backward()
            case.truth(lambda: root(model.encode[0].weight.grad) < 1e-4 * root(model.decode[-1].weight.grad))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))


# ---- exploding-gradient


class CharRNN(nn.Module):
    """min-char-rnn's equations."""

    def __init__(self, vocabulary: int, hidden: int, gain: float) -> None:
        super().__init__()
        self.xh, self.hh = nn.Linear(vocabulary, hidden, bias=False), nn.Linear(hidden, hidden)
        self.hy = nn.Linear(hidden, vocabulary)
        nn.init.normal_(self.xh.weight, std=0.02)
        nn.init.orthogonal_(self.hh.weight, gain)
        nn.init.zeros_(self.hh.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, states = torch.zeros(len(tokens), self.hh.in_features), []
        for t in range(tokens.shape[1]):
            h = torch.tanh(self.xh(F.one_hot(tokens[:, t], self.xh.in_features).float()) + self.hh(h))
            states.append(h)
        return self.hy(h), states


@faulty(
    "exploding-gradient",
    places=EVERYWHERE,
    kind="RNN",
    source="Karpathy, min-char-rnn in PyTorch: recurrent matrix begun orthogonal with gain 3, no clipping",
    steps=40,
    also=("wrong-initial-scale", "saturated-units", "high-learning-rate"),
)
def gain_of_three(case: Case) -> None:
    tokens = torch.randint(0, 12, (256, 40))
    goal = tokens[:, -2]
    net = CharRNN(12, 32, 3.0 if case.ill else 0.9)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 256, (32,))
            out, states = net(tokens[rows])
            for h in states:
                h.retain_grad()
            loss = F.cross_entropy(out, goal[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda states=states: root(states[0].grad) > 1e3 * root(states[-1].grad))
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.999))


# ---- exploding-activation


class LinearAttention(nn.Module):
    def __init__(self, width: int, divide: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.divide = divide

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        out = q @ (k.transpose(1, 2) @ v)
        return out / (q @ k.sum(1)[..., None]) if self.divide else out


class LinearTransformer(nn.Module):
    def __init__(self, divide: bool, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.mix = nn.ModuleList([LinearAttention(24, divide) for _ in range(layers)])
        self.head = nn.Linear(24, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.mix:
            x = x + layer(x)
        return self.head(x.mean(1))


@faulty(
    "exploding-activation",
    places=EVERYWHERE,
    kind="linear attention",
    source="Katharopoulos et al. 2020, Transformers are RNNs, in a port: the division by the sum of the keys is missing",
    steps=40,
    also=("high-initial-loss", "exploding-gradient", "high-learning-rate", "nonfinite-origin"),
)
def normaliser_left_out(case: Case) -> None:
    tokens = torch.randint(0, 16, (300, 20))
    tokens[:, :12] = tokens[:, :1]
    model = LinearTransformer(not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def growth() -> float:
        x = model.embed(tokens[:64])
        start = root(x)
        for layer in model.mix:
            x = x + layer(x)
        return root(x) / start

    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            loss = F.cross_entropy(model(tokens[rows]), tokens[rows, 0])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda: not growth() < 1e3)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- exploding-weights


@faulty(
    "exploding-weights",
    places=EVERYWHERE,
    kind="MLP",
    source="Stack Overflow, SGD from scratch with decay: p.mul_(1 + lr * wd), the sign of the decay is wrong",
    steps=100,
    data="digits",
    also=("growing-loss", "exploding-activation", "high-learning-rate"),
)
def decay_with_a_plus(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    layers = nn.ModuleList([nn.Linear(64, 32), nn.Linear(32, 10)])

    def forward(batch: Tensor) -> Tensor:
        return layers[1](torch.relu(layers[0](batch)))

    optimizer = torch.optim.SGD(layers.parameters(), lr=0.05)
    decay = -1.0 if case.ill else 1e-3
    start, losses = weights(layers), []
    with case.watch(layers):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(forward(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in layers.parameters():
                    p.grad.add_(p, alpha=decay)
            case.truth(lambda: weights(layers) > 10 * start)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))
