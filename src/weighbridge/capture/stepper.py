"""One optimizer step becomes rows: what happens in the pre hook and in the post hook.

Row of step k: `parameter` is the value before update k, `gradient` what update k used, `update` after minus before. So
the pre hook makes sure that the copies are what the optimizer starts from, and the post hook reads parameter, copy and
gradient together, writes the rows and refreshes the copies, all in one pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from weighbridge.capture import hooks
from weighbridge.capture.budget import Budget
from weighbridge.capture.byhand import NOTE, ByHand, StandIn
from weighbridge.capture.coherence import Coherence
from weighbridge.capture.firstgraph import FirstGraph
from weighbridge.capture.kernel import NO_HISTOGRAM, Kernel, NativeKernel
from weighbridge.capture.losses import Number
from weighbridge.capture.marks import Late, Marks, marks_of
from weighbridge.capture.moments import Moments
from weighbridge.capture.optimizers import Optimizers
from weighbridge.capture.outputs import Outputs
from weighbridge.capture.plan import NEVER, Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.snapshots import FormChanged
from weighbridge.capture.stepped import Stepped, found_inf_of
from weighbridge.capture.steprows import StepRows
from weighbridge.capture.tensors import TensorTable
from weighbridge.capture.unstepped import note_missed
from weighbridge.capture.weighing import Weighing


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
        self.optimizers = Optimizers(recorder, kernel, plan, table, self._joined, self._left)
        if self.budget is not None:
            self.optimizers.level = self.budget.level
        self.weighing = Weighing(recorder, kernel, plan, table, self.optimizers)
        self.step_rows = StepRows(recorder)
        self.is_skipping = False
        self.clock = 0
        self.total_steps = 0
        self.passes_at_end = 0  # backward passes after the last step, where nothing has moved since; known once closed
        self.by_hand: ByHand | None = ByHand(table, plan.snapshot_bytes)  # until an optimizer steps
        self.own_ns = self.first_ns = self.last_ns = 0
        self.pending_own_ns = self.told_own_ns = 0
        self.outputs = self._outputs()
        recorder.marks = self._marks
        self.first: FirstGraph | None = FirstGraph(recorder, table)  # until the first step is over
        if self.outputs is not None:
            self.outputs.calls = self.first.calls

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
        return self.clock + 1 if self.optimizers.has_stepped else self.clock

    def set_epoch(self, epoch: float) -> None:
        """Steps from now on belong to this epoch."""
        self.step_rows.epoch = epoch

    # --- hooks ------------------------------------------------------------------------------------------------------

    def on_backward(self, root: torch.Tensor) -> bool:
        """A backward pass begins at this root. Gives whether nothing is to be done when it is over."""
        began = time.perf_counter_ns()
        if self.by_hand is not None:
            self._step_by_hand()
        samples = self.outputs.take_samples() if self.outputs is not None else 0
        self.step_rows.add_pass(root, self.clock, self.total_steps > 0, samples)
        if self.first is not None:
            self._look_at_graph(self.first, root)
        if self.coherence is not None:
            self.coherence.accumulation.before_pass(root)
        if self.outputs is not None:
            self._look_behind(self.outputs, root)
        self.pending_own_ns += time.perf_counter_ns() - began
        return False

    def _look_behind(self, outputs: Outputs, root: torch.Tensor) -> None:
        try:
            outputs.on_backward(root)
        except Exception as error:
            self._outputs_failed(error)

    def _look_at_graph(self, first: FirstGraph, root: torch.Tensor) -> None:
        try:
            first.on_backward(root, self.clock)
        except Exception as error:
            message = f"the graph of the loss was not taken down after an error of ours ({type(error).__name__}: {error})"
            self.recorder.event(self.clock, "reduced", message)
            first.give_up()
        if first.is_over and self.outputs is not None:
            self.outputs.calls = None
        if first.is_over and not first.waiting:
            self.first = None

    def after_backward(self) -> None:
        """It has ended, and nobody has used its gradients yet."""
        if not self.total_steps:
            self.step_rows.pass_ended(self.table)
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
        stepped = self.optimizers.of(optimizer)
        stepped.lent = by_hand.gradients
        if stepped.work is not None:
            stepped.work.set_copies(by_hand.before)
        self.after_step(optimizer)

    def on_clipped(self, parameter: int, factor: Number) -> None:
        """Gradients, this parameter's among them, were clipped by their norm."""
        self.step_rows.clips.append((parameter, factor))

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
        stepped = self.optimizers.of(optimizer)
        if stepped.depth and hooks.is_inside_step(optimizer, 2):
            stepped.depth += 1
            return
        stepped.depth = 1
        optimizers = self.optimizers
        if not optimizers.prepare(stepped, optimizer, self.clock):
            return
        stepped.is_inner = bool(optimizers.under_way) and optimizers.has_outer(stepped)
        if stepped.is_inner:
            return
        if not optimizers.has_stepped.isdisjoint(stepped.clashes):
            self._advance()
        self.weighing.refresh(stepped, optimizer, self.clock)
        if not stepped.is_ours:
            return
        if stepped not in optimizers.under_way:  # it is there if an exception left its last step
            optimizers.under_way.append(stepped)
        if self.outputs is not None:
            self._of_outputs(self.outputs.before_step, stepped)
        stepped.own_ns = time.perf_counter_ns() - began

    def _of_outputs(self, what: Callable[[int, int], None], stepped: Stepped) -> None:
        try:
            what(stepped.number, self.clock)
        except Exception as error:
            self._outputs_failed(error)

    def outputs_after(self, stepped: Stepped, scale: Number) -> None:
        """Write what was weighed of activations in this step; `scale`: that of its loss. Call with the recorder's lock held."""
        if self.outputs is not None:
            self.outputs.loss_scale = scale
            self._of_outputs(self.outputs.after_step, stepped)

    def _look_after_jump(self, stepped: Stepped) -> None:
        """Where this step jumps against those before it, the next ones are looked at closely."""
        passes, work = self.step_rows.passes, stepped.work
        if work is None or work.jumps is None or not work.rows or self.outputs is None or self.is_skipping:
            return
        if work.has_jumped(self.step_rows.loss(stepped.number, passes) if passes.is_all_here else None):
            self.outputs.look_soon(self.clock)

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
        with self.recorder.lock:  # the clock and who has stepped belong together for whoever asks for the marks
            self.clock += 1
            if self.outputs is not None and len(self.outputs.groups) > 1:
                self.outputs.prepare_all(self.clock, self.optimizers.has_stepped)
            if len(self.optimizers.known) > 1:
                known, passes = self.optimizers.known.values(), self.step_rows.passes.count
                note_missed(known, self.optimizers.has_stepped, self.clock, passes, self.recorder)
            self.optimizers.next_step()

    def _marks(self) -> Marks:
        """How far the steps are complete. Call with the recorder's lock held."""
        late = [device for stepped in list(self.optimizers.known.values()) for device in stepped.devices]
        waiting: list[Late] = [self.step_rows, *late, *([self.outputs.on_gpu] if self.outputs is not None else [])]
        return marks_of(self.clock, self.optimizers, waiting)

    def after_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped."""
        began = time.perf_counter_ns()
        stepped = self.optimizers.of(optimizer)
        stepped.depth -= 1
        if stepped.depth > 0 or stepped.is_inner:
            return
        stepped.depth = 0
        if not stepped.is_ours:
            self.step_rows.passes.set_apart()
            return
        if stepped in self.optimizers.under_way:
            self.optimizers.under_way.remove(stepped)
        with self.recorder.lock:
            self.weighing.weigh(stepped, self.clock)
            self.step_rows.passes.settle()
            self._look_after_jump(stepped)
            if self.moments.is_due(self.clock):
                self.moments.weigh(stepped, optimizer, self.clock, recorder=self.recorder)
            factor = math.nan
            if self.coherence is not None and self.coherence.is_due(stepped):
                found_inf = found_inf_of(optimizer)
                is_skipped = self.is_skipping or (isinstance(found_inf, float) and found_inf > 0)
                factor = self.coherence.after_step(stepped, self.clock, self.recorder, is_skipped)
            self.outputs_after(stepped, self.step_rows.passes.scale)
            self.optimizers.has_stepped.add(stepped.number)
            self.total_steps += 1
            noted, counted = self._note_step(stepped, optimizer, began, factor)
        spent = time.perf_counter_ns()
        if self.first_ns:
            self.own_ns += noted
        else:
            self.first_ns = counted  # when the first step began is not known: only what comes after it can be a share
        self.pending_own_ns = spent - counted  # what came after the row was written: the next one's
        if self.budget is not None:
            self._keep_to_budget(self.budget, spent)
        self.last_ns = spent

    def _keep_to_budget(self, budget: Budget, now: int) -> None:
        """Another level of detail, where the cost of the last steps asks for it or allows it."""
        total = self.own_ns + self.pending_own_ns
        own, self.told_own_ns = total - self.told_own_ns, total
        change = budget.add(own, now - self.last_ns) if self.last_ns else None
        if change is None:
            return
        self.optimizers.set_level(change.level)
        histogram = self.plan.histogram_bits if change.level.has_histograms else NO_HISTOGRAM
        self.moments.histogram, self.moments.thinned.one_in = histogram, change.level.thinning
        if self.coherence is not None:
            self.coherence.one_in = change.level.thinning
        if self.outputs is not None:
            self.outputs.set_detail(histogram, change.level.thinning)
        self.recorder.event(self.steps, "detail", change.message(), detail=change.detail())

    def _joined(self, stepped: Stepped) -> None:
        """The work of this optimizer was prepared anew."""
        if self.outputs is not None:
            self.outputs.assign(stepped.number, stepped.ids, self.table.alive_models())

    def _left(self, stepped: Stepped) -> None:
        """This optimizer is gone."""
        if self.outputs is not None:
            self.outputs.release(stepped.number)

    def _note_step(self, stepped: Stepped, optimizer: Optimizer, began: int, factor: float) -> tuple[int, int]:
        """The row of this step. Gives the time of ours that stands in it, and up to when."""
        now = time.perf_counter_ns()
        own = now - began + stepped.own_ns + self.pending_own_ns
        if self.outputs is not None:
            own += self.outputs.take_own_ns()
        found_inf = 1.0 if self.is_skipping else found_inf_of(optimizer)
        is_written = self.step_rows.add(stepped, optimizer, self.clock, found_inf, own, factor)
        for step in [self.clock] if is_written else self.step_rows.fetch():
            self.recorder.step_done(step)
        return own, now

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The closing `parameter` row of every tensor that can be weighed, and the last values of the small ones."""
        self._step_by_hand()
        step = self.steps
        self.passes_at_end = 0 if self._has_moved(step) else self.step_rows.passes.count
        self.table.rescan(step)
        if self.first is not None:
            self.first.fetch(self.clock, wait=True)
        with self.recorder.lock:
            for stepped in self.optimizers.known.values():
                stepped.missed.look_away()
                for device in stepped.devices:
                    device.drain(self.recorder)
            if self.outputs is not None:
                self.outputs.on_gpu.fetch(self.recorder, wait=True)
            for late in self.step_rows.fetch(wait=True):
                self.recorder.step_done(late)
            self.recorder.hand_over()  # apart from the closing rows: a flush says which steps it holds
            if self.total_steps or self.recorder.attempt == 0:  # else earlier attempts would give way to an idle one
                self.weighing.close(step)
            self.recorder.last_step = step
        self.table.remove_model(None)  # a run that is kept keeps no parameters, and no copies of them
        self.optimizers.known.clear()
        self.optimizers.departed.clear()
        self.by_hand = None

    def _has_moved(self, step: int) -> bool:
        """Has anything changed a parameter since the last step? What lies on a device may have, and what nobody has stepped."""
        works = [stepped.work for stepped in self.optimizers.known.values() if stepped.is_ours]
        if not self.total_steps or any(work is None or not work.is_plain for work in works):
            return True
        try:
            return any(work.begin(step) and bool(work.refresh()) for work in works if work is not None)
        except FormChanged:
            return True
