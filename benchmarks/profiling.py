"""Where watching spends its time, by wrapping the product's functions from outside; nothing in the product knows of it.

Every wrapped function is charged with its own time, without that of wrapped functions that it calls, and without what the
wrapping itself costs (measured on empty functions). The clock is the thread's own, blind to others on the same core. It
takes a microsecond to read, too much for steps of 0.1 ms: there the wall clock measures what runs at every step, and that
counts as calls x median, so that a call in the middle of which the core was taken away is no matter.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# (module, function, what the table calls it). The order is that of the table. Names that are gone are skipped and said.
_TRAINING = (
    ("capture.kernel", "NativeKernel.weigh", "kernel"),
    ("capture.kernel", "NativeKernel.moved", "comparing small tensors bytewise"),
    ("capture.addresses", "NativeLook.__call__", "addresses and versions"),
    ("capture.snapshots", "Snapshots.locate", "what has moved"),
    ("capture.snapshots", "Snapshots.is_as_before", "what has moved"),
    ("capture.work", "Work.is_as_before", "what has moved"),
    ("capture.snapshots", "Snapshots.refresh_moved", "what has moved"),
    ("capture.snapshots", "Snapshots.weigh", "kernel"),
    ("capture.values", "Values.keep_rest", "values of small tensors"),
    ("capture.recorder", "Recorder.values_room", "handing over"),
    ("capture.losses", "Passes.add", "loss"),
    ("capture.optimizers", "Optimizers.prepare", "whose step it is"),
    ("capture.stepper", "Stepper._note_step", "row of the step"),
    ("capture.steprows", "StepRows.add", "row of the step"),
    ("capture.coherence", "Coherence.is_due", "successive gradients"),
    ("capture.coherence", "Coherence.after_step", "successive gradients"),
    ("capture.accumulation", "Accumulation._measure", "successive gradients"),
    ("capture.recorder", "Recorder.room", "handing over"),
    ("capture.recorder", "Recorder.step_done", "handing over"),
    ("capture.recorder", "Recorder.hand_over", "handing over"),
    ("capture.recorder", "Recorder.flush", "(waiting in flush)"),
    ("capture.follower", "Follower.on_backward", "usual step: loss (C)"),
    ("capture.follower", "Follower.before_step", "usual step: addresses, versions, bytes (C)"),
    ("capture.follower", "Follower.after_step", "usual step: addresses, kernel, row (C)"),
    ("capture.usual", "Usual.start", "usual step: given to C"),
    ("capture.usual", "Usual.leave", "usual step: taken back"),
    ("capture.usual", "Usual.pause", "usual step: taken back"),
    ("capture.usual", "Usual.gather", "row of the step"),
    ("capture.hooks", "_before", "hooks"),
    ("capture.hooks", "_after", "hooks"),
    ("capture.hooks", "_backward", "(backward itself)"),
    ("capture.stepper", "Stepper.before_step", "hooks"),
    ("capture.stepper", "Stepper.after_step", "hooks"),
    ("capture.stepper", "Stepper.on_backward", "hooks"),
)
# Their time depends on whether the step is one of the plan: what they do is in the name of the part.
_OUTPUTS = (
    ("capture.outputhook", "OutputHook.__call__", "hooks of modules (Python)", lambda hook, *_: hook.group.is_full),
    (
        "capture.outputs",
        "Outputs.after_step",
        "rows of outputs",
        lambda outputs, number, _: number in outputs.groups and outputs.groups[number].is_full,
    ),
    ("capture.outputs", "Outputs.before_step", "what biases add", lambda outputs, *_: True),
    ("capture.outputs", "Outputs._set_pace", "hooks placed and taken away", lambda outputs, *_: True),
)
_WRITER = (
    ("capture.recorder", "Recorder._write", "writer: the rest"),
    ("capture.recorder", "Lists.batch", "writer: encoding of the small tables"),
    ("store.segment", "encode", "writer: encoding (Arrow, compression)"),
    ("store.segment", "SegmentWriter.append", "writer: checksum, sidecar"),
    ("store.segment", "_write", "writer: write()"),
)
_RARE = ("Recorder.hand_over", "Recorder.flush")  # they wake the writer, which may take the core from them
APART = ("(waiting in flush)", "(backward itself)")  # no cost of ours, or counted as the writer's


@dataclass(frozen=True)
class Part:
    """One line of the profile, over all profiled steps."""

    name: str
    seconds: float
    calls: int


class Profile:
    """Wraps when made; `unwrap` puts everything back. `is_short`: the steps are too short for the thread's clock."""

    def __init__(self, is_short: bool) -> None:
        self._is_short = is_short
        self._own: dict[str, list[int]] = defaultdict(list)
        self._part: dict[str, str] = {}
        self._undo: list[Callable[[], None]] = []
        self._local = threading.local()
        self.missing: list[str] = []
        self._inside = self._beside = 0
        self._calibrate(time.perf_counter_ns if is_short else time.thread_time_ns)
        for module, name, part, kind in _OUTPUTS:
            self._wrap_kinds(f"weighbridge.{module}", name, part, kind)
        self._wrap_seats()
        for module, name, part in (*_TRAINING, *_WRITER):
            often = is_short and not part.startswith("writer") and name not in _RARE
            self._wrap(f"weighbridge.{module}", name, part, time.perf_counter_ns if often else time.thread_time_ns)

    def _calibrate(self, clock: Callable[[], int]) -> None:
        def empty() -> None: ...

        child = self._timed(empty, "child", clock)
        parent = self._timed(lambda: child(), "parent", clock)
        for _ in range(2000):
            parent()
        inside = int(statistics.median(self._own["child"]))
        beside = int(statistics.median(self._own["parent"])) - inside
        self._inside, self._beside = inside, max(beside, 0)
        self._own.clear()

    def _wrap(self, module_name: str, name: str, part: str, clock: Callable[[], int]) -> None:
        found = self._find(module_name, name)
        if found is None:
            return
        owner, last, raw = found
        static = isinstance(raw, staticmethod)
        key = f"{module_name}.{name}"
        self._part[key] = part
        timed = self._timed(raw.__func__ if static else raw, key, clock)
        self._put(owner, last, staticmethod(timed) if static else timed, raw)

    def _find(self, module_name: str, name: str) -> tuple[Any, str, Any] | None:
        """The owner of a function, its name there, and itself; None, noted in `missing`, where it is gone."""
        *path, last = name.split(".")
        try:
            owner: Any = functools.reduce(getattr, path, importlib.import_module(module_name))
            return owner, last, vars(owner)[last]
        except (ImportError, AttributeError, KeyError):
            self.missing.append(f"{module_name}.{name}")
            return None

    def _put(self, owner: Any, last: str, timed: Any, raw: Any) -> None:
        setattr(owner, last, timed)
        self._undo.append(lambda: setattr(owner, last, raw))

    def _wrap_kinds(self, module_name: str, name: str, part: str, is_planned: Callable[..., bool]) -> None:
        """Two lines of the table: steps of the plan, and those between, where only the sentinel is at work."""
        found = self._find(module_name, name)
        if found is None:
            return
        owner, last, raw = found
        timed = self._by_kind(raw, f"{module_name}.{name}", part, is_planned)
        self._put(owner, last, functools.wraps(raw)(lambda *args: timed(*args)), raw)

    def _by_kind(self, function: Any, key: str, part: str, is_planned: Callable[..., bool]) -> Callable[..., Any]:
        clock = time.perf_counter_ns if self._is_short else time.thread_time_ns
        planned, between = (self._timed(function, f"{key} {kind}", clock) for kind in ("planned", "between"))
        self._part |= {f"{key} planned": f"activations: {part}", f"{key} between": f"sentinel: {part}"}
        return lambda *args: (planned if is_planned(*args) else between)(*args)

    def _wrap_seats(self) -> None:
        """The C function that reads a tensor is made for each output: wrap it where it is made."""
        found = self._find("weighbridge.capture.seats", "Library.hook")
        if found is None:
            return
        owner, last, raw = found

        def hook(library: Any, seat: Any, otherwise: Any) -> Callable[..., Any]:
            made = raw(library, seat, otherwise)
            return self._by_kind(made, "seat", "reading (C)", lambda _: seat.pace.mode == 2)

        self._put(owner, last, hook, raw)

    def _timed(self, function: Callable[..., Any], key: str, clock: Callable[[], int]) -> Callable[..., Any]:
        own, local = self._own[key], self._local

        def timed(*args: Any, **kwargs: Any) -> Any:
            above = getattr(local, "below", None)
            local.below = below = [0, 0]  # time inside wrapped functions called from here, and their number
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = clock() - began
                own.append(spent - below[0] - self._inside - below[1] * self._beside)
                if above is not None:
                    above[0] += spent
                    above[1] += 1
                local.below = above

        with contextlib.suppress(AttributeError):
            functools.update_wrapper(timed, function)
        return timed

    def clear(self) -> None:
        """Forget the warming up: the first step looks for tensors and copies them all."""
        for own in self._own.values():
            own.clear()

    def unwrap(self) -> None:
        for undo in reversed(self._undo):
            undo()

    def parts(self, steps: int) -> list[Part]:
        """The lines of the table, in order."""
        seconds: dict[str, float] = defaultdict(float)
        calls: dict[str, int] = defaultdict(int)
        for key, part in self._part.items():
            own = self._own[key]
            by_median = self._is_short and len(own) >= steps
            total = statistics.median(own) * len(own) if by_median else sum(own)
            seconds[part] += max(total, 0) / 1e9
            calls[part] = max(calls[part], len(own))
        return [Part(name, seconds[name], calls[name]) for name in dict.fromkeys(self._part.values()) if name not in APART]


def profile_lines(parts: list[Mapping[str, Any]], steps: int, raw: float, extra: float) -> list[str]:
    """Microseconds a step and share of a raw step. `raw`, `extra`: CPU seconds a step, measured unwrapped."""
    lines = ["| part | us a step | share of a raw step |", "|---|---:|---:|"]
    each = [(part["name"], part["seconds"] / steps) for part in parts]
    rest = extra - sum(seconds for _, seconds in each)
    each.append(("not in our functions (cold caches, page faults, scheduling; or noise)", rest))
    each.append(("**watched minus raw in CPU time, measured without profiling**", extra))
    return lines + [f"| {name} | {seconds * 1e6:,.1f} | {100 * seconds / raw:.2f} % |" for name, seconds in each]
