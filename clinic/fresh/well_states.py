"""Healthy: word vectors, alignments, reservoirs, scans."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import chain, descend, fell


class SkipGram(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.centre, self.context = (nn.Embedding(words, width, sparse=True) for _ in range(2))
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.centre(a)[:, None] * self.context(b)).sum(-1)


@healthy(
    kind="word2vec", source="Mikolov et al. 2013, skip-gram with negative samples: sparse gradients, contexts begun at zero"
)
def skip_gram(case: Case) -> None:
    words = 500
    net = SkipGram(words, 16)
    opt = torch.optim.SparseAdam(list(net.parameters()), lr=2e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            a = torch.randint(0, words, (64,))
            b = torch.cat([((a // 10) * 10 + torch.randint(0, 10, (64,)))[:, None], torch.randint(0, words, (64, 4))], 1)
            score = net(a, b)
            loss = F.softplus(-score[:, 0]).mean() + F.softplus(score[:, 1:]).sum(1).mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.95))


@healthy(kind="CRNN", source="Graves et al. 2006, CTC for short strings: the loss stands on a plateau of blanks for a while")
def strings_without_alignment(case: Case) -> None:
    shapes = torch.randn(6, 3, 4)
    text = torch.randint(1, 6, (200, 3))
    x = torch.cat([torch.cat([shapes[text[:, i]], torch.zeros(200, 3, 1)], 2) for i in range(3)], 2) + 0.1 * torch.randn(
        200, 3, 15
    )
    net = nn.ModuleDict(
        {"conv": nn.Conv1d(3, 16, 3, padding=1), "rnn": nn.GRU(16, 16, bidirectional=True), "out": nn.Linear(32, 6)}
    )
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 200, (24,))
            h = F.relu(net["conv"](x[rows])).permute(2, 0, 1)
            log_p = net["out"](net["rnn"](h)[0]).log_softmax(-1)
            loss = F.ctc_loss(log_p, text[rows], torch.full((24,), 15), torch.full((24,), 3))
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.4))


class EchoState(nn.Module):
    """The reservoir is never trained and its radius is near one."""

    def __init__(self, size: int = 60) -> None:
        super().__init__()
        w = torch.randn(size, size)
        self.register_buffer("inner", 0.95 * w / torch.linalg.eigvals(w).abs().max())
        self.register_buffer("inlet", torch.rand(size, 1) - 0.5)
        self.readout = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, out = torch.zeros(len(x), len(self.inlet)), []
        for t in range(x.shape[1]):
            h = torch.tanh(h @ self.inner.T + x[:, t] @ self.inlet.T)
            out.append(self.readout(h))
        return torch.stack(out, 1)


@healthy(kind="echo state network", source="Jaeger 2001, echo state networks: only the readout has parameters; full batch")
def only_the_readout(case: Case) -> None:
    t = torch.arange(25) * 0.4
    wave = torch.sin(t + 6 * torch.rand(40, 1)).pow(3)[..., None]
    net = EchoState()
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            loss = F.mse_loss(net(wave[:, :-1])[:, 5:], wave[:, 6:])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.3))


class Lion(torch.optim.Optimizer):
    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.add_((0.9 * m + 0.1 * p.grad).sign(), alpha=-group["lr"])
                m.lerp_(p.grad, 0.01)


class Selective(nn.Module):
    """A state-space layer in the manner of Mamba, its scan written as a loop; the decay begins near one."""

    def __init__(self, width: int, state: int = 4) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).expand(width, state).clone())
        self.to_b, self.to_c, self.to_dt = (
            nn.Linear(width, state, bias=False),
            nn.Linear(width, state, bias=False),
            nn.Linear(width, width),
        )
        nn.init.constant_(self.to_dt.bias, -3.0)
        self.d = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        dt, b, c = F.softplus(self.to_dt(x)), self.to_b(x), self.to_c(x)
        h, out = torch.zeros(x.shape[0], x.shape[2], b.shape[2]), []
        for t in range(x.shape[1]):
            h = h * torch.exp(-dt[:, t, :, None] * self.log_a.exp()) + dt[:, t, :, None] * b[:, t, None] * x[:, t, :, None]
            out.append((h * c[:, t, None]).sum(-1))
        return torch.stack(out, 1) + self.d * x


@healthy(kind="state space", source="Gu & Dao 2023, Mamba in a minimal port (johnma2006), trained by Lion (Chen et al. 2023)")
def selective_scan_by_lion(case: Case) -> None:
    text = chain(200, 11, 16)
    net = nn.Sequential(nn.Embedding(16, 16), nn.LayerNorm(16), Selective(16), nn.SiLU(), nn.Linear(16, 16))
    opt = Lion(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            t = text[torch.randint(0, 200, (24,))]
            loss = F.cross_entropy(net(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten())
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.7))
