"""Activations and the loss's gradient by them: which modules are watched, when, and how their sums become rows.

On most steps only the modules that can make NaN or infinity out of finite numbers have a hook, and it only looks for
these (the sentinel). On the steps of the plan all modules have one, and whole rows are weighed. docs/decisions/0017 says
why a ReLU needs no sentinel, and why the gradients of parameters serve as that of the backward pass.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from weighbridge.capture.biases import Biases
from weighbridge.capture.calls import Calls
from weighbridge.capture.closely import closely_of
from weighbridge.capture.deviceoutputs import DeviceOutputs
from weighbridge.capture.inside import Inside
from weighbridge.capture.jumps import LOOKS, Allowance
from weighbridge.capture.kernel import Kernel
from weighbridge.capture.looks import Looks
from weighbridge.capture.losses import Number
from weighbridge.capture.modulekinds import (
    BOUNDED,
    CHANNELS_SECOND,
    around,
    computes,
    first_parameter,
    is_owned,
)
from weighbridge.capture.outputgroup import Group, seats_of
from weighbridge.capture.outputhook import OutputHook, follow, leaves
from weighbridge.capture.outputrows import OutputRows
from weighbridge.capture.pairing import Pairing
from weighbridge.capture.pairs import Pairs
from weighbridge.capture.plan import NEVER, Occasions, Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.remarks import Remarks, compiled_frames
from weighbridge.capture.roles import plain_path
from weighbridge.capture.seats import BY_PYTHON, GUARD, REST, WEIGH, Library, Pace, Scene, Seat, is_on_gpu, is_readable
from weighbridge.capture.tensors import TensorTable
from weighbridge.records import Quantity

MOST_UNITS: Final = 65_536  # of all outputs together (architecture decision 14)
_BATCH: Final = -1  # in place of a tensor's id
_MOST_LEAVES: Final = 16  # tensors of one module's output


class Outputs:
    """What the modules of a run's models give."""

    def __init__(
        self,
        recorder: Recorder,
        kernel: Kernel,
        plan: Plan,
        table: TensorTable,
        tell: Callable[[str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.recorder, self.plan, self.table, self.tell, self.failed = recorder, plan, table, tell, failed
        self.activations = Occasions(plan.schedule("activations"))
        self.gradients = Occasions(plan.schedule("activation_gradients"))
        self.units_due = Occasions(plan.schedule("units") if plan.looks_at_units else NEVER)
        self.allowance = Allowance()
        self.library = Library(kernel)
        closely = closely_of(self.library.native)
        self.scene = Scene()
        self.unowned = Group(GUARD if plan.sentinel else REST, plan.histogram_bits)
        self.groups: dict[int, Group] = {}
        self.hooks: dict[int, OutputHook] = {}  # by id of the module
        self.is_compiled, self.compiled_before = False, compiled_frames()
        self.order, self.step = itertools.count(), 0
        self.given: weakref.ref[torch.Tensor] | None = None  # what the module gave that was met last
        self.units_left = MOST_UNITS
        self.loss_scale: Number = 1.0  # that a GradScaler has put on the gradients of this step
        self.calls: Calls | None = None  # which modules ran in the first passes, as long as somebody asks
        self.own_ns = 0  # spent in forward hooks
        self.catch_up: Callable[[], None] = lambda: None  # brings `step` up to date
        self.biases, self.looks, self.pairing = Biases(table, closely), Looks(closely), Pairing(Pairs(self.library.native))
        self.inside = Inside(table.id_of)
        self.remarks = Remarks(recorder)
        self.scene.awaits_batch = plan.sentinel
        self._batch_pace = Pace(mode=GUARD)
        self._scene_at, self._batch_at = ctypes.addressof(self.scene), ctypes.addressof(self._batch_pace)
        self._batch = Seat(self.library, self.scene, self._batch_pace, _BATCH, Quantity.ACTIVATION)
        self.scene.batch = self._batch.address
        self.rows = OutputRows(recorder, self.library, self.scene, self._batch)
        self.on_gpu = DeviceOutputs(self.rows.note_flag, failed)
        self._batch.elsewhere = self.on_gpu.meet
        self._set_pace(self.unowned, 0)

    # --- which modules ----------------------------------------------------------------------------------------------

    def add_model(self, name: str, model: nn.Module) -> None:
        """Hook the modules of a model that have no hook yet."""
        if not self.unowned.hooks:
            self._set_pace(self.unowned, self.step)
        self._forget_the_gone()
        for path, module in model.named_modules():
            if id(module) in self.hooks and self.hooks[id(module)].module() is module:
                continue
            plain = plain_path(model, path)
            if computes(path, module) and self.plan.wants(f"{plain}/out"):
                hook = OutputHook(self, self.unowned, name, plain, module, model)
                hook.around = around(model, path)
                hook.is_bounded = isinstance(module, BOUNDED)
                hook.state.samples_axis = -1 if hook.is_bounded else int(getattr(module, "batch_first", True) is False)
                hook.is_opaque = not hook.is_bounded and not any(True for _ in module.parameters())
                hook.is_opaque &= self.plan.sentinel
                hook.axis = 1 if isinstance(module, CHANNELS_SECOND) else None
                self.hooks[id(module)] = hook
                self.unowned.hooks.append(hook)
        self._place_hooks(self.unowned)

    def remove_model(self, name: str | None) -> None:
        """Take the hooks away; of all models where no name is given."""
        for key in [key for key, hook in self.hooks.items() if name in (None, hook.model)]:
            self._forget(key)

    def _forget_the_gone(self) -> None:
        for key in [key for key, hook in self.hooks.items() if hook.module() is None]:
            self._forget(key)

    def _forget(self, key: int) -> None:
        hook = self.hooks.pop(key)
        hook.take_away()
        hook.group.leave(hook)
        self.biases.forget(hook)
        self.looks.forget(hook)

    def assign(self, number: int, ids: list[int], models: list[tuple[str, nn.Module]]) -> None:
        """An optimizer with these parameters steps: its modules keep pace with it. Modules may have come since."""
        for name, model in models:
            self.add_model(name, model)
        mine = set(ids)
        if number not in self.groups:
            self.groups[number] = self.unowned.twin()
        group = self.groups[number]
        roots = {hook.model for hook in self.hooks.values() if is_owned(hook.root(), mine)}
        for hook in self.hooks.values():
            first = first_parameter((hook.module(), *(reference() for reference in hook.around)))
            is_mine = first is not None and id(first) in mine
            if is_mine or (hook.model in roots and hook.group is self.unowned):
                self._move(hook, group)
        self._place_hooks(group)

    def release(self, number: int) -> None:
        """An optimizer is gone: its modules wait for the next one."""
        group = self.groups.pop(number, None)
        for hook in list(group.hooks) if group is not None else ():
            self._move(hook, self.unowned)

    def _move(self, hook: OutputHook, group: Group) -> None:
        if hook.group is group:
            return
        hook.group.leave(hook)
        hook_stamp, hook.group = hook.group.stamp, group
        group.hooks.append(hook)
        for seat in seats_of(hook):
            is_of_now = seat.head.stamp == hook_stamp
            seat.keep_pace(group.backward if seat.quantity is Quantity.ACTIVATION_GRADIENT else group.forward)
            seat.head.stamp = group.stamp if is_of_now else -1
            group.seats.append(seat)
        group.table = None

    @property
    def is_busy(self) -> bool:
        """Is there more to do at the end of a step than to begin the next one?"""
        return bool(self.scene.flagged or self.on_gpu.met) or bool(self.pairing.inputs) or self.calls is not None

    def addresses(self, group: Group) -> tuple[int, int, int, int]:
        """Of the scene, and of the paces of this group and of the batch, for C."""
        return self._scene_at, *group.paces, self._batch_at

    # --- when ------------------------------------------------------------------------------------------------------

    def prepare(self, number: int, step: int) -> None:
        """The next step of this optimizer will be this one."""
        group = self.groups.get(number)
        if group is not None:
            self._set_pace(group, step)

    def prepare_all(self, step: int, stepped: set[int]) -> None:
        """The clock shows this step now: for those too that did not step in the last one."""
        for number in self.groups.keys() - stepped:
            self.prepare(number, step)

    def _set_pace(self, group: Group, step: int) -> None:
        """What is to be done in this step; called at the steps of the plan and at those just after them."""
        was_full = group.is_full
        writes_units = self.units_due.due(step)
        group.weighs = writes_units or self.activations.due(step)
        group.weighs_gradients = self.gradients.due(step)
        group.is_full = group.weighs or group.weighs_gradients
        if group.is_full and not group.thinned.passes():
            writes_units = group.weighs = group.weighs_gradients = group.is_full = False
        group.looks = writes_units
        group.due_at = step + 1 if group.is_full else self._next_due(step)
        group.forward.mode = WEIGH if group.weighs else group.rest
        group.backward.mode = WEIGH if group.weighs_gradients else group.rest
        by_python = group.looks or (group.weighs_gradients and self.calls is not None)
        group.forward.follows = BY_PYTHON if by_python else group.weighs_gradients
        if was_full != group.is_full:
            self._place_hooks(group)
        if writes_units:
            self.biases.begin(group.hooks)

    def look_soon(self, step: int) -> None:
        """This step has jumped: look closely at the next ones. Call before `after_step`."""
        if not self.allowance.takes(step):
            return
        self.units_due.add(step + 1, LOOKS)
        for group in self.groups.values():
            group.due_at = min(group.due_at, step + 1)

    def set_detail(self, histogram: int, one_in: int) -> None:
        """The budget allows this much: mantissa bits of histograms, and one in so many of the steps of the plan."""
        for group in (self.unowned, *self.groups.values()):
            group.set_detail(histogram, one_in)

    def take_own_ns(self) -> int:
        """Time spent in hooks since it was last asked for."""
        spent = self.own_ns + int(self.scene.own_ns)
        self.own_ns = self.scene.own_ns = 0
        return spent

    def _next_due(self, step: int) -> float:
        """The next step of the plan after this one."""
        return min(self.units_due.next_due(step + 1), self.activations.next_due(step + 1), self.gradients.next_due(step + 1))

    def _place_hooks(self, group: Group) -> None:
        """On the modules that have something to do in this step, and on no others."""
        self.is_compiled = self.is_compiled or compiled_frames() != self.compiled_before
        is_full, guards = group.is_full, self.plan.sentinel
        for hook in group.hooks:
            wanted = is_full or (guards and not (hook.is_bounded or hook.gives_the_same))
            if wanted is hook.is_placed:
                continue
            if wanted:
                hook.place()
            elif not self.is_compiled:  # compiled code is compiled anew where a module has fewer hooks than then
                hook.take_away()

    # --- while a pass runs --------------------------------------------------------------------------------------------

    def meet_batch(self, args: Any, looks: bool, met_by: int) -> None:
        """The first module of a pass was called with this: the batch."""
        self.scene.awaits_batch = False
        if looks:
            for _, tensor in leaves(args)[:1]:
                self.looks.meet_batch(tensor)
            self.pairing.meet_batch(args, met_by)
        if len(args) == 1 and type(args[0]) is torch.Tensor and args[0].is_floating_point():
            self._batch.meet(args[0])
            return
        for _, tensor in leaves(args)[:_MOST_LEAVES]:
            if is_readable(tensor) or is_on_gpu(tensor):
                self._batch.meet(tensor)

    def take_samples(self) -> int:
        """Of how many samples the pass is that ends now; 0 where nobody knows, or nothing ran since the last one."""
        samples, self.scene.samples = int(self.scene.samples), 0
        return samples

    def meet(self, hook: OutputHook, module: nn.Module, output: Any) -> None:
        """What a module gives for the first time, or what is no single tensor."""
        is_outer = not hook.seats and any(True for _ in module.children())
        hook.gives_the_same = is_outer and self._is_met(output) and (hook.gives_the_same or self._is_kept(output))
        if hook.gives_the_same:
            return
        self.given = weakref.ref(output) if isinstance(output, torch.Tensor) else None
        for name, tensor in leaves(output)[:_MOST_LEAVES]:
            if not (is_readable(tensor) or is_on_gpu(tensor)):
                if tensor.is_floating_point() and tensor.device.type not in ("cpu", "meta"):
                    self.tell(f"activations on {tensor.device.type} are not weighed yet; parameters are")
                continue
            seat = hook.seats.get(name) or self._new_seat(hook, module, name, tensor)
            seat.meet(tensor)
            if (hook.group.weighs_gradients or hook.is_opaque) and tensor.requires_grad:
                follow(tensor, hook.gradients[name][1])
            if tensor is output:
                hook.settle(seat)

    def _is_met(self, output: Any) -> bool:
        """Are these the numbers that the last module gave, unchanged? So a model gives what its last layer gives."""
        if type(output) is not torch.Tensor or output._version:
            return False
        if is_on_gpu(output):
            return (output.data_ptr(), output.numel()) == self.on_gpu.last
        if not is_readable(output):
            return False
        return bool(output.data_ptr() == self.scene.last and output.numel() == self.scene.count)

    def _is_kept(self, output: torch.Tensor) -> bool:
        """Is what was given still there? A sum often lies where a part of it lay that is no longer needed."""
        given = self.given() if self.given is not None else None
        return given is not None and given.data_ptr() == output.data_ptr()

    def _new_seat(self, hook: OutputHook, module: nn.Module, name: str, tensor: torch.Tensor) -> Seat:
        self.catch_up()
        group = hook.group
        full = f"{hook.path}/{name}"
        number = self.table.add_output(hook.model, full, type(module).__name__, tensor, next(self.order), self.step)
        axis = hook.axis if hook.axis is not None else 1 if tensor.dim() in (4, 5) else -1
        units = int(tensor.shape[axis]) if tensor.dim() >= 2 and not is_on_gpu(tensor) else 0
        units = units if units <= self.units_left and self.units_due.schedule != NEVER else 0
        self.units_left -= units
        seat = Seat(self.library, self.scene, group.forward, number, Quantity.ACTIVATION, units, axis)
        gradient = Seat(self.library, self.scene, group.backward, number, Quantity.ACTIVATION_GRADIENT)
        hook.seats[name], hook.gradients[name] = seat, (gradient, {0: gradient.meet})
        seat.elsewhere = gradient.elsewhere = self.on_gpu.meet
        if is_on_gpu(tensor) and not self.on_gpu.is_told:
            self.on_gpu.is_told = True
            message = "on a GPU single units of outputs, and what a bias adds beside W.x, are not weighed"
            self.recorder.event(self.step, "reduced", message)
        group.seats += [seat, gradient]
        group.table = None
        self.biases.meet(hook, seat, module, name)
        return seat

    def on_backward(self, root: torch.Tensor) -> None:
        """A backward pass begins at this root: what its graph shows beside what modules give."""
        if self.pairing.inputs:
            self.pairing.on_backward(root)
        if self.looks.is_open and len(self.groups) < 2:  # what one network gives another may lie at its bounds by right
            self.inside.on_backward(root, self.looks.made)

    # --- a step is done -----------------------------------------------------------------------------------------------

    def before_step(self, number: int, step: int) -> None:
        """Before the biases change: what they added in this step."""
        group = self.groups.get(number)
        if group is not None and group.weighs and self.units_due.due(step):
            rows = self.biases.rows(group.hooks, step, self.recorder.attempt)
            with self.recorder.lock:  # the list is another one after the writer's thread has handed it over
                self.recorder.small["biases"].rows.extend(rows)

    def after_step(self, number: int, step: int) -> None:
        """Write what was weighed since this optimizer's last step. Call with the recorder's lock held."""
        self.step = step
        group = self.groups.get(number)
        if group is None:
            return
        if self.plan.sentinel or group.weighs:
            self.remarks.on_mode(group, step)
        if group.is_full or self.scene.flagged:
            self._write(group, step)
        group.next_step()
        if self.on_gpu.met:
            self._send_gpu(group, step)
        self._batch_pace.stamp += 1
        self.scene.awaits_batch = self.plan.sentinel
        if step + 1 >= group.due_at:
            self._set_pace(group, step + 1)

    def _write(self, group: Group, step: int) -> None:
        self.rows.write(group, step, self.loss_scale, self.units_due.due(step))
        if group.looks:
            self.recorder.small["spread"].rows.extend(self.looks.rows(group.hooks, step, self.recorder.attempt))
            self.recorder.small["spread"].rows.extend(self.inside.rows(step, self.recorder.attempt))
            self.recorder.small["pairing"].rows.extend(self.pairing.rows(step, self.recorder.attempt))
        if group.stamp == 0:
            self.remarks.on_unseen(group, step)

    def _send_gpu(self, group: Group, step: int) -> None:
        """The same for what lies on a GPU: sent now, and written when it has arrived."""
        for pace in (self._batch_pace, group.forward, group.backward):
            self.on_gpu.send(pace, step, self.loss_scale if pace is group.backward else 1.0)
        self.on_gpu.fetch(self.recorder)

    def close(self) -> None:
        """The run is over: no hook stays, and what a graph still holds does nothing."""
        self.remove_model(None)
        for group in (self.unowned, *self.groups.values()):
            group.forward.mode = group.backward.mode = REST
        self._batch_pace.mode = REST
