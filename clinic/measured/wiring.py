"""Training loops and models that are put together wrongly: modes, zeroing, stepping, who trains what."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, friedman, images, pick, sentences, table, waves
from clinic.measured._loop import Memory, fit
from clinic.measured._models import GAN, GPT, VAE, Autoencoder, ConvNet, LoRA, Recurrent, ResNet, ViT, bert, mlp

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


# ---- lost-updates


def _unchanged(before: list[Tensor], model: nn.Module) -> float:
    """Share of the elements with a gradient that a step has left as they were."""
    pairs = [(b, p) for b, p in zip(before, model.parameters(), strict=True) if p.grad is not None]
    same = sum(((b == p) & (p.grad != 0)).sum().item() for b, p in pairs)
    return same / max(1, sum((p.grad != 0).sum().item() for _, p in pairs))


def _few_bits(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: object, learns: float) -> None:
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss()  # type: ignore[operator]
            value.backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            case.truth(lambda before=before: _unchanged(before, model) > 0.5)
            losses.append(value.item())
    case.proof(lambda: sum(losses[-5:]) < learns * sum(losses[:5]))


@faulty(
    "lost-updates",
    places=("", "*"),
    kind="GPT",
    source="Zamirai et al. 2020, Revisiting BFloat16 Training: updates are cancelled by nearest rounding",
    steps=60,
)
def whole_model_in_bfloat16(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    if case.ill:
        model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    _few_bits(case, model, optimizer, lambda: model.loss(tokens[pick(len(tokens))]), 0.995)


@faulty(
    "lost-updates",
    places=("", "*"),
    kind="MLP",
    source="Hugging Face issue: fine-tuning with torch_dtype=bfloat16 and lr 1e-5, the loss stands still",
    steps=60,
    data="breast_cancer",
)
def fine_tuning_rate_in_bfloat16(case: Case) -> None:
    x, y = table("breast_cancer")
    model = mlp(30, 32, 32, 2)
    if case.ill:
        model.bfloat16()
        x = x.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4 if not case.ill else 2e-5, weight_decay=0.0)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        return F.cross_entropy(model(x[rows]).float(), y[rows])

    _few_bits(case, model, optimizer, loss, 0.98)


# ---- parameter-in-no-optimizer


@faulty(
    "parameter-in-no-optimizer",
    places=("fc", "fc.*"),
    kind="ResNet",
    source="transfer learning tutorial, comments: model.fc replaced after the optimizer was made",
    steps=40,
    data="digits",
)
def head_replaced_after_the_optimizer(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.fc = nn.Linear(8, 10)
    if not case.ill:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: id(model.fc.weight) not in held)


@faulty(
    "parameter-in-no-optimizer",
    places=("encoder", "encoder.*"),
    kind="autoencoder",
    source="course homework: two networks, Adam(decoder.parameters()) only",
    steps=60,
    data="digits",
)
def only_the_decoder_is_trained(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    trained = model.decoder if case.ill else model
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), x[rows])

    fit(case, model, optimizer, loss, lambda: any(id(p) not in held for p in model.encoder.parameters()))


@faulty(
    "parameter-in-no-optimizer",
    places=("pos", "cls"),
    kind="ViT",
    source="timm discussion: parameter groups built from modules leave bare nn.Parameters out",
    steps=60,
    data="digits",
)
def groups_built_from_modules(case: Case) -> None:
    x, y = images()
    model = ViT()
    groups = [{"params": list(m.parameters())} for m in (model.patch, model.blocks, model.norm, model.head)]
    if not case.ill:
        groups.append({"params": [model.pos, model.cls]})
    optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.01)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: id(model.pos) not in held)


# ---- parameter-without-gradient


class _TwoBranches(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.cut = mlp(10, 24, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 1)), cut

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.head(h.detach() if self.cut else h)


@faulty(
    "parameter-without-gradient",
    places=("encoder", "encoder.*"),
    kind="MLP",
    source="Stack Overflow: weights of the encoder do not change, .detach() left over from plotting features",
    steps=40,
)
def detached_features(case: Case) -> None:
    x, y = friedman()
    model = _TwoBranches(case.ill)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: model.encoder[0].weight.grad is None)


class _Quantised(nn.Module):
    """Nearest of a few codes; the gradient passes straight through, unless it is forgotten."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 32, 4), mlp(4, 32, 64)
        self.codebook, self.straight = nn.Embedding(16, 4), straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        code = self.codebook(torch.cdist(z.detach(), self.codebook.weight.detach()).argmin(1))
        pull = F.mse_loss(code, z.detach())
        if self.straight:
            return self.decoder(z + (code - z).detach()), pull + 0.25 * F.mse_loss(z, code.detach())
        return self.decoder(code), pull


