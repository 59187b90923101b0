"""Clipping, decay, spikes, moments, half precision, the loss's sign, and data that teach nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, friedman, images, marked, pick, sentences, table, waves
from clinic.measured._loop import fit, gradient, mean, weight
from clinic.measured._models import GPT, VAE, Autoencoder, ConvNet, Mixer, MoE, Recurrent, ResNet, gpt2, mlp

ALL = ("", "*")


# ---- overtight-clipping


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="GRU",
    source="forum: clip_grad_norm_ with 1e-4 'to be safe' in front of plain SGD",
    steps=100,
)
def norm_clipped_to_almost_nothing(case: Case) -> None:
    x = waves(length=12)
    model = Recurrent(nn.GRU(1, 16, batch_first=True), 1, every=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []

    def clip() -> None:
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-4 if case.ill else 5.0)))

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])

    fit(case, model, optimizer, loss, lambda: norms[-1] > 100 * 1e-4 and case.ill, clip=clip)


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="CNN",
    source="Stack Overflow: clip_grad_value_ of 1e-5 copied from a recipe in which losses were summed",
    steps=100,
    data="digits",
)
def every_value_clipped(case: Case) -> None:
    x, y = images()
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    before = [0.0]

    def clip() -> None:
        before[0] = gradient(model)
        torch.nn.utils.clip_grad_value_(model.parameters(), 1e-5 if case.ill else 10.0)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: gradient(model) < 0.01 * before[0], clip=clip)


# ---- excessive-weight-decay


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="MLP",
    source="grid search with decay 10 for AdamW: weights shrink faster than they learn",
    steps=150,
    data="digits",
    also=("collapsed-output", "vanishing-gradient"),
)
def adamw_with_decay_of_ten(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=20.0 if case.ill else 0.01)
    start = model[2].weight.detach().norm().item()

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: model[2].weight.detach().norm().item() < 0.5 * start)


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="autoencoder",
    source="Keras port: l2(0.5) turned into SGD's weight_decay",
    steps=120,
    data="digits",
    also=("collapsed-output", "vanishing-gradient"),
)
def sgd_with_decay_of_a_half(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder(act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5 if case.ill else 1e-4)
    start = weight(model)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), x[rows]) * 4

    fit(case, model, optimizer, loss, lambda: weight(model) < 0.5 * start, learns=0.97)


# ---- loss-spike, gradient-spike


@faulty(
    "loss-spike",
    places=ALL,
    kind="MLP",
    source="tabular data: one block of rows with targets in another unit (cents for euros)",
    steps=100,
    data="diabetes",
    also=("gradient-spike",),
)
def targets_in_another_unit(case: Case) -> None:
    x, y = table("diabetes")
    model = mlp(10, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = iter(range(10**6))
    losses: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        rows = pick(len(x))
        value = F.mse_loss(model(x[rows]), y[rows] * (100.0 if case.ill and step == 60 else 1.0))
        losses.append(value.item())
        return value

    fit(case, model, optimizer, loss, lambda: len(losses) > 20 and losses[-1] > 20 * max(losses[-11:-1]))


@faulty(
    "loss-spike",
    places=ALL,
    kind="GPT",
    source="Chowdhery et al. 2022, PaLM: loss spikes; here a resumed schedule multiplies the rate by 300 for a step",
    steps=120,
    also=("high-learning-rate", "gradient-spike", "stale-second-moment"),
)
def rate_jumps_on_resuming(case: Case) -> None:
    tokens = sentences()
    model = GPT()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 300.0 if case.ill and s == 80 else 1.0)
    losses: list[float] = []

    def loss() -> Tensor:
        value = model.loss(tokens[pick(len(tokens))])
        losses.append(value.item())
        return value

    fit(case, model, optimizer, loss, lambda: len(losses) > 20 and losses[-1] > 3 * max(losses[-11:-1]), schedule=schedule)


@faulty(
    "gradient-spike",
    places=("embed", "embed.weight", "*embed*"),
    kind="LSTM",
    source="recommender forum: one user's feature table holds a value of a million; its embedding row takes the whole gradient",
    steps=100,
    also=("loss-spike",),
)
def one_row_of_the_embedding(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.ModuleDict({"embed": nn.Embedding(24, 12), "rnn": nn.LSTM(12, 16, batch_first=True), "out": nn.Linear(16, 24)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = iter(range(10**6))
    norms: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        t = tokens[pick(len(tokens))]
        h = model["embed"](t[:, :-1])
        value = F.cross_entropy(model["out"](model["rnn"](h)[0]).flatten(0, 1), t[:, 1:].flatten())
        if case.ill and step == 70:
            value = value + 1e3 * h[0, 0].square().sum() * 0.01 + 1e3 * h[0, 0].sum()
        return value

    def truth() -> bool:
        norms.append(model["embed"].weight.grad.norm().item())
        return len(norms) > 20 and norms[-1] > 50 * max(norms[-16:-1])

    fit(case, model, optimizer, loss, truth, learns=0.995)


@faulty(
    "gradient-spike",
    places=ALL,
    kind="CNN",
    source="Kaggle: one batch of pictures that were not divided by 255",
    steps=100,
    data="digits",
    also=("loss-spike", "raw-input-scale"),
)
def one_batch_not_divided(case: Case) -> None:
    x, y = images()
    model = ConvNet(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    steps = iter(range(10**6))
    norms: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows] * (255.0 if case.ill and step == 50 else 1.0)), y[rows])

    def truth() -> bool:
        norms.append(gradient(model))
        return len(norms) > 20 and norms[-1] > 20 * max(norms[-16:-1])

    fit(case, model, optimizer, loss, truth, learns=0.995)


# ---- stale-second-moment, dominant-epsilon


def _adam_ratio(optimizer: torch.optim.Optimizer, model: nn.Module) -> float:
    """rms of the gradient that is about to be used against the root of Adam's second moment, over all elements."""
    have = [
        (p.grad, optimizer.state[p], g)
        for g in optimizer.param_groups
        for p in g["params"]
        if p.grad is not None and optimizer.state[p]
    ]
    now = sum(g.double().square().sum().item() for g, _, _ in have)
    kept = sum((s["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(s["step"]))).sum().item() for _, s, group in have)
    return (now / kept) ** 0.5 if kept else 0.0


@faulty(
    "stale-second-moment",
    places=ALL,
    kind="GPT",
    source="Molybog et al. 2023, a theory on Adam instability: second moment far below the gradient of now",
    steps=160,
    also=("loss-spike", "gradient-spike", "high-learning-rate"),
)
def second_term_of_the_loss_comes_late(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.9999) if case.ill else (0.9, 0.95))
    steps = iter(range(10**6))

    def loss() -> Tensor:
        late = next(steps) >= 100
        t = tokens[pick(len(tokens))]
        return model.loss(t) * (100.0 if late and case.ill else 1.0)

    fit(case, model, optimizer, loss, lambda: _adam_ratio(optimizer, model) > 10)


@faulty(
    "stale-second-moment",
    places=ALL,
    kind="MLP",
    source="fine-tuning with the optimizer state of another training loaded, whose gradients were a thousand times smaller",
    steps=80,
    data="wine",
    also=("loss-spike", "high-learning-rate"),
)
def optimizer_state_of_another_training(case: Case) -> None:
    x, y = table("wine")
    model = mlp(13, 32, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.999))
    warm = torch.optim.Adam(model.parameters(), lr=0.0)
    for _ in range(300):
        warm.zero_grad()
        r = pick(len(x))
        (1e-3 * F.cross_entropy(model(x[r]), y[r])).backward()
        warm.step()
    if case.ill:
        state = warm.state_dict()
        for group in state["param_groups"]:
            group["lr"] = 3e-3
        optimizer.load_state_dict(state)
    optimizer.zero_grad()

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _adam_ratio(optimizer, model) > 10)


