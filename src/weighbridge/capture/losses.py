"""The loss, from the root that was given to backward.

GradScaler multiplies the loss by its scale, and accumulation divides it by the number of micro-steps. Both leave a
`MulBackward0` or `DivBackward0` node at the root that still holds its factor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

_DEPTH = 4  # a loss is scaled once or twice; a longer chain of factors is the user's own formula


@dataclass(slots=True)
class Passes:
    """Backward passes since the last step of an optimizer."""

    given: list[float] = field(default_factory=list)  # as given to backward
    scales: list[float] = field(default_factory=list)  # factor that GradScaler put on
    shares: list[float] = field(default_factory=list)  # factor of a plain number, such as 1 / micro-steps
    count: int = 0

    def add(self, loss: torch.Tensor) -> None:
        """Note one root. Reads the value only where that does not wait for a device."""
        self.count += 1
        if self.count > 4096:  # nobody steps: keep counting, stop keeping
            return
        if loss.device.type == "cpu":
            scale, share = factors(loss)
            self.given.append(loss.item())
            self.scales.append(scale)
            self.shares.append(share)

    def mean(self) -> float:
        """Mean loss over the passes, loss scale and accumulation's division taken out; NaN where none was seen."""
        n = len(self.given)
        if n == 0:
            return float("nan")
        if n == 1 and self.scales[0] == 1.0:
            return self.given[0]
        total = 0.0
        for given, scale, share in zip(self.given, self.scales, self.shares, strict=True):
            divided = n > 1 and abs(share * n - 1) < 1e-6
            total += given / scale * (n if divided else 1)
        return total / n

    def clear(self) -> None:
        """Forget the passes: an optimizer has stepped."""
        if self.count:
            self.given, self.scales, self.shares, self.count = [], [], [], 0


def factors(loss: torch.Tensor) -> tuple[float, float]:
    """(factor that was a tensor, factor that was a plain number) of the products at the root.

    autograd keeps a plain number as a 0-dim float64 or int64 tensor, and GradScaler's scale as the float32 that it is.
    """
    scale = share = 1.0
    node = loss.grad_fn
    for _ in range(_DEPTH):
        if node is None or type(node).__name__ not in ("MulBackward0", "DivBackward0"):
            break
        other = getattr(node, "_saved_other", None)
        if not isinstance(other, torch.Tensor) or other.numel() != 1 or other.requires_grad or other.device.type != "cpu":
            break
        value = float(other)
        if value == 0:
            break
        value = value if type(node).__name__ == "MulBackward0" else 1 / value
        if other.dtype is torch.float32:
            scale *= value
        else:
            share *= value
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return scale, share
