"""What is said once of modules that run where they cannot be seen, or in another mode than they are trained in."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import nn

from weighbridge.capture.modulekinds import differs_in_evaluation
from weighbridge.capture.outputgroup import Group
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.roles import plain_path


class Remarks:
    """Events of one run about its modules."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.evaluated: set[str] = set()  # models of which it was said that they are stepped in evaluation mode

    def on_mode(self, group: Group, step: int) -> None:
        """Say once of each model that it is stepped in evaluation mode, and which modules do something else there."""
        root = group.hooks[0].root() if group.hooks else None
        name = group.hooks[0].model if group.hooks else ""
        if root is None or name in self.evaluated:
            return
        if root.training:
            if group.looks:
                self._on_parts(root, name, step)
            return
        if any(seat.is_called() for seat in group.seats):  # trained first, then looked at
            return
        self.evaluated.add(name)
        affected = _affected(root, root)
        message = "an optimizer steps the model while it is in evaluation mode"
        self.recorder.event(step, "evaluation_mode", message, detail={"model": name, "affected": affected})

    def _on_parts(self, root: nn.Module, name: str, step: int) -> None:
        """The same of parts that were left in evaluation mode, and whose weights got a gradient, in a model that trains."""
        for path, part in _left_behind(root):
            affected = _affected(root, part) if _is_taught(part) else {}
            if affected:
                self.evaluated.add(name)
                message = f"an optimizer steps {path}, which is in evaluation mode"
                detail = {"model": name, "part": path, "affected": affected}
                self.recorder.event(step, "evaluation_mode", message, detail=detail)
                return

    def on_unseen(self, group: Group, step: int) -> None:
        """Say which modules run where no hook of ours can see them."""
        unseen = [hook for hook in group.hooks if not hook.seats and not hook.gives_the_same]
        at_rest = any((root := hook.root()) is not None and not root.training for hook in unseen)
        if at_rest:
            message = "the model is trained in evaluation mode: its activations are not weighed; parameters are"
        elif unseen and (compiled_frames() or any(isinstance(hook.module(), torch.jit.ScriptModule) for hook in unseen)):
            message = f"{len(unseen)} modules run in compiled code: their activations are not weighed; parameters are"
        else:
            return
        names = [f"{hook.path}/out" for hook in unseen]
        self.recorder.event(step, "reduced", message, detail={"outputs": names})


def _affected(root: nn.Module, part: nn.Module) -> dict[str, str]:
    """Modules of a part that do something else in evaluation mode, by their path in the model: their types."""
    inside = {id(m) for m in part.modules() if differs_in_evaluation(m)}
    return {plain_path(root, path): type(m).__name__ for path, m in root.named_modules() if id(m) in inside}


def _left_behind(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules in evaluation mode, with paths. A single layer is no part: batch norms are often left so."""
    for name, child in module.named_children():
        if child.training:
            yield from _left_behind(child, f"{path}{name}.")
        elif any(True for _ in child.children()):
            yield path + name, child


def _is_taught(part: nn.Module) -> bool:
    """Has a weight that is no norm layer's a gradient?"""
    return any(p.grad is not None and p.requires_grad and p.dim() > 1 for p in part.parameters())


def compiled_frames() -> int:
    """How many functions torch.compile has compiled in this process."""
    return int(getattr(sys.modules.get("torch._dynamo.convert_frame"), "FRAME_COUNTER", 0))
