"""Inputs that say nothing about the targets. Oracles: made-up tables, and trainings on shuffled and on true labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weighbridge
from tests.diagnosis.made import LAYERS, asked, block, found, outcome, step_rows, tensor
from tests.diagnosis.trainings import Training, batches, data, seeded, sgd_mlp, train
from weighbridge.diagnosis import INPUT, Finding, Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import uninformative_data as rules
from weighbridge.diagnosis.stream import Block

DATA = rule("uninformative-data")
LN4 = math.log(4)
SWINGS = [LN4 + 0.08 * (-1) ** step for step in range(40)]
WIDELY = [LN4 + 0.4 * (-1) ** k for k in range(15)]


def _pairs(steps: int, distance: float = 0.0, neighbour: float = 0.0, samples: int = 40, **more: Any) -> list[dict[str, Any]]:
    """So many standard deviations from independence each step adds, of variance 1; four classes, equally often."""
    row = {"samples": samples, "distance": distance, "distance_variance": 1.0, "neighbour": neighbour}
    row |= {"neighbour_variance": 1.0, "inputs": 0.0, "targets": 0.0, "loss": "NllLoss", "batch": 40}
    row |= {"first": [0.0, 1.0, 2.0, 3.0], "second": [10.0] * 4, **more}
    return [{"step": step, **row} for step in range(steps)]


def _told(steps: int = 15, loss: Any = LN4, promise: float = 0.01, **more: Any) -> list[Finding]:
    arrays = {"update.dot_gradient_update": {"a.weight": -promise}}
    return found(DATA, block(steps, arrays, steps=step_rows(steps, loss=loss), pairing=_pairs(steps, **more)))


def test_a_loss_at_the_entropy_of_labels_that_go_with_nothing_is_told() -> None:
    (told,) = _told()
    assert (told.place, told.first_step, told.told_step) == (INPUT, 0, rules.SOON - 1)  # its samples are those from step 0 on
    assert told.evidence[0].limit == pytest.approx(math.log(4))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("steps", "more", "is_told"),
    [
        (rules.SOON - 1, {}, False),
        (rules.SOON, {}, True),
        (rules.SOON, {"samples": 19}, False),  # 190
        (rules.SOON, {"samples": 20}, True),
        (rules.SOON, {"distance": 0.94}, True),  # 0.94 * sqrt(10) = 2.97 of 400 samples,
        (rules.SOON, {"distance": 0.96}, False),
        (rules.SOON, {"neighbour": 0.96}, False),
        (rules.SOON, {"neighbour": -0.96}, False),
        (rules.SOON, {"samples": 20, "distance": 0.48}, True),  # 1.52 of 200: 0.25 * sqrt(200) - 2 = 1.54
        (rules.SOON, {"samples": 20, "distance": 0.50}, False),
        (15, {"loss": 0.981 * math.log(4)}, True),
        (40, {"loss": 0.979 * math.log(4)}, False),
        (15, {"loss": 1.24 * math.log(4)}, True),
        (40, {"loss": 1.26 * math.log(4)}, False),
        (15, {"promise": 0.002}, True),
        (15, {"promise": 0.0018}, False),  # 15 * 0.0018 / ln 4 = 0.0195
        (15, {"samples": 1}, True),  # all of a batch alike
        (40, {"loss": [math.log(4) * (1 - 0.02 * k) for k in range(40)]}, False),
        (
            14,
            {"loss": SWINGS},
            False,
        ),  # standard error of the last 9 is at least 0.01 / sqrt(8): 4 of them are more than promised
        (15, {"loss": SWINGS}, True),
        (14, {"loss": SWINGS, "promise": 0.05}, True),
        (15, {"loss": WIDELY, "promise": 0.027}, True),  # standard error 0.4 / 3 of ten: two of them are 0.267
        (15, {"loss": WIDELY, "promise": 0.026}, False),
    ],
)
def test_each_condition_on_its_limit(steps: int, more: dict[str, Any], is_told: bool) -> None:
    assert bool(_told(steps, **more)) is is_told


def test_the_best_constant_guess_of_each_kind_of_target() -> None:
    squares = {"loss": "MseLoss", "first": [20.0], "second": [40.0]}  # mean 0.5, mean square 1
    assert _made(squares, 0.75)
    assert not _made(squares, 0.6)
    coins = {"loss": "BinaryCrossEntropyWithLogits", "first": [10.0], "second": [10.0]}  # a quarter are 1
    assert _made(coins, -0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert not _made(coins, 0.3)
    assert not _made({**coins, "second": [9.0]}, 0.56)  # soft targets are not judged
    assert not _made({"loss": "HuberLoss", "first": [20.0], "second": [40.0]}, 0.375)


def _made(row: dict[str, Any], loss: float) -> bool:
    arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
    made = block(20, arrays, steps=step_rows(20, loss=loss), pairing=_pairs(20, **row))
    return bool(found(DATA, made))


def test_numbers_of_the_batch_s_rows_are_no_classes() -> None:
    """Contrastive losses: the target of each row is the place of its other view, so no batch has one twice."""
    rows = {"first": [*map(float, range(40))], "second": [1.0] * 40}
    assert not _made(rows, math.log(40))
    assert _made({**rows, "first": rows["first"][:39], "second": [2.0, *[1.0] * 38]}, math.log(39))
    eye = {"loss": "BinaryCrossEntropyWithLogits", "first": [1.0] * 40, "second": [1.0] * 40}
    assert not _made(eye, -(0.025 * math.log(0.025) + 0.975 * math.log(0.975)))


def test_targets_that_are_all_the_same_show_nothing() -> None:
    assert not _told(40, first=[1.0], second=[40.0])
    assert not _made({"loss": "MseLoss", "first": [40.0], "second": [40.0]}, 1e-9)


def test_batches_of_one_target_each_show_nothing_together() -> None:
    """All real, then all made: half of the targets are 1, and no batch compares any."""
    pairs = _pairs(40, loss="BinaryCrossEntropyWithLogits")
    for row in pairs:
        row["first"] = row["second"] = [40.0 * (row["step"] % 2)]
    arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
    assert found(DATA, block(40, arrays, steps=step_rows(40, loss=math.log(2)), pairing=pairs)) == []


def test_a_judge_that_cannot_tell_real_from_made_is_a_gan_s_aim() -> None:
    arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
    judge, maker = step_rows(40, loss=LN4), [{**row, "optimizer": 1} for row in step_rows(40, loss=0.9)]
    both = sorted([*judge, *maker], key=lambda row: (row["step"], row["optimizer"]))
    assert found(DATA, block(40, arrays, steps=both, pairing=_pairs(40))) == []
    same = sorted([*judge, *({**row, "optimizer": 1} for row in judge)], key=lambda row: row["step"])
    assert len(found(DATA, block(40, arrays, steps=same, pairing=_pairs(40)))) == 1


@pytest.mark.parametrize(("since", "is_told"), [(rules.SOON, True), (rules.SOON - 1, False), (0, False)])
def test_from_the_step_on_in_which_two_losses_pull_no_loss_counts(since: int, is_told: bool) -> None:
    arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
    ours = step_rows(40, loss=LN4)
    theirs = [{**row, "optimizer": 1, "loss": 0.9} for row in ours if row["step"] >= since]
    both = sorted([*ours, *theirs], key=lambda row: (row["step"], row["optimizer"]))
    assert bool(found(DATA, block(40, arrays, steps=both, pairing=_pairs(40)))) is is_told


def _with_embedding(steps: int, loss: Any = LN4) -> Block:
    tensors = (*LAYERS, tensor(9, "words.weight", module="Embedding"))
    arrays = {"update.dot_gradient_update": {"a.weight": -0.5}}
    return block(steps, arrays, tensors, steps=step_rows(steps, loss=loss), pairing=_pairs(steps))


def test_rows_of_an_embedding_change_only_when_their_token_comes_again() -> None:
    assert outcome(DATA, _with_embedding(rules.VISITS - 1)) is Outcome.NOT_ENOUGH_DATA
    assert [f.told_step for f in found(DATA, _with_embedding(rules.VISITS))] == [rules.VISITS - 1]


@pytest.mark.parametrize(("first", "told"), [(149, 199), (150, 200)])
def test_only_the_last_losses_are_compared_with_the_guess(first: int, told: int) -> None:
    """Four of them far out, from this step on: of 50 or 51 they lift the mean beyond its errors, three of 50 do not."""
    assert (rules.RECENT, rules.VISITS) == (50, 200)
    losses = np.full(210, LN4)
    losses[first : first + 4] = 1e3
    assert [f.told_step for f in found(DATA, _with_embedding(210, losses.tolist()))] == [told]


def test_what_is_learnt_slowly_shows_in_the_last_losses() -> None:
    """A mean of 0.985 of the guess over all steps, of 0.974 over the last 50."""
    assert found(DATA, _with_embedding(200, (LN4 * np.linspace(1.0, 0.97, 200)).tolist())) == []
    assert len(found(DATA, _with_embedding(200, (LN4 * np.linspace(1.0, 0.98, 200)).tolist()))) == 1


def test_a_run_without_targets_is_not_applicable() -> None:
    assert outcome(DATA, block(50)) is Outcome.NOT_APPLICABLE
    assert outcome(DATA, block(5, pairing=_pairs(5))) is Outcome.NOT_ENOUGH_DATA


def _shuffled(training: Training) -> Training:
    x, y = data("digits")
    training.batches = batches(x, y[torch.randperm(len(y))])
    training.optimizers = [torch.optim.Adam(training.model.parameters(), lr=2e-3)]
    return training


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_labels_are_named_within_two_dozen_steps(seed: int, tmp_path: Path) -> None:
    diagnosis = weighbridge.diagnose(train(_shuffled(seeded(sgd_mlp, seed)), tmp_path, 40))
    (told,) = [f for f in diagnosis if f.rule == "uninformative-data"]
    assert told.told_step <= 24
    assert told.place == INPUT


def test_inputs_of_zeros_are_named(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    usual = training.loss
    training.loss = lambda batch: usual((batch[0] * 0, batch[1]))
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 40)) if f.rule == "uninformative-data"]
    assert [f.place for f in told] == [INPUT]
    assert "the same" in told[0].message


def test_independence_is_claimed_of_independent_data_only() -> None:
    """Of 100 runs of 600 samples with independent rows, about 1 in 370 a test passes CLEAR by chance: nearly all are told."""
    random = np.random.default_rng(0)
    told = 0
    for _ in range(100):
        pairs = _pairs(15)
        for row in pairs:
            row["distance"], row["neighbour"] = random.normal(size=2)
        arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
        told += bool(found(DATA, block(15, arrays, steps=step_rows(15, loss=math.log(4)), pairing=pairs)))
    assert told >= 96


@pytest.mark.parametrize("samples", [20, 28, 40])
def test_what_is_seen_of_many_samples_is_not_missed_in_few(samples: int) -> None:
    """A connection as strong as SEEN: its score has mean SEEN sqrt(n) and scatter 1, and one look in 44 misses it."""
    random = np.random.default_rng(0)
    told = 0
    for _ in range(400):
        pairs = _pairs(rules.SOON, samples=samples, batch=samples)
        for row in pairs:
            row["distance"], row["first"], row["second"] = 0.0, [0.0, 1.0, 2.0, 3.0], [samples / 4] * 4
        n = samples * rules.SOON
        pairs[0]["distance"] = math.sqrt(rules.SOON) * (rules.SEEN * math.sqrt(n) + random.normal())
        arrays = {"update.dot_gradient_update": {"a.weight": -0.01}}
        made = block(rules.SOON, arrays, steps=step_rows(rules.SOON, loss=LN4), pairing=pairs)
        told += bool(asked(DATA, made).findings)
    assert told <= 400 * 0.023 + 3 * math.sqrt(400 * 0.023)


# ---- inputs that become all the same ----


@pytest.mark.parametrize(
    ("before", "looks", "told"),
    [
        ([40, 40], [1, 1], [(2, 3)]),
        ([20, 20], [1, 1], [(2, 3)]),
        ([19, 19], [1, 1], []),  # rows of sparse features are often the same
        ([40], [1, 1], []),
        ([40, 40], [1, 40, 1, 40], []),
        ([40, 40], [2, 2], []),
        ([40, 40], [1, 40, 1, 1], [(4, 5)]),
    ],
)
def test_inputs_that_become_all_the_same_are_told_at_the_second_look(
    before: list[int], looks: list[int], told: list[tuple[int, int]]
) -> None:
    rows = [{**row, "samples": samples} for row, samples in zip(_pairs(20), [*before, *looks], strict=False)]
    made = block(20, steps=step_rows(20, loss=[2.0 / (1 + step) for step in range(20)]), pairing=rows)
    assert [(f.first_step, f.told_step) for f in found(DATA, made)] == told
    same_targets = [{**row, "first": [1.0], "second": [40.0]} for row in rows]
    assert found(DATA, block(20, steps=step_rows(20), pairing=same_targets)) == []


@pytest.mark.parametrize("times", [0.0, 1.0])
def test_a_loader_that_gives_zeros_in_mid_run(times: float, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    drawn = training.batches
    training.batches = ((x * (times if number >= 26 else 1.0), y) for number, (x, y) in enumerate(drawn))
    told = weighbridge.diagnose(train(training, tmp_path, 34), [DATA])
    assert [(f.place, f.first_step, f.told_step) for f in told] == ([(INPUT, 28, 31)] if times == 0 else [])
