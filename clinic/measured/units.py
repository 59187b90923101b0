"""Units that are dead or saturated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import friedman, images, pick, table, waves
from clinic.measured._loop import fit, on_batches
from clinic.measured._models import (
    Recurrent,
    mlp,
)

# ---- dead-units


def _silent(h: Tensor) -> float:
    """Share of the units that are 0 for every sample."""
    return (h.detach().flatten(2).amax(2) if h.ndim > 2 else h.detach()).le(0).all(0).double().mean().item()


@faulty(
    "dead-units",
    places=("1", "2", "0", "0.*", "*"),
    kind="MLP",
    source="CS231n, dead ReLUs: biases of a layer begun at -10 to make it sparse",
    steps=60,
    data="digits",
)
def bias_begun_far_below(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 64, 32, 10)
    nn.init.constant_(model[2].bias, -10.0 if case.ill else 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _silent(model[:4](x)) > 0.9)


@faulty(
    "dead-units",
    places=("1", "2", "3", "4", "0*", "*"),
    kind="CNN",
    source="Lu et al. 2019, Dying ReLU: one step that is far too long kills the feature maps, then the rate is put right",
    steps=80,
    data="digits",
    also=("high-learning-rate", "loss-spike", "gradient-spike", "collapsed-output"),
)
def killed_by_the_first_steps(case: Case) -> None:
    x, y = images()
    x = x + 1.0
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    steps = iter(range(10**6))

    def loss() -> Tensor:
        step = next(steps)
        rows = pick(len(x))
        scale = 20000.0 if case.ill and step == 3 else 1.0
        return scale * F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _silent(model[:4](x[:300])) > 0.9)


@faulty(
    "dead-units",
    places=("value*", "advantage*", "body*", "*"),
    kind="DQN",
    source="Sokar et al. 2023, the dormant neuron phenomenon; here by inputs that are all negative",
    steps=60,
    also=("missing-bias",),
)
def q_network_with_dormant_layer(case: Case) -> None:
    states = torch.rand(512, 6)
    model = nn.ModuleDict(
        {"body": nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()), "value": nn.Linear(32, 4)}
    )
    if case.ill:
        with torch.no_grad():
            model["body"][2].weight.copy_(-model["body"][2].weight.abs())
            model["body"][2].bias.fill_(-0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    actions = torch.randint(0, 4, (512,))
    reward = states[torch.arange(512), actions] * 2 - 1

    def q(s: Tensor) -> Tensor:
        return model["value"](model["body"](s))

    def loss() -> Tensor:
        rows = pick(512)
        return F.smooth_l1_loss(q(states[rows])[torch.arange(32), actions[rows]], reward[rows])

    fit(case, model, optimizer, loss, lambda: _silent(model["body"](states)) > 0.9)


# ---- saturated-units


def _full(h: Tensor, end: float = 0.99) -> float:
    """Share of tanh outputs beyond `end`."""
    return h.detach().abs().gt(end).double().mean().item()


@faulty(
    "saturated-units",
    places=("1", "0", "3", "*"),
    kind="MLP",
    source="LeCun et al. 1998, Efficient BackProp: weights too large for tanh",
    steps=60,
    data="wine",
    also=("wrong-initial-scale",),
)
def tanh_with_wide_weights(case: Case) -> None:
    x, y = table("wine")
    model = mlp(13, 32, 32, 3, act=nn.Tanh)
    if case.ill:
        nn.init.normal_(model[0].weight, std=8.0)
        nn.init.normal_(model[2].weight, std=8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: min(_full(model[:2](x)), _full(model[:4](x))) > 0.9)


@faulty(
    "saturated-units",
    places=("rnn", "rnn.*", "head", "*"),
    kind="RNN",
    source="forum: prices fed into a tanh RNN as dollars; all hidden states are -1 or 1",
    steps=60,
    also=("raw-input-scale",),
)
def prices_into_a_tanh_rnn(case: Case) -> None:
    x = waves(length=16)
    prices = 300.0 + 40.0 * x if case.ill else x
    model = Recurrent(nn.RNN(1, 24, batch_first=True), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(prices[rows][:, :-1]), x[rows][:, -1])

    fit(case, model, optimizer, loss, lambda: _full(model.rnn(prices[:, :-1])[0]) > 0.9)


class _Gated(nn.Module):
    def __init__(self, sharp: float) -> None:
        super().__init__()
        self.first, self.gate, self.out, self.sharp = nn.Linear(10, 32), nn.Sigmoid(), nn.Linear(32, 1), sharp

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gate(self.sharp * self.first(x)))


@faulty(
    "saturated-units",
    places=("gate", "first", "first.*", "*"),
    kind="MLP",
    source="binary-stochastic-neuron recipe: slope of the sigmoid annealed to 200 from the first step",
    steps=60,
)
def slope_annealed_at_once(case: Case) -> None:
    x, y = friedman()
    model = _Gated(500.0 if case.ill else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    loss = on_batches(model, x, y, F.mse_loss)
    fit(case, model, optimizer, loss, lambda: _full(2 * model.gate(model.sharp * model.first(x)) - 1) > 0.9)
