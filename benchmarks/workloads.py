"""The trainings that benchmarks measure: plain PyTorch, seeded, in two or more bit-identical copies.

Each copy has its own state of torch's random generator (`random`), put in place around its blocks, so that copies that
take turns in one process draw the same numbers (GPT-2 has dropout).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
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
    """One training, and how it is cut into blocks. What a step costs depends on its number: the first ones, and later ones
    at equal distances on a log scale, are looked at more closely. Figures are those of a long run, beyond step 1,000: a and b
    are warmed up until there, and their blocks of hundreds of steps hold each kind of step in its share; elsewhere a block is a
    single step, and the kinds (interleaved.KINDS) count by their shares."""

    letter: str
    title: str
    aims: Mapping[str, float]  # for watched / raw, by variant (variants.py)
    steps: int  # of a block
    blocks: int  # pairs of blocks
    rival_blocks: int
    make: Callable[[], Parts]
    warm_up: int = 1  # steps of it

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


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.beside: nn.Module = nn.Identity()
        if before != after:
            self.beside = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        inner += self.beside(x)
        return self.relu(inner)


def resnet() -> Parts:
    """ResNet-18 as it is used for small images: a 3 x 3 stem and no pooling before the first blocks (11,173,962 numbers)."""
    widths = (64, 64, 128, 256, 512)
    stages = [
        block
        for i, width in enumerate(widths[1:])
        for block in (Residual(widths[i], width, 1 if i == 0 else 2), Residual(width, width, 1))
    ]
    stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    model = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)).train()
    images, labels = torch.randn(4, 32, 3, 32, 32), torch.randint(0, 10, (4, 32))
    loss_of = lambda m, step: F.cross_entropy(m(images[step % 4]), labels[step % 4])
    return model, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=5e-4), loss_of


def gpt2_small() -> Parts:
    """GPT-2 small with weights drawn at random (124,439,808 numbers; nothing is downloaded)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).train()
    tokens = torch.randint(0, model.config.vocab_size, (2, 128))
    return model, lambda p: torch.optim.AdamW(p, lr=3e-4), lambda m, _: m(tokens, labels=tokens).loss


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


def _aims(default: float, two_cores: float | None, outputs: float) -> dict[str, float]:
    aims = {"weighbridge": default, "two_cores": two_cores, "outputs": outputs}
    return {name: aim for name, aim in aims.items() if aim is not None}


WORKLOADS = {
    one.letter: one
    for one in (
        # a stays below step 10,000 for most of its blocks: until there the values of small tensors are kept at every step
        Workload("a", "tutorial 2-4-1, SGD, 10 samples", _aims(1.25, 1.15, 1.70), 500, 24, 10, tutorial, 1_000),
        Workload("b", "MLP 784-512-512-10, Adam, batch 128", _aims(1.09, 1.05, 1.15), 100, 20, 10, mlp, 1_000),
        Workload("c", "ResNet-18-like, 3 x 32 x 32, SGD, batch 32", _aims(1.02, None, 1.05), 1, 40, 4, resnet),
        Workload("d", "GPT-2-like, 12 layers of 256, AdamW, 8 x 128 tokens", _aims(1.02, None, 1.05), 1, 36, 4, gpt2),
        Workload("e", "GPT-2 small, 124M, AdamW, 2 x 128 tokens", _aims(1.03, None, 1.05), 1, 30, 3, gpt2_small),
        Workload("f", "1,000 x Linear(64, 64), SGD, batch 64", _aims(1.20, 1.08, 1.60), 1, 150, 15, deep),
    )
}
