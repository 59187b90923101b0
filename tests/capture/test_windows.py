"""Steps that accumulate fewer passes than those before them. Oracle: the losses of the passes, as the loop itself has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge


def losses(run: weighbridge.Run) -> list[float]:
    """Of every step of every optimizer."""
    return weighbridge.open_run(run.path).steps_table().column("loss").to_pylist()


def test_a_step_that_an_epoch_s_end_leaves_fewer_passes(tmp_path: Path) -> None:
    """Ten batches, four to a step: the last step of an epoch has two, each divided by four as all are."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true, since = [], []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for batch in [*range(10)] * 2:
            loss = (model(torch.randn(5, 3)) - 1).square().mean()
            (loss / 4).backward()
            since.append(loss.item())
            if batch % 4 == 3 or batch == 9:
                optimizer.step()
                optimizer.zero_grad()
                true.append(sum(since) / len(since))
                since.clear()
    assert losses(run) == pytest.approx(true, rel=1e-6)


def test_halves_of_a_judge_s_loss_say_nothing_of_its_generator_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge, generator = nn.Linear(3, 1), nn.Linear(2, 3)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (judge, generator)]
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(judge)
        run.watch(generator)
        for _ in range(3):
            parts = [0.5 * judge(x).square().mean() for x in (torch.randn(4, 3), generator(torch.randn(4, 2)).detach())]
            for part in parts:
                part.backward()
            optimizers[0].step()
            loss = 0.5 * (judge(generator(torch.randn(4, 2))) - 1).square().mean()
            loss.backward()
            optimizers[1].step()
            for optimizer in optimizers:
                optimizer.zero_grad()
            true += [sum(part.item() for part in parts), loss.item()]
    assert losses(run) == pytest.approx(true, rel=1e-6)
