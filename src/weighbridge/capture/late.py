"""Single numbers that a device has yet to give, such as the loss: copied to the host behind the work that makes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


def is_capturing(device: torch.device) -> bool:
    """Is a CUDA graph being captured? Nothing of ours may be in it: at its replay nobody would fetch what it writes."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def held(number: torch.Tensor) -> torch.Tensor:
    """A 0-dim tensor's number on its device, kept from later changes in place; in float64 where the device has it."""
    wide = torch.float32 if number.device.type == "mps" else torch.float64
    return number.detach().reshape(()).to(wide, copy=True)


def norm_into(norms: dict[int, torch.Tensor], place: int) -> Callable[[tuple[Any, ...]], None]:
    """A hook in front of a node of autograd: the norm of the first gradient that arrives there, at this place."""

    def weigh(gradients: tuple[Any, ...]) -> None:
        if place not in norms:
            with torch.no_grad(), suppress(Exception):  # none that came, or an error of ours: it costs the number
                norms[place] = held(torch.linalg.vector_norm(gradients[0].detach().float()))

    return weigh


class Late:
    """`tensors` are of one device: 0-dim, of the dtype that `held` gives."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        together = torch.stack(tensors)
        self.done: Any = None
        if together.device.type == "cuda":
            self.host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
            self.host.copy_(together, non_blocking=True)
            self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.done.record()
        else:
            self.host = together
            if together.device.type == "mps":
                self.done = torch.mps.Event()
                self.done.record()

    def has_arrived(self, wait: bool = False) -> bool:
        """Has the device given them? Never waits unless told to."""
        if wait and self.done is not None:
            self.done.synchronize()
        return self.done is None or bool(self.done.query())

    def numbers(self) -> list[float]:
        """Call when they have arrived."""
        found: list[float] = self.host.cpu().tolist()
        return found
