"""Several ranks as one run: replicas, shards, a rank that dies.

Oracle: clones of the parameters and gradients around `step`, of shards gathered by the training itself, and
weighbridge.reference over the whole tensor.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import weighbridge
from tests.capture.launched import launch
from tests.capture.oracle import SUM_TOLERANCE, sum_of_absolute_products
from tests.cli.calling import call
from weighbridge.reference import summarize, update_of, update_terms

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
DOTS = ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter")


def check(path: Path, truth: dict[int, list[tuple[torch.Tensor, ...]]], rank: int | None = None) -> None:
    """Every statistic of every tensor and step against the reference over the whole tensor."""
    record = weighbridge.open_run(path, rank)
    assert [t.name for t in record.tensors] == list(NAMES)
    for i, name in enumerate(NAMES):
        for step, tensors in truth.items():
            before, gradient, after = (t.numpy() for t in tensors[i])
            assert record.tensor(name).shape == before.shape
            update = update_of(before, after)
            for quantity, x in (("parameter", before), ("gradient", gradient), ("update", update)):
                check_one(record, name, quantity, step, x)
            terms = update_terms(before, after, gradient)
            pairs = ((gradient, before), (gradient, update), (update, before))
            for statistic, pair in zip(DOTS, pairs, strict=True):
                found = at(record, name, f"update.{statistic}", step)
                assert abs(found - getattr(terms, statistic)) <= SUM_TOLERANCE * sum_of_absolute_products(*pair)
            lost = at(record, name, "update.lost_fraction", step) * before.size
            assert round(lost, 6) == terms.lost
        steps = record.series(name, "gradient.rms").steps.tolist()
        assert steps == sorted(truth), (name, steps)


def check_one(record: weighbridge.RunRecord, name: str, quantity: str, step: int, x: np.ndarray) -> None:
    expected = summarize(x, 4)
    for statistic, wanted in (("count", x.size), ("min", expected.min), ("max", expected.max), ("zero_count", expected.zero)):
        assert at(record, name, f"{quantity}.{statistic}", step) == wanted, (name, quantity, step, statistic)
    assert abs(at(record, name, f"{quantity}.sum", step) - expected.sum) <= SUM_TOLERANCE * expected.sum_abs
    assert abs(at(record, name, f"{quantity}.l1_norm", step) - expected.sum_abs) <= SUM_TOLERANCE * expected.sum_abs
    rms = float(np.sqrt(expected.sum_sq / x.size))
    assert at(record, name, f"{quantity}.rms", step) == pytest.approx(rms, rel=SUM_TOLERANCE)
    _, counts, looked_at = record.histogram(name, quantity, step)
    assert looked_at == x.size
    assert (counts == expected.hist).all(), (name, quantity, step)


def at(record: weighbridge.RunRecord, name: str, statistic: str, step: int) -> float:
    """One value, asked for as a series; the same must come from the whole step and from buckets."""
    value = float(record.series(name, statistic, step, step + 1).values[0])
    whole = record.at_step(step, [statistic])[statistic][NAMES.index(name)]
    bucket = record.series_buckets(name, statistic, 1, step, step + 1).mean[0]
    assert [whole, bucket] == pytest.approx([value, value], rel=1e-12)
    return value


def truths(folder: Path, world: int) -> list[dict[int, list[tuple[torch.Tensor, ...]]]]:
    return [torch.load(folder / f"truth-{rank}.pt") for rank in range(world)]


DDP = """
    inner = network()
    model = DistributedDataParallel(inner)
    {change}
    with weighbridge.init(dir=folder, name="run") as run:
        run.watch(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for at in range(6):
            optimizer.zero_grad()
            with model.no_sync():
                model(batch(2 * at)).square().mean().backward()
            model(batch(2 * at + 1)).square().mean().backward()
            step(optimizer, model, at)
    save()
"""


@pytest.mark.parametrize("world", [2, 3])
def test_replicas_are_weighed_by_rank_0_with_the_reduced_and_accumulated_gradient(tmp_path: Path, world: int) -> None:
    launch(tmp_path, world, DDP.format(change=""))
    known = truths(tmp_path, world)
    for other in known[1:]:
        assert all(
            torch.equal(a, b)
            for step in known[0]
            for mine, its in zip(known[0][step], other[step], strict=True)
            for a, b in zip(mine, its, strict=True)
        )
    check(tmp_path / "run", known[0])
    record = weighbridge.open_run(tmp_path / "run")
    assert (record.ranks, record.rank) == (tuple(range(world)), None)
    assert record.series("0.weight", "gradient.count").values.tolist() == [28.0] * 6  # never added


def test_the_other_replicas_write_checksums_of_the_parameters_alone(tmp_path: Path) -> None:
    launch(tmp_path, 2, DDP.format(change=""))
    one, other = (weighbridge.open_run(tmp_path / "run", rank) for rank in (0, 1))
    for name in NAMES:
        for statistic in ("parameter.sum", "parameter.l1_norm"):
            mine, its = one.series(name, statistic), other.series(name, statistic)
            assert mine.values.tolist() == its.values.tolist()
            assert its.steps.tolist() == list(range(7))
        assert not len(other.series(name, "gradient.rms").steps)


def test_replicas_under_compile_are_weighed_as_without(tmp_path: Path) -> None:
    change = 'model = torch.compile(model, backend="aot_eager"); model.no_sync = model._orig_mod.no_sync'
    launch(tmp_path, 2, DDP.format(change=change))
    check(tmp_path / "run", truths(tmp_path, 2)[0])


EACH = "(model[0], model[2])"
FSDP = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    def training(run=None, early=False):
        model = network()
        if run and early:
            run.watch(model)
        for layer in {layers}:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        if run and not early:
            run.watch(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for at in range(6):
            optimizer.zero_grad()
            loss = model(batch(at)).square().mean()
            loss.backward()
            step(optimizer, model, at)
            losses.append(loss.item())
        model(batch(9))  # leaves whole parameters in the root: they are no tensors of their own
        return losses

    plain = training(); unwatched = dict(seen)
    with weighbridge.init(dir=folder, name="run") as run:
        watched = training(run, early={early})
    assert watched == plain
    for at in seen:
        for mine, its in zip(seen[at], unwatched[at]):
            assert all(torch.equal(a, b) for a, b in zip(mine, its))
    save()
"""


@pytest.mark.parametrize(("world", "early", "layers"), [(2, False, "()"), (3, False, EACH), (3, True, EACH)])
def test_shards_uneven_and_empty_ones_merge_to_the_whole_tensor(tmp_path: Path, world: int, early: bool, layers: str) -> None:
    launch(
        tmp_path, world, FSDP.format(early=early, layers=layers)
    )  # 7 rows over 2 or 3 ranks; 2 rows over 3 ranks: one is empty
    check(tmp_path / "run", truths(tmp_path, world)[0])
    last = truths(tmp_path, world)[0][5]
    record = weighbridge.open_run(tmp_path / "run")
    for i, name in enumerate(NAMES):
        assert record.series(name, "parameter.count").values.tolist() == [last[i][0].numel()] * 7  # the closing row too
        assert record.series(name, "parameter.max").values[6] == last[i][2].max().item()
    sizes = [
        weighbridge.open_run(tmp_path / "run", rank).series("2.weight", "parameter.count").values[0] for rank in range(world)
    ]
    assert sizes == ([7, 7] if world == 2 else [7, 7, 0])


DIES = """
    import signal, time
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    model = network()
    fully_shard(model, mesh=mesh)
    run = weighbridge.init(dir=folder, name="run")
    run.watch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for at in range(4):
        optimizer.zero_grad()
        model(batch(at)).square().mean().backward()
        step(optimizer, model, at)
    run.flush()
    torch.save(seen, f"{folder}/truth-{rank}.pt")
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher stops the others; they are to live a little longer
    for at in range(4, 6):
        optimizer.step()  # the shards of this rank alone: no collective
    run.finish()
"""


def test_a_rank_that_dies_leaves_what_it_wrote_and_no_part_is_shown_as_the_whole(tmp_path: Path) -> None:
    launch(tmp_path, 2, DIES, may_fail=True)
    record = weighbridge.open_run(tmp_path / "run")
    check(tmp_path / "run", truths(tmp_path, 2)[0])  # and no gradient.rms after step 3
    assert weighbridge.open_run(tmp_path / "run", 0).series("0.weight", "gradient.rms").steps.tolist() == list(range(6))
    assert np.isnan(record.at_step(5, ["parameter.rms"])["parameter.rms"]).all()
    with pytest.raises(weighbridge.WeighbridgeError, match=r"No gradient of 0\.weight"):
        record.histogram("0.weight", "gradient", 5)
    assert record.rank_states() == [(0, "finished", 5), (1, "ended without finish", 3)]
    assert "rank 1 ended without finish at step 3" in " ".join(call("show", os.fspath(tmp_path / "run")).out.split())


ONE = """
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if rank == {watcher}:
        run = weighbridge.init(dir=folder, name="run")
        run.watch(model)
    for at in range(3):
        optimizer.zero_grad()
        model(batch(at)).square().mean().backward()
        step(optimizer, model, at)
    if rank == {watcher}:
        run.finish()
    save()
"""


@pytest.mark.parametrize("watcher", [0, 1])
def test_a_watch_on_one_rank_only_needs_no_other_rank(tmp_path: Path, watcher: int) -> None:
    launch(tmp_path, 2, ONE.format(watcher=watcher))
    (info,) = weighbridge.list_runs(tmp_path)
    check(info.path, truths(tmp_path, 2)[watcher])
