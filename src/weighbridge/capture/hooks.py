"""Where training is noticed: two global optimizer hooks, and `torch.autograd.backward`.

They are installed when the first run watches and taken away with the last one. Nothing is ever written on the user's
modules, parameters or optimizers. See capture-and-diagnosis.md A0 and A2 for why these three and no others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from weighbridge.capture import observed
from weighbridge.capture.losses import Number
from weighbridge.errors import TrainingStopped


class Listener(Protocol):
    """What a run does when training moves. `failed` is told what the others raise; training never sees it."""

    def before_step(self, optimizer: Optimizer) -> None: ...
    def after_step(self, optimizer: Optimizer) -> None: ...
    def on_backward(self, root: torch.Tensor) -> bool: ...  # need it not be told when this pass is over?
    def after_backward(self) -> None: ...
    def on_clipped(self, parameter: int, factor: Number) -> None: ...
    def step_skipped(self, optimizer: Optimizer) -> None: ...
    def failed(self, error: Exception) -> None: ...


_listeners: tuple[Listener, ...] = ()
_handles: list[Any] = []
_last_stepped: Any = None  # id of the optimizer whose post hook ran last, until somebody asks
_torch_backward = torch.autograd.backward
_graph_task = torch._C._current_graph_task_id
_unheard: tuple[int, ...] = ()  # threads that try something out; empty nearly always, which costs one look


@contextmanager
def unheard() -> Iterator[None]:
    """What this thread does inside is told to nobody: trials on copies are no part of a training that is watched."""
    global _unheard
    me = get_ident()
    _unheard = (*_unheard, me)
    try:
        yield
    finally:
        rest = [*_unheard]
        rest.remove(me)  # once: it may be inside another one
        _unheard = tuple(rest)


def _is_unheard() -> bool:
    return get_ident() in _unheard


def listen(listener: Listener) -> None:
    """Begin to tell this listener of steps and backward passes."""
    global _listeners
    if listener in _listeners:
        return
    _listeners = (*_listeners, listener)
    if not _handles:
        _install()


def forget(listener: Listener) -> None:
    """Stop telling; with the last listener the hooks go."""
    global _listeners
    _listeners = tuple(one for one in _listeners if one is not listener)
    if not _listeners:
        _remove()


def _install() -> None:
    global _torch_backward
    _handles.append(register_optimizer_step_pre_hook(_before))
    _handles.append(register_optimizer_step_post_hook(_after))
    _torch_backward = torch.autograd.backward
    torch.autograd.backward = _backward  # type: ignore[assignment]
    observed.observe(_clipped, _skipped, _has_stepped)


def _remove() -> None:
    while _handles:
        _handles.pop().remove()
    observed.leave()
    if torch.autograd.backward is _backward:  # somebody else may have put a wrapper of theirs around ours
        torch.autograd.backward = _torch_backward


def _before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():  # a step that is being compiled: nothing of ours may stand in its graph
        return
    if _unheard and _is_unheard():
        return
    for listener in _listeners:
        try:
            listener.before_step(optimizer)
        except TrainingStopped:  # asked for: stop_on
            raise
        except Exception as error:
            listener.failed(error)


def _after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    global _last_stepped
    if torch.compiler.is_compiling() or (_unheard and _is_unheard()):
        return
    _last_stepped = id(optimizer)
    for listener in _listeners:
        try:
            listener.after_step(optimizer)
        except Exception as error:
            listener.failed(error)


def _has_stepped(optimizer: Any) -> bool:
    """Has the post hook of this optimizer run since this was last asked?"""
    global _last_stepped
    stepped: bool = _last_stepped == id(optimizer)
    _last_stepped = None
    return stepped


def _clipped(parameter: int, factor: Number) -> None:
    _tell(_listeners, "on_clipped", parameter, factor)


def _skipped(optimizer: Optimizer) -> None:
    _tell(_listeners, "step_skipped", optimizer)


def _backward(tensors: torch.Tensor | Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> None:
    root = _root_of(tensors) if type(tensors) is not torch.Tensor else tensors
    # A nested call (reentrant checkpoint) and a root with more than one element are no loss.
    if root is None or root.numel() != 1 or _graph_task() != -1 or (_unheard and _is_unheard()):
        _torch_backward(tensors, *args, **kwargs)
        return
    waiting = []
    for listener in _listeners:  # written out: in the training of a small network each call counts
        try:
            if not listener.on_backward(root):
                waiting.append(listener)
        except TrainingStopped:
            raise
        except Exception as error:
            waiting.append(listener)
            listener.failed(error)
    _torch_backward(tensors, *args, **kwargs)
    if waiting:
        _tell(waiting, "after_backward")


def _root_of(tensors: Any) -> torch.Tensor | None:
    root = tensors[0] if isinstance(tensors, (list, tuple)) and len(tensors) == 1 else tensors
    return root if isinstance(root, torch.Tensor) else None


def _tell(listeners: Sequence[Listener], what: str, *facts: Any) -> None:
    if _unheard and _is_unheard():
        return
    for listener in listeners:
        try:
            getattr(listener, what)(*facts)
        except TrainingStopped:
            raise
        except Exception as error:
            listener.failed(error)


def is_inside_step(optimizer: Optimizer | None, times: int = 1) -> bool:
    """Is a `step` of this optimizer running on this thread's stack, at least so many times?

    Asked only when an earlier `step` seems not to have ended: either an outer `step` calls `super().step()` or that of an
    inner optimizer, or an exception left it before its post hook. torch wraps `step` in a function whose first argument
    is the optimizer.
    """
    frame: FrameType | None = sys._getframe(1)
    wrappers = 0
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename.endswith("optimizer.py"):
            arguments = frame.f_locals.get("args")
            wrappers += bool(arguments and arguments[0] is optimizer)
        frame = frame.f_back
    return wrappers >= times
