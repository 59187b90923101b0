"""Rules that compare ranks. Oracles: numbers put in by hand, and real processes joined by gloo that were made ill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighbridge
from tests.capture.launched import launch
from tests.diagnosis.made import NAN, block, found, outcome, tensor
from weighbridge.diagnosis import INPUT, Finding, Outcome
from weighbridge.diagnosis.ranked import Ranked
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import diverged_replicas, duplicated_data
from weighbridge.records import COPY, LOCAL, REPLICA, SHARD
from weighbridge.store.record import open_run

TENSORS = (tensor(0, "a.weight"), tensor(1, "b.weight"))
DIVERGED, DUPLICATED = rule("diverged-replicas"), rule("duplicated-data")
STEPS = 8


def _rank(
    number: int,
    placement: str,
    sums: Any = 1.0,
    used: Any = 0.5,
    losses: Any = NAN,
    batch: Sequence[float] = (),
    only: Sequence[int] = range(STEPS),
) -> Ranked:
    """a.weight has these sums; b.weight always 2."""
    arrays = {name: np.full((STEPS, 2), np.nan) for name in (*diverged_replicas.SUMS, *diverged_replicas.USED)}
    for name in diverged_replicas.SUMS:
        arrays[name][list(only), 0] = np.broadcast_to(np.array(sums, float), STEPS)[list(only)]
        arrays[name][list(only), 1] = 2.0
    for name in diverged_replicas.USED:
        arrays[name][:] = np.broadcast_to(np.array(used, float), STEPS)[:, None]
    pairs = tuple({"step": step, "inputs": one, "targets": one} for step, one in enumerate(batch))
    return Ranked(number, arrays, (placement, placement), np.broadcast_to(np.array(losses, float), STEPS), pairs)


def _told(which: Any, *ranks: Ranked) -> list[Finding]:
    return found(which, replace(block(STEPS, tensors=TENSORS), ranks=ranks))


# ---- diverged-replicas ----


def test_copies_that_differ_are_told_at_once_and_where() -> None:
    other = [1.0, 1.0, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5]
    (told,) = _told(DIVERGED, _rank(0, REPLICA), _rank(1, COPY, other))
    assert (told.place, told.first_step, told.told_step) == ("a.weight", 3, 3)
    (late,) = _told(DIVERGED, _rank(0, REPLICA), _rank(1, COPY, other, only=[0, 6]))  # the others did not write every step
    assert late.told_step == 6


@pytest.mark.parametrize(
    ("sums", "words"),
    [((1.0, 1.5, 1.0), "Rank 1 is not like most."), ((1.0, 1.5, 1.0, 1.0, 2.0), "Ranks 1 and 4 are not like most.")],
)
def test_the_rank_that_differs_is_named_where_most_agree(sums: tuple[float, ...], words: str) -> None:
    (told,) = _told(DIVERGED, *(_rank(i, COPY if i else REPLICA, one) for i, one in enumerate(sums)))
    assert told.message.endswith(words)


@pytest.mark.parametrize("sums", [(1.0, 1.5), (1.0, 1.5, 2.0), (1.0, 1.0, 1.5, 1.5)])
def test_no_rank_is_named_without_a_majority(sums: tuple[float, ...]) -> None:
    (told,) = _told(DIVERGED, *(_rank(i, COPY if i else REPLICA, one) for i, one in enumerate(sums)))
    assert "like most" not in told.message


def test_copies_that_agree_and_pieces_and_different_models_are_clear() -> None:
    assert _told(DIVERGED, _rank(0, REPLICA), _rank(1, COPY)) == []
    assert _told(DIVERGED, _rank(0, SHARD), _rank(1, SHARD, 3.0)) == []
    assert _told(DIVERGED, _rank(0, LOCAL, used=0.5), _rank(1, LOCAL, 3.0, used=0.6)) == []  # each trains on its own


def test_equal_gradients_make_copies_of_what_nobody_declared() -> None:
    other = [1.0] * 4 + [1.25] * 4
    (told,) = _told(DIVERGED, _rank(0, LOCAL), _rank(1, LOCAL, other))
    assert told.told_step == 4
    (first,) = _told(DIVERGED, _rank(0, LOCAL), _rank(1, LOCAL, 7.0))  # never equal: told when the gradients have agreed
    assert first.told_step == diverged_replicas.AGREED - 1
    assert _told(DIVERGED, _rank(0, LOCAL, used=0.0), _rank(1, LOCAL, 7.0, used=0.0)) == []  # no gradients at all


@pytest.mark.parametrize(
    ("sums", "used", "told"),
    [
        ([1.0, *[1.5] * 7], 0.7, [2]),  # a.weight goes apart, and is averaged nowhere
        ([1.0, 1.0, 1.0, *[1.5] * 5], 0.7, [4]),
        ([1.5] * 8, 0.7, []),  # parts of their own, from the start
        ([1.0, *[1.5] * 7], [0.7, 0.5, *[0.7] * 6], []),  # agreed once
        ([1.0, *[1.5, 1.0] * 3, 1.5], 0.7, []),  # they come together again
    ],
)
def test_what_is_averaged_in_part(sums: list[float], used: Any, told: list[int]) -> None:
    """b.weight has the same gradients on both ranks, a.weight these."""
    one, other = _rank(0, LOCAL), _rank(1, LOCAL, sums)
    for name in diverged_replicas.USED:
        other.arrays[name][:, 0] = used
    found = _told(DIVERGED, one, other)
    assert [(f.place, f.told_step, f.severity) for f in found] == [("a.weight", step, "warning") for step in told]


def test_a_tensor_whose_gradients_agreed_once_is_averaged_though_others_differed_then() -> None:
    one, other = _rank(0, LOCAL), _rank(1, LOCAL, [1.0, *[1.5] * 7])
    for name in diverged_replicas.USED:
        other.arrays[name][:] = [[0.7, 0.5], [0.5, 0.7], *[[0.7, 0.5]] * 6]
    assert _told(DIVERGED, one, other) == []


@pytest.mark.parametrize(("at_once", "told"), [(0.7, [3]), (0.5, [])])
def test_gradients_that_agreed_once_were_averaged(at_once: float, told: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights go apart from step 1 on, and stay so; at step 1 all gradients agree, or never do."""
    monkeypatch.setattr(diverged_replicas, "APART", 3)
    one, other = _rank(0, LOCAL), _rank(1, LOCAL, [1.0, *[1.5] * 7], used=[0.7, at_once, *[0.7] * 6])
    assert [f.told_step for f in _told(DIVERGED, one, other)] == told


