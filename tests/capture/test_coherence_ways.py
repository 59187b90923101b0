"""Successive gradients in unusual ways of training. Oracle: clones of the gradients and their products in NumPy float64."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.gradient_pairs import ALWAYS, check_pairs, follow, model_and_loss, pairs, plainly, steps_of
from tests.capture.oracle import Oracle, closure_of, names, table
from weighbridge import Plan
from weighbridge.capture import coherence
from weighbridge.records import SKETCH_NUMBERS


def test_closures_are_compared_by_the_gradient_that_the_step_ended_with(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def loop(oracle: Oracle) -> None:
        for step in range(6):
            oracle.step(optimizer, closure_of(optimizer, partial(loss, step)))

    path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=loop)
    assert steps_of(check_pairs(path, oracle)) == list(range(1, 6))
    assert table(path, "accumulation") == []


def test_sparse_gradients_are_compared_as_dense_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.EmbeddingBag(900, 8, sparse=True, mode="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    words = torch.randint(0, 900, (12, 20, 7))
    path, oracle = follow(
        tmp_path, model, plan=ALWAYS, loop=plainly(optimizer, lambda s: (model(words[s]) - 1).square().mean(), 12)
    )
    found = check_pairs(path, oracle)
    assert steps_of(found, "weight") == list(range(1, 12))
    assert {row["numbers"] for row in found.values()} == {SKETCH_NUMBERS}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(*sizes, dtype=dtype) for sizes in ((3, 90), (90, 90), (90, 1))))
    path, oracle = follow(
        tmp_path,
        model,
        plan=ALWAYS,
        loop=plainly(
            torch.optim.SGD(model.parameters(), lr=0.01),
            lambda s: model(torch.randn(4, 3, generator=torch.Generator().manual_seed(s)).to(dtype)).abs().mean(),
            6,
        ),
    )
    assert steps_of(check_pairs(path, oracle), "1.weight") == list(range(1, 6))


def test_the_order_of_the_elements_is_that_of_the_tensor_whatever_the_strides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(16, 40, 3).to(memory_format=torch.channels_last)

    def change(step: int) -> None:
        assert model.weight.grad is not None
        if step % 2:  # the same numbers in another order of memory
            model.weight.grad = model.weight.grad.contiguous()
        else:
            model.weight.grad = model.weight.grad.to(memory_format=torch.channels_last)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    path, oracle = follow(
        tmp_path,
        model,
        plan=ALWAYS,
        loop=plainly(optimizer, lambda s: model(torch.randn(2, 16, 6, 6)).square().mean(), 6, change),
    )
    assert steps_of(check_pairs(path, oracle), "weight") == list(range(1, 6))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.embed(x))
        return y


def test_tied_weights_are_one_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Tied(), torch.randint(0, 11, (9, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=plainly(optimizer, lambda s: model(x[s]).square().mean(), 9))
    assert sorted(check_pairs(path, oracle)) == [(step, "embed.weight") for step in range(1, 9)]


def test_frozen_parameters_have_no_rows_until_two_gradients_have_come(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loop(oracle: Oracle) -> None:
        for step in range(12):
            model[2].requires_grad_(step >= 6)
            plainly(optimizer, lambda _, s=step: loss(s), 1)(oracle)

    path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=loop)
    found = check_pairs(path, oracle)
    assert steps_of(found, "2.weight") == list(range(7, 12))
    assert steps_of(found, "0.weight") == list(range(1, 12))


def test_every_optimizer_is_compared_with_its_own_step_before(tmp_path: Path) -> None:
    """A generator that steps at every fifth reading of the clock."""
    torch.manual_seed(0)
    critic, generator = nn.Linear(3, 2), nn.Linear(2, 3)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (critic, generator)]

    def loop(oracle: Oracle) -> None:
        for step in range(40):
            for model, optimizer in list(zip((critic, generator), optimizers, strict=True))[: 2 if step % 5 == 4 else 1]:
                optimizer.zero_grad()
                model(torch.randn(4, model.in_features)).square().mean().backward()
                oracle.step(optimizer, at=step)

    path, oracle = follow(tmp_path, critic, generator, plan=Plan(coherence=3), loop=loop)
    found = check_pairs(path, oracle)
    assert steps_of(found, "weight") == list(range(3, 40, 3))
    assert steps_of(found, "2:weight") == [19, 34]  # its own third and sixth step
    assert all(row["step_before"] == step - (5 if name[0] == "2" else 1) for (step, name), row in found.items())


def test_an_optimizer_inside_the_backward_pass(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    optimizers = {p: torch.optim.SGD([p], lr=0.01) for p in model.parameters()}
    oracle = Oracle(model)
    at = [0]

    def step(parameter: torch.Tensor) -> None:
        oracle.step(optimizers[parameter], at=at[0])  # type: ignore[index]
        parameter.grad = None

    handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for at[0] in range(8):
            loss(at[0]).backward()
    assert len(handles) == 6
    assert steps_of(check_pairs(run.path, oracle), "2.weight") == list(range(1, 8))
    assert all(math.isnan(row["clip_factor"]) for row in table(run.path, "steps"))


def test_updates_by_hand(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    seen: dict[int, torch.Tensor] = {}
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(8):
            loss(step).backward()
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None
                    p -= 0.1 * p.grad
            assert model[0].weight.grad is not None
            seen[step] = model[0].weight.grad.clone()
            model.zero_grad()
    found = pairs(run.path)
    assert steps_of(found) == list(range(1, 8))
    for step in range(1, 8):
        assert found[step, "0.weight"]["dot"] == pytest.approx(float((seen[step] * seen[step - 1]).double().sum()), rel=1e-6)
    assert all(math.isnan(row["clip_factor"]) for row in table(run.path, "steps")), "nobody knows what was done to them"


def test_a_parameter_that_comes_later_breaks_one_pair_and_no_more(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model[:3].parameters(), lr=0.01)

    def loop(oracle: Oracle) -> None:
        for step in range(10):
            if step == 5:
                optimizer.add_param_group({"params": list(model[3:].parameters())})
            plainly(optimizer, lambda _, s=step: loss(s), 1)(oracle)

    path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=loop)
    found = check_pairs(path, oracle)
    assert steps_of(found) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert steps_of(found, "4.weight") == [6, 7, 8, 9]


def test_an_optimizer_that_is_given_another_parameter_of_the_same_size_compares_it_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the numbers lie is worked out once for each set of parameters, and not at every step."""
    built: list[int] = []
    made = coherence.Layout.__init__
    monkeypatch.setattr(coherence.Layout, "__init__", lambda *given: built.append(1) or made(*given))
    model = nn.ModuleDict({key: nn.Linear(2, 2, bias=False) for key in "ab"})
    optimizer = torch.optim.SGD(model["a"].parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(coherence=True)) as run:
        run.watch(model)
        for step in range(6):
            if step == 3:
                optimizer.param_groups[0]["params"] = [*model["b"].parameters()]
            model.zero_grad()
            (model["a"](torch.randn(4, 2)) + model["b"](torch.randn(4, 2))).square().mean().backward()
            optimizer.step()
    known = names(weighbridge.open_run(run.path))
    rows = sorted((row["step"], known[row["tensor"]]) for row in table(run.path, "coherence"))
    assert rows == [(1, "a.weight"), (2, "a.weight"), (4, "b.weight"), (5, "b.weight")]
    assert len(built) == 2