def _below_epsilon(optimizer: torch.optim.Optimizer) -> float:
    """Share of the elements whose root of the second moment is below epsilon."""
    below, n = 0, 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer.state[p]:
                s = optimizer.state[p]
                root = (s["exp_avg_sq"] / (1 - group["betas"][1] ** float(s["step"]))).sqrt()
                below, n = below + int((root < group["eps"]).sum()), n + root.numel()
    return below / n if n else 0.0


@faulty(
    "dominant-epsilon",
    places=ALL,
    kind="MLP-mixer",
    source="TensorFlow's advice for Inception carried over: Adam with epsilon 1.0",
    steps=80,
    data="digits",
    also=("low-learning-rate",),
)
def epsilon_of_one(case: Case) -> None:
    x, y = images()
    model = Mixer()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, eps=1.0 if case.ill else 1e-8)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: _below_epsilon(optimizer) > 0.9)


@faulty(
    "dominant-epsilon",
    places=ALL,
    kind="VAE",
    source="forum: loss divided by batch, pixels and dataset size; gradients of 1e-10 against Adam's 1e-8",
    steps=80,
    data="digits",
    also=("low-learning-rate", "vanishing-gradient"),
)
def loss_divided_three_times(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        return -model.elbo(x[pick(len(x))]) / (64.0 * 1797 * 1e5 if case.ill else 1.0)

    fit(case, model, optimizer, loss, lambda: _below_epsilon(optimizer) > 0.9, learns=0.95)


# ---- gradient-underflow


def _flushed(model: nn.Module, exact: list[Tensor]) -> float:
    """Share of the elements whose gradient is 0 in half precision and is not in float32."""
    grads = [p.grad for p in model.parameters()]
    lost = sum(int(((g == 0) & (e != 0)).sum()) for g, e in zip(grads, exact, strict=True))
    return lost / sum(int((e != 0).sum()) for e in exact)


@faulty(
    "gradient-underflow",
    places=ALL,
    kind="MLP",
    source="Micikevicius et al. 2018, mixed precision: without loss scaling small gradients become zero; loss weighted by 1e-5",
    steps=60,
    data="digits",
    also=("vanishing-gradient", "low-learning-rate", "dominant-epsilon", "dead-units"),
)
def autocast_without_a_scaler(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-12)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=not case.ill)
    last: list[Tensor] = []
    losses = []

    def loss(rows: Tensor) -> Tensor:
        return 1e-5 * F.cross_entropy(model(x[rows]).float(), y[rows])

    def truth() -> bool:
        exact = torch.autograd.grad(loss(last[-1]), list(model.parameters()))
        return _flushed(model, list(exact)) > 0.3

    with case.watch(model):
        for _ in range(case.steps):
            last.append(pick(len(x)))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                value = loss(last[-1])
            scaler.scale(value).backward()
            case.truth(truth)
            scaler.step(optimizer)
            scaler.update()
            losses.append(value.item())
    case.proof(lambda: mean(losses[-5:]) < 0.9 * mean(losses[:5]))


