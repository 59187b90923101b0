"""The loop gone wrong: mode, gradients not zeroed or not applied, steps not taken."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, images, pick, sentences, table, waves
from clinic.measured._loop import Memory, fit
from clinic.measured._models import (
    GPT,
    VAE,
    ConvNet,
    Recurrent,
    ResNet,
    bert,
    mlp,
)

# ---- evaluation-mode-while-training


@faulty(
    "evaluation-mode-while-training",
    places=("", "norm1", "norm2", "drop"),
    kind="CNN",
    source="Stack Overflow: accuracy drops after the first validation, model.train() was forgotten after model.eval()",
    steps=80,
    data="digits",
)
def validated_and_left_in_eval(case: Case) -> None:
    x, y = images()
    model = ConvNet(dropout=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    with case.watch(model):
        for step in range(case.steps):
            if step % 30 == 20:
                model.eval()
                with torch.no_grad():
                    model(x[:200])
                if not case.ill:
                    model.train()
            rows = pick(len(x))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: not model.training)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: sum(losses[-10:]) < 0.5 * sum(losses[:10]))


@faulty(
    "evaluation-mode-while-training",
    places=("", "bert*", "dropout"),
    kind="BERT (transformers)",
    source="Hugging Face forum: from_pretrained gives the model in evaluation mode, a custom loop must call train()",
    steps=40,
)
def fine_tuned_as_it_was_loaded(case: Case) -> None:
    tokens = sentences(length=12)
    y = (tokens[:, 0] > 11).long()
    model = bert()
    model.train(not case.ill)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        rows = pick(len(y))
        return model(input_ids=tokens[rows], labels=y[rows]).loss

    fit(case, model, optimizer, loss, lambda: not model.bert.training)


@faulty(
    "evaluation-mode-while-training",
    places=("", "features*", "features.bn", "features.blocks*"),
    kind="ResNet",
    source="PyTorch forum: frozen statistics; a backbone put into eval() as a whole while it is being trained from nothing",
    steps=60,
    data="digits",
)
def backbone_in_eval_but_trained(case: Case) -> None:
    x, y = images()
    model = nn.ModuleDict({"features": ResNet(8, 2), "head": nn.Linear(10, 10)})
    if case.ill:
        model["features"].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model["head"](F.relu(model["features"](x[rows]))), y[rows])

    fit(case, model, optimizer, loss, lambda: not model["features"].training)


# ---- gradient-not-applied


class _Forgetful(torch.optim.Optimizer):
    """A hand-written SGD: `add` without its underscore gives a new tensor and changes nothing."""

    def __init__(self, params: object, lr: float, ill: bool, only_matrices: bool = False) -> None:
        super().__init__(params, {"lr": lr})
        self.ill, self.only_matrices = ill, only_matrices

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.ill and not (self.only_matrices and p.ndim == 2):
                    p.data.add(p.grad, alpha=-group["lr"])
                else:
                    p.data.add_(p.grad, alpha=-group["lr"])


@faulty(
    "gradient-not-applied",
    places=("*",),
    kind="MLP",
    source="PyTorch forum: my own optimizer does not change the weights (p.data.add instead of p.data.add_)",
    steps=40,
    data="wine",
)
def optimizer_without_underscore(case: Case) -> None:
    x, y = table("wine")
    model = mlp(13, 24, 3)
    memory = Memory(model)
    optimizer = _Forgetful(model.parameters(), 0.1, case.ill)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x))
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            case.truth(lambda: memory.moved() == 0)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)


@faulty(
    "gradient-not-applied",
    places=("rnn*", "rnn.bias*", "head.bias", "*bias*"),
    kind="GRU",
    source="issue against an implementation of Muon: parameters that are no matrices are skipped in silence",
    steps=80,
)
def matrices_only_optimizer(case: Case) -> None:
    x = torch.randn(256, 6, 3)
    y = (x[..., 0].sum(1) > 0).long()
    model = Recurrent(nn.GRU(3, 16, batch_first=True), 2)
    start = model.head.bias.detach().clone()
    optimizer = _Forgetful(model.parameters(), 0.5, case.ill, only_matrices=True)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x), 64)
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            case.truth(lambda: torch.equal(model.head.bias, start))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.693)


# ---- gradients-not-zeroed


@faulty(
    "gradients-not-zeroed",
    places=("", "*"),
    kind="LSTM",
    source="fast.ai forum: optimizer.zero_grad without parentheses",
    steps=40,
)
def zero_grad_without_parentheses(case: Case) -> None:
    x = waves()
    model = Recurrent(nn.LSTM(1, 16, batch_first=True), 1, every=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    left = []
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            if case.ill:
                optimizer.zero_grad  # noqa: B018
            else:
                optimizer.zero_grad()
            left.append(any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()))
            rows = pick(len(x))
            loss = F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])
            loss.backward()
            case.truth(lambda: left[-1])
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: losses[-1] < 0.8 * losses[0])


@faulty(
    "gradients-not-zeroed",
    places=("", "*"),
    kind="CNN",
    source="PyTorch forum: zero_grad once per epoch, before the loop over batches",
    steps=60,
    data="digits",
)
def zeroed_once_per_epoch(case: Case) -> None:
    x, y = images()
    model = ConvNet(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    left = []
    with case.watch(model):
        for step in range(case.steps):
            if not case.ill or step % 20 == 0:
                optimizer.zero_grad()
            left.append(any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()))
            rows = pick(len(x), 48)
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda: left[-1])
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.25)


@faulty(
    "gradients-not-zeroed",
    places=("", "*"),
    kind="GPT",
    source="nanoGPT issue: micro-steps accumulated, the gradients flushed before the first window only",
    steps=30,
)
def accumulation_never_flushed(case: Case) -> None:
    tokens = sentences()
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    left = []
    first = model.loss(tokens).item()
    with case.watch(model):
        for step in range(case.steps):
            if not case.ill or step == 0:
                optimizer.zero_grad(set_to_none=True)
            left.append(any(p.grad is not None for p in model.parameters()))
            for _ in range(2):
                (model.loss(tokens[pick(len(tokens), 16)]) / 2).backward()
            case.truth(lambda: left[-1])
            optimizer.step()
    case.proof(lambda: model.loss(tokens).item() < 0.9 * first)


# ---- step-not-taken


@faulty(
    "step-not-taken",
    places=("", "*"),
    kind="CNN",
    source="Karpathy's most common neural net mistakes, and Stack Overflow: forgot optimizer.step()",
    steps=30,
    data="digits",
)
def step_forgotten(case: Case) -> None:
    x, y = images()
    model = ConvNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    memory = Memory(model)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x))
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            if not case.ill:
                optimizer.step()
            case.truth(lambda: memory.moved() == 0)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)


@faulty(
    "step-not-taken",
    places=("", "*"),
    kind="VAE",
    source="forum thread on accumulation: `if step % 64 == 63` with epochs of 50 batches never steps",
    steps=48,
    data="digits",
)
def window_longer_than_the_epoch(case: Case) -> None:
    x, _ = table("digits")
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    memory = Memory(model)
    window = 64 if case.ill else 4
    before = -model.elbo(x).item()
    with case.watch(model):
        for batch in range(case.steps):
            (-model.elbo(x[pick(len(x))]) / window).backward()
            if batch % window == window - 1:
                optimizer.step()
                optimizer.zero_grad()
            if batch % 4 == 3:
                case.truth(lambda: memory.moved() == 0)
    case.proof(lambda: -model.elbo(x).item() < before)


@faulty(
    "step-not-taken",
    places=("", "*"),
    kind="MLP",
    source="Stack Overflow: the optimizer holds the parameters of a deep copy of the model",
    steps=40,
    also=("parameter-in-no-optimizer",),
)
def optimizer_of_a_copy(case: Case) -> None:
    x, y = blobs()
    model = mlp(12, 24, 4)
    trained = copy.deepcopy(model) if case.ill else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    memory = Memory(model)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x))
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            case.truth(lambda: memory.moved() == 0)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.2)
