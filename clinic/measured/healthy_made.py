"""Healthy trainings that tempt: each looks, in one respect, like a fault."""

from __future__ import annotations

import copy
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from clinic.frame import Case, healthy
from clinic.measured._data import blobs, friedman, graph, marked, pick, sentences, table, waves
from clinic.measured._loop import fit, mean
from clinic.measured._models import GAN, GCN, GPT, Block, LoRA, MoE, Recurrent, bert, gpt2, mlp, normalised


@healthy(kind="GPT", source="nanoGPT: tied weights, warm-up from zero, clipping at one, four micro-steps")
def nanogpt_recipe(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=True, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(s / 50, 1.0))
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad(set_to_none=True)
            for _ in range(4):
                loss = model.loss(tokens[pick(len(tokens), 8)]) / 4
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.8 * mean(losses[:10]))


@healthy(kind="GPT-2 (transformers)", source="Hugging Face course: GPT-2 from a config, AdamW, linear decay to zero")
def gpt2_linear_decay(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=case.steps)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        return model(input_ids=t, labels=t).loss

    fit(case, model, optimizer, loss, schedule=schedule, learns=0.8)


@healthy(kind="BERT (transformers)", source="Hugging Face course: classification with an attention mask over padding")
def bert_with_padding(case: Case) -> None:
    tokens = sentences(length=12) % 23 + 1
    lengths = torch.randint(4, 13, (len(tokens), 1))
    mask = (torch.arange(12)[None] < lengths).long()
    tokens = tokens * mask
    y = (tokens[:, 0] > 11).long()
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        r = pick(len(y), 16)
        return model(input_ids=tokens[r], attention_mask=mask[r], labels=y[r]).loss

    fit(case, model, optimizer, loss)


@healthy(kind="LoRA", source="Hu et al. 2022: B begun at zero, everything else frozen")
def lora_on_a_frozen_net(case: Case) -> None:
    x, y = table("digits")
    body = mlp(64, 64, 64, 10)
    model = nn.Sequential(LoRA(body[0], 4), nn.ReLU(), LoRA(body[2], 4), nn.ReLU(), LoRA(body[4], 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    def loss() -> Tensor:
        r = pick(len(x))
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.7)


@healthy(
    kind="embedding bag", source="recommenders: an embedding of a thousand rows with sparse gradients; most rows are not met"
)
def sparse_embedding(case: Case) -> None:
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(1000, 8, mode="mean", sparse=True), "out": nn.Linear(8, 2)})
    words = (1000 * torch.rand(512, 6) ** 4).long()
    y = (words % 2).float().mean(1).gt(0.5).long()
    rare, dense = (
        torch.optim.SparseAdam(list(model["bag"].parameters()), lr=0.02),
        torch.optim.Adam(model["out"].parameters(), lr=1e-2),
    )
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(512)
            rare.zero_grad(), dense.zero_grad()
            loss = F.cross_entropy(model["out"](model["bag"](words[r])), y[r])
            loss.backward()
            rare.step(), dense.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-20:]) < 0.9 * mean(losses[:10]))


def _ring(n: int = 512) -> Tensor:
    angle = torch.rand(n) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


@healthy(kind="GAN", source="Goodfellow et al. 2014, non-saturating loss; neither loss falls")
def gan_of_a_ring(case: Case) -> None:
    real, model = _ring(), GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    d = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    start = (model.fake(256).detach().norm(dim=1).mean() - 1).abs().item()
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            (
                F.softplus(-model.critic(real[pick(512)])).mean() + F.softplus(model.critic(model.fake().detach())).mean()
            ).backward()
            d.step()
            g.zero_grad()
            F.softplus(-model.critic(model.fake())).mean().backward()
            g.step()
    case.proof(lambda: (model.fake(256).detach().norm(dim=1).mean() - 1).abs().item() < start)


