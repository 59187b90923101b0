"""The forward hook of one module: hands what the module gives to its seats, and asks autograd for the gradient by it.

What it must not do is most of it: return a value, hold a tensor, break a compiled graph, count a recomputation, an
evaluation pass or a copy of the model, or be the reason why a saved model does not load elsewhere.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from weighbridge.capture.modulekinds import takes_hooks
from weighbridge.capture.seats import ForwardState, Seat, is_plain

if TYPE_CHECKING:
    from weighbridge.capture.outputgroup import Group
    from weighbridge.capture.outputs import Outputs

_now = time.perf_counter_ns
_is_compiling, _is_dynamo = torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling
_is_grad_enabled = torch.is_grad_enabled
_tracing = torch._C._get_tracing_state
_graph_task = torch._C._current_graph_task_id


class OutputHook:
    """Registered on one module. `seat` is set where it gives one tensor; `seats` holds all, by the name of the output."""

    __slots__ = (
        "around",
        "axis",
        "gives_the_same",
        "gradients",
        "group",
        "is_bounded",
        "is_opaque",
        "is_placed",
        "key",
        "model",
        "module",
        "outputs",
        "path",
        "quick",
        "root",
        "seat",
        "seats",
        "state",
    )

    def __init__(self, outputs: Outputs, group: Group, model: str, path: str, module: nn.Module, root: nn.Module) -> None:
        self.outputs, self.group, self.model, self.path = outputs, group, model, path
        self.module, self.root = weakref.ref(module), weakref.ref(root)
        self.around: tuple[Callable[[], nn.Module | None], ...] = ()
        self.key: int | None = None  # among the forward hooks of the module
        self.is_placed = False
        self.is_bounded = self.is_opaque = False
        self.gives_the_same = False  # as the module that was called last: its own child
        self.axis: int | None = None
        self.seat: Seat | None = None
        self.seats: dict[str, Seat] = {}
        self.gradients: dict[str, tuple[Seat, dict[int, Any]]] = {}  # the dictionary is what autograd takes as hooks
        self.state = ForwardState(root=id(self.root), module=id(self.module), met_at=-1)
        self.quick = outputs.library.forward(self.state, self.root, self.module)

    def place(self) -> None:
        """Hang it on the module, if that is still there and takes hooks."""
        module = self.module()
        if not takes_hooks(module):
            return
        if self.key is None:
            self.key = module.register_forward_hook(self).id
        else:  # what the handle does; it comes and goes with the steps at which activations are weighed
            module._forward_hooks[self.key] = self
        self.is_placed = True

    def take_away(self) -> None:
        """From the module."""
        module = self.module()
        if module is not None and self.key is not None:
            module._forward_hooks.pop(self.key, None)
        self.is_placed = False

    def settle(self, seat: Seat) -> None:
        """The module gives one tensor, and this is its seat: from now on C meets it."""
        self.seat = seat
        if not self.is_opaque:
            self.state.seat = seat.address

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if _is_dynamo():  # in a compiled graph there is nothing of us
            return
        if self.quick is not None:
            done = self.quick(module, args, output)
            if done:
                return
            if done is None:  # all but what only autograd can do
                self._follow(output)
                return
        self._meet(module, args, output)

    def _follow(self, output: torch.Tensor) -> None:
        began = _now()
        try:
            if output.requires_grad:
                follow(output, self.gradients["out"][1])
        except Exception as error:
            self.outputs.failed(error)
        finally:
            self.outputs.own_ns += _now() - began

    def _meet(self, module: nn.Module, args: Any, output: Any) -> None:
        """What C leaves to us: a first call, several tensors, gradients that are wanted too, a tensor in no order."""
        if _is_compiling():  # an export that runs the model itself; its tensors are not of the usual type, and come here
            return
        began = _now()
        try:
            root, group, outputs = self.root(), self.group, self.outputs
            if root is None or not root.training or not _is_grad_enabled() or module is not self.module():
                return
            if _tracing() is not None:  # torch.jit.trace would take our looking for a part of the model
                return
            if _graph_task() == -1:
                self.state.met_at = group.stamp
                self._count_samples(args)
            elif self.state.met_at == group.stamp:  # a checkpoint computes anew what was met before
                return
            if outputs.calls is not None:
                outputs.calls.note(self.model, self.path, args, output)
            if outputs.scene.awaits_batch:
                outputs.meet_batch(args, group.looks, id(self))
            elif group.looks and self.path:
                outputs.pairing.meet_again(id(self))
            if group.looks and not self.path:
                outputs.pairing.meet_whole(args)
            seat = self.seat
            if seat is None or type(output) is not torch.Tensor:
                outputs.meet(self, module, output)
            else:
                seat.meet(output)
                if (group.weighs_gradients or self.is_opaque) and output.requires_grad:
                    follow(output, self.gradients["out"][1])
            if group.looks:
                outputs.looks.look(self, module, args, output)
        except Exception as error:
            self.outputs.failed(error)
        finally:
            self.outputs.own_ns += _now() - began

    def _count_samples(self, args: Any) -> None:
        """The first module of a pass says of how many samples it is: one that has a hook at every step, so that it is always
        the same one."""
        axis, scene = self.state.samples_axis, self.outputs.scene
        if not scene.samples and axis >= 0 and args and is_plain(args[0]) and args[0].dim() > 2 * axis:
            scene.samples = args[0].shape[axis]

    def __deepcopy__(self, memo: Any) -> Any:
        return contextlib.nullcontext().__exit__  # takes three arguments and returns None: the copy is not watched

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """No hook of ours hangs on the model while the block runs; afterwards they stand where they stood."""
    kept = [(module, dict(module._forward_hooks)) for module in model.modules()]
    for module, hooks in kept:
        for key in [key for key, hook in hooks.items() if isinstance(hook, OutputHook)]:
            del module._forward_hooks[key]
    try:
        yield
    finally:
        for module, hooks in kept:
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)


def follow(output: torch.Tensor, hooks: dict[int, Any]) -> None:
    """Have autograd call these hooks with the gradient by this output.

    What `Tensor.register_hook` does, without the handle and without leaving the dictionary on the tensor, where the user's
    own hooks would be put into it.
    """
    node = output.grad_fn
    if node is None:
        return
    own = output._backward_hooks
    output._backward_hooks = hooks
    node._register_hook_dict(output)
    output._backward_hooks = own


def leaves(output: Any, name: str = "out") -> list[tuple[str, torch.Tensor]]:
    """The tensors in what a module gives, by name: "out" alone, "out.1" in a tuple, "out.logits" in a dictionary."""
    if isinstance(output, torch.Tensor):
        return [(name, output)]
    if isinstance(output, dict):  # transformers' ModelOutput is one
        return [leaf for key, one in output.items() for leaf in leaves(one, f"{name}.{key}")]
    if isinstance(output, list | tuple):
        return [leaf for i, one in enumerate(output) for leaf in leaves(one, f"{name}.{i}")]
    return []
