"""A small training in another process that tells what plain torch says of each step, for the page to be held against.

    python training.py FOLDER NAME STEPS [SECONDS_BETWEEN_STEPS [HOLD [HARM]]]

One JSON line per step on stdout: {"step", "loss", "0.weight gradient.rms", ...}. After HOLD steps it says "held" and goes on
with the next line of stdin: a page that is slow to open sees the run grow, too. With HARM the loss
is not finite from then on. Once it has said "flushed" it ends with a line.
"""

from __future__ import annotations

import json
import sys
import time

import torch

import weighbridge

EVIL = "<img src=x onerror=harmed=1>"


class Odd(torch.nn.Module):
    """A network with a parameter whose name is markup: PyTorch allows all names without a dot."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.register_parameter(EVIL, torch.nn.Parameter(torch.ones(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + getattr(self, EVIL).sum()


def main(folder: str, name: str, steps: int, pause: float, hold: int, harm: bool) -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = weighbridge.init(dir=folder, name=name, quiet=True)
    run.watch(model)
    for step in range(steps):
        x = torch.randn(16, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * (float("nan") if harm and step >= hold else 1)
        optimizer.zero_grad()
        loss.backward()
        weight = model.net[0].weight
        assert weight.grad is not None
        told = {
            "step": step,
            "loss": loss.item(),
            "parameter.max": weight.max().item(),
            "gradient.max": weight.grad.max().item(),
            "gradient.rms": weight.grad.double().square().mean().sqrt().item(),
        }
        optimizer.step()
        run.log({"score": step / 10})
        print(json.dumps(told), flush=True)
        if step + 1 == hold:
            wait(run, "held")
        time.sleep(pause)
    wait(run, "flushed")
    run.finish()


def wait(run: weighbridge.Run, word: str) -> None:
    """With all that was weighed so far on the disk."""
    run.flush()
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    given = sys.argv[4:]
    pause, hold, harm = [*given, *("0", "0", "")[len(given) :]]
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(pause), int(hold), harm == "harm")
