"""Successive gradients. Oracle: clones of the gradients at each step (oracle.py) and their products in NumPy float64; of
large tensors, of their weighbridge.reference.sketch, which must be near those of the tensors themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import Oracle, array, events, names, table
from tests.capture.test_right_scaled import OVERFLOWS, Scaled
from tests.programs import PROGRAMS
from weighbridge import Plan, Schedule
from weighbridge.capture import coherence
from weighbridge.capture import optimizers as optimizers_module
from weighbridge.capture import stepper as stepper_module
from weighbridge.capture.budget import Level
from weighbridge.capture.coherence import NOT_ON_DEVICES
from weighbridge.capture.sketch import WHOLE_ELEMENTS
from weighbridge.records import SKETCH_NUMBERS
from weighbridge.reference import sketch

ALWAYS = Plan(coherence=True)
Pairs = dict[tuple[int, str], dict[str, Any]]


def model_and_loss() -> tuple[nn.Sequential, Callable[[int], torch.Tensor]]:
    """One tensor that is sketched (70 x 70), and some that are kept whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 1))
    return model, lambda step: model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()


def follow(folder: Path, *models: nn.Module, plan: Plan | None, loop: Callable[[Oracle], object]) -> tuple[Path, Oracle]:
    """Watch the models and let `loop` train them."""
    oracle = Oracle(*models)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        for model in models:
            run.watch(model)
        loop(oracle)
    assert [event.message for event in events(run.path, "warned") if "fast kernel" not in event.message] == []
    return run.path, oracle


def plainly(
    optimizer: torch.optim.Optimizer, loss: Callable[[int], torch.Tensor], steps: int, change: Callable[[int], object] = int
) -> Callable[[Oracle], None]:
    """A training loop; `change` is called before each step, when the gradients are there."""

    def loop(oracle: Oracle) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            loss(step).backward()
            change(step)
            oracle.step(optimizer)

    return loop


def pairs(path: Path) -> Pairs:
    known, found = names(weighbridge.open_run(path)), {}
    for row in table(path, "coherence"):
        key = row["step"], known[row["tensor"]]
        assert key not in found, f"two rows of {key}"
        found[key] = row
    return found


def check_pairs(path: Path, oracle: Oracle) -> Pairs:
    """Every row says what the gradients of its two steps say."""
    found = pairs(path)
    for (step, name), row in found.items():
        both = [oracle.seen[at, name].gradient for at in (row["step_before"], step)]
        assert all(g is not None for g in both)
        a, b = (array(g)[0].ravel().astype(np.float64) for g in both if g is not None)
        is_whole = a.size <= WHOLE_ELEMENTS
        assert (row["count"], row["numbers"]) == (a.size, a.size if is_whole else SKETCH_NUMBERS)
        one, other = (a, b) if is_whole else (sketch(a), sketch(b))
        size = np.linalg.norm(one) * np.linalg.norm(other)
        assert abs(row["dot"] - one @ other) <= 1e-12 * size
        assert row["sum_sq_before"] == pytest.approx(one @ one, rel=1e-12)
        assert row["sum_sq"] == pytest.approx(other @ other, rel=1e-12)
        assert abs(row["dot"] - a @ b) <= 4 / math.sqrt(SKETCH_NUMBERS) * np.linalg.norm(a) * np.linalg.norm(b)
    return found


def steps_of(found: Pairs, name: str = "0.weight") -> list[int]:
    return sorted(step for step, tensor in found if tensor == name)


DEFAULT_STEPS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 19, 25, 31, 39, 50, 63, 79, 100, 125]


