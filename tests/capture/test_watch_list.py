"""Two networks given to watch as one list that exists for that call alone, as trainings of GANs do."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


@pytest.mark.parametrize("as_dict", [True, False])
def test_outputs_of_both_are_weighed_and_neither_is_kept_alive_after_the_run(as_dict: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = _network(2, 3), _network(3, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, two)]
    run = weighbridge.init(dir=tmp_path, name="run")
    run.watch(nn.ModuleDict({"one": one, "two": two}) if as_dict else nn.ModuleList([one, two]))
    gc.collect()
    for _ in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        two(one(torch.randn(4, 2))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    run.finish()
    record = weighbridge.open_run(run.path)
    first, second = ("one", "two") if as_dict else ("0", "1")
    for name in (f"{first}.0/out", f"{second}.2/out"):
        rms = record.series(name, "activation.rms")
        assert rms.steps.tolist() == [*range(5)]
    gone = [weakref.ref(model) for model in (one, two)]
    del one, two, optimizers, optimizer
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
