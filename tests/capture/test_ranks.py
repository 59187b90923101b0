"""Two processes of one training, started by torchrun. Oracle: the same training unwatched, in the same processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

import weighbridge
from tests.cli.calling import call, refused
from weighbridge.store.layout import ranks

PROGRAM = """
    import os, sys, torch, weighbridge
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank = dist.get_rank()

    def training(on_model):
        torch.manual_seed(0)
        model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
        on_model(model)
        optimizer = torch.optim.Adam(model.parameters())
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(rank))
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [p.detach().clone() for p in model.parameters()], [p.grad.clone() for p in model.parameters()]

    plain = training(lambda model: None)
    with weighbridge.init(dir=sys.argv[1], name="two") as run:
        watched = training(run.watch)
    assert watched[0] == plain[0]
    assert all(torch.equal(a, b) for i in (1, 2) for a, b in zip(watched[i], plain[i]))
    torch.save({"losses": watched[0], "gradient": watched[2][0]}, f"{sys.argv[1]}/truth-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_ranks_write_into_one_run_and_train_as_without_us(tmp_path: Path) -> None:
    import torch

    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(PROGRAM))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert [info.name for info in weighbridge.list_runs(tmp_path)] == ["two"]
    assert ranks(tmp_path / "two") == [0, 1]
    assert done.stderr.count("weighbridge: 20 steps, 4 tensors") == 1  # rank 0 speaks for all
    series = []
    for rank in (0, 1):
        truth = torch.load(tmp_path / f"truth-{rank}.pt")
        record = weighbridge.open_run(tmp_path / "two", rank)
        assert record.losses().values.tolist() == truth["losses"]  # each rank's own
        assert [t.name for t in record.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        largest = record.series("0.weight", "gradient.max")
        if rank == 0:
            assert largest.values[-1] == truth["gradient"].max().item()  # the reduced gradient
        assert len(largest.steps) == (20 if rank == 0 else 0)  # the same on both ranks: rank 0 weighs it
        series.append(record.series("0.weight", "parameter.sum").values[:10])
    assert np.array_equal(series[0], series[1])  # the other's checksums of the parameters say that they agree
    run = str(tmp_path / "two")
    assert "2 ranks as one" in " ".join(call("show", run).out.split())
    assert "rank 1, one of 2" in " ".join(call("show", run, "--rank", "1").out.split())
    assert "Ranks that recorded something: 0, 1" in " ".join(refused(call("show", run, "--rank", "5")).split())