@healthy(kind="GAN", source="Gulrajani et al. 2017, WGAN-GP: gradient penalty through a second backward, five critic steps")
def wgan_with_penalty(case: Case) -> None:
    real, model = _ring(), GAN()
    g = torch.optim.Adam(model.generator.parameters(), lr=5e-3, betas=(0.0, 0.9))
    d = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.0, 0.9))
    start = (model.fake(256).detach().norm(dim=1) - 1).abs().mean().item()
    with case.watch(model):
        for step in range(case.steps):
            d.zero_grad()
            a, b, t = real[pick(512)], model.fake().detach(), torch.rand(32, 1)
            mixed = (t * a + (1 - t) * b).requires_grad_()
            (slope,) = torch.autograd.grad(model.critic(mixed).sum(), mixed, create_graph=True)
            (model.critic(b).mean() - model.critic(a).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()).backward()
            d.step()
            if step % 5 == 4:
                g.zero_grad()
                (-model.critic(model.fake()).mean()).backward()
                g.step()
    case.proof(lambda: (model.fake(256).detach().norm(dim=1) - 1).abs().mean().item() < start)


@healthy(kind="DQN", source="Mnih et al. 2015 on a corridor: replay, a target network, rewards seldom; the loss rises at first")
def dqn_in_a_corridor(case: Case) -> None:
    size = 8
    states = torch.eye(size)
    model = mlp(size, 32, 2)
    target = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    s, a = torch.randint(0, size - 1, (512,)), torch.randint(0, 2, (512,))
    after = (s + 2 * a - 1).clamp(min=0)
    reward = (after == size - 1).float()
    with case.watch(model):
        for step in range(case.steps):
            r = pick(512)
            with torch.no_grad():
                goal = reward[r] + 0.9 * (1 - reward[r]) * target(states[after[r]]).max(1).values
            optimizer.zero_grad()
            F.smooth_l1_loss(model(states[s[r]])[torch.arange(32), a[r]], goal).backward()
            optimizer.step()
            if step % 20 == 19:
                target.load_state_dict(model.state_dict())
    case.proof(lambda: bool((model(states[:-1]).argmax(1) == 1).all()))


@healthy(kind="policy", source="Williams 1992, REINFORCE with a baseline: the loss is noise around zero")
def reinforce_on_a_bandit(case: Case) -> None:
    model = mlp(4, 16, 3)
    prefer = torch.randn(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def worth(n: int) -> tuple[Tensor, Tensor, Tensor]:
        s = torch.randn(n, 4)
        policy = torch.distributions.Categorical(logits=model(s))
        a = policy.sample()
        return s, policy.log_prob(a), (s @ prefer)[torch.arange(n), a] + 0.5 * torch.randn(n)

    before = mean(worth(2000)[2].tolist())
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            _, logp, reward = worth(32)
            (-(logp * (reward - reward.mean()))).mean().backward()
            optimizer.step()
    case.proof(lambda: mean(worth(2000)[2].tolist()) > before + 0.3)


@healthy(kind="actor-critic", source="Mnih et al. 2016, A2C: policy, value and entropy in one loss")
def actor_critic(case: Case) -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 24), nn.Tanh()), "pi": nn.Linear(24, 3), "v": nn.Linear(24, 1)})
    prefer = torch.randn(4, 3)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    gains: list[float] = []

    def loss() -> Tensor:
        s = torch.randn(32, 4)
        h = model["body"](s)
        policy = torch.distributions.Categorical(logits=model["pi"](h))
        a = policy.sample()
        reward, value = (s @ prefer)[torch.arange(32), a], model["v"](h)[:, 0]
        gains.append(reward.mean().item())
        gain = (reward - value).detach()
        return -(policy.log_prob(a) * gain).mean() + 0.5 * F.mse_loss(value, reward) - 0.01 * policy.entropy().mean()

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: mean(gains[-50:]) > mean(gains[:20]) + 0.2)


@healthy(kind="LSTM", source="Karpathy's char-rnn: two layers, dropout between, clipping")
def char_lstm(case: Case) -> None:
    tokens = sentences(length=20)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(24, 16), "rnn": nn.LSTM(16, 24, 2, dropout=0.2, batch_first=True), "out": nn.Linear(24, 24)}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        return F.cross_entropy(model["out"](model["rnn"](model["embed"](t[:, :-1]))[0]).flatten(0, 1), t[:, 1:].flatten())

    fit(case, model, optimizer, loss, clip=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5), learns=0.8)


