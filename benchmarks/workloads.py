"""The trainings that benchmarks measure: plain PyTorch, seeded, in two or more bit-identical copies.

Each copy has its own state of torch's random generator (`random`), put in place around its blocks, so that copies that
take turns in one process draw the same numbers (GPT-2 has dropout).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

LossOf = Callable[[nn.Module, int], torch.Tensor]  # of the model at this step
Parts = tuple[nn.Module, Callable[[Iterator[nn.Parameter]], Optimizer], LossOf]


@dataclass
class Training:
    """One copy: everything that a step of plain PyTorch needs."""

    model: nn.Module
    optimizer: Optimizer
    loss_of: LossOf
    random: torch.Tensor
    losses: list[float] = field(default_factory=list)
    _pending: list[torch.Tensor] = field(default_factory=list)

    def run(self, steps: int, after_step: Callable[[torch.Tensor], None] | None) -> None:
        """Train for so many steps; this is what is timed. `after_step` is what a tool wants said in the loop."""
        model, optimizer, loss_of, done = self.model, self.optimizer, self.loss_of, len(self.losses)
        for step in range(done, done + steps):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            optimizer.step()
            if after_step is not None:
                after_step(loss)
            self._pending.append(loss.detach())

    def begin_block(self) -> None:
        torch.set_rng_state(self.random)

    def end_block(self) -> None:
        self.random = torch.get_rng_state()
        self.losses += [float(loss) for loss in self._pending]
        self._pending.clear()


@dataclass(frozen=True)
class Workload:
    """One training, and how it is cut into blocks of roughly 0.1 to 0.5 s (d is longer: one step is)."""

    letter: str
    title: str
    limit: float  # aim for watched / raw
    steps: int  # of a block
    blocks: int  # pairs of blocks
    rival_blocks: int
    make: Callable[[], Parts]

    def copies(self, number: int) -> list[Training]:
        """So many trainings that will compute the same bits."""
        torch.manual_seed(0)
        model, optimizer_of, loss_of = self.make()
        random = torch.get_rng_state()
        models = [model, *(copy.deepcopy(model) for _ in range(number - 1))]
        return [Training(one, optimizer_of(one.parameters()), loss_of, random.clone()) for one in models]


def tutorial() -> Parts:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    inputs = torch.randn(10, 2)
    targets = inputs.sum(1, keepdim=True) + 0.3 * torch.randn(10, 1)  # noise: the gradients stay away from 0
    return model, lambda p: torch.optim.SGD(p, lr=0.01), lambda m, _: F.mse_loss(m(inputs), targets)


def mlp() -> Parts:
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    images, labels = torch.randn(32, 128, 784), torch.randint(0, 10, (32, 128))
    loss_of = lambda m, step: F.cross_entropy(m(images[step % 32]), labels[step % 32])
    return model, lambda p: torch.optim.Adam(p, lr=1e-4), loss_of


def gpt2() -> Parts:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=4096, n_positions=128, n_embd=256, n_layer=12, n_head=8, use_cache=False)
    model = GPT2LMHeadModel(config).train()
    tokens = torch.randint(0, 4096, (8, 128))
    return model, lambda p: torch.optim.AdamW(p, lr=3e-4), lambda m, _: m(tokens, labels=tokens).loss


def deep() -> Parts:
    """A thousand linear layers that start orthogonal: norms neither grow nor shrink, so nothing overflows or vanishes."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(1000)))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    inputs, targets = torch.randn(64, 64), torch.randn(64, 64)
    return model, lambda p: torch.optim.SGD(p, lr=1e-5), lambda m, _: F.mse_loss(m(inputs), targets)


WORKLOADS = {
    one.letter: one
    for one in (
        # 10,000 steps: all of them below step 10,000, where the values of small tensors are kept at every step
        Workload("a", "tutorial 2-4-1, SGD, 10 samples", 1.35, 250, 38, 10, tutorial),
        Workload("b", "MLP 784-512-512-10, Adam, batch 128", 1.15, 40, 40, 10, mlp),
        Workload("d", "GPT-2-like, 12 layers of 256, AdamW, 8 x 128 tokens", 1.03, 1, 25, 4, gpt2),
        Workload("f", "1,000 x Linear(64, 64), SGD, batch 64", 1.30, 4, 40, 3, deep),
    )
}
