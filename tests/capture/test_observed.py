"""Clipping as torch does it, met without a training. Oracle: what torch's own clipping has made of the gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad, clip_grad_norm_

from weighbridge.capture import observed
from weighbridge.capture.late import Late, held, norm_into

Met = list[tuple[int, Any]]


@pytest.fixture
def met() -> Iterator[Met]:
    """What is told of clipping while torch's functions are watched."""
    told: Met = []
    observed.observe(lambda parameter, factor: told.append((parameter, factor)), lambda _: None, lambda _: True)
    yield told
    observed.leave()


def parameter(*numbers: float) -> nn.Parameter:
    """With a gradient of these numbers."""
    made = nn.Parameter(torch.zeros(len(numbers)))
    made.grad = torch.tensor(numbers)
    return made


@pytest.mark.parametrize("most", [1.0, 5, np.float32(2.5), 100.0, math.inf, 0.0])
@pytest.mark.parametrize("numbers", [(3.0, 4.0), (0.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_the_factor_is_the_one_that_torch_has_multiplied_with(met: Met, most: float, numbers: tuple[float, ...]) -> None:
    one, known = parameter(*numbers), parameter(1.0)
    norm = clip_grad_norm_([one], most)
    clip_grad._clip_grads_with_norm_([known], most, norm)  # 1 times the factor
    assert known.grad is not None
    assert [told for told, _ in met] == [id(one), id(known)]
    for _, factor in met:
        assert type(factor) is float
        assert factor == pytest.approx(known.grad.item(), rel=1e-6, nan_ok=True)


def test_one_tensor_alone_is_met_as_a_list_of_it(met: Met) -> None:
    alone = nn.Parameter(torch.tensor(0.0))
    alone.grad = torch.tensor(8.0)
    clip_grad._clip_grads_with_norm_(alone, 2.0, torch.tensor(8.0))
    assert met == [(id(alone), pytest.approx(0.25))]


def test_parameters_without_a_gradient_are_not_met(met: Met) -> None:
    clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0)
    assert met == []
    clip_grad_norm_([nn.Parameter(torch.zeros(2)), one := parameter(3.0, 4.0)], 1.0)
    assert met == [(id(one), pytest.approx(0.2))]


def test_a_norm_for_each_column_gives_torch_s_answer_and_no_factor(met: Met) -> None:
    one = parameter(3.0, 4.0)
    clip_grad._clip_grads_with_norm_([one], 1.0, torch.tensor([3.0, 2.0]), foreach=False)
    assert one.grad is not None
    assert one.grad.tolist() == pytest.approx([1.0, 2.0])
    assert [told for told, _ in met] == [id(one)]
    assert math.isnan(met[0][1])


class Spread(torch.Tensor):
    """A norm of which this process may hold a part alone."""


def test_no_number_that_lies_elsewhere_is_waited_for() -> None:
    elsewhere = torch.empty((), device="meta")
    assert math.isnan(observed.factor_of(elsewhere, torch.tensor(1.0)))  # type: ignore[arg-type]
    assert math.isnan(observed.factor_of(1.0, torch.tensor(2.0).as_subclass(Spread)))
    late = observed.factor_of(1.0, elsewhere)
    assert isinstance(late, torch.Tensor)
    assert late.device == elsewhere.device
    assert late.dtype is torch.float64


def test_clipping_in_compiled_code_is_compiled_whole_and_not_met(met: Met) -> None:
    one = parameter(3.0, 4.0)
    compiled = torch.compile(lambda: clip_grad_norm_([one], 1.0), backend="eager", fullgraph=True)
    assert float(compiled()) == pytest.approx(5.0)
    assert one.grad is not None
    assert one.grad.tolist() == pytest.approx([0.6, 0.8])
    assert met == []


def test_nothing_is_replaced_where_torch_has_no_such_function_and_a_stranger_s_stays() -> None:
    own, theirs = clip_grad._clip_grads_with_norm_, lambda *given: given
    observed.observe(lambda *_: None, lambda _: None, lambda _: True)
    observed._replace(clip_grad, "no such function", lambda *_: None)
    assert not hasattr(clip_grad, "no such function")
    clip_grad._clip_grads_with_norm_ = theirs  # somebody wraps ours
    observed.leave()
    assert clip_grad._clip_grads_with_norm_ is theirs
    clip_grad._clip_grads_with_norm_ = own


def test_the_norm_of_the_first_gradient_that_comes_is_kept_and_none_is_no_error() -> None:
    norms: dict[int, torch.Tensor] = {}
    weigh = norm_into(norms, 3)
    for gradients in ((), (None,)):
        weigh(gradients)
    assert norms == {}
    first = torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
    weigh((first, torch.ones(1)))
    first.zero_()
    weigh((torch.ones(9),))
    assert {place: norm.item() for place, norm in norms.items()} == {3: 5.0}


@pytest.mark.parametrize("wait", [False, True])
def test_numbers_in_cpu_memory_are_there_at_once_and_stay_what_they_were(wait: bool) -> None:
    number = torch.tensor([0.1])
    late = Late([held(number), held(torch.tensor(2, dtype=torch.int32))])
    number.zero_()
    assert late.has_arrived(wait)
    assert late.numbers() == [pytest.approx(0.1, rel=1e-7), 2.0]
