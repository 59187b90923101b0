"""`Run`: one training process group and its folder. active.py has the functions on the one that is active.

After set-up nothing here raises into training: if our code fails, the run stops recording, the user is told once on
stderr, and training goes on.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from weighbridge.capture import hooks
from weighbridge.capture.follower import Follower
from weighbridge.capture.kernel import load_kernel
from weighbridge.capture.live import Live, Wishes, cards, wished
from weighbridge.capture.plan import Plan
from weighbridge.capture.ranks import Place
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.tensors import TensorTable
from weighbridge.errors import BadInput, NothingToWatch, TrainingStopped, WeighbridgeError
from weighbridge.format import counted, duration, size
from weighbridge.records import histogram_bins
from weighbridge.store.writer import RankWriter

if TYPE_CHECKING:
    from weighbridge.diagnosis.rule import Finding

_kernel_notes: set[str] = set()
REPORTS: Final = ("inspection", "biases")


class Report(Protocol):
    """Of before the training (weighbridge.preflight)."""

    KIND: ClassVar[str]

    def to_json(self) -> str: ...


class Run:
    """One training process group and its folder. Made by `init` or `watch`, not by hand.

    `path` is the folder that every command and reader takes. Use it as a context manager, or call `finish`; a run that
    is left open is finished by the next one or at exit, and can be read meanwhile.
    """

    def __init__(
        self,
        place: Place,
        plan: Plan,
        quiet: bool,
        config: Mapping[str, Any] | None,
        by_watch: bool,
        at_end: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self.path: Path = place.path
        self.plan, self.quiet, self.by_watch, self._at_end = plan, quiet, by_watch, at_end
        self.is_recording = place.error == ""
        self.is_finished = False
        self._pid = os.getpid()
        self._told: set[str] = set()
        self._watched = False
        if not self.is_recording:
            self._tell(place.error)
            return
        claim = {"launch": place.launch, "first_step": place.start}
        try:
            self._writer = RankWriter(place.path, place.rank, place.attempt, disk_limit_bytes=plan.disk_bytes, claim=claim)
        except WeighbridgeError as error:  # another process goes on in this run at this very moment
            self.is_recording = False
            self._tell(f"nothing is recorded: {error} Training goes on.")
            return
        self._resumed = place.resumed
        self._recorder = Recorder(self._writer, self._tell, place.attempt, histogram_bins(plan.histogram_bits), place.start)
        seen = place.resumed.tensors if place.resumed is not None else ()
        self._table = TensorTable(self._recorder, self._tell, plan.wants, place.is_alone, seen)
        kernel = self._kernel = load_kernel()
        self._helped_before = kernel.helper_seconds
        self._stepper = Follower(self._recorder, kernel, plan, self._table, self._fail)
        self._stepper.clock = place.start
        self._live = Live(place.path, self._recorder, self._tell, self._stop_at_next_step) if place.rank == 0 else None
        if place.note:
            self._tell(place.note)
        if kernel.note and kernel.note not in _kernel_notes:  # once a process, not once a run
            _kernel_notes.add(kernel.note)
            self._tell(f"the fast kernel is not used ({kernel.note}); torch operations weigh instead, several times slower")
        if config:
            self.config(config)
        self._recorder.hand_over()

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "recording" if self.is_recording else "not recording"
        return f"<weighbridge.Run {str(self.path)!r}: {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: where it is, and what the rules have told. Nothing is read from the disk."""
        from weighbridge import html

        hint = "Live, and all of it: weighbridge.show(run)"
        told = html.paragraph(html.text(repr(self))), cards(self.findings), html.paragraph(html.text(hint))
        return html.block(*told)

    # --- watching ---------------------------------------------------------------------------------------------------

    def watch(
        self, model: nn.Module, optimizer: Optimizer | None = None, *, name: str | None = None, wishes: Wishes | None = None
    ) -> Run:
        """Weigh every parameter of this model at each step of whatever optimizer holds it.

        The optimizer need not be given: it is found when it steps. Several models may be watched by one run; `name` tells
        them apart (default: model, model-2, ...). Rules read along as with `weighbridge.watch`, which takes more `wishes` of
        what to do with findings. Raises NothingToWatch for what is no module or has no parameters.
        """
        check_model(model)
        self._ask_rules(wishes)
        if self._is_on() and not self._table.has_model(model):
            with self._guard():
                self._stepper.add_model(model, self._table.add_model(model, name, self._stepper.steps))
                self._watched = True
                hooks.listen(self._stepper)
        return self

    def _ask_rules(self, wishes: Wishes | None) -> None:
        if self._is_on() and self._live is not None and (wishes is not None or not self._live.has_begun):
            self._live.begin(wishes if wishes is not None else wished(), self.quiet)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules have found so far, beside this training; in the order in which it was told."""
        return self._live.findings if self.is_recording and self._live is not None else ()

    def unwatch(self, model: nn.Module | None = None) -> None:
        """Stop weighing one model, or all."""
        if self._is_on():
            with self._guard():
                self._stepper.remove_model(model)
                if not self._table.models:
                    hooks.forget(self._stepper)

    # --- what the user adds -----------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
        """Record metrics at the coming step, or at `step`: numbers, 0-dim tensors, texts. "epoch" sets the epoch.

        `log({"accuracy": 0.9})` and `log(accuracy=0.9)` are the same.
        """
        if not self._is_on():
            return
        with self._guard(), self._recorder.lock:
            at = self._stepper.steps if step is None else step
            for key, value in {**(values or {}), **more}.items():
                number, text = _logged(value)
                if key == "epoch" and text is None:
                    self._stepper.set_epoch(number)
                row = (at, self._recorder.attempt, str(key), number, text, time.time_ns())
                self._recorder.small["logs"].rows.append(row)

    def config(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Record settings of the run. Later values of a key replace earlier ones for every reader."""
        if self._is_on():
            with self._guard():
                self._recorder.event(self._stepper.steps, "config", "", detail={**(values or {}), **more})

    def attach(self, report: Report) -> None:
        """Keep what `weighbridge.inspect` or `weighbridge.biases` has found with this run, for its page "Before training".

        Raises BadInput for anything else. A later report of the same kind takes the place of an earlier one.
        """
        if getattr(report, "KIND", None) not in REPORTS:
            raise BadInput(
                f"attach was given {type(report).__name__}. Give it what weighbridge.inspect or weighbridge.biases returned: "
                "run.attach(weighbridge.inspect(model, (inputs, targets), loss_fn))."
            )
        if self._is_on():
            with self._guard():
                self._recorder.event(self._stepper.steps, report.KIND, "", detail=json.loads(report.to_json()))

    def epochs(self, number: int) -> Iterator[int]:
        """Count epochs: `for epoch in run.epochs(50):`. Steps inside are recorded with their epoch."""
        for epoch in range(number):
            if self._is_on():
                self._stepper.set_epoch(float(epoch))
            yield epoch

    def flush(self) -> None:
        """Return when everything recorded so far is written and acknowledged, readable by any other process."""
        if self._is_on():
            with self._guard():
                self._recorder.flush()

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the closing rows, close the files, and print one line. Calling it twice does nothing."""
        if self.is_finished or os.getpid() != self._pid:
            return
        self.is_finished = True
        self._at_end(self)
        if not self.is_recording:
            return
        hooks.forget(self._stepper)
        with self._guard():
            self._stepper.let_go()
            self._stepper.close()
            self._note_end()
        with self._guard():
            if self._live is not None:
                self._recorder.flush()
                self._live.close()
            self._recorder.close()
            try:
                self._writer.finish(self._steps())
            except OSError as error:
                self._tell(f"could not close the run in {self.path}: {error}. What was written stays readable")
            if not self.quiet and self._writer.rank == 0:
                print(self._last_line(), file=sys.stderr)

    def _steps(self) -> int:
        """Taken so far; of an attempt that ends before its first step, those of the attempts before."""
        is_idle = self._resumed is not None and self._stepper.total_steps == 0
        return self._resumed.steps if is_idle and self._resumed is not None else self._stepper.steps

    def _stop_at_next_step(self, finding: Finding) -> None:
        self._stepper.stop = functools.partial(self._stop_now, finding)

    def _stop_now(self, finding: Finding) -> None:
        """On the training thread. Finishes the run and raises TrainingStopped, the one exception that leaves a hook of ours."""
        self._stepper.stop = None
        message = f"stopped before step {self._stepper.steps:,}: {finding.key}"
        with self._guard():
            self._recorder.event(self._stepper.steps, "interrupted", message)
        self.finish()
        raise TrainingStopped(
            f"Training was stopped before step {self._stepper.steps:,}, because of stop_on: {finding.severity}: {finding.key}. "
            f"{finding.message} Try: {finding.fix} All of it: weighbridge diagnose {self.path}",
            finding,
        )

    def _note_end(self) -> None:
        stepper = self._stepper
        if self._watched and stepper.total_steps == 0 and stepper.step_rows.early:
            stepper.step_rows.write_passes()
            self._tell(
                f"no optimizer step in {stepper.step_rows.early} backward passes of this run: is optimizer.step() called, and "
                "was the optimizer given this model's parameters? (Updates written by hand, and a compiled step, are seen in "
                "models of up to a million parameters)"
            )
        elif self._watched and stepper.total_steps == 0:
            self._tell(
                "neither a backward pass through this model nor a step of an optimizer was seen: no step is recorded. "
                "Gradients of torch.autograd.grad with updates written by hand are not seen; loss.backward() is, and so is an "
                "optimizer. Of copies that are trained in its place, watch one"
            )
        detail = {
            "own_seconds": stepper.own_ns / 1e9,
            "wall_seconds": (stepper.last_ns - stepper.first_ns) / 1e9,
            "writer_seconds": self._recorder.thread_seconds,
            "helper_seconds": self._kernel.helper_seconds - self._helped_before,
            "rows_dropped": self._recorder.rows_dropped,
            "passes_since_step": stepper.passes_at_end,
        }
        self._recorder.event(stepper.steps, "finished", "", detail=detail)

    def _last_line(self) -> str:
        stepper = self._stepper
        wall = stepper.last_ns - stepper.first_ns
        cost = f"own cost {100 * stepper.own_ns / wall:.1f} % of {duration(wall / 1e9)}, " if stepper.total_steps > 1 else ""
        dropped = f", {self._recorder.rows_dropped:,} rows dropped" if self._recorder.rows_dropped else ""
        return (
            f"weighbridge: {counted(stepper.steps, 'step')}, {counted(self._table.parameters, 'tensor')}, {cost}"
            f"{size(self._writer.size_bytes)}{dropped} in {self.path} (see it: weighbridge show {self.path}, or weighbridge ui)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._is_on():
            with self._guard():
                self._recorder.event(self._stepper.steps, "interrupted", f"{type(error).__name__}: {error}")
        self.finish()

    # --- do no harm -------------------------------------------------------------------------------------------------

    @property
    def has_steps(self) -> bool:
        """Was any optimizer step recorded?"""
        return self.is_recording and self._stepper.total_steps > 0

    def _is_on(self) -> bool:
        return self.is_recording and not self.is_finished and os.getpid() == self._pid

    def _tell(self, message: str) -> None:
        """Say something once on stderr, and note it in the run."""
        if message in self._told:
            return
        self._told.add(message)
        print(f"weighbridge: {message}", file=sys.stderr)
        if self.is_recording and hasattr(self, "_stepper"):
            self._recorder.event(self._stepper.clock, "warned", message)

    def _fail(self, error: Exception) -> None:
        """Our own code failed: stop weighing, keep what is written, say so once."""
        hooks.forget(self._stepper)
        self._stepper.let_go()
        self._tell(
            f"weighing has stopped after an error of ours ({type(error).__name__}: {error}). Training goes on unchanged; "
            f"what was recorded so far is in {self.path}"
        )

    def _guard(self) -> _Guard:
        return _Guard(self._fail)


class _Guard:
    """Turns an Exception of ours into a message; lets KeyboardInterrupt and the like through."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self.fail = fail

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, Exception):
            self.fail(error)
            return True
        return False


def check_model(model: object) -> None:
    """Raise NothingToWatch for what cannot be watched."""
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise NothingToWatch(f"watch was given {kind}, not a torch.nn.Module. Give it the model itself: watch(model).")
    if next(model.parameters(), None) is None:
        raise NothingToWatch(
            f"This {kind} has no parameters, so there is nothing to weigh. Watch the model that the optimizer trains."
        )


def _logged(value: Any) -> tuple[float, str | None]:
    """(number, text) of a logged value; what is no number is kept as text."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value.detach()), None
    if isinstance(value, str):
        return float("nan"), value
    try:
        return float(value), None
    except (TypeError, ValueError):
        return float("nan"), repr(value)