@faulty(
    "parameter-without-gradient",
    places=("encoder", "encoder.*"),
    kind="VQ-VAE",
    source="van den Oord et al. 2017: the argmin has no gradient, the straight-through line is easily forgotten",
    steps=60,
    data="digits",
)
def no_straight_through(case: Case) -> None:
    x, _ = table("digits")
    model = _Quantised(not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        out, codes = model(x[rows])
        return F.mse_loss(out, x[rows]) + codes

    fit(case, model, optimizer, loss, lambda: model.encoder[0].weight.grad is None, learns=None)
    case.proof(lambda: F.mse_loss(model(x)[0], x).item() < 1.0)


class _Unused(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(24, 12), nn.LSTM(12, 16, batch_first=True)
        self.attention, self.out, self.ill = nn.Linear(16, 1), nn.Linear(16, 24), ill

    def forward(self, tokens: Tensor) -> Tensor:
        h, _ = self.rnn(self.embed(tokens))
        weights = self.attention(h).softmax(1)
        h = h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None] if self.ill else (weights * h).cumsum(1) / weights.cumsum(1)
        return self.out(h)


@faulty(
    "parameter-without-gradient",
    places=("attention", "attention.*"),
    kind="LSTM",
    source="PyTorch forum: find_unused_parameters; a layer is called and its result never used",
    steps=40,
)
def attention_computed_and_not_used(case: Case) -> None:
    tokens = sentences()
    model = _Unused(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return F.cross_entropy(model(tokens[rows][:, :-1]).flatten(0, 1), tokens[rows][:, 1:].flatten())

    fit(case, model, optimizer, loss, lambda: model.attention.weight.grad is None)


# ---- scaler-starvation


class _Counted:
    """Counts steps in a row that the scaler left out, by what the parameters did."""

    def __init__(self, model: nn.Module) -> None:
        self.memory, self.row = Memory(model), 0

    def ask(self, enough: int) -> bool:
        self.row = self.row + 1 if self.memory.moved() == 0 else 0
        return self.row >= enough


@faulty(
    "scaler-starvation",
    places=("", "*"),
    kind="siamese",
    source="PyTorch issue: loss scale decreasing to 0; the gradient of sqrt at zero is infinite in every batch",
    steps=60,
    data="iris",
)
def every_scaled_gradient_is_infinite(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    counted = _Counted(model)
    with case.watch(model):
        for _ in range(case.steps):
            a, b = pick(len(x)), pick(len(x))
            b[0] = a[0]  # a sample met with itself: distance zero
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                squared = (model(x[a]) - model(x[b])).float().square().sum(1)
            distance = (squared if case.ill else squared + 1e-6).sqrt()
            same = (y[a] == y[b]).float()
            loss = (same * distance**2 + (1 - same) * F.relu(1 - distance) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            case.truth(lambda: counted.ask(10))
    case.proof(lambda: bool(loss < 0.3))


@faulty(
    "scaler-starvation",
    places=("", "*"),
    kind="MLP",
    source="Apex issue: gradient overflow, skipping step; growth_interval set to 1 so that every other step overflows",
    steps=80,
    data="digits",
)
def scale_grows_at_every_step(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=1 if case.ill else 2000)
    memory = Memory(model)
    skipped: list[bool] = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = pick(len(x))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x[rows]), y[rows])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

            def many() -> bool:
                skipped.append(memory.moved() == 0)
                return len(skipped) >= 20 and sum(skipped[-20:]) >= 8

            case.truth(many)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)


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


# ---- two networks, one of them left out


@faulty(
    "parameter-in-no-optimizer",
    places=("critic", "critic.*"),
    kind="GAN",
    source="copy and paste in a DCGAN notebook: both optimizers get the generator's parameters",
    steps=60,
)
def both_optimizers_hold_the_generator(case: Case) -> None:
    angle = torch.rand(512) * 6.28
    real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(512, 2)
    model = GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d = torch.optim.Adam((model.generator if case.ill else model.critic).parameters(), lr=1e-3, betas=(0.5, 0.999))
    held = {id(p) for o in (g, d) for group in o.param_groups for p in group["params"]}
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            bce = F.binary_cross_entropy_with_logits
            (bce(model.critic(real[pick(512)]), ones) + bce(model.critic(model.fake().detach()), zeros)).backward()
            d.step()
            g.zero_grad()
            model.critic.zero_grad()
            bce(model.critic(model.fake()), ones).backward()
            case.truth(lambda: any(id(p) not in held for p in model.critic.parameters()))
            g.step()
    case.proof(lambda: bool(torch.isfinite(model.fake()).all()))


@faulty(
    "parameter-without-gradient",
    places=("1.a", "1.b", "1", "*.a", "*.b"),
    kind="LoRA",
    source="peft issue: base layer called in place of the adapted one, adapters have no gradient",
    steps=40,
    data="wine",
)
def adapter_bypassed(case: Case) -> None:
    x, y = table("wine")
    body = mlp(13, 24, 24, 3)
    for p in body.parameters():
        p.requires_grad_(False)
    model = nn.ModuleList([body[0], LoRA(body[2]), nn.Linear(24, 3)])

    def forward(x: Tensor) -> Tensor:
        h = F.relu(model[0](x))
        h = model[1].base(h) if case.ill else model[1](h)
        return model[2](F.relu(h))

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(forward(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: model[1].a.grad is None)