def test_one_rank_is_not_applicable() -> None:
    assert outcome(DIVERGED, block(STEPS)) is Outcome.NOT_APPLICABLE
    assert outcome(DUPLICATED, block(STEPS)) is Outcome.NOT_APPLICABLE


# ---- duplicated-data ----


def test_equal_batches_on_all_ranks_are_told_after_three() -> None:
    assert duplicated_data.PATIENCE == 3
    (told,) = _told(DUPLICATED, *(_rank(n, REPLICA, batch=[4.0, 5.0, 6.0]) for n in range(3)))
    assert (told.place, told.first_step, told.told_step) == (INPUT, 0, 2)
    assert _told(DUPLICATED, *(_rank(n, REPLICA, batch=[4.0, 5.0]) for n in range(2))) == []


def test_batches_that_differ_now_and_then_break_the_row() -> None:
    one, two = _rank(0, REPLICA, batch=[4.0, 5.0, 6.0, 7.0, 8.0]), _rank(1, COPY, batch=[4.0, 5.0, 9.0, 7.0, 8.0])
    assert _told(DUPLICATED, one, two) == []


def test_pieces_of_one_model_get_the_same_batches_by_design() -> None:
    assert _told(DUPLICATED, *(_rank(n, SHARD, batch=[4.0] * 8) for n in range(2))) == []


def test_losses_tell_only_where_no_batch_was_recorded() -> None:
    losses = np.linspace(2.0, 1.0, STEPS)
    (told,) = _told(DUPLICATED, *(_rank(n, REPLICA, losses=losses) for n in range(2)))
    assert told.told_step == duplicated_data.LONG - 1
    assert _told(DUPLICATED, _rank(0, REPLICA, losses=losses), _rank(1, REPLICA, losses=losses + 1e-12)) == []
    batches = [[float(n + k) for k in range(STEPS)] for n in (0, 50)]
    assert _told(DUPLICATED, *(_rank(n, REPLICA, losses=losses, batch=batches[n]) for n in range(2))) == []


# ---- real processes ----

TRAIN = """
    from torch.nn import functional as F

    model = network()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with weighbridge.init(dir=folder, name="run") as run:
        run.watch(WATCHED)
        for at in range(12):
            generator = torch.Generator().manual_seed(100 * at + (0 if SAME else rank))
            x, y = torch.randn(16, 4, generator=generator), torch.randint(0, 2, (16,), generator=generator)
            if at == 5 and CHANGED and rank == 1:
                with torch.no_grad():
                    model[2].weight.mul_(1.01)
            optimizer.zero_grad()
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
    dist.barrier()
    dist.destroy_process_group()
"""


def _trained(folder: Path, watched: str = "wrapped", same: bool = False, changed: bool = False) -> list[Finding]:
    launch(folder, 2, TRAIN.replace("WATCHED", watched).replace("SAME", str(same)).replace("CHANGED", str(changed)))
    named = ("duplicated-data", "diverged-replicas")
    return [f for f in weighbridge.diagnose(folder / "run") if f.rule in named]


@pytest.mark.parametrize("watched", ["wrapped", "model"])
def test_healthy_ranks_are_clear(watched: str, tmp_path: Path) -> None:
    assert _trained(tmp_path, watched) == []


@pytest.mark.parametrize("watched", ["wrapped", "model"])
def test_one_rank_s_weight_is_changed(watched: str, tmp_path: Path) -> None:
    (told,) = _trained(tmp_path, watched, changed=True)
    assert (told.rule, told.place, told.first_step) == ("diverged-replicas", "2.weight", 5)


def test_all_ranks_get_the_same_batches(tmp_path: Path) -> None:
    (told,) = _trained(tmp_path, same=True)
    assert (told.rule, told.place, told.first_step, told.told_step) == ("duplicated-data", INPUT, 0, 2)
    record = open_run(tmp_path / "run", 1)
    assert len(record.whole("pairing").to_pylist()) >= 10
