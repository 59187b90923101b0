"""Functions of torch that are watched beside the hooks: clipping by norm, and GradScaler's decision to step.

A GradScaler that has found infinity does not call the step of an optimizer that is not fused: no hook tells of it.
And the norm that clipping has computed is known nowhere else without another pass over all gradients. Both functions are
replaced where torch itself looks them up at each call, so it does not matter how the user has imported theirs. A third one
is TorchScript's: it would compile the hooks of ours that hang on a module, so they are lifted off while it reads the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim.optimizer import Optimizer

from weighbridge.capture.late import held, is_capturing
from weighbridge.capture.losses import Number
from weighbridge.capture.outputhook import without_hooks

_CLIP: Final = "_clip_grads_with_norm_"
_CLIP_OUTSIDE: Final = "clip_grads_with_norm_"  # the same for users, who have the norm already
_STEP: Final = "_maybe_opt_step"
_SCRIPT: Final = "create_script_module"
_EPSILON: Final = 1e-6  # torch's own: factor = max_norm / (norm + 1e-6), at most 1
_replaced: list[tuple[Any, str, Any, Any]] = []


def observe(
    clipped: Callable[[int, Number], None], skipped: Callable[[Optimizer], None], has_stepped: Callable[[Any], bool]
) -> None:
    """Tell of clipping (id of a parameter that was clipped, factor) and of steps that a GradScaler left out.

    `has_stepped(optimizer)` is asked before and after: did its post hook run since it was last asked?
    """

    def clip(original: Any, parameters: Any, max_norm: float, total_norm: torch.Tensor, *more: Any, **named: Any) -> Any:
        among = [parameters] if isinstance(parameters, torch.Tensor) else [*parameters]  # it may be read once only
        answer = original(among, max_norm, total_norm, *more, **named)
        if (first := next((p for p in among if p.grad is not None), None)) is not None:
            clipped(id(first), factor_of(max_norm, total_norm))
        return answer

    def step(original: Any, scaler: Any, optimizer: Optimizer, *more: Any, **named: Any) -> Any:
        has_stepped(optimizer)
        answer = original(scaler, optimizer, *more, **named)
        if not has_stepped(optimizer):
            skipped(optimizer)
        return answer

    def script(original: Any, module: nn.Module, *more: Any, **named: Any) -> Any:
        with without_hooks(module):
            return original(module, *more, **named)

    _replace(clip_grad, _CLIP, clip)
    _replace(nn.utils, _CLIP_OUTSIDE, clip)
    _replace(torch.amp.GradScaler, _STEP, step)
    _replace(getattr(torch.jit, "_recursive", None), _SCRIPT, script)


def _replace(holder: Any, name: str, by: Callable[..., Any]) -> None:
    original = getattr(holder, name, None)
    if original is None:  # another torch
        return

    @functools.wraps(original)
    def watched(*arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*arguments, **named)
        return by(original, *arguments, **named)

    setattr(holder, name, watched)
    _replaced.append((holder, name, original, watched))


def leave() -> None:
    """Put torch's own functions back, but where somebody else has replaced ours."""
    while _replaced:
        holder, name, original, watched = _replaced.pop()
        if getattr(holder, name) is watched:
            setattr(holder, name, original)


def factor_of(max_norm: float, total_norm: torch.Tensor) -> Number:
    """What torch's clipping multiplies gradients with; a tensor where a device has yet to give it, NaN where no rank knows
    or there are several."""
    norm = total_norm.detach()
    if type(norm) is not torch.Tensor or norm.numel() != 1 or isinstance(max_norm, torch.Tensor) or is_capturing(norm.device):
        return float("nan")
    if not norm.is_cpu:
        return torch.clamp(float(max_norm) / (held(norm) + _EPSILON), max=1.0)
    return min(float(max_norm) / (norm.item() + _EPSILON), 1.0)  # NaN stays NaN: it is the first, and 1 is not below it