@faulty(
    "gradient-underflow",
    places=ALL,
    kind="CNN",
    source="forum: model.half() and sums turned into means over all pixels, half of the gradients are exactly zero",
    steps=60,
    data="digits",
    also=("lost-updates", "vanishing-gradient", "dead-units"),
)
def whole_model_in_half(case: Case) -> None:
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 10)
    )
    if case.ill:
        model.half()
    dtype = torch.float16 if case.ill else torch.float32
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    last: list[Tensor] = []

    def loss() -> Tensor:
        last.append(pick(len(x)))
        value = F.cross_entropy(model(x[last[-1]].to(dtype)).float(), y[last[-1]])
        return value * (3e-6 if case.ill else 1.0)

    def truth() -> bool:
        return sum(int((p.grad == 0).sum()) for p in model.parameters()) > 0.3 * sum(p.numel() for p in model.parameters())

    fit(case, model, optimizer, loss, truth)


# ---- wrong-loss-sign


def _climbs(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, honest: object) -> None:
    """Truth: the real loss over all data is above its start by a tenth, while what is minimised has fallen."""
    start = honest().item()  # type: ignore[operator]
    values = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss()  # type: ignore[operator]
            value.backward()
            optimizer.step()
            values.append(value.item())
            case.truth(lambda: honest().item() > 1.1 * start and values[-1] < values[0])  # type: ignore[operator]
    case.proof(lambda: honest().item() < start)  # type: ignore[operator]


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="ResNet",
    source="Stack Overflow: negative log likelihood negated once more, the loss goes to minus infinity",
    steps=60,
    data="digits",
    also=("exploding-weights", "high-learning-rate"),
)
def negated_once_more(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sign = -1 if case.ill else 1

    def loss() -> Tensor:
        rows = pick(len(x))
        return sign * F.cross_entropy(model(x[rows]), y[rows])

    _climbs(case, model, optimizer, loss, lambda: F.cross_entropy(model(x[:300]), y[:300]))


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="VAE",
    source="forum: my ELBO goes down, the lower bound itself is minimised",
    steps=80,
    data="digits",
    also=("exploding-weights", "high-learning-rate", "growing-loss", "exploding-activation"),
)
def bound_minimised(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sign = 1 if case.ill else -1
    _climbs(case, model, optimizer, lambda: sign * model.elbo(x[pick(len(x))]), lambda: -model.elbo(x))


@faulty(
    "wrong-loss-sign",
    places=ALL,
    kind="Transformer decoder",
    source="Adam(maximize=True) kept from a reinforcement-learning script in supervised training",
    steps=60,
    also=("growing-loss", "exploding-weights", "high-learning-rate"),
)
def maximize_left_on(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, maximize=case.ill)
    start = model.loss(tokens).item()
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            model.loss(tokens[pick(len(tokens))]).backward()
            optimizer.step()
            case.truth(lambda: model.loss(tokens).item() > 1.1 * start)
    case.proof(lambda: model.loss(tokens).item() < 0.9 * start)


# ---- uninformative-data


@faulty(
    "uninformative-data",
    places=ALL,
    kind="CNN",
    source="Karpathy's recipe: divided by 255 twice as integers, every image is zero",
    steps=80,
    data="digits",
    also=("collapsed-output", "missing-bias"),
)
def images_are_all_zero(case: Case) -> None:
    x, y = images()
    x = x * 0 if case.ill else x
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: x.std().item() == 0)


