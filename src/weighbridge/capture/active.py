"""The active run, and the functions on it: init, watch, log, config, epochs, flush, finish, unwatch."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.optim.optimizer import Optimizer

from weighbridge.capture.live import wished
from weighbridge.capture.plan import Plan
from weighbridge.capture.ranks import name_of_launch, open_place
from weighbridge.capture.resume import Resume, check_resume
from weighbridge.capture.run import Run, check_model
from weighbridge.errors import BadInput

if TYPE_CHECKING:
    from weighbridge.diagnosis.rule import Finding, Rule, Severity

_active: Run | None = None
_lock = threading.RLock()


def init(
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    dir: str | os.PathLike[str] | None = None,
    *,
    group: str | None = None,
    tags: Sequence[str] = (),
    plan: Plan | None = None,
    quiet: bool = False,
    resume: bool | int = False,
) -> Run:
    """Open a run below `dir` (default ./weighbridge-runs) and make it the active one; an open one is finished first.

    An existing name gets -2, -3, ...: a run is never overwritten, and appended to only where that is asked for.

    resume     go on in the run `name` that an earlier process has written: True: after its last recorded step; a number: at
               this step, as the checkpoint has it. What the run holds from there on gives way to the new attempt, and stays
               readable as `open_run(path, attempt=0)`. A tensor of the same name keeps its series. The run keeps its
               project, group and tags; of `config` later values win. Where there is no such run yet, it is begun, at this
               step; where it is still being written, cannot be read, or is of another number of processes, a new one is:
               what is done is told on stderr, and nothing of that is raised into training.

    Raises BadInput for a `resume` that is neither True nor a step, and for one without a name.
    """
    check_resume(resume, name, name_of_launch() is not None)
    info = {"project": project, "group": group, "tags": list(tags)}
    return _open(name, dir, config, plan, quiet, info, by_watch=False, resume=resume)


def _open(
    name: str | None,
    dir: str | os.PathLike[str] | None,
    config: Mapping[str, Any] | None,
    plan: Plan | None,
    quiet: bool,
    info: dict[str, Any],
    by_watch: bool,
    resume: Resume = False,
) -> Run:
    global _active
    with _lock:
        finish()
        place = open_place(Path(dir) if dir is not None else Path("weighbridge-runs"), name, info, resume)
        _active = Run(place, plan or Plan(), quiet, config, by_watch, _forget)
        return _active


def watch(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    name: str | None = None,
    plan: Plan | None = None,
    run: Run | None = None,
    live: bool | Literal["silent"] = True,
    on_finding: Callable[[Finding], object] | None = None,
    stop_on: Severity | None = None,
    alert: str | None = None,
    rules: Sequence[type[Rule] | str | os.PathLike[str]] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Run:
    """Weigh every weight, bias, gradient and update of `model` at every optimizer step. Nothing else is needed.

    model      any torch.nn.Module with parameters
    optimizer  not needed: it is found when it steps
    name       tells several models of one run apart (default: model, model-2, ...)
    plan       what to record within which bounds
    run        the run to record into; default: the active one, else a new one in ./weighbridge-runs

    Rules read along on a thread of their own and say what is wrong while the training runs: one line each on stderr, and in the
    run for `weighbridge show` and the page. Of several ranks, rank 0 does so for itself.

    live       False: no rules beside the training; "silent": nothing is printed
    on_finding called with each `Finding`, on the thread of the rules. What it raises is told once; training goes on
    stop_on    "error", "warning" or "note": at the first finding this grave the run is finished and the next backward pass or
               optimizer step raises TrainingStopped
    alert      a web address that gets each finding as a POST of JSON
    rules      rules of your own beside the built-in ones: classes, or files that hold some
    select     ids of rules to ask, or patterns ("*-gradient"); default: all
    ignore     ids or patterns of rules not to ask

    A run that `watch` itself opened and that has steps already is finished, and a new one opened: a notebook cell run
    twice gives two runs.
    Raises NothingToWatch for what is no module or has no parameters; BadInput for rules, severities and addresses that do not
    exist, for a `run` that is no Run, and for a plan other than that of a run that is open already.
    """
    check_model(model)
    if run is not None and not isinstance(run, Run):
        raise BadInput(
            f"watch was given run={run!r}, a {type(run).__name__}; a run is what init gives. For a run of that name write "
            "watch(model, run=weighbridge.init(name=...))."
        )
    wishes = wished(live, on_finding, stop_on, alert, rules, select, ignore)
    with _lock:
        target = run or _active
        if target is None or target.is_finished or (run is None and target.by_watch and target.has_steps):
            target = _open(None, None, None, plan, False, {}, by_watch=True)
        elif plan is not None and plan != target.plan:
            raise BadInput(
                "watch was given a plan, but its run is open already and has one. Give the plan where the run is opened: "
                "weighbridge.init(plan=weighbridge.Plan(...))."
            )
        return target.watch(model, optimizer, name=name, wishes=wishes)


def log(values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
    """Record metrics in the active run, `log({"accuracy": 0.9})` or `log(accuracy=0.9)`; without one nothing happens."""
    if _active is not None:
        _active.log(values, step=step, **more)


def config(values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Record settings of the active run; without one nothing happens."""
    if _active is not None:
        _active.config(values, **more)


def epochs(number: int) -> Iterator[int]:
    """Count epochs of the active run."""
    yield from _active.epochs(number) if _active is not None else range(number)


def flush() -> None:
    """Return when all that the active run has recorded is readable by others."""
    if _active is not None:
        _active.flush()


def unwatch(model: nn.Module | None = None) -> None:
    """Stop weighing one model of the active run, or all."""
    if _active is not None:
        _active.unwatch(model)


def finish() -> None:
    """Finish the active run."""
    if _active is not None:
        _active.finish()


def _forget(run: Run) -> None:
    global _active
    if _active is run:
        _active = None


atexit.register(finish)
