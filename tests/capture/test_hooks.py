"""What listeners are told of training. Oracle: a list written down by a listener that does nothing else, and torch's own
functions before and after."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

from weighbridge.capture import hooks
from weighbridge.errors import TrainingStopped

ONE_STEP = ["on_backward", "after_backward", "before_step", "after_step"]


class Listening:
    """Writes down what it is told; raises where it is asked to."""

    def __init__(self, raises: dict[str, BaseException] | None = None) -> None:
        self.told: list[str] = []
        self.errors: list[BaseException] = []
        self.roots: list[float] = []
        self.raises = raises or {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*facts: Any) -> None:
            self.told.append(name)
            if name == "on_backward":
                self.roots.append(float(facts[0].detach()))
            if name in self.raises:
                raise self.raises[name]

        return note

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture(autouse=True)
def nobody_listens_before_or_after() -> Iterator[None]:
    found = torch.autograd.backward, clip_grad._clip_grads_with_norm_, *_counts()
    yield
    assert (torch.autograd.backward, clip_grad._clip_grads_with_norm_, *_counts()) == found


def _counts() -> tuple[int, int]:
    return len(torch_optimizer._global_optimizer_pre_hooks), len(torch_optimizer._global_optimizer_post_hooks)


@pytest.fixture
def listener() -> Iterator[Listening]:
    one = Listening()
    hooks.listen(one)
    yield one
    hooks.forget(one)


def training() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    p = nn.Parameter(torch.ones(2))
    return p, torch.optim.SGD([p], lr=0.5)


def step(p: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    (p * p).sum().backward()
    optimizer.step()


def test_one_who_listens_twice_is_told_once(listener: Listening) -> None:
    hooks.listen(listener)
    step(*training())
    assert listener.told == ONE_STEP


def test_the_hooks_of_several_are_there_once_and_go_with_the_last(listener: Listening) -> None:
    other = Listening()
    hooks.listen(other)
    step(*training())
    hooks.forget(other)
    step(*training())
    assert (listener.told, other.told) == (2 * ONE_STEP, ONE_STEP)
    hooks.forget(listener)
    step(*training())
    assert listener.told == 2 * ONE_STEP


def test_a_wrapper_that_somebody_puts_around_ours_stays() -> None:
    own, listener = torch.autograd.backward, Listening()
    hooks.listen(listener)
    ours = torch.autograd.backward

    def theirs(*args: Any, **kwargs: Any) -> None:
        ours(*args, **kwargs)

    torch.autograd.backward = theirs  # type: ignore[assignment]
    try:
        hooks.forget(listener)
        assert torch.autograd.backward is theirs
        step(*training())
        assert not listener.told
    finally:
        torch.autograd.backward = own


@pytest.mark.parametrize("what", ONE_STEP)
def test_an_error_of_one_listener_reaches_neither_training_nor_the_others(what: str) -> None:
    error = ValueError("ours")
    first, second = Listening({what: error}), Listening()
    p, optimizer = training()
    for one in (first, second):
        hooks.listen(one)
    step(p, optimizer)
    for one in (first, second):
        hooks.forget(one)
    assert (first.errors, second.errors) == ([error], [])
    assert second.told == ONE_STEP
    assert p.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("what", ["on_backward", "before_step"])
def test_a_training_that_is_to_be_stopped_is_stopped(what: str) -> None:
    listener = Listening({what: TrainingStopped("stop", None)})  # type: ignore[arg-type]
    hooks.listen(listener)
    with pytest.raises(TrainingStopped):
        step(*training())
    hooks.forget(listener)
    assert not listener.errors


def test_what_is_unheard_is_told_to_nobody_and_other_threads_are_heard(listener: Listening) -> None:
    p, optimizer = training()
    with hooks.unheard(), hooks.unheard():
        step(p, optimizer)
        nn.utils.clip_grad_norm_([p], 0.1)
    with hooks.unheard():
        with hooks.unheard():
            pass
        step(p, optimizer)
        assert not listener.told
        thread = threading.Thread(target=lambda: step(*training()))
        thread.start()
        thread.join()
        assert listener.told == ONE_STEP
    step(p, optimizer)
    assert listener.told == 2 * ONE_STEP


def test_roots_that_are_no_loss_are_not_told_of(listener: Listening) -> None:
    p = nn.Parameter(torch.full((2,), 3.0))
    torch.autograd.backward([p.sum()])
    torch.autograd.backward((p.sum() * 2,))
    torch.autograd.backward([p.sum(), p.sum()])
    torch.autograd.backward(p * 1, torch.ones(2))
    torch.autograd.backward([p * 1], [torch.ones(2)])
    assert listener.roots == [6.0, 12.0]
    assert listener.told == ["on_backward", "after_backward"] * 2


def test_who_is_done_with_a_pass_is_not_told_when_it_is_over(listener: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Listening()
    monkeypatch.setattr(other, "on_backward", lambda root: True, raising=False)
    hooks.listen(other)
    step(*training())
    hooks.forget(other)
    assert (listener.told, other.told) == (ONE_STEP, ["before_step", "after_step"])


def test_a_backward_pass_inside_another_is_a_part_of_it(listener: Listening) -> None:
    p = nn.Parameter(torch.ones(2))
    inside = checkpoint(lambda x: (x * x).sum(), p, use_reentrant=True)
    (inside * 3).backward()
    assert listener.told == ["on_backward", "after_backward"]
    assert listener.roots == [6.0]
    assert p.grad is not None
    assert p.grad.tolist() == [6.0, 6.0]


def test_a_step_in_a_graph_that_is_being_compiled_is_not_told_of(listener: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    p, optimizer = training()
    (p * p).sum().backward()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    optimizer.step()
    nn.utils.clip_grad_norm_([p], 0.1)
    assert listener.told == ["on_backward", "after_backward"]


class Stack(torch.optim.SGD):
    """Notes what is asked of the stack while it steps."""

    other: Any = None
    inner = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.found = [hooks.is_inside_step(self, n) for n in (1, 2)] + [hooks.is_inside_step(self.other)]
        if self.inner:
            self.inner = False
            self.step()


@pytest.mark.parametrize("inner", [False, True])
def test_a_step_under_way_is_found_on_the_stack(inner: bool) -> None:
    p, other = training()
    optimizer = Stack([p], lr=0.1)
    optimizer.other, optimizer.inner = other, inner
    assert not hooks.is_inside_step(optimizer)
    optimizer.step()
    assert optimizer.found == [True, inner, False]


def wrapper(*args: Any) -> bool:
    """Not torch's own, in spite of its name."""
    return hooks.is_inside_step(args[0])


def test_other_functions_of_that_name_are_no_step() -> None:
    _, optimizer = training()
    assert not wrapper(optimizer)
