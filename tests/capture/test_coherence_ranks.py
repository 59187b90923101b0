"""Successive gradients of several ranks. Oracle: whole gradients, gathered by the training itself outside of every hook."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import weighbridge
from tests.capture.launched import launch
from tests.capture.oracle import table
from weighbridge.records import SKETCH_NUMBERS

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
START = """
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 70), nn.Tanh(), nn.Linear(70, 150))

    plan = weighbridge.Plan(coherence=True)
"""
FSDP = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    last = {}
    with weighbridge.init(dir=folder, name="run", plan=plan) as run:
        run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for at in range(6):
            optimizer.zero_grad()
            for number in range(3):
                (model(batch(3 * at + number)).square().mean() / 3).backward()
                last[at, number] = [whole(p.grad) for p in model.parameters()]
            for p in model.parameters():
                p.grad *= 0.25
            step(optimizer, model, at)
    torch.save(last, f"{folder}/passes.pt") if rank == 0 else None
    save()
"""
DDP = """
    model = DistributedDataParallel(network())
    with weighbridge.init(dir=folder, name="run", plan=plan) as run:
        run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for at in range(6):
            optimizer.zero_grad()
            with model.no_sync():
                (model(batch(2 * at)).square().mean() / 2).backward()
            (model(batch(2 * at + 1)).square().mean() / 2).backward()
            for p in model.parameters():
                p.grad *= 0.25
            step(optimizer, model, at)
    save()
"""


def check_cosines(path: Path, truth: dict[int, list[tuple[torch.Tensor, ...]]]) -> None:
    record = weighbridge.open_run(path)
    for i, name in enumerate(NAMES):
        found = record.coherence(name)
        assert found.steps.tolist() == [1, 2, 3, 4, 5]
        for step, cosine, error in zip(found.steps.tolist(), found.cosine, found.errors, strict=True):
            a, b = (truth[at][i][1].double().flatten().numpy() for at in (step - 1, step))
            exact = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert abs(cosine - exact) <= (4 / math.sqrt(SKETCH_NUMBERS) if error else 1e-6), (name, step)
        assert found.count.tolist() == [truth[0][i][1].numel()] * 5


@pytest.mark.parametrize("world", [2, 3])
def test_shards_of_fsdp_merge_to_the_whole_gradient(tmp_path: Path, world: int) -> None:
    launch(tmp_path, world, START + FSDP)
    truth = torch.load(tmp_path / "truth-0.pt")
    check_cosines(tmp_path / "run", truth)
    record = weighbridge.open_run(tmp_path / "run")
    estimated = record.coherence("2.weight").numbers[0]  # 10,500 numbers: a sketch where a shard has more than 4,096
    assert estimated == (2 * SKETCH_NUMBERS if world == 2 else 10_500)
    passes = torch.load(tmp_path / "passes.pt")
    for i, name in enumerate(NAMES):
        (found,) = (one for one in record.noise_scales(name) if one.batch == "backward pass")
        first = np.array([float(passes[at, 0][i].double().square().sum()) for at in range(6)])
        last = np.array([float(passes[at, 2][i].double().square().sum()) for at in range(6)])
        assert found.samples == 6
        assert found.signal == pytest.approx(np.mean((last - 3 * first) / 6), rel=1e-5)
        assert found.noise == pytest.approx(np.mean((9 * first - last) / 6), rel=1e-5)
    for rank in range(world):
        assert [row["clip_factor"] for row in table(tmp_path / "run", "steps", rank)] == pytest.approx([0.25] * 6)


def test_of_replicas_one_rank_compares_the_reduced_gradient(tmp_path: Path) -> None:
    launch(tmp_path, 2, START + DDP)
    check_cosines(tmp_path / "run", torch.load(tmp_path / "truth-0.pt"))
    assert table(tmp_path / "run", "coherence", rank=1) == []
    for rank in (0, 1):
        assert table(tmp_path / "run", "accumulation", rank) == [], "the first pass was this rank's alone"
    assert [row["clip_factor"] for row in table(tmp_path / "run", "steps", 0)] == pytest.approx([0.25] * 6)
    assert all(math.isnan(row["clip_factor"]) for row in table(tmp_path / "run", "steps", 1))
