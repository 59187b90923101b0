"""What a bias adds and what it is worth. Oracles: least squares, paired t intervals and sums made by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.preflight.bias_programs import both, by_name, t_interval, trained
from weighbridge.preflight.bias_worth import CANNOT_TELL, Worth


def test_contribution_is_the_bias_beside_all_else_of_the_output() -> None:
    model, _, batches = trained(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, _ = both(batches)
    first = by_name(weighbridge.biases(model, batches, F.cross_entropy))["0.bias"]
    weight, bias, given = (t.detach().double().numpy() for t in (model[0].weight, model[0].bias, x))
    rest = given @ weight.T
    assert first.ratio == pytest.approx(np.sqrt((bias**2).mean()) / np.sqrt((rest**2).mean()))
    assert first.ratios == pytest.approx(list(np.abs(bias) / np.sqrt((rest**2).mean(0))))
    mean = rest.mean(0)
    assert first.cancelled == pytest.approx(1 - ((mean + bias) ** 2).sum() / (mean**2).sum())
    assert first.input_offset == pytest.approx(np.sqrt((given.mean(0) ** 2).mean() / (given**2).mean()))
    assert first.has_centred_inputs is False


def test_contribution_of_convolutions_and_norms_is_by_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(48, 2))
    nn.init.normal_(model[1].bias)
    x, y = torch.randn(10, 2, 8, 8) + 1, torch.arange(10) % 2
    found = by_name(weighbridge.biases(model, (x, y), F.cross_entropy))
    h = x
    for index in (0, 1):
        out = model[index](h).detach().double()
        bias = model[index].bias.detach().double()
        rest = out - bias[None, :, None, None]
        one = found[f"{index}.bias"]
        assert one.ratios == pytest.approx((bias.abs() / rest.square().mean((0, 2, 3)).sqrt()).tolist())
        h = model[index](h)
    assert [found[f"{index}.bias"].role for index in (0, 1)] == ["bias", "norm_shift"]


def test_a_bias_that_takes_the_mean_out_is_said_to_cancel_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(40, 4) + 5, torch.arange(40) % 3
    with torch.no_grad():
        model[0].bias.copy_(-(x @ model[0].weight.T).mean(0))
    found = by_name(weighbridge.biases(model, (x, y), F.cross_entropy))
    assert found["0.bias"].cancelled == pytest.approx(1, abs=1e-6)
    centred = by_name(weighbridge.biases(model, (x - x.mean(0), y), F.cross_entropy))["0.bias"]
    assert (centred.has_centred_inputs, centred.cancelled) == (True, None)


@pytest.mark.parametrize(
    "loss_fn",
    [F.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), lambda o, y: F.cross_entropy(o, y)],
)
def test_worth_is_the_paired_difference_over_samples(loss_fn: Any) -> None:
    model, _, batches = trained(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = both(batches)
    report = weighbridge.biases(model, batches, loss_fn)
    with torch.no_grad():
        before = F.cross_entropy(model(x), y, reduction="none")
        for index in (0, 2):
            other = copy.deepcopy(model)
            other[index].bias.zero_()
            mean, low, high = t_interval(F.cross_entropy(other(x), y, reduction="none") - before)
            found = by_name(report)[f"{index}.bias"].worth
            assert found is not None
            assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), rel=1e-3)
    assert (report.units, report.unit) == (80, "sample")
    assert report.loss == pytest.approx(float(before.mean()), rel=1e-5)


def test_a_loss_that_is_no_mean_of_samples_is_compared_by_batch() -> None:
    model, _, batches = trained(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    parts = [(x[i : i + 20], y[i : i + 20]) for x, y in batches for i in range(0, len(x) - 19, 20)]
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0]))
    report = weighbridge.biases(model, parts, weighted)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].bias.zero_()
        apart = torch.tensor([float(weighted(other(x), y) - weighted(model(x), y)) for x, y in parts])
    found = by_name(report)["0.bias"].worth
    assert found is not None
    assert (found.unit, found.units) == ("batch", len(parts))
    assert (found.mean, found.low, found.high) == pytest.approx(t_interval(apart), rel=5e-3)


def takes_over(x: np.ndarray, half: int) -> np.ndarray:
    """The least-squares fit of 1 by the rows of one half."""
    rows = x[half::2].reshape(-1, x.shape[-1])
    return np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]


def test_weights_take_over_what_least_squares_can_make_of_a_constant() -> None:
    model, _, batches = trained(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = both(batches)
    hidden = model[:2](x).detach()
    before = F.cross_entropy(model(x), y, reduction="none").detach()
    after = torch.empty_like(before)
    for half in (0, 1):
        v = torch.from_numpy(takes_over(hidden.double().numpy(), 1 - half)).float()
        weight = model[2].weight + model[2].bias[:, None] * v[None, :]
        after[half::2] = F.cross_entropy(hidden[half::2] @ weight.T, y[half::2], reduction="none").detach()
    found = by_name(weighbridge.biases(model, batches, F.cross_entropy))["2.bias"].taken_over
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx(t_interval(after - before), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("settings", [{}, {"padding": 1}, {"stride": 2, "dilation": 2}])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_convolution_takes_over_by_a_kernel(settings: dict[str, int], dims: int) -> None:
    torch.manual_seed(0)
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    model = nn.Sequential(kind(2, 3, 3, **settings), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    x, y = torch.randn(24, 2, *[9] * dims) + 1.5, torch.arange(24) % 3
    model(x)
    before = F.cross_entropy(model(x), y, reduction="none").detach()
    after = torch.empty_like(before)
    for half in (0, 1):
        ones = kind(2, 1, 3, **settings, bias=False).double()
        rows = []  # of each place, what each input of the kernel is multiplied with: the kernel's own derivative
        for sample in x[1 - half :: 2].double():
            made = lambda w, f=ones, s=sample: torch.func.functional_call(f, {"weight": w}, s[None]).flatten()
            rows.append(torch.func.jacrev(made)(ones.weight).flatten(1))
        matrix = torch.cat(rows).detach().numpy()
        v = torch.from_numpy(np.linalg.lstsq(matrix, np.ones(len(matrix)), rcond=None)[0]).view_as(ones.weight)
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[0].weight += (model[0].bias.view(-1, *[1] * (dims + 1)) * v).float()
            other[0].bias.zero_()
            after[half::2] = F.cross_entropy(other(x[half::2]), y[half::2], reduction="none")
    found = by_name(weighbridge.biases(model, (x, y), F.cross_entropy))["0.bias"].taken_over
    assert found is not None
    assert (found.mean, found.low) == pytest.approx(t_interval(after - before)[:2], rel=2e-3, abs=1e-6)


def test_a_missing_bias_is_worth_what_least_squares_gains_on_the_other_half() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    y = x.sum(1, keepdim=True) + 3 + 0.1 * torch.randn(60, 1)
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    (one,) = weighbridge.biases(model, (x, y), F.mse_loss)
    given, error = x.double().numpy(), (y - model(x)).detach().double().numpy()[:, 0]
    after = np.empty(60)
    left = [1 - given[half::2] @ takes_over(given, 1 - half) for half in (0, 1)]
    for half in (0, 1):
        b = (left[1 - half] * error[1 - half :: 2]).sum() / (left[1 - half] ** 2).sum()
        after[half::2] = (error[half::2] - b * left[half]) ** 2
    assert one.worth is not None
    expected = t_interval(torch.from_numpy(after - error**2))
    assert (one.worth.mean, one.worth.low, one.worth.high) == pytest.approx(expected, rel=1e-3)
    assert (one.verdict, one.has_bias, one.change) == ("missing", False, "model = nn.Linear(in_features=3, out_features=1)")


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_bias_is_missing_where_targets_are_not_centred_and_not_where_they_are(shift: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x.sum(1, keepdim=True) + shift + 0.5 * torch.randn(200, 1)
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    (one,) = weighbridge.biases(model, (x, y), F.mse_loss)
    assert one.verdict == ("missing" if shift else "not missed")


def test_a_loss_that_squeezes_is_asked_sample_by_sample_without_a_word() -> None:
    model, x = nn.Linear(3, 1), torch.randn(20, 3)
    report = weighbridge.biases(model, (x, x.sum(1)), lambda out, y: F.mse_loss(out.squeeze(), y))
    assert (report.units, report.unit) == (20, "sample")
    assert report.loss == pytest.approx(float(F.mse_loss(model(x)[:, 0], x.sum(1)).detach()), rel=1e-5)


def test_a_loss_in_bfloat16_is_asked_sample_by_sample_too() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4).to(torch.bfloat16)
    report = weighbridge.biases(model, (torch.randn(40, 3).to(torch.bfloat16), torch.arange(40) % 4), F.cross_entropy)
    assert (report.units, report.unit) == (40, "sample")


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.5, 0.3, 0.7), "needed"),
        ((-0.5, -0.7, -0.3), "better without"),
        ((0.5, 0.0, 1.0), CANNOT_TELL),
        ((0.0, -0.01, 0.01), "no effect"),  # exactly 1 % of the loss
        ((0.0, -0.0101, 0.01), CANNOT_TELL),
        ((0.005, 0.001, 0.009), "no effect"),  # told from 0, and too small to matter
        ((0.0, 0.0, 0.0), "no effect"),
        ((0.5, math.nan, math.nan), CANNOT_TELL),
        ((math.nan, math.nan, math.nan), CANNOT_TELL),
    ],
)
def test_verdicts(interval: tuple[float, float, float], verdict: str) -> None:
    from weighbridge.preflight.bias_worth import of_bias

    assert of_bias(Worth(*interval, loss=1.0, units=50, unit="sample")) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.5, -0.7, -0.3), "missing"),
        ((-0.5, -1.1, 0.1), CANNOT_TELL),
        ((-0.005, -0.009, -0.001), "not missed"),  # lower, and too little to matter
        ((0.5, 0.3, 0.7), "not missed"),
        ((-0.01, -0.02, -0.001), CANNOT_TELL),  # exactly 1 %
        ((math.nan, math.nan, math.nan), CANNOT_TELL),
    ],
)
def test_verdicts_on_a_place_without_a_bias(interval: tuple[float, float, float], verdict: str) -> None:
    from weighbridge.preflight.bias_worth import of_gap

    assert of_gap(Worth(*interval, loss=1.0, units=50, unit="sample")) == verdict


def test_the_data_that_would_tell_shrinks_the_interval_to_the_effect() -> None:
    assert Worth(0.1, -0.1, 0.3, loss=1.0, units=50, unit="sample").units_to_tell == 200
    assert Worth(0.1, 0.05, 0.15, loss=1.0, units=50, unit="sample").units_to_tell is None


def test_a_single_sample_tells_nothing() -> None:
    model = nn.Linear(3, 4)
    (one,) = weighbridge.biases(model, (torch.randn(1, 3), torch.tensor([1])), F.cross_entropy)
    assert one.verdict == CANNOT_TELL


def test_losses_that_are_not_finite_tell_nothing() -> None:
    model = nn.Linear(3, 1)
    (one,) = weighbridge.biases(model, (torch.randn(8, 3), torch.full((8, 1), math.inf)), F.mse_loss)
    assert one.verdict == CANNOT_TELL
