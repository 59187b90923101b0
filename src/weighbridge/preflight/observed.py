"""Forward hooks on the copy: which module ran when, and how large its numbers are, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from weighbridge.preflight.copying import tensors_in


@dataclass(slots=True)
class Call:
    """One call of one module. Norms are filled in by hooks on its tensors when the backward pass comes by."""

    module: str
    begin: int  # autograd's sequence number before and after
    end: int = -1
    shape: tuple[int, ...] = ()
    input_rms: float | None = None
    output_rms: float | None = None
    gradient_rms: float | None = None
    input_gradient_rms: float | None = None


@dataclass(slots=True)
class Observed:
    """All calls of one forward pass, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)
    _open: list[Call] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def watch(self, model: torch.nn.Module) -> None:
        for name, module in model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                module.register_forward_hook(self._leave(), with_kwargs=True, always_call=True),
            ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def module_at(self, sequence: int) -> str:
        """The innermost module that ran when autograd made its node number `sequence`."""
        inside = [call for call in self.calls if call.begin <= sequence < call.end]
        return min(inside, key=lambda call: call.end - call.begin).module if inside else ""

    def _enter(self, name: str) -> Any:
        def enter(_module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(name, torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
            self._open.append(call)
            given = next(_numbers((args, kwargs)), None)
            if given is not None:
                call.input_rms = rms(given)
                _on_gradient(given, call, "input_gradient_rms")

        return enter

    def _leave(self) -> Any:
        def leave(_module: torch.nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            call = self._open.pop()
            call.end = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
            made = next(_numbers(output), None)
            if made is not None:
                call.shape, call.output_rms = tuple(made.shape), rms(made)
                _on_gradient(made, call, "gradient_rms")
            self.calls.append(call)

        return leave


def _numbers(value: Any) -> Any:
    return (tensor for tensor in tensors_in(value) if tensor.is_floating_point())


def _on_gradient(tensor: torch.Tensor, call: Call, name: str) -> None:
    if tensor.requires_grad:
        hook: Any = tensor.register_hook
        hook(lambda gradient: setattr(call, name, rms(gradient)))


def rms(tensor: torch.Tensor) -> float:
    """Root mean square in float64; NaN of an empty tensor."""
    return float(tensor.detach().double().square().mean().sqrt())
