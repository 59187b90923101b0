"""One training of a program: with a tool watching, or plain, without any tool, to measure the truth.

Both are seeded alike, so they are the same training: measurements belong to the plain one and cannot disturb the tool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

Watch = Callable[[nn.Module], AbstractContextManager[Any]]


class Case:
    """What a training function gets. `watch=None`: the plain training."""

    def __init__(self, seed: int, ill: bool, steps: int, watch: Watch | None = None) -> None:
        self.seed, self.ill, self.steps = seed, ill, steps
        self._watch = watch
        self._step = 0
        self._model: nn.Module | None = None
        self.first_true: int | None = None  # the first step at which the fault's truth holds
        self.proved: bool | None = None  # None = nothing was asked
        self.digest = ""  # of all that the model holds at the end

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """`weighbridge.watch(model)`, with its defaults, in the watched training; nothing in the plain one."""
        self._model = model
        with self._watch(model) if self._watch else nullcontext():
            yield
        self.digest = _digest(model)

    def truth(self, measure: Callable[[], bool]) -> None:
        """Called once per step: is the fault there now?

        Asked in the plain training only; must change no parameter and no gradient.
        """
        if self._watch is None and self.first_true is None and self._asked(measure):
            self.first_true = self._step
        self._step += 1

    def proof(self, measure: Callable[[], bool]) -> None:
        """Called at the end: did a healthy training learn? Asked in the plain training of healthy programs and twins only."""
        if self._watch is None and not self.ill:
            self.proved = self._asked(measure) and self.proved is not False

    def _asked(self, measure: Callable[[], bool]) -> bool:
        """Random state and buffers (a batch norm's running averages) are as before afterwards."""
        buffers = list(self._model.buffers()) if self._model else []
        before = [buffer.clone() for buffer in buffers]
        with torch.random.fork_rng(devices=[]):
            answer = bool(measure())
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return answer


def _digest(model: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        whole.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            whole.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]