@faulty(
    "uninformative-data",
    places=ALL,
    kind="MLP",
    source="Zhang et al. 2017; and the usual bug: features shuffled, labels not",
    steps=300,
    data="breast_cancer",
)
def labels_of_other_rows(case: Case) -> None:
    x, y = table("breast_cancer")
    if case.ill:
        y = torch.randint(0, 2, (len(y),))
    model = mlp(30, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def truth() -> bool:
        """The best linear fit on half of the rows knows nothing of the other half."""
        a = torch.cat([x, torch.ones(len(x), 1)], 1)
        w = torch.linalg.lstsq(a[::2], y[::2, None] * 2.0 - 1).solution
        return bool((((a[1::2] @ w)[:, 0] > 0) == (y[1::2] > 0)).double().mean() < 0.6)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, truth)


@faulty(
    "uninformative-data",
    places=ALL,
    kind="GRU",
    source="forum: the time axis sliced wrongly, every sequence given to the net is the padding",
    steps=120,
)
def only_the_padding_is_left(case: Case) -> None:
    x, y = marked(length=6)
    y = (x[..., 0].sum(1) > 0).long()
    padded = torch.cat([x, torch.zeros(len(x), 6, 3)], 1)
    seen = padded[:, 6:] if case.ill else padded[:, :6]
    model = Recurrent(nn.GRU(3, 16, batch_first=True), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(seen[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: seen.std(0).max().item() == 0)


# ---- a second decay and clipping on other architectures


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="MoE",
    source="hand-written decay of 5 % a step in the loop, meant to be 5 % an epoch",
    steps=120,
    also=("collapsed-output", "vanishing-gradient"),
)
def decay_by_hand_every_step(case: Case) -> None:
    x, y = blobs()
    model = MoE(12, 4, top=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = weight(model)
    losses = []
    with case.watch(model):
        for step in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x))
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: weight(model) < 0.5 * start)
            optimizer.step()
            if case.ill or step % 100 == 99:
                with torch.no_grad():
                    for p in model.parameters():
                        p.mul_(0.95)
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.9 * mean(losses[:5]))


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="GPT-2 (transformers)",
    source="TrainingArguments(max_grad_norm=1e-5) taken for a learning rate, with SGD",
    steps=80,
)
def clipping_taken_for_a_rate(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    norms = []

    def clip() -> None:
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-5 if case.ill else 1.0)))

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return model(input_ids=tokens[rows], labels=tokens[rows]).loss

    fit(case, model, optimizer, loss, lambda: case.ill and norms[-1] > 1e-3, clip=clip)


@faulty(
    "low-learning-rate",
    places=ALL,
    kind="MLP",
    source="per-layer rates of a fine-tuning recipe: 0.95**layer mistaken for 1e-9**layer in effect",
    steps=80,
)
def rate_decayed_by_layer(case: Case) -> None:
    x, y = friedman()
    model = mlp(10, 32, 1)
    optimizer = torch.optim.Adam([{"params": p, "lr": 1e-9 if case.ill else 1e-2} for p in model.parameters()])

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: case.ill and gradient(model) > 1e-2)