@pytest.mark.parametrize("kernel", ["native", "torch"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_of_a_usual_training_at_the_steps_of_the_plan(
    tmp_path: Path, make: Callable[..., torch.optim.Optimizer], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_KERNEL", kernel)
    model, loss = model_and_loss()
    plan = None if kernel == "native" else Plan(activations=False, activation_gradients=False, sentinel=False)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(make(model.parameters(), lr=0.01), loss, 130))
    found = check_pairs(path, oracle)
    for name, _ in model.named_parameters():
        assert steps_of(found, name) == DEFAULT_STEPS
    assert all(row["step_before"] == step - 1 for (step, _), row in found.items())
    record = weighbridge.open_run(path)
    for name, parameter in model.named_parameters():
        seen = record.coherence(name)
        assert seen.steps.tolist() == DEFAULT_STEPS
        exact = [cosine(oracle, name, step) for step in DEFAULT_STEPS]
        if parameter.numel() <= WHOLE_ELEMENTS:
            assert seen.cosine == pytest.approx(exact, abs=1e-12)
            assert not seen.errors.any()
        else:
            off = np.abs(seen.cosine - exact)
            assert (off <= 4 / math.sqrt(SKETCH_NUMBERS)).all()
            assert np.median(off / seen.errors) < 2
    assert np.abs(np.array(exact)).max() > 0.5, "else the test has compared noise with noise"


def cosine(oracle: Oracle, name: str, step: int) -> float:
    a, b = (oracle.seen[at, name].gradient for at in (step - 1, step))
    assert a is not None
    assert b is not None
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize(
    ("coherence", "expected"),
    [
        (True, list(range(1, 20))),
        (4, [4, 8, 12, 16]),
        (Schedule(first=3, every=7), [1, 2, 7, 14]),
        (Schedule(first=1), []),
        (False, []),
    ],
)
def test_a_plan_says_which_steps(tmp_path: Path, coherence: Any, expected: list[int]) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    path, oracle = follow(tmp_path, model, plan=Plan(coherence=coherence), loop=plainly(optimizer, loss, 20))
    assert steps_of(check_pairs(path, oracle)) == expected


def test_gradients_of_a_plan_without_them_can_be_compared_all_the_same(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    plan = Plan(parameters=5, gradients=False, updates=False, coherence=True)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(torch.optim.SGD(model.parameters(), lr=0.01), loss, 8))
    assert steps_of(check_pairs(path, oracle)) == list(range(1, 8))


def test_nothing_is_kept_or_read_between_the_steps_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss = model_and_loss()
    kept, sketches = [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, quiet=True, plan=Plan(coherence=10)) as run:
        run.watch(model)
        kernel = run._stepper.kernel
        original = kernel.sketch
        monkeypatch.setattr(kernel, "sketch", lambda items: sketches.append(len(items)) or original(items))
        for step in range(25):
            sketches.clear()
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
            (stepped,) = run._stepper.optimizers.known.values()
            held = stepped.pair.kept
            kept.append((bool(sketches), held is not None, held is not None and held.numbers.size))
            assert bool(run._stepper.coherence.accumulation.weighed) is False
    numbers = 210 + 70 + SKETCH_NUMBERS + 70 + 70 + 1
    at_rest = (False, False, False)
    expected = [(True, False, False), *[at_rest] * 8, (True, True, numbers), (True, False, False)]
    assert kept == [*expected, *[at_rest] * 8, *expected[-2:], *[at_rest] * 4]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_grad_scaler_leaves_out_is_compared_with_none(tmp_path: Path, fused: bool) -> None:
    training = Scaled(fused)
    path, oracle = follow(tmp_path, training.model, plan=ALWAYS, loop=lambda oracle: training.run(14, oracle.step))
    found = check_pairs(path, oracle)
    for name, _ in training.model.named_parameters():  # only one of them was not finite
        assert steps_of(found, name) == [s for s in range(1, 14) if not {s, s - 1} & set(OVERFLOWS)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_of_a_gradient_that_is_not_finite_there_is_no_row(tmp_path: Path, bad: float) -> None:
    model, loss = model_and_loss()

    def change(step: int) -> None:
        if step in (4, 9):
            assert model[2].weight.grad is not None
            model[2].weight.grad[5, 5] = bad
        if step == 9:
            assert model[0].bias.grad is not None
            model[0].bias.grad[1] = bad

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=no_nan(plainly(optimizer, loss, 15, change), model))
    found = check_pairs(path, oracle)
    assert steps_of(found, "0.weight") == list(range(1, 15))
    assert steps_of(found, "2.weight") == [s for s in range(1, 15) if not {s, s - 1} & {4, 9}]
    assert steps_of(found, "0.bias") == [s for s in range(1, 15) if not {s, s - 1} & {9}]
    together = weighbridge.open_run(path).coherence()
    assert together.steps.tolist() == steps_of(found, "2.weight"), "a part is never shown as the whole"


def no_nan(loop: Callable[[Oracle], None], model: nn.Module) -> Callable[[Oracle], None]:
    """0 times NaN is NaN: put the weights back after each step, so that only the gradient had it."""
    before = [p.detach().clone() for p in model.parameters()]

    def mended(oracle: Oracle) -> None:
        step = oracle.step

        def and_back(optimizer: torch.optim.Optimizer) -> None:
            step(optimizer)
            for p, then in zip(model.parameters(), before, strict=True):
                p.data.copy_(then)

        oracle.step = and_back  # type: ignore[method-assign,assignment]
        with torch.enable_grad():
            loop(oracle)

    return mended


def test_closures_are_compared_by_the_gradient_that_the_step_ended_with(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def loop(oracle: Oracle) -> None:
        for step in range(6):

            def closure(step: int = step) -> torch.Tensor:
                optimizer.zero_grad()
                value = loss(step)
                value.backward()
                return value

            oracle.step(optimizer, closure)

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


@pytest.mark.parametrize("name", PROGRAMS)
def test_bits_of_the_training_are_the_same(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    losses, weights = program(30, lambda model: None)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        watched_losses, watched_weights = program(30, run.watch)
    assert watched_losses == losses
    assert all(torch.equal(a, b) for a, b in zip(watched_weights, weights, strict=True))
    assert {row["step"] for row in table(run.path, "coherence")} == set(range(1, 30))


def test_a_budget_asks_for_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scripted(stepper_module.Budget):
        def add(self, own_ns: int, wall_ns: int) -> Any:
            self.told = getattr(self, "told", 0) + 1
            if self.told != 10:
                return None
            self.number = self.levels.index(Level(False, 2))
            return self._to(self.number, 0.1, 0.02, 1e6)

    monkeypatch.setattr(stepper_module, "Budget", Scripted)
    model, loss = model_and_loss()
    plan = Plan(coherence=True, budget=0.02)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(torch.optim.SGD(model.parameters(), lr=0.01), loss, 41))
    steps = steps_of(check_pairs(path, oracle))
    assert steps[:10] == list(range(1, 11))
    assert len(steps) in (24, 25, 26)
    assert all(b - a == 2 for a, b in itertools.pairwise(steps[12:]))


def test_of_tensors_on_a_device_the_run_says_that_they_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The biases are treated as if they were on another device."""
    monkeypatch.setattr(optimizers_module, "is_direct", lambda parameter: parameter.dim() == 2)
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        plainly(optimizer, loss, 5)(Oracle(model))
    assert {name for _, name in pairs(run.path)} == {"0.weight", "2.weight", "4.weight"}
    said = [event for event in events(run.path, "reduced") if NOT_ON_DEVICES in event.message]
    assert [event.step for event in said] == [0]
    assert all(math.isnan(row["clip_factor"]) for row in table(run.path, "steps")), "nobody looked at the biases"


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
