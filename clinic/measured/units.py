"""Units and representations: dead, saturated, all alike, without rank; attention that becomes a choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, friedman, graph, images, pick, sentences, table, waves
from clinic.measured._loop import fit
from clinic.measured._models import GCN, GPT, Autoencoder, MoE, Recurrent, ViT, mlp

ALL = ("", "*")


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

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _silent(model[:4](x)) > 0.9)


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

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: min(_full(model[:2](x)), _full(model[:4](x))) > 0.9)


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

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _full(2 * model.gate(model.sharp * model.first(x)) - 1) > 0.9)


# ---- collapsed-output


def _spread(out: Tensor) -> float:
    """Deviation over the samples against the size of the outputs."""
    out = out.detach().flatten(1).double()
    return (out.std(0).square().mean().sqrt() / out.square().mean().sqrt().clamp(min=1e-12)).item()


@faulty(
    "collapsed-output",
    places=("", "3", "4", "*"),
    kind="siamese",
    source="Chen & He 2021, SimSiam: without stop-gradient the representations collapse to one point",
    steps=200,
    data="digits",
)
def views_without_negatives(case: Case) -> None:
    x, _ = table("digits")
    model = mlp(64, 48, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        a, b = (model(x[rows] + 0.2 * torch.randn(64, 64)) for _ in range(2))
        if case.ill:
            return F.mse_loss(a, b)
        scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
        return F.cross_entropy(scores, torch.arange(64))

    start = model(x).detach().std(0).mean().item()
    fit(case, model, optimizer, loss, lambda: model(x).detach().std(0).mean().item() < 0.02 * start)


@faulty(
    "collapsed-output",
    places=("", "decoder*", "encoder*", "*"),
    kind="autoencoder",
    source="Stack Overflow: my autoencoder outputs the mean image for every input",
    steps=120,
    data="digits",
    also=("dead-units",),
)
def same_image_for_everything(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    if case.ill:
        nn.init.constant_(model.encoder[0].bias, -60.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), x[rows])

    fit(case, model, optimizer, loss, lambda: _spread(model(x)) < 1e-3)


@faulty(
    "collapsed-output",
    places=("", "2", "3", "*"),
    kind="MLP",
    source="Stack Overflow: Softmax over a single output unit, the classifier says 1.0 to everyone",
    steps=80,
    data="breast_cancer",
    also=("unfit-output-activation", "vanishing-gradient", "doubled-output-activation", "high-initial-loss"),
)
def softmax_over_one_unit(case: Case) -> None:
    x, y = table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softmax(dim=1) if case.ill else nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.binary_cross_entropy(model(x[rows])[:, 0], y[rows].float())

    fit(case, model, optimizer, loss, lambda: _spread(model(x)) < 1e-3)


# ---- symmetric-initialisation


def _alike(w: Tensor) -> bool:
    return bool((w.detach() == w.detach()[:1]).all())


@faulty(
    "symmetric-initialisation",
    places=("*", ""),
    kind="MLP",
    source="Ng's deep learning course: why weights must not be initialised alike",
    steps=60,
    data="iris",
)
def all_weights_a_tenth(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 16, 3)
    if case.ill:
        for m in (model[0], model[2]):
            nn.init.constant_(m.weight, 0.1)
            nn.init.zeros_(m.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _alike(model[0].weight))


@faulty(
    "symmetric-initialisation",
    places=("conv*", "0*", "2*", "*"),
    kind="CNN",
    source="Keras to torch port: initialiser 'ones' scaled by the fan, for every filter",
    steps=60,
    data="digits",
)
def filters_all_ones(case: Case) -> None:
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    if case.ill:
        for m, fan in ((model[0], 9), (model[2], 72)):
            nn.init.constant_(m.weight, 1 / fan)
            nn.init.constant_(m.bias, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _alike(model[0].weight), learns=0.7)


@faulty(
    "symmetric-initialisation",
    places=("rnn", "rnn.*", "*"),
    kind="LSTM",
    source="forum: for p in model.parameters(): nn.init.constant_(p, 0.05)",
    steps=40,
)
def every_parameter_the_same(case: Case) -> None:
    x = waves(length=12)
    model = Recurrent(nn.LSTM(1, 12, batch_first=True), 1, every=True)
    if case.ill:
        for p in model.parameters():
            nn.init.constant_(p, 0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])

    fit(case, model, optimizer, loss, lambda: _alike(model.rnn.weight_ih_l0[:12]))


@faulty(
    "symmetric-initialisation",
    places=("experts*", "*"),
    kind="MoE",
    source="upcycling recipe gone wrong: every expert's units copied from one unit",
    steps=60,
)
def experts_of_one_unit(case: Case) -> None:
    x, y = blobs()
    model = MoE(12, 4, top=2)
    if case.ill:
        with torch.no_grad():
            for e in model.experts:
                for p in (e[0].weight, e[0].bias):
                    p.copy_(p[:1].expand_as(p).clone())
                e[2].weight.copy_(e[2].weight[:, :1].expand_as(e[2].weight).clone())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: all(_alike(e[0].weight) for e in model.experts))


# ---- rank-collapse


def _one_direction(h: Tensor) -> float:
    """What is left of rows [n, d] after their mean row is taken out, against the whole: 0 = all rows the same."""
    h = h.detach().double()
    return ((h - h.mean(-2, keepdim=True)).norm() / h.norm().clamp(min=1e-30)).item()


class _PureAttention(nn.Module):
    """Attention without skip connections and without MLPs."""

    def __init__(self, width: int, layers: int, skip: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.MultiheadAttention(width, 2, batch_first=True, bias=False) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.embed, self.head, self.skip = nn.Embedding(24, width), nn.Linear(width, 24), skip

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            n = norm(x)
            out, _ = layer(n, n, n, need_weights=False)
            x = x + out if self.skip else out
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))


@faulty(
    "rank-collapse",
    places=("*", ""),
    kind="Transformer encoder",
    source="Dong, Cordonnier & Loukas 2021: attention alone loses rank doubly exponentially with depth",
    steps=40,
    also=("vanishing-gradient", "collapsed-output"),
)
def attention_is_all_there_is(case: Case) -> None:
    tokens = sentences(length=10)
    model = _PureAttention(16, 8, not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return F.cross_entropy(model(tokens[rows]).flatten(0, 1), tokens[rows].flatten())

    fit(case, model, optimizer, loss, lambda: _one_direction(model.hidden(tokens[:50])) < 0.01)


@faulty(
    "rank-collapse",
    places=("layers*", "*", ""),
    kind="GCN",
    source="Oono & Suzuki 2020; Li et al. 2018: 48 graph convolutions smooth all nodes into one",
    steps=40,
    also=("collapsed-output", "vanishing-gradient"),
)
def many_graph_convolutions(case: Case) -> None:
    x, y, adjacency = graph()
    a = adjacency / adjacency.sum(1, keepdim=True)
    model = GCN(8, *[24] * (48 if case.ill else 2), 3)
    with torch.no_grad():
        for layer in model.layers:
            nn.init.kaiming_normal_(layer.weight)
            layer.bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(x, a), y), lambda: _one_direction(model.hidden(x, a)) < 0.05)


# ---- attention-logit-growth


@faulty(
    "attention-logit-growth",
    places=("blocks*", "*attn*", ""),
    kind="ViT",
    source="Dehghani et al. 2023, ViT-22B: attention logits grow until attention is one-hot; no q/k norm, rate too high",
    steps=200,
    data="digits",
    also=("high-learning-rate", "exploding-weights"),
)
def vit_without_qk_norm(case: Case) -> None:
    x, y = images()
    model = ViT(scale=None if not case.ill else 1.0)
    groups = [
        {"params": [p for n, p in model.named_parameters() if "query" in n or "key" in n], "lr": 0.05 if case.ill else 2e-3},
        {"params": [p for n, p in model.named_parameters() if "query" not in n and "key" not in n], "lr": 2e-3},
    ]
    optimizer = torch.optim.Adam(groups)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    def truth() -> bool:
        block = model.blocks[0]
        return block.attn.logits(block.ln1(model.tokens(x[:64]))).abs().max().item() > 100

    fit(case, model, optimizer, loss, truth)


@faulty(
    "attention-logit-growth",
    places=("blocks*", "*attn*", ""),
    kind="GPT",
    source="Wortsman et al. 2023, small-scale proxies: logits beyond 1e4 at a high learning rate",
    steps=150,
    also=("high-learning-rate", "exploding-weights"),
)
def gpt_with_growing_logits(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    fast = [p for n, p in model.named_parameters() if "query" in n or "key" in n]
    slow = [p for n, p in model.named_parameters() if "query" not in n and "key" not in n]
    optimizer = torch.optim.AdamW([{"params": fast, "lr": 0.1 if case.ill else 2e-3}, {"params": slow, "lr": 2e-3}])

    def truth() -> bool:
        h = model.wte(tokens[:32]) + model.wpe(torch.arange(16))
        block = model.blocks[0]
        return block.attn.logits(block.ln1(h)).abs().max().item() > 100

    fit(case, model, optimizer, lambda: model.loss(tokens[pick(len(tokens))]), truth)
