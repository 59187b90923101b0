"""The runs that the pictures of the page show: `python scripts/example_runs.py FOLDER`. Real trainings, about two minutes.

deep-sigmoid        ten layers of sigmoid that learn nothing
relu                the same network with ReLU, which learns
relu-rate-doubled   as relu, until the learning rate doubles at step 400
overflow            the learning rate rises fourfold at step 400; the process is killed at step 1,040
transformer         fourteen small blocks with long names, to be folded
one-step            a training of one step
digits-cnn          two convolutions that learn, with what their biases are worth
deep                302 layers with shortcuts around every three of them
deep-rate-doubled   as deep, until the learning rate doubles at step 30
piled-up            gradients that nobody empties, and somebody has muted that finding
four-ranks          DistributedDataParallel over four processes
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import weighbridge
from weighbridge.store.labels import read_labels, write_labels

RANKS = 4
STEPS = 1500
Change = Callable[[int, torch.optim.Optimizer], None]


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [1797, 64] of values from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def mlp(activation: type[nn.Module], start: Callable[[torch.Tensor], object], depth: int = 10) -> nn.Sequential:
    """64 -> 32 -> ... -> 32 -> 10."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in [64, *[32] * (depth - 1)]:
        layers += [nn.Linear(width, 32), activation()]
    net = nn.Sequential(*layers, nn.Linear(32, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            start(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def train(
    folder: Path,
    name: str,
    model: nn.Module,
    lr: float,
    steps: int = STEPS,
    change: Change | None = None,
    *,
    weigh_biases: bool = False,
) -> None:
    """Plain SGD on the digits, one batch of 64 a step."""
    images, labels = digits()
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    config = {"lr": lr, "batch": 64, "activation": type(model[1]).__name__ if isinstance(model, nn.Sequential) else "GELU"}
    with weighbridge.init(dir=folder, name=name, config=config, quiet=True) as run:
        run.watch(model)
        for step in range(steps):
            if change is not None:
                change(step, optimizer)
            chosen = torch.randint(0, 1437, (64,))
            loss = cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 0 or step == steps - 1:
                with torch.no_grad():
                    right = model(images[1437:]).argmax(1) == labels[1437:]
                run.log({"accuracy": right.float().mean().item(), "learning rate": optimizer.param_groups[0]["lr"]})
        if weigh_biases:
            run.attach(weighbridge.biases(model, (images[1437:], labels[1437:]), cross_entropy, optimizer))


def rate(at: int, to: float) -> Change:
    """The learning rate is another one from a step on."""

    def change(step: int, optimizer: torch.optim.Optimizer) -> None:
        if step == at:
            for group in optimizer.param_groups:
                group["lr"] = to

    return change


def killed(at: int, first: Change) -> Change:
    """The process ends there, without a word."""

    def change(step: int, optimizer: torch.optim.Optimizer) -> None:
        first(step, optimizer)
        if step == at:
            weighbridge.flush()
            os._exit(0)

    return change


class Shortcut(nn.Module):
    """Three layers with a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def deep() -> nn.Sequential:
    """Images [batch, 64] -> 10 through 302 layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), *(Shortcut(12) for _ in range(100)), nn.Linear(12, 10))


class Block(nn.Module):
    """Pre-norm attention and MLP, named as in large models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.post_attention_layernorm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, rows of the image, width]."""
        normed = self.input_layernorm(x)
        x = x + self.self_attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Each row of an image is a token."""

    def __init__(self, blocks: int = 14, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.final_layernorm = nn.LayerNorm(width)
        self.classification_head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, 64]."""
        x = self.embedding(x.view(-1, 8, 8))
        for block in self.blocks:
            x = block(x)
        return self.classification_head(self.final_layernorm(x).mean(1))


def convolutions() -> nn.Sequential:
    """Images [batch, 64] -> 10."""
    torch.manual_seed(0)
    first = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(384, 10))


def small(weight: torch.Tensor) -> object:
    return nn.init.normal_(weight, std=0.1)


def he(weight: torch.Tensor) -> object:
    return nn.init.kaiming_normal_(weight)


def piled_up(folder: Path) -> None:
    """The finding stands aside, with the reason that somebody gave."""
    images, labels = digits()
    model = mlp(nn.ReLU, he, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0005)
    with weighbridge.init(dir=folder, name="piled-up", quiet=True) as run:
        run.watch(model)
        for _ in range(100):
            cross_entropy(model(images[:64]), labels[:64]).backward()
            optimizer.step()
    cause = weighbridge.diagnose(run.path).causes[0]
    write_labels(run.path, read_labels(run.path).changed(mute={cause.key: "accumulated over the whole set on purpose"}))


def one_of_four(rank: int, folder: Path, meeting: Path) -> None:
    """What each rank trains, on images of its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    images, labels = digits()
    model = nn.parallel.DistributedDataParallel(mlp(nn.ReLU, he, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    with weighbridge.init(dir=folder, name="four-ranks", quiet=True) as run:
        run.watch(model)
        for _ in range(200):
            chosen = torch.randint(0, 1437, (16,))
            loss = cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.distributed.destroy_process_group()


def four_ranks(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        context = multiprocessing.get_context("fork")
        children = [
            context.Process(target=one_of_four, args=(rank, folder, Path(scratch) / "meeting")) for rank in range(RANKS)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()


def runs(folder: Path) -> Iterable[tuple[str, Callable[[], None]]]:
    """Each name with what makes it."""
    yield "deep-sigmoid", lambda: train(folder, "deep-sigmoid", mlp(nn.Sigmoid, small), 0.3)
    yield "relu", lambda: train(folder, "relu", mlp(nn.ReLU, he), 0.05)
    yield "relu-rate-doubled", lambda: train(folder, "relu-rate-doubled", mlp(nn.ReLU, he), 0.05, change=rate(400, 0.1))
    over = killed(1040, rate(400, 0.8))
    yield "overflow", lambda: train(folder, "overflow", mlp(nn.ReLU, he), 0.05, change=over)
    yield "transformer", lambda: train(folder, "transformer", Transformer(), 0.05, steps=240)
    yield "one-step", lambda: train(folder, "one-step", mlp(nn.ReLU, he, 3), 0.05, steps=1)
    yield "deep", lambda: train(folder, "deep", deep(), 0.02, steps=60)
    yield "deep-rate-doubled", lambda: train(folder, "deep-rate-doubled", deep(), 0.02, steps=60, change=rate(30, 0.04))
    yield "piled-up", lambda: piled_up(folder)
    yield "four-ranks", lambda: four_ranks(folder)
    yield "digits-cnn", lambda: train(folder, "digits-cnn", convolutions(), 0.2, steps=300, weigh_biases=True)


def main(folder: Path) -> None:
    """Those that are not there yet, each in a process of its own."""
    torch.set_num_threads(1)
    for name, make in runs(folder):
        if not (folder / name).exists():
            print(name, flush=True)
            child = multiprocessing.get_context("fork").Process(target=make)
            child.start()
            child.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
