"""More of several ranks. Oracle: whole tensors gathered by the training itself, and the layers' formulas by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import weighbridge
from tests.capture.launched import launch
from tests.capture.oracle import table
from tests.capture.output_oracle import Truth, check_outputs
from tests.capture.test_shards import EACH, FSDP, NAMES, check, truths
from tests.cli.calling import call
from weighbridge.records import Quantity
from weighbridge.reference import summarize

MESH = 'mesh = init_device_mesh("cpu", (world,))'


def test_of_shards_that_are_also_replicated_every_one_counts_once(tmp_path: Path) -> None:
    """HSDP: two groups of two ranks each; in each the tensors are sharded, and both hold the same."""
    mesh = 'mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))'
    assert MESH in FSDP
    launch(tmp_path, 4, FSDP.format(early=False, layers=EACH).replace(MESH, mesh))
    check(tmp_path / "run", truths(tmp_path, 4)[0])
    record = weighbridge.open_run(tmp_path / "run")
    assert record.ranks == (0, 1, 2, 3)
    placements = {
        rank: {row["placement"] for row in table(tmp_path / "run", "tensors", rank) if row["role"] != "output"}
        for rank in record.ranks
    }
    assert placements == {0: {"shard"}, 1: {"shard"}, 2: {"copy"}, 3: {"copy"}}
    sums = [weighbridge.open_run(tmp_path / "run", rank).series("0.weight", "parameter.sum") for rank in record.ranks]
    assert sums[0].values.tolist() == sums[2].values.tolist()  # checksums: the copies agree, bit for bit
    assert sums[1].values.tolist() == sums[3].values.tolist()


MOMENTS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with weighbridge.init(dir=folder, name="run") as run:
        run.watch(model)
        for at in range(3):
            optimizer.zero_grad()
            model(batch(at)).square().mean().backward()
            optimizer.step()
            state = [optimizer.state[p] for p in model.parameters()]
            seen[at] = [(whole(one["exp_avg"]), whole(one["exp_avg_sq"])) for one in state]
    save()
"""


def test_moments_of_shards_add_up_to_those_of_the_whole_tensor(tmp_path: Path) -> None:
    launch(tmp_path, 3, MOMENTS)
    record, truth = weighbridge.open_run(tmp_path / "run"), truths(tmp_path, 3)[0]
    for i, name in enumerate(NAMES):
        for n, quantity in enumerate(("moment1", "moment2")):
            for step, moments in truth.items():
                expected = summarize(moments[i][n].numpy(), 4)
                (found,) = record.series(name, f"{quantity}.sum", step, step + 1).values
                assert abs(found - expected.sum) <= 1e-7 * expected.sum_abs
                (count,) = record.series(name, f"{quantity}.count", step, step + 1).values
                assert count == moments[i][n].numel()


OUTPUTS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn import functional as F

    model = network()
    if {sharded}:
        mesh = init_device_mesh("cpu", (world,))
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    outputs = {{}}

    def by_hand(at):
        first, first_bias, last, last_bias = [whole(p).requires_grad_() for p in model.parameters()]
        x = F.linear(batch(at), first, first_bias)
        y = torch.tanh(x)
        z = F.linear(y, last, last_bias)
        found = torch.autograd.grad(z.square().mean(), [x, y, z])
        for n, output, gradient in zip(range(3), (x, y, z), found):
            outputs[at, f"{{n}}/out", 5] = [output.detach()]
            outputs[at, f"{{n}}/out", 6] = [gradient]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = weighbridge.Plan(activations=True, activation_gradients=True)
    with weighbridge.init(dir=folder, name="run", plan=plan) as run:
        run.watch(model)
        for at in range(3):
            by_hand(at)
            optimizer.zero_grad()
            model(batch(at)).square().mean().backward()
            optimizer.step()
    torch.save(outputs, f"{{folder}}/outputs-{{rank}}.pt")
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("sharded", [False, True], ids=["replicas", "shards"])
def test_every_rank_weighs_what_its_own_modules_give(tmp_path: Path, sharded: bool) -> None:
    launch(tmp_path, 2, OUTPUTS.format(sharded=sharded))
    for rank in range(2):
        truth, found = Truth(), torch.load(tmp_path / f"outputs-{rank}.pt")
        truth.seen = {(step, name, Quantity(number)): numbers for (step, name, number), numbers in found.items()}
        check_outputs(tmp_path / "run", truth, rank=rank)


ALONE = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if rank == 0:
        run = weighbridge.init(dir=folder, name="run")
        run.watch(model)
    for at in range(3):
        optimizer.zero_grad()
        model(batch(at)).square().mean().backward()
        optimizer.step()
        part = model[0].weight.grad.to_local()
        seen[at] = (float(part.double().sum()), part.numel())
    if rank == 0:
        run.finish()
    save()
"""


def test_shards_of_one_watching_rank_are_never_shown_as_the_whole_and_this_is_said(tmp_path: Path) -> None:
    launch(tmp_path, 2, ALONE)
    truth = torch.load(tmp_path / "truth-0.pt")
    assert not len(weighbridge.open_run(tmp_path / "run").series("0.weight", "gradient.sum").steps)
    alone = weighbridge.open_run(tmp_path / "run", 0)
    assert alone.series("0.weight", "gradient.sum").values.tolist() == pytest.approx([truth[at][0] for at in range(3)])
    assert alone.series("0.weight", "gradient.count").values.tolist() == [truth[at][1] for at in range(3)]
    said = " ".join(call("show", os.fspath(tmp_path / "run")).out.split())
    assert "1 of 2 ranks recorded: of tensors that are spread over ranks there are parts only" in said


META = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))
    fully_shard(model, mesh=mesh)
    with weighbridge.init(dir=folder, name="run") as run:
        run.watch(model)
        model.to_empty(device="cpu")  # swaps each parameter for another: torch refuses those with weak references
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for at in range(3):
            optimizer.zero_grad()
            model(batch(at)).square().mean().backward()
            step(optimizer, model, at)
    save()
"""


def test_a_model_watched_on_the_meta_device_is_weighed_once_it_has_numbers(tmp_path: Path) -> None:
    launch(tmp_path, 2, META)
    check(tmp_path / "run", truths(tmp_path, 2)[0])
