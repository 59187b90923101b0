"""The usual step: one backward pass, one optimizer's step, and everything as at the step before.

Most steps of most trainings are of this kind, and for a small network what Python asks at each of them costs more than the
weighing. So C takes three calls of a step (native/weighbridge_step.c: backward, before, after). This module says for how many
steps that can hold, and brings back what was noted there, whenever somebody asks, or something comes that is not usual.
"""

from __future__ import annotations

import ctypes
import math
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.cfunctions import ONE, CFunction
from weighbridge.capture.graphwalk import SINK
from weighbridge.capture.kernel import NativeKernel
from weighbridge.capture.plan import Occasions, Plan
from weighbridge.capture.recorder import FLUSH_SECONDS, FLUSH_STEPS, Recorder
from weighbridge.capture.stepped import Stepped

if TYPE_CHECKING:
    from weighbridge.capture.stepper import Stepper

OFF, READY, PASSED, INSIDE = range(4)  # nothing is usual; between steps; after a backward pass; while the optimizer steps
_LOSSES: Final = 4  # kinds of losses known
_PER_GROUP: Final = 3  # lr, momentum, weight decay
_MOST_PAUSE: Final = 64  # steps
_PRODUCTS: Final = ("MulBackward0", "DivBackward0", SINK)  # whose factors are looked at (losses.py)
_SUMS: Final = ("NllLossBackward0", "NllLoss2DBackward0")  # that may be sums over targets
_NEVER: Final = 1 << 62


class _Group(ctypes.Structure):
    """wb_group."""

    _fields_ = [("group", ctypes.c_void_p), ("parameters", ctypes.c_void_p), ("count", ctypes.c_int64)]


