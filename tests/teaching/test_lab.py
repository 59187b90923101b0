"""Oracles: a loop written by hand, scipy's and NumPy's own formulas, and what the options promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from weighbridge.errors import BadInput
from weighbridge.teaching import compare, networks
from weighbridge.teaching.data import load, tutorial


def lab(**options):
    return weighbridge.lab(**({"watch": False, "epochs": 3} | options))


def test_the_tutorials_loop_by_hand_gives_bit_for_bit_the_same_network():
    result = lab(layers="2-4-1", optimizer="sgd", lr=0.01, epochs=20, seeds=[7])
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.tensor(tutorial().x, dtype=torch.float32), torch.tensor(tutorial().y, dtype=torch.float32)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert result.trainings[0].losses == losses
    assert str(result.model) == str(model)
    for ours, theirs in zip(result.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_tutorials_samples_are_the_ten_of_the_tutorial():
    assert tutorial().x.tolist() == [[1, 2], [2, 1], [3, 4], [4, 3], [5, 6], [6, 5], [7, 8], [8, 7], [9, 10], [10, 9]]
    assert tutorial().y.ravel().tolist() == [3, 3, 7, 7, 11, 11, 15, 15, 19, 19]


def test_the_same_seed_gives_the_same_training_and_another_seed_another():
    one, two = (lab(layers="4-8-3", data="iris", seeds=2) for _ in range(2))
    assert [t.losses for t in one.trainings] == [t.losses for t in two.trainings]
    assert one.trainings[0].losses != one.trainings[1].losses


def test_a_lab_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    lab(layers="4-8-3", data="iris", init="orthogonal", init_bias="normal:0.1")
    assert torch.equal(before, torch.get_rng_state())


def test_variants_with_and_without_bias_start_from_the_same_weights():
    from weighbridge.teaching.lab import prepare_lab
    from weighbridge.teaching.networks import build

    ready = prepare_lab("iris", layers="4-8-8-3", bias=["all", "2", "none"])
    models = [build(v.options, ready.data, 5) for v in ready.variants]
    assert [v.name for v in ready.variants] == ["bias all", "bias 2", "bias none"]
    assert [[m.bias is not None for m in model if isinstance(m, nn.Linear)] for model in models] == [
        [True, True, True],
        [False, True, False],
        [False, False, False],
    ]
    for place in (0, 2, 4):
        assert all(torch.equal(models[0][place].weight, model[place].weight) for model in models)


def test_every_combination_of_the_lists_is_trained_with_every_seed():
    result = lab(layers="4-8-3", data="iris", bias=[True, False], norm=["none", "batch", "layer"], seeds=2, epochs=1)
    assert len(result.trainings) == 12
    assert [t.seed for t in result.of("bias none, norm layer")] == [0, 1]
    # differences change one option at a time
    assert {(d.base, d.other) for d in result.differences} == {
        ("bias all, norm none", "bias none, norm none"),
        ("bias all, norm batch", "bias none, norm batch"),
        ("bias all, norm layer", "bias none, norm layer"),
        ("bias all, norm none", "bias all, norm batch"),
        ("bias all, norm none", "bias all, norm layer"),
        ("bias none, norm none", "bias none, norm batch"),
        ("bias none, norm none", "bias none, norm layer"),
    }


def test_the_difference_is_paired_by_seed_with_students_interval():
    from scipy import stats

    result = lab(layers="4-8-3", data="iris", bias=["all", "none"], seeds=4)
    pairs = np.array(result.scores("bias none")) - np.array(result.scores("bias all"))
    (difference,) = result.differences
    low, high = stats.t.interval(0.95, 3, pairs.mean(), stats.sem(pairs))
    assert difference.differences == tuple(pairs)
    assert (difference.low, difference.high) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


@pytest.mark.parametrize("degrees", [1, 4, 30, 31, 60, 1000])
def test_the_t_values_are_those_of_scipy(degrees):
    from scipy import stats

    assert compare.t_value(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        ([0.9, 0.8, 0.7], [0.95, 0.86, 0.74], "better here, by +5.00 points of accuracy (95 % interval +2.52 to +7.48"),
        ([0.9, 0.8, 0.7], [0.85, 0.74, 0.66], "worse here, by −5.00 points"),
        ([0.9, 0.8, 0.7], [0.9, 0.86, 0.64], "cannot tell from 3 seeds: 0.00 points"),
        ([0.9, 0.8], [0.9, 0.8], "no difference: the same accuracy in each of 2 seeds"),
        ([0.9], [0.8], "cannot tell from 1 seed: −10.00 points of accuracy there, and the spread is unknown"),
        ([0.9, math.nan], [math.nan, 0.8], "cannot tell: in every pair of trainings one diverged"),
        ([0.9, 0.8, 0.7], [0.95, 0.86, math.nan], "(1 pair(s) left out: a training diverged)"),
    ],
)
def test_the_verdict_says_no_more_than_the_numbers(base, other, words):
    assert words in compare.compare("a", "b", "accuracy", base, other).verdict


def test_a_bias_before_a_batch_norm_changes_nothing_measured():
    """All biases against those after the norm only: the same losses, and no gradient ever reaches the others."""
    result = lab(layers="13-16-16-3", data="wine", norm="batch", bias=["all", "3"], optimizer="sgd", lr=0.1, epochs=10)
    every, last = (np.array(t.step_losses) for t in result.trainings)
    assert np.abs(every - last).max() < 1e-5
    assert result.trainings[0].parameters - result.trainings[1].parameters == 32
    assert result.trainings[0].model[0].bias.grad.abs().max() < 1e-5
    assert result.trainings[0].model[0].weight.grad.abs().max() > 1e-4


def test_a_layer_norm_does_not_make_the_bias_before_it_redundant():
    result = lab(layers="13-16-3", data="wine", norm="layer", bias=["all", "2"], optimizer="sgd", lr=0.1, epochs=10)
    every, last = (np.array(t.step_losses) for t in result.trainings)
    assert np.abs(every - last).max() > 1e-3


def test_the_held_out_rows_are_not_seen_by_centring_and_scaling():
    from weighbridge.teaching.options import Options
    from weighbridge.teaching.training import prepare

    data = load("wine")
    parts = prepare(data, Options(), 0)
    assert len(parts.train_x) + len(parts.score_x) == 178
    assert parts.train_x.mean(0).abs().max() < 1e-6
    assert parts.train_x.std(0, correction=0).sub(1).abs().max() < 1e-5
    assert parts.score_x.mean(0).abs().max() > 1e-3


def test_a_divergence_is_told_with_its_first_step_and_not_averaged_away():
    result = lab(layers="2-4-1", optimizer="sgd", lr=[0.01, 100.0], seeds=2, epochs=12)
    step = min(t.diverged_at for t in result.of("lr 100"))
    assert f"“lr 100”: 2 of 2 trainings diverged (a loss that is not finite, first at step {step})" in str(result)
    assert "cannot tell: in every pair of trainings one diverged" in str(result)


@pytest.mark.parametrize("name", [n for n in networks.optimizer_names() if n != "muon"])
def test_every_optimizer_lowers_the_loss(name):
    (training,) = lab(layers="4-8-3", data="iris", optimizer=name, epochs=5).trainings
    assert training.losses[-1] < training.losses[0]


def test_muon_trains_matrices_only_and_says_so():
    if "muon" not in networks.optimizer_names():
        return  # older torch has no Muon: there is nothing to say
    assert lab(layers="4-8-3", data="iris", optimizer="muon", bias="none").trainings[0].losses
    with pytest.raises(BadInput, match=r"Muon says: .* --bias none"):
        lab(layers="4-8-3", data="iris", optimizer="muon")


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce", "cross_entropy"])
def test_every_loss_trains_classes(loss):
    (training,) = lab(layers="4-8-3", data="iris", loss=loss, epochs=20).trainings
    assert training.losses[-1] < training.losses[0]
    assert training.scores[-1] > 0.6


def test_two_classes_may_have_one_output():
    result = lab(layers="30-8-1", data="breast_cancer", epochs=5)
    assert result.trainings[0].scores[-1] > 0.9
    assert "bce" in str(result)


@pytest.mark.parametrize("activation", ["none", *networks.ACTIVATIONS])
def test_every_activation_trains(activation):
    assert math.isfinite(lab(layers="4-8-3", data="iris", activation=activation, epochs=1).trainings[0].losses[-1])


@pytest.mark.parametrize(
    "init", ["default", "xavier", "he", "orthogonal", "zeros", "constant:0.1", "normal:0.01", "uniform:0.5"]
)
def test_every_start_is_what_it_says(init):
    from weighbridge.teaching.lab import prepare_lab
    from weighbridge.teaching.networks import build

    ready = prepare_lab("digits", layers="64-32-10", init=init, init_bias="constant:0.25")
    model = build(ready.variants[0].options, ready.data, 0)
    weight = model[0].weight.detach()
    largest = {
        "default": 1 / math.sqrt(64), "xavier": math.sqrt(6 / 96), "he": math.sqrt(6 / 64), "orthogonal": 1.0,
        "zeros": 0.0, "constant:0.1": 0.1, "normal:0.01": 0.06, "uniform:0.5": 0.5,
    }[init]  # fmt: skip
    assert largest * 0.4 <= weight.abs().max() <= largest * 1.0001
    assert bool((model[0].bias == 0.25).all())
    if init == "orthogonal":
        assert torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": "16"}, "For a hidden layer of 16 on tutorial: --layers in-16-out (2-16-1)"),
        ({"layers": "3-4-1"}, "tutorial: 10 rows, 2 inputs, 1 predicted value: the first layer must be 2, the last 1"),
        ({"layers": "4-16-2", "data": "iris"}, "the first layer must be 4, the last 3"),
        ({"layers": "2-0-1"}, "every layer needs at least 1 unit"),
        ({"layers": "2-x-1"}, "give the units of each layer"),
        ({"data": "irsi"}, "Did you mean iris"),
        ({"activation": "rleu"}, "Did you mean relu"),
        ({"optimizer": "adma"}, "Did you mean"),
        ({"optimizer": "sgd:momentun=0.9"}, "Did you mean momentum"),
        ({"optimizer": "sgd:momentum"}, "write it as in sgd:momentum=0.9"),
        ({"optimizer": "sgd", "lr": -1}, "at least 0"),
        ({"norm": "bach"}, "Did you mean batch?"),
        ({"init": "xaver"}, "Did you mean xavier"),
        ({"init": "constant"}, "constant needs a number, such as constant:0.1"),
        ({"init_bias": "he"}, "A bias is a vector"),
        ({"bias": "3"}, "there is no layer 3"),
        ({"bias": "1;2"}, "counted from 1"),
        ({"loss": "cross_entropy"}, "needs classes, but tutorial asks for numbers"),
        ({"centre": "input"}, "Did you mean inputs"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 2.5}, "a whole number is needed"),
        ({"seeds": 0}, "at least 1"),
        ({"seeds": [1, 1]}, "each once"),
        ({"bias": []}, "empty list"),
        ({"data": ["iris", "wine"]}, "one lab per data set"),
        ({"data": ([[1.0], [2.0]], [1.0])}, "equally many rows"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(options, words):
    with pytest.raises(BadInput) as error:
        lab(**options)
    assert words in str(error.value)


def test_arrays_of_ones_own_are_data_too():
    x = np.linspace(-1, 1, 40)
    result = lab(layers="in-8-out", data=(x, np.stack([x**2, x], 1)), epochs=2)
    assert result.data.describe() == "arrays: 40 rows, 1 input, 2 predicted values"
    labels = np.array(["left", "right"])[(x > 0).astype(int)]
    assert lab(layers="in-8-out", data=(x, labels), epochs=2).data.classes == ("left", "right")


def test_nothing_is_written_without_watch(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lab(layers="2-4-1").paths == ()
    assert list(tmp_path.iterdir()) == []


def test_one_row_more_in_each_of_three_seeds_is_no_certainty():
    found = compare.compare("a", "b", "accuracy", [0.9, 0.8, 0.7], [0.91, 0.81, 0.71], resolution=0.01)
    assert not found.decided
    assert compare.compare("a", "b", "accuracy", [0.9, 0.8, 0.7], [0.99, 0.89, 0.79], resolution=0.01).decided
