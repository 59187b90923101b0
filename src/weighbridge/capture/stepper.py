"""One optimizer step becomes rows: what happens in the pre hook and in the post hook.

Row of step k: `parameter` is the value before update k, `gradient` what update k used, `update` after minus before. So
the pre hook makes sure that the copies are what the optimizer starts from, and the post hook reads parameter, copy and
gradient together, writes the rows and refreshes the copies, all in one pass.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from weighbridge.capture import hooks
from weighbridge.capture.budget import Budget, Level
from weighbridge.capture.byhand import NOTE, ByHand, StandIn
from weighbridge.capture.coherence import Coherence
from weighbridge.capture.kernel import NO_HISTOGRAM, Kernel, NativeKernel
from weighbridge.capture.losses import Passes
from weighbridge.capture.moments import Moments
from weighbridge.capture.outputs import Outputs
from weighbridge.capture.plan import NEVER, Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.shards import CHECKSUMS
from weighbridge.capture.snapshots import FormChanged, Snapshots, Weighed
from weighbridge.capture.stepped import Stepped, found_inf_of, groups_of, settings_of
from weighbridge.capture.tensors import TensorTable
from weighbridge.capture.transfer import DeviceWeigher
from weighbridge.capture.values import Values
from weighbridge.capture.work import Work

_NAN: Final = float("nan")
_CLIPS_KEPT: Final = 16  # of models that nobody steps
_PASSES_BEFORE_FIRST_STEP: Final = 20  # from then on passes without a step are written one by one


class Stepper:
    """Follows the optimizers of one run. hooks.py calls its methods, on the training thread."""

    def __init__(
        self, recorder: Recorder, kernel: Kernel, plan: Plan, table: TensorTable, failed: Callable[[Exception], None]
    ) -> None:
        self.failed = failed
        self.recorder, self.kernel, self.plan, self.table = recorder, kernel, plan, table
        self.moments = Moments(kernel, plan, table)
        self.coherence = Coherence(kernel, plan, table) if plan.schedule("coherence") != NEVER else None
        self.budget = Budget(plan.budget, plan.histogram > 0) if plan.budget is not None else None
        self.level = self.budget.level if self.budget is not None else Level()
        self.clips: list[tuple[int, float]] = []  # since the last step of an optimizer that holds them
        self.is_skipping = False
        self.clock = 0
        self.has_stepped: set[int] = set()  # optimizers that stepped at this reading of the clock
        self.total_steps = 0
        self.optimizers: dict[int, Stepped] = {}
        self.under_way: list[Stepped] = []
        self.departed: list[Stepped] = []  # optimizers that are gone and have stepped at this reading of the clock
        self.numbers = itertools.count()
        self.early = 0  # backward passes before the first step of all, and their rows until it is time to write them
        self.early_rows: list[tuple[Any, ...]] = []
        self.passes = Passes()
        self.by_hand: ByHand | None = ByHand(table, plan.snapshot_bytes)  # until an optimizer steps
        self.epoch = _NAN
        self.own_ns = self.first_ns = self.last_ns = 0
        self.pending_own_ns = self.told_own_ns = 0
        self.outputs = self._outputs()
        self.changes: dict[int, int] = {}  # tensor -> times that it was changed outside its optimizer

    def _outputs(self) -> Outputs | None:
        """What weighs activations; None where the plan wants none of it, or there is nothing to weigh them with."""
        plan = self.plan
        if not plan.sentinel and plan.schedule("activations") == plan.schedule("activation_gradients") == NEVER:
            return None
        if not isinstance(self.kernel, NativeKernel):
            self.recorder.event(0, "reduced", "activations are not weighed: they need the C kernel")
            return None
        return Outputs(self.recorder, self.kernel, plan, self.table, self.table.tell, self._outputs_failed)

    def add_model(self, model: nn.Module, name: str) -> None:
        """A model is watched from now on."""
        if self.outputs is not None:
            self.outputs.step = self.steps
            self.outputs.add_model(name, model)

    def remove_model(self, model: nn.Module | None) -> None:
        """It is no longer."""
        for name in self.table.remove_model(model):
            if self.outputs is not None:
                self.outputs.remove_model(name)

    def let_go(self) -> None:
        """Take away everything that hangs on the user's modules."""
        if self.outputs is not None:
            self.outputs.close()

    @property
    def steps(self) -> int:
        """Steps on the clock so far: the number of the next one."""
        return self.clock + 1 if self.has_stepped else self.clock

    # --- hooks ------------------------------------------------------------------------------------------------------

    def on_backward(self, root: torch.Tensor) -> None:
        """A backward pass begins at this root."""
        began = time.perf_counter_ns()
        if self.by_hand is not None:
            self._step_by_hand()
        given = self.passes.add(root)
        if self.total_steps == 0:
            self._pass_without_step(given)
        if self.coherence is not None:
            self.coherence.accumulation.before_pass(root)
        self.pending_own_ns += time.perf_counter_ns() - began

    def after_backward(self) -> None:
        """It has ended, and nobody has used its gradients yet."""
        if self.by_hand is not None and not self.by_hand.after_backward(self.clock):
            self.by_hand = None
        if self.coherence is not None and self.coherence.accumulation.is_in_pass:
            began = time.perf_counter_ns()
            self.coherence.accumulation.after_pass()
            self.pending_own_ns += time.perf_counter_ns() - began

    def _step_by_hand(self) -> None:
        """Write the step that somebody has taken without an optimizer since the last backward pass, if there is one."""
        by_hand = self.by_hand
        if by_hand is None or not by_hand.has_stepped(self.steps):
            return
        if not self.total_steps:
            self.recorder.event(self.clock, "by_hand", NOTE)
            self.let_go()
            self.outputs = None
        optimizer: Any = by_hand.optimizer
        self.before_step(optimizer)
        stepped = self._known(optimizer)
        stepped.lent = by_hand.gradients
        if stepped.work is not None:
            stepped.work.set_copies(by_hand.before)
        self.after_step(optimizer)

    def on_clipped(self, parameter: int, factor: float) -> None:
        """Gradients, this parameter's among them, were clipped by their norm."""
        self.clips.append((parameter, factor))

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler found infinity and left the step out: it has its rows, and its update is 0."""
        self.is_skipping = True
        try:
            self.before_step(optimizer)
            self.after_step(optimizer)
        finally:
            self.is_skipping = False

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        began = time.perf_counter_ns()
        if self.by_hand is not None and not isinstance(optimizer, StandIn):
            self.by_hand = None
        stepped = self._known(optimizer)
        if stepped.depth and hooks.is_inside_step(optimizer, 2):
            stepped.depth += 1
            return
        stepped.depth = 1
        if not self._prepare(stepped, optimizer):
            return
        stepped.is_inner = bool(self.under_way) and self._has_outer(stepped)
        if stepped.is_inner:
            return
        if not self.has_stepped.isdisjoint(stepped.clashes):
            self._advance()
        self._refresh(stepped, optimizer)
        if not stepped.is_ours:
            return
        if stepped not in self.under_way:  # it is there if an exception left its last step
            self.under_way.append(stepped)
        if self.outputs is not None:
            self._of_outputs(self.outputs.before_step, stepped)
        stepped.began_ns = began
        stepped.own_ns = time.perf_counter_ns() - began

    def _of_outputs(self, what: Callable[[int, int], None], stepped: Stepped) -> None:
        try:
            what(stepped.number, self.clock)
        except Exception as error:
            self._outputs_failed(error)

    def _outputs_failed(self, error: Exception) -> None:
        """Activations are given up; parameters are weighed on."""
        if self.outputs is not None:
            self.outputs.close()
            self.outputs = None
        self.table.tell(
            f"activations are no longer weighed after an error of ours ({type(error).__name__}: {error}). "
            "Parameters are, and training goes on unchanged"
        )

    def _advance(self) -> None:
        """The next step on the clock begins."""
        self.clock += 1
        if self.outputs is not None and len(self.outputs.groups) > 1:
            self.outputs.prepare_all(self.clock, self.has_stepped)
        self.has_stepped.clear()
        self.departed.clear()

    def after_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped."""
        began = time.perf_counter_ns()
        stepped = self._known(optimizer)
        stepped.depth -= 1
        if stepped.depth > 0 or stepped.is_inner:
            return
        stepped.depth = 0
        if not stepped.is_ours:
            self.passes.set_apart()
            return
        if stepped in self.under_way:
            self.under_way.remove(stepped)
        with self.recorder.lock:
            self._weigh(stepped)
            if self.moments.is_due(self.clock):
                self.moments.weigh(stepped, optimizer, self.clock, recorder=self.recorder)
            self.passes.settle()
            factor = _NAN
            if self.coherence is not None and self.coherence.is_due(stepped):
                is_skipped = self.is_skipping or found_inf_of(optimizer) > 0
                factor = self.coherence.after_step(stepped, self.clock, self.recorder, self.passes, is_skipped)
            if self.outputs is not None:
                self._of_outputs(self.outputs.after_step, stepped)
            self.has_stepped.add(stepped.number)
            self.total_steps += 1
            noted, counted = self._note_step(stepped, optimizer, began, factor)
            self.recorder.step_done(self.clock)
        spent = time.perf_counter_ns()
        self.own_ns += noted
        self.pending_own_ns = spent - counted  # what came after the row was written: the next one's
        if self.budget is not None:
            self._keep_to_budget(self.budget, spent)
        self.first_ns = self.first_ns or stepped.began_ns
        self.last_ns = spent

    def _keep_to_budget(self, budget: Budget, now: int) -> None:
        """Another level of detail, where the cost of the last steps asks for it or allows it."""
        total = self.own_ns + self.pending_own_ns
        own, self.told_own_ns = total - self.told_own_ns, total
        change = budget.add(own, now - self.last_ns) if self.last_ns else None
        if change is None:
            return
        self.level = change.level
        histogram = self.plan.histogram_bits if change.level.has_histograms else NO_HISTOGRAM
        for stepped in self.optimizers.values():
            stepped.watched = -1  # its work is prepared anew
        self.moments.histogram, self.moments.thinned.one_in = histogram, change.level.thinning
        if self.coherence is not None:
            self.coherence.one_in = change.level.thinning
        if self.outputs is not None:
            self.outputs.set_detail(histogram, change.level.thinning)
        self.recorder.event(self.steps, "detail", change.message(), detail=change.detail())

    # --- preparing --------------------------------------------------------------------------------------------------

    def _known(self, optimizer: Optimizer) -> Stepped:
        stepped = self.optimizers.get(id(optimizer))
        if stepped is None or stepped.reference() is not optimizer:
            gone = [key for key, one in self.optimizers.items() if one.reference() is None]
            for key in gone:  # let go of its copies; what it has under way on a device is fetched first
                self._forget(key)
            stepped = self.optimizers[id(optimizer)] = Stepped(next(self.numbers), optimizer)
        return stepped

    def _forget(self, key: int) -> None:
        stepped = self.optimizers[key]
        if stepped.device is not None:
            with self.recorder.lock:
                stepped.device.drain(self.recorder)
        stepped.work = stepped.device = None
        del self.optimizers[key]
        if self.outputs is not None:
            self.outputs.release(stepped.number)
        if stepped.number in self.has_stepped:
            self.departed.append(stepped)

    def _has_outer(self, stepped: Stepped) -> bool:
        """Is an optimizer over the same parameters stepping further out (Lookahead, SAM)? Its step is the one that counts."""
        self.under_way = [one for one in self.under_way if hooks.is_inside_step(one.reference())]
        return any(one.number in stepped.clashes and one is not stepped for one in self.under_way)

    def _prepare(self, stepped: Stepped, optimizer: Optimizer) -> bool:
        """Build the work of this optimizer where it is new or has other parameters than before."""
        ids: list[int] = []
        for group in optimizer.param_groups:
            ids.extend(map(id, group["params"]))
        if self.table.is_waiting:
            self.table.rescan(self.clock)
        if ids != stepped.ids or stepped.watched != self.table.version:
            self.table.rescan(self.clock)
            owned = self.table.owned(ids)
            stepped.tensors = {w.tensor for w in owned}
            self._find_clashes(stepped, ids)
            self._note_groups(stepped, optimizer, {id(w.parameter): w.tensor for w in owned})
            mine = [w for w in owned if not w.is_copy]
            stepped.copies = [w for w in owned if w.is_copy and w.parameter.device.type == "cpu"]
            direct = [w for w in mine if w.parameter.device.type == "cpu"]
            elsewhere = [w for w in mine if w.parameter.device.type != "cpu"]
            stepped.work = Work(self.kernel, direct, self.plan, self.level) if direct else None
            stepped.device = DeviceWeigher(elsewhere, self.table.tell) if elsewhere else None
            stepped.ids, stepped.watched = ids, self.table.version
            if self.outputs is not None and stepped.is_ours:
                self.outputs.assign(stepped.number, ids, self.table.alive_models())
            if stepped.work is not None:
                self._note_turns(stepped.work)
        return stepped.is_ours

    def _note_groups(self, stepped: Stepped, optimizer: Optimizer, tensors: dict[int, int]) -> None:
        """Say which tensors stand in which group of this optimizer, and the settings that are not told at every step."""
        groups = groups_of(optimizer, tensors)
        if tensors and groups != stepped.told:
            stepped.told = groups
            detail = {"optimizer": stepped.number, "class": type(optimizer).__name__, "groups": groups}
            is_next = not self.has_stepped.isdisjoint(stepped.clashes)
            self.recorder.event(self.clock + is_next, "optimizer", "", detail=detail)

    def _note_turns(self, work: Work) -> None:
        """Say where memory for the copies allows only some updates at a time: what is missing was not weighed."""
        turns = work.windows
        never = [self.table.name(w.tensor) for w in work.never_copied()]
        if turns > 1:
            message = f"updates of large tensors are weighed in turns, each at one step in {turns}"
            self.recorder.event(self.clock, "reduced", f"{message}: the copies are bounded by Plan(snapshot=...)")
        if never:
            message = "updates are not weighed: a tensor alone is larger than Plan(snapshot=...)"
            self.recorder.event(self.clock, "reduced", message, detail={"tensors": never})

    def _find_clashes(self, stepped: Stepped, ids: list[int]) -> None:
        mine = set(ids)
        for one in (*self.optimizers.values(), *self.departed):
            if one is not stepped and not (mine.isdisjoint(one.ids) and stepped.tensors.isdisjoint(one.tensors)):
                one.clashes.add(stepped.number)
                stepped.clashes.add(one.number)

    def _refresh(self, stepped: Stepped, optimizer: Optimizer) -> None:
        """Copies that no longer agree with their parameter: somebody else has changed it."""
        if stepped.device is not None:
            stepped.device.before(self.clock)
        if stepped.copies and CHECKSUMS.due(self.clock):
            self._weigh_once(stepped.copies, self.clock)
        work = stepped.work
        if work is None or not work.begin(self.clock):
            return
        try:
            moved = work.refresh()
        except FormChanged as change:
            stepped.watched, moved = -1, change.tensors
            self._prepare(stepped, optimizer)
            work = stepped.work
            if stepped.device is not None:
                stepped.device.before(self.clock)
            if work is not None:
                work.begin(self.clock)
        if stepped.count and stepped.lent is None:
            for tensor in moved:
                self._note_change(tensor)
        if work is not None:
            work.weigh_uncopied(self.clock, self.recorder)

    def _weigh_once(self, weighed: list[Weighed], step: int) -> Snapshots:
        """`parameter` rows of tensors that are not followed from step to step."""
        once = Snapshots(self.kernel, weighed, 0, self.plan.histogram_bits)
        with self.recorder.lock:
            once.weigh_uncopied(step, self.recorder.attempt, self.recorder.room(len(weighed)))
        return once

    def _note_change(self, tensor: int) -> None:
        self.changes[tensor] = self.changes.get(tensor, 0) + 1
        if self.changes[tensor] == 1:
            name = self.table.name(tensor)
            self.recorder.event(self.clock, "changed", f"{name} was changed outside its optimizer before this step", tensor)

    # --- weighing ---------------------------------------------------------------------------------------------------

    def _weigh(self, stepped: Stepped) -> None:
        """Write the rows of this step. Call with the recorder's lock held."""
        if stepped.device is not None:
            stepped.device.after(self.clock, self.recorder)
        work = stepped.work
        if work is None or not work.rows:
            return
        try:
            gone = work.locate(stepped.lent)
        except FormChanged as change:  # inside the step itself: there is no difference to weigh
            stepped.watched = -1
            for tensor in change.tensors:
                self._note_change(tensor)
            return
        if gone:
            self._leave_replaced(stepped, work.snapshots, gone)
        work.weigh(self.clock, self.recorder)

    def _leave_replaced(self, stepped: Stepped, snapshots: Snapshots, gone: list[int]) -> None:
        """Gradients that no longer come: the model may hold another parameter by now, and the optimizer the one before."""
        for i in gone:
            weighed = snapshots.weighed[i]
            if self.table.holds(weighed, self.clock):
                continue
            stepped.watched = -1
            snapshots.leave_out(i)
            name = self.table.name(weighed.tensor)
            message = f"{name} was replaced in the model: this optimizer still holds the parameter that stood there before"
            self.recorder.event(self.clock, "replaced", message, weighed.tensor)

    def _note_step(self, stepped: Stepped, optimizer: Optimizer, began: int, factor: float) -> tuple[int, int]:
        """The row of this step. Gives the time of ours that stands in it, and up to when."""
        passes = self.passes
        now = time.perf_counter_ns()
        own = now - began + stepped.own_ns + self.pending_own_ns
        if self.outputs is not None:
            own += self.outputs.take_own_ns()
        settings = settings_of(optimizer)
        found_inf = 1.0 if self.is_skipping else found_inf_of(optimizer)
        self.recorder.small["steps"].rows.append(
            (
                self.clock,
                self.recorder.attempt,
                stepped.number,
                stepped.count,
                passes.mean(),
                sum(passes.given) if passes.given else None,
                passes.count,
                found_inf > 0,
                found_inf,
                self._clip_factor(stepped, factor) if self.clips else factor,
                passes.scales[-1] if passes.scales else 1.0,
                *settings,
                self.epoch,
                time.time_ns(),
                own,
            )
        )
        stepped.count += 1
        passes.clear()
        return own, now

    def _clip_factor(self, stepped: Stepped, otherwise: float) -> float:
        """What torch's clipping multiplied this optimizer's gradients with; NaN where it clipped some of them apart."""
        mine = set(stepped.ids)
        clips = [clip for clip in self.clips if clip[0] in mine]
        self.clips = [clip for clip in self.clips if clip[0] not in mine][-_CLIPS_KEPT:]
        if not clips:
            return otherwise
        return math.prod(factor for _, factor in clips) if len({parameter for parameter, _ in clips}) == 1 else _NAN

    def _pass_without_step(self, given: float) -> None:
        """Nobody has stepped yet: after a while write the passes themselves, so that a run without steps has a loss."""
        self.early += 1
        self.early_rows.append((self.clock, self.recorder.attempt, given, given, self.epoch, time.time_ns()))
        if self.early >= _PASSES_BEFORE_FIRST_STEP:
            self.write_passes()

    def write_passes(self) -> None:
        """Write the backward passes that no step followed, as far as they are not written yet."""
        with self.recorder.lock:
            self.recorder.small["passes"].rows.extend(self.early_rows)
        self.early_rows = []

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The closing `parameter` row of every tensor that can be weighed, and the last values of the small ones."""
        self._step_by_hand()
        step = self.steps
        self.table.rescan(step)
        with self.recorder.lock:
            self.recorder.hand_over()  # apart from the closing rows: a flush says which steps it holds
            for stepped in self.optimizers.values():
                if stepped.device is not None:
                    stepped.device.drain(self.recorder)
            weighed = [w for w in self.table.alive() if w.parameter.device.type == "cpu"]
            if weighed and self.plan.schedule("parameters") != NEVER:
                last = self._weigh_once(weighed, step)
                if self.plan.values:
                    Values(last).closing(step, self.recorder.attempt, self.recorder.small["values"].rows)
            self.recorder.last_step = step
            if self.changes:
                total = {self.table.name(tensor): times for tensor, times in self.changes.items()}
                self.recorder.event(step, "changes", "times that tensors were changed outside their optimizer", detail=total)
