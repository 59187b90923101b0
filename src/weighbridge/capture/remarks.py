"""What is said once of modules that run where they cannot be seen, or in another mode than they are trained in."""

from __future__ import annotations

import sys

import torch

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
        if root is None or root.training:
            return
        name = group.hooks[0].model
        if name in self.evaluated or any(seat.is_called() for seat in group.seats):  # trained first, then looked at
            return
        self.evaluated.add(name)
        affected = {plain_path(root, path): type(m).__name__ for path, m in root.named_modules() if differs_in_evaluation(m)}
        message = "an optimizer steps the model while it is in evaluation mode"
        self.recorder.event(step, "evaluation_mode", message, detail={"model": name, "affected": affected})

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


def compiled_frames() -> int:
    """How many functions torch.compile has compiled in this process."""
    return int(getattr(sys.modules.get("torch._dynamo.convert_frame"), "FRAME_COUNTER", 0))