class UsualState(ctypes.Structure):
    """wb_usual."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("phase", "found")),
        *(
            (name, ctypes.c_int64)
            for name in ("clock", "until", "done", "room", "own_ns", "last_ns", "hand_over_ns", "pause_at")
        ),
        ("loss", ctypes.c_double),
        ("samples", ctypes.c_int64),
        ("losses", ctypes.c_void_p * _LOSSES),
        ("averages", ctypes.c_int32 * _LOSSES),
        *((name, ctypes.c_void_p) for name in ("optimizer", "groups", "group")),
        ("group_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("members", "asked", "block", "values", "past")),
        *((name, ctypes.c_int32) for name in ("keep", "shares", "attempt", "sentinel")),
        *((name, ctypes.c_void_p) for name in ("scene", "forward", "backward", "batch", "model", "emptied")),
        ("jumped", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("loss_of", "time_of", "own_of", "samples_of", "settings_of")),
    ]


class Usual:
    """The usual steps of one run. Raises OSError where C cannot do them."""

    def __init__(self, kernel: NativeKernel, recorder: Recorder, plan: Plan) -> None:
        self.kernel, self.recorder = kernel, recorder
        self.state = UsualState(found=-1, room=FLUSH_STEPS, attempt=recorder.attempt)
        library = kernel.library
        self.backward = CFunction(library, "wb_usual_backward", ONE, "notes a loss").on(self.state, self)
        self.before = CFunction(library, "wb_usual_before", ONE, "before a step").on(self.state, self)
        self.after = CFunction(library, "wb_usual_after", ONE, "after a step").on(self.state, self)
        self.losses: list[type] = []  # kinds of a loss's node of which only the value is asked
        self.stepped: Stepped | None = None
        self._bound: Any = None  # the work that the addresses are of
        self._kept: tuple[Any, ...] = ()  # what C has the addresses of
        self._perf_ahead = 0  # of the wall clock
        self._pause = self._rest = 0  # steps to wait before C is asked again: where it is never usual, asking costs
        self._has_done = False
        self._coherence = Occasions(plan.schedule("coherence"))
        self._numbers = (np.empty(FLUSH_STEPS), *(np.empty(FLUSH_STEPS, np.int64) for _ in range(3)))
        state = self.state
        state.loss_of, state.time_of, state.own_of, state.samples_of = (array.ctypes.data for array in self._numbers)
        self._settings = np.empty((FLUSH_STEPS, 0, _PER_GROUP))

    # ---- from Python to C ----

    def meet(self, loss: torch.Tensor) -> None:
        """A loss that Python has noted: the next one of its kind may be C's."""
        kind = type(loss.grad_fn)
        if kind in self.losses or kind.__name__ in _PRODUCTS:
            return
        self.losses = [kind, *self.losses][:_LOSSES]
        for i, known in enumerate(self.losses):
            self.state.losses[i], self.state.averages[i] = id(known), known.__name__ in _SUMS

    def start(self, stepper: Stepper, stepped: Stepped, optimizer: Optimizer) -> None:
        """A step is over. The next ones are C's, where they can be. Call with the recorder's lock held."""
        if self._rest:
            self._rest -= 1
            return
        until = self._until(stepper, stepped)
        if until <= stepper.clock + 1 or not self._bind(stepped, optimizer):
            return
        state, recorder, now = self.state, self.recorder, time.time_ns()
        state.clock, state.until, state.block = stepper.clock, until, recorder.block.address
        state.values = recorder.values.address if state.keep else None
        state.own_ns, stepper.pending_own_ns = stepper.pending_own_ns, 0
        emptied = stepped.pair.leftover.parameter if stepper.coherence is not None else None
        state.emptied = None if emptied is None else id(emptied)
        state.hand_over_ns, state.room = self._hand_over_ns(), FLUSH_STEPS - recorder.steps_held
        self._perf_ahead = time.perf_counter_ns() - now
        self._has_done = False
        self._kept = (self._kept[0], recorder.block, recorder.values)
        state.phase = READY

    def _until(self, stepper: Stepper, stepped: Stepped) -> int:
        """The first step that is not usual, as far as can be known now; 0 where the next one is not."""
        work, rows, step = stepped.work, stepper.step_rows, stepper.clock + 1
        is_alone = len(stepper.optimizers.known) == 1 and not stepped.devices and not stepped.copies and stepped.lent is None
        is_still = stepper.budget is None and stepper.by_hand is None and stepper.first is None
        is_empty = not rows.clips and not rows.under_way and not rows.passes.count and rows.passes.scale == 1.0
        if not (is_alone and is_still and is_empty) or work is None or not work.is_plain or len(work.parts) > 1:
            return 0
        if stepper.table.is_waiting or stepped.watched != stepper.table.version:
            return 0
        keep, ends = work.kept_from(step)
        if keep < 0:
            return 0
        self.state.keep = keep
        if not self._outputs(stepper, stepped):
            return 0
        return int(min(ends, stepper.moments.occasions.next_due(step), self._compared(stepper, stepped), _NEVER))

    def _outputs(self, stepper: Stepper, stepped: Stepped) -> bool:
        """Can C do the next step as far as activations are concerned? It can but where units are looked at one by one."""
        outputs, state = stepper.outputs, self.state
        state.scene = state.model = None
        if outputs is None:
            return True
        group = outputs.groups.get(stepped.number)
        if group is None or len(outputs.groups) > 1 or group.looks or outputs.is_busy:
            return False
        state.scene, state.forward, state.backward, state.batch = outputs.addresses(group)
        state.sentinel = outputs.plan.sentinel
        watched = group.hooks[0] if group.hooks and outputs.plan.sentinel else None
        if watched is not None and watched.model not in outputs.remarks.evaluated:
            state.model = id(watched.root)
        # The end of a step that is weighed: rows are written. The end of the one before: it is prepared.
        state.pause_at = int(min(stepper.clock + 1 if group.is_full else group.due_at - 1, _NEVER))
        return True

    def _compared(self, stepper: Stepper, stepped: Stepped) -> float:
        """At the end of the step before one that is compared its gradients are kept, and before that passes are looked at."""
        coherence = stepper.coherence
        if coherence is None:
            return math.inf
        if stepped.pair.is_next_due or coherence.accumulation.is_sampling or coherence.accumulation.last is not None:
            return 0
        return stepper.clock + self._coherence.next_due(stepped.count + 1) - stepped.count

    def _bind(self, stepped: Stepped, optimizer: Optimizer) -> bool:
        """Give C the addresses of this optimizer's groups and tensors."""
        work = stepped.work
        if work is not None and self._bound is work and self.stepped is stepped:
            return True
        groups = optimizer.param_groups
        if work is None or type(groups) is not list or not all(type(g) is dict and type(g["params"]) is list for g in groups):
            return False
        snapshots = work.parts[0]
        address = snapshots.look.address
        keeps_gil, shares = self.kernel.how(snapshots.items)
        if not address or not keeps_gil:
            return False
        members = np.array([id(p) for group in groups for p in group["params"]], np.uint64)
        described = (_Group * len(groups))(*(_Group(id(g), id(g["params"]), len(g["params"])) for g in groups))
        self._settings = np.empty((FLUSH_STEPS, len(groups), _PER_GROUP))
        state = self.state
        state.optimizer, state.groups, state.group = id(optimizer), id(groups), ctypes.addressof(described)
        state.group_count, state.members, state.asked = len(groups), members.ctypes.data, address
        state.shares, state.settings_of = shares, self._settings.ctypes.data
        state.past = None if work.jumps is None else work.jumps.address
        self._kept = ((members, described, groups, list(groups), snapshots),)
        self._bound, self.stepped = work, stepped
        return True

    def forget(self, stepped: Stepped) -> None:
        """This optimizer is gone: keep nothing of it."""
        if stepped is self.stepped:
            self.state.phase = OFF
            self._bound, self.stepped, self._kept = None, None, ()

    # ---- from C to Python ----

    def gather(self, stepper: Stepper) -> None:
        """Bring back what was noted of steps that are over. Call with the recorder's lock held, from any thread."""
        state, stepped, done = self.state, self.stepped, int(self.state.done)
        if state.phase == OFF or stepped is None:
            return
        last = self._set_clock(stepper, stepped)
        if not done:
            return
        state.done, self._has_done = 0, True
        losses, times, owns, samples = (array[:done].tolist() for array in self._numbers)
        settings = self._settings[:done].transpose(0, 2, 1).tolist()
        stepper.step_rows.add_usual(stepped, last - done + 1, losses, settings, times, owns, samples)
        stepper.total_steps += done
        stepper.own_ns += sum(owns)
        stepper.last_ns = int(state.last_ns) + self._perf_ahead
        self.recorder.steps_held += done
        self.recorder.last_step = last

    def _set_clock(self, stepper: Stepper, stepped: Stepped) -> int:
        """Tell the stepper how far C is. Gives the last step that is over."""
        clock, is_inside = int(self.state.clock), bool(self.state.phase == INSIDE)
        stepper.clock = clock
        stepper.optimizers.has_stepped = set() if is_inside else {stepped.number}
        if stepper.outputs is not None:
            stepper.outputs.step = clock - is_inside
        return clock - is_inside

    def pause(self, stepper: Stepper) -> None:
        """A step is over, and there is more to do now than to note it. Call with the recorder's lock held."""
        state, recorder, stepped = self.state, self.recorder, self.stepped
        is_asked = state.jumped or state.clock >= state.pause_at
        if stepped is not None and stepper.outputs is not None and is_asked:
            began = time.perf_counter_ns()
            self._set_clock(stepper, stepped)
            if state.jumped:
                stepper.outputs.look_soon(int(state.clock))
            stepper.outputs_after(stepped, 1.0)
            state.own_ns += time.perf_counter_ns() - began
            if not self._outputs(stepper, stepped):
                self.leave(stepper)
        if state.done >= state.room or state.last_ns >= state.hand_over_ns:
            recorder.hand_over()
            state.room, state.hand_over_ns = FLUSH_STEPS, self._hand_over_ns()

    def _hand_over_ns(self) -> int:
        left = FLUSH_SECONDS - (time.perf_counter() - self.recorder.last_hand_over)
        return time.time_ns() + int(left * 1e9)

    def leave(self, stepper: Stepper) -> None:
        """The step is Python's from here on, in whatever phase it is. Call with the recorder's lock held."""
        state, stepped = self.state, self.stepped
        if state.phase == OFF or stepped is None:
            return
        self.gather(stepper)
        self._pause = 0 if self._has_done else min(2 * self._pause + 1, _MOST_PAUSE)
        self._rest = self._pause
        if state.emptied:
            stepped.pair.leftover.was_clean(self._has_done, state.phase != READY)
        if state.phase == PASSED:
            stepper.step_rows.passes.note(float(state.loss), int(state.samples))
        elif state.phase == INSIDE:
            stepper.step_rows.passes.note(float(state.loss), int(state.samples))
            stepped.depth, stepped.own_ns = 1, 0
            stepper.optimizers.departed.clear()
            stepper.optimizers.under_way.append(stepped)
        if state.found >= 0 and stepped.work is not None:
            stepped.work.parts[0].take_found(int(state.found))
        stepper.pending_own_ns += int(state.own_ns)
        state.found, state.own_ns, state.phase = -1, 0, OFF