@healthy(kind="GRU", source="PyTorch chatbot tutorial: packed sequences of different lengths")
def packed_sequences(case: Case) -> None:
    x = torch.randn(256, 12, 3)
    lengths = torch.randint(3, 13, (256,))
    keep = torch.arange(12)[None] < lengths[:, None]
    y = ((x[..., 0] * keep).sum(1) > 0).long()
    model = nn.ModuleDict({"rnn": nn.GRU(3, 16, batch_first=True), "out": nn.Linear(16, 2)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        r = pick(256)
        packed = nn.utils.rnn.pack_padded_sequence(x[r], lengths[r], batch_first=True, enforce_sorted=False)
        return F.cross_entropy(model["out"](model["rnn"](packed)[1][0]), y[r])

    fit(case, model, optimizer, loss, learns=0.7)


@healthy(kind="GCN", source="Kipf & Welling 2017: few labelled nodes, full batch, dropout, weight decay")
def gcn_few_labels(case: Case) -> None:
    x, y, adjacency = graph()
    a = normalised(adjacency)
    model = GCN(8, 16, 3)
    few = torch.arange(15)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(F.dropout(x, 0.3), a)[few], y[few]), learns=0.5)


@healthy(kind="MoE", source="Shazeer et al. 2017: top-2 of eight experts and a balancing loss")
def moe_with_balancing_loss(case: Case) -> None:
    x, y = blobs(512, 12, 6)
    model = MoE(12, 6, experts=8, top=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        r = pick(512)
        share = model.router(x[r]).softmax(-1).mean(0)
        return F.cross_entropy(model(x[r]), y[r]) + 0.01 * 8 * share.square().sum()

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="2-4-1", source="the XOR network of every textbook, tanh and sigmoid, full batch")
def xor(case: Case) -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    fit(case, model, optimizer, lambda: F.binary_cross_entropy_with_logits(model(x), y), learns=0.7)


@healthy(kind="2-4-1", source="the tutorial that weighbridge grew from: ten samples, ReLU, SGD 0.1")
def two_four_one_on_ten_samples(case: Case) -> None:
    x = torch.randn(10, 2)
    y = x.sum(1, keepdim=True)
    model = mlp(2, 4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(case, model, optimizer, lambda: F.mse_loss(model(x), y), learns=0.6)


@healthy(kind="Transformer encoder", source="Xiong et al. 2020: ten pre-norm layers without warm-up")
def deep_pre_norm_encoder(case: Case) -> None:
    tokens = sentences(length=8)
    y = (tokens[:, 0] > 11).long()
    model = nn.Sequential(
        nn.Embedding(24, 16), *[Block(16) for _ in range(10)], nn.LayerNorm(16), nn.Flatten(), nn.Linear(128, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        r = pick(len(y), 16)
        return F.cross_entropy(model(tokens[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.7)


class _Muon(torch.optim.Optimizer):
    """Jordan 2024: momentum, orthogonalised by Newton-Schulz, for matrices."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                m.lerp_(p.grad, 0.05)
                u = m / (m.norm() + 1e-7)
                for _ in range(5):
                    s = u @ u.T
                    u = 3.4445 * u + (-4.775 * s + 2.0315 * s @ s) @ u
                p.add_(u, alpha=-group["lr"])


@healthy(kind="GPT", source="Jordan 2024, Muon for matrices and AdamW for the rest")
def muon_and_adamw(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks")]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and n.startswith("blocks"))]
    both = [_Muon(matrices, lr=0.01), torch.optim.AdamW(others, lr=3e-3)]
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            for o in both:
                o.zero_grad()
            loss = model.loss(tokens[pick(len(tokens), 16)])
            loss.backward()
            for o in both:
                o.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.8 * mean(losses[:10]))


@healthy(kind="Transformer encoder", source="torch.amp recipe: bfloat16 autocast, float32 weights")
def bfloat16_autocast(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.Sequential(nn.Embedding(24, 16), Block(16), Block(16), nn.LayerNorm(16), nn.Linear(16, 24))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(t).flatten(0, 1), t.flatten())

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="house prices: targets of 200,000, scaled inside the network by fixed buffers")
def large_targets_scaled_inside(case: Case) -> None:
    x, y = friedman()
    y = 2e5 + 5e4 * y

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(10, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return 2e5 + 5e4 * self.net(x)

    model = Scaled()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        r = pick(len(x))
        return F.mse_loss(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="Kendall et al. 2018: three tasks, their weights learnt, the sum may become negative")
def tasks_with_learnt_weights(case: Case) -> None:
    x, y = friedman()
    model = nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(10, 32), nn.ReLU()),
            "a": nn.Linear(32, 1),
            "b": nn.Linear(32, 1),
            "c": nn.Linear(32, 2),
        }
    )
    model.register_parameter("log_var", nn.Parameter(torch.zeros(3)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        r = pick(len(x))
        h = model["body"](x[r])
        parts = torch.stack(
            [
                F.mse_loss(model["a"](h), y[r]),
                F.mse_loss(model["b"](h), x[r, 3:4]),
                F.cross_entropy(model["c"](h), (y[r, 0] > 0).long()),
            ]
        )
        return (parts * (-model.log_var).exp() + model.log_var).sum()

    fit(case, model, optimizer, loss)


@healthy(kind="siamese", source="Grill et al. 2020, BYOL: predictor, stop-gradient, a slow copy as target")
def byol(case: Case) -> None:
    x, _ = table("digits")
    online, predictor = mlp(64, 48, 16), mlp(16, 16, 16)
    slow = copy.deepcopy(online).requires_grad_(False)
    model = nn.ModuleDict({"online": online, "predictor": predictor})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(len(x), 64)
            a, b = x[r] + 0.3 * torch.randn(64, 64), x[r] + 0.3 * torch.randn(64, 64)
            optimizer.zero_grad()
            (2 - 2 * F.cosine_similarity(predictor(online(a)), slow(b)).mean()).backward()
            optimizer.step()
            with torch.no_grad():
                for p, q in zip(slow.parameters(), online.parameters(), strict=True):
                    p.lerp_(q, 0.02)
    case.proof(lambda: F.normalize(online(x), dim=1).std(0).mean().item() > 0.05)


@healthy(kind="linear regression", source="a solved problem trained on: begun at the solution, nothing is left to learn")
def begun_at_the_solution(case: Case) -> None:
    x = torch.randn(256, 6)
    truth = torch.randn(6, 1)
    y = x @ truth + 0.3 * torch.randn(256, 1)
    model = nn.Linear(6, 1)
    with torch.no_grad():
        model.weight.copy_(truth.T)
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss() -> Tensor:
        r = pick(256)
        return F.mse_loss(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.1)


@healthy(kind="MLP", source="Natarajan et al. 2013: two labels in five are wrong, the loss stays high and the net learns")
def noisy_labels(case: Case) -> None:
    x, y = blobs(512, 12, 2)
    wrong = torch.rand(512) < 0.3
    seen = torch.where(wrong, 1 - y, y)
    model = mlp(12, 16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    def loss() -> Tensor:
        r = pick(512)
        return F.cross_entropy(model(x[r]), seen[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: (model(x).argmax(1) == y).double().mean().item() > 0.8)


@healthy(kind="diffusion", source="Ho et al. 2020, predicting the noise: the loss is noisy and has a floor")
def diffusion_of_a_ring(case: Case) -> None:
    real = _ring()
    model = mlp(3, 48, 48, 2, act=nn.SiLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        x0, t, noise = real[pick(512, 64)], torch.rand(64, 1), torch.randn(64, 2)
        return F.mse_loss(model(torch.cat([(1 - t).sqrt() * x0 + t.sqrt() * noise, t], 1)), noise)

    fit(case, model, optimizer, loss, learns=0.8)


@healthy(kind="PINN", source="Raissi et al. 2019: second derivatives in the loss, tanh, full batch of random points")
def physics_informed(case: Case) -> None:
    model = mlp(1, 24, 24, 1, act=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        x = (torch.rand(64, 1) * math.pi).requires_grad_()
        u = model(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        ends = model(torch.tensor([[0.0], [math.pi]]))
        return (ddu + torch.sin(x)).square().mean() + ends.square().mean()

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="Foret et al. 2021, SAM: two backward passes and a detour of the weights in each step")
def sharpness_aware(case: Case) -> None:
    x, y = blobs(512)
    model = mlp(12, 24, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(512)
            optimizer.zero_grad()
            F.cross_entropy(model(x[r]), y[r]).backward()
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
                away = [0.05 * p.grad / (norm + 1e-12) for p in model.parameters()]
                for p, d in zip(model.parameters(), away, strict=True):
                    p.add_(d)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[r]), y[r])
            loss.backward()
            with torch.no_grad():
                for p, d in zip(model.parameters(), away, strict=True):
                    p.sub_(d)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.5 * mean(losses[:5]))


@healthy(kind="MLP", source="Miyato et al. 2018, spectral norm by torch.nn.utils.parametrizations")
def spectral_norm(case: Case) -> None:
    x, y = blobs(512)
    sn = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(sn(nn.Linear(12, 32)), nn.ReLU(), sn(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        r = pick(512)
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="a factorised layer, 64 to 4 to 64 without an activation: a bottleneck on purpose", data="digits")
def low_rank_layer(case: Case) -> None:
    x, y = table("digits")
    model = nn.Sequential(nn.Linear(64, 8, bias=False), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        r = pick(len(x))
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="forum: log_softmax before cross-entropy, which is harmless since it is idempotent", data="wine")
def log_softmax_before_cross_entropy(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3), nn.LogSoftmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        r = pick(len(x))
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="PyTorch DDP tutorial: two ranks, each its own part of the data", ranks=2)
def two_ranks_as_it_should_be(case: Case) -> None:
    x, y = blobs(512)
    replica = DistributedDataParallel(mlp(12, 24, 4))
    optimizer = torch.optim.SGD(replica.parameters(), lr=0.05, momentum=0.9)
    mine = torch.arange(dist.get_rank(), 512, 2)
    losses = []
    with case.watch(replica):
        for _ in range(case.steps):
            r = mine[pick(256, 16)]
            optimizer.zero_grad()
            loss = F.cross_entropy(replica(x[r]), y[r])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.5 * mean(losses[:5]))


@healthy(
    kind="seq2seq",
    source="PyTorch seq2seq tutorial: encoder and decoder with an optimizer each, teacher forcing half of the time",
)
def two_optimizers_and_teacher_forcing(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(24, 12),
            "encoder": nn.GRU(12, 24, batch_first=True),
            "decoder": nn.GRU(12, 24, batch_first=True),
            "out": nn.Linear(24, 24),
        }
    )
    a = torch.optim.Adam([*model["embed"].parameters(), *model["encoder"].parameters()], lr=5e-3)
    b = torch.optim.Adam([*model["decoder"].parameters(), *model["out"].parameters()], lr=5e-3)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            t = tokens[pick(len(tokens), 16)]
            a.zero_grad(), b.zero_grad()
            _, h = model["encoder"](model["embed"](t))
            given, scores = torch.zeros(16, dtype=torch.long), []
            forced = torch.rand(()) < 0.5
            for i in range(8):
                o, h = model["decoder"](model["embed"](given)[:, None], h)
                scores.append(model["out"](o[:, 0]))
                given = t[:, i] if forced else scores[-1].argmax(1)
            loss = F.cross_entropy(torch.stack(scores, 1).flatten(0, 1), t.flatten())
            loss.backward()
            a.step(), b.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.95 * mean(losses[:5]))


@healthy(kind="LSTM", source="forecasting tutorial: heavy-tailed noise on the targets, Huber loss", steps=300)
def forecaster_with_outliers(case: Case) -> None:
    x = waves(length=16)
    x = x + 0.3 * torch.distributions.StudentT(2.5).sample(x.shape)
    model = Recurrent(nn.LSTM(1, 16, batch_first=True), 1, every=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        t = x[pick(len(x))]
        return F.huber_loss(model(t[:, :-1]), t[:, 1:])

    fit(case, model, optimizer, loss, learns=0.9)


@healthy(kind="MLP", source="regression on rare events: one target in fifty is not zero; the loss is spiky by nature")
def rare_events(case: Case) -> None:
    x = torch.randn(1024, 8)
    y = ((x[:, 0] > 2.0).float() * 10 * x[:, 1].abs())[:, None]
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        r = pick(1024, 16)
        return F.mse_loss(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.7 * y.var().item())


@healthy(kind="RNN", source="the adding problem (Hochreiter & Schmidhuber 1997): flat for long, then it falls")
def memory_task_of_a_gru(case: Case) -> None:
    x, y = marked(length=12)
    model = Recurrent(nn.GRU(3, 24, batch_first=True), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        r = pick(len(x), 64)
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss)
