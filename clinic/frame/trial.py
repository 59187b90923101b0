"""One trial: a program, a seed, ill or not, one tool. Trained plainly for the truth, then watched, in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from clinic.frame.case import Case
from clinic.frame.program import Program
from clinic.tools import Verdict, tool

TIMEOUT_SECONDS = 300.0
_fork = multiprocessing.get_context("fork")  # torch is imported once; the parent itself never trains


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried."""

    program: Program
    seed: int
    ill: bool
    tool: str = "weighbridge"
    known: Mapping[str, Any] | None = None  # what a plain training has shown before: first_true, is_proved, digest

    @property
    def name(self) -> str:
        return self.program.name if self.ill or not self.program.label else self.program.twin


@dataclass(slots=True)
class Result:
    """What came of a trial. Plain values: it goes through a pipe and into a file."""

    name: str
    label: str  # the fault that is in it; empty for healthy programs and twins
    is_twin: bool
    kind: str
    seed: int
    places: tuple[str, ...]
    also: tuple[str, ...]
    tool: str
    first_true: int | None = None
    is_proved: bool = False  # ill: the truth held at some step; else: at none, and it learned
    digest: str = ""  # of the model at the end of the plain training
    is_same: bool = True  # plain and watched training ended with the same bits
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0  # of the watched training
    tool_seconds: float = 0.0  # of finding out afterwards
    failure: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def empty(trial: Trial) -> Result:
    """A result in which nothing has been measured yet."""
    p = trial.program
    label = p.label if trial.ill else ""
    return Result(trial.name, label, bool(p.label) and not trial.ill, p.kind, trial.seed, p.places, p.also, trial.tool)


def run_all(trials: Iterable[Trial], jobs: int, watched: bool = True) -> Iterator[Result]:
    """Each trial in a process of its own, `jobs` at a time; as they end. `watched=False`: the plain trainings only."""
    waiting, running = list(trials)[::-1], {}
    _warm({trial.tool for trial in waiting} if watched else set())
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial = waiting.pop()
                pipe, process = _started(trial, watched)
                running[pipe] = trial, process, time.monotonic() + TIMEOUT_SECONDS
            for pipe in wait(list(running), timeout=1.0):
                assert isinstance(pipe, Connection)
                trial, process, _ = running.pop(pipe)
                yield _received(pipe, trial)
                process.join()
            for pipe in [p for p, (_, _, end) in running.items() if time.monotonic() > end]:
                trial, process, _ = running.pop(pipe)
                process.kill()
                yield _failed(trial, f"not ended after {TIMEOUT_SECONDS:.0f} s")
    finally:
        for _, process, _ in running.values():
            process.kill()


def _started(trial: Trial, watched: bool) -> tuple[Connection, Any]:
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_send, args=(theirs, trial, watched))
    process.start()
    theirs.close()
    return ours, process


def _warm(tools: set[str]) -> None:
    """Imports what every trial would import for itself: a second each for torch._dynamo, which the first optimizer asks for."""
    for name in ("torch._dynamo", *(f"clinic.tools.{used.replace('-', '_')}" for used in tools)):
        with suppress(ImportError):  # each trial says it
            importlib.import_module(name)


def _received(pipe: Connection, trial: Trial) -> Result:
    try:
        received: Result = pipe.recv()
    except EOFError:
        return _failed(trial, "its process died")
    return received


def _failed(trial: Trial, why: str) -> Result:
    result = empty(trial)
    result.failure = why
    return result


def _send(pipe: Connection, trial: Trial, watched: bool) -> None:
    """In the trial's own process. What it prints goes nowhere: many run side by side."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    torch.set_num_threads(1)  # whatever the environment says: sums, and with them truths kept from another day, depend on it
    try:
        with tempfile.TemporaryDirectory(prefix="clinic-") as folder, chdir(folder):
            result = tried(trial, watched) if trial.program.ranks == 1 else _by_ranks(trial, watched, folder)
    except BaseException:  # said in the table; the other trials go on
        result = _failed(trial, traceback.format_exc(limit=-3))
    pipe.send(result)


def _by_ranks(trial: Trial, watched: bool, folder: str) -> Result:
    """All ranks are forked from this process, as a launcher starts them: it is by their parent that they know each other."""
    ours, theirs = _fork.Pipe(duplex=False)
    ranks = [
        _fork.Process(target=_rank, args=(trial, watched, folder, rank, theirs), daemon=True)
        for rank in range(trial.program.ranks)
    ]
    for process in ranks:
        process.start()
    theirs.close()
    result = _received(ours, trial)
    for process in ranks:
        process.join(20)
    return result


def _rank(trial: Trial, watched: bool, folder: str, rank: int, pipe: Connection) -> None:
    """One rank, in its own process; rank 0 sends what came of it."""
    world = trial.program.ranks
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        result = tried(trial, watched)
    except BaseException:
        result = _failed(trial, traceback.format_exc(limit=-3))
    if rank == 0:
        pipe.send(result)
    dist.destroy_process_group()


def tried(trial: Trial, watched: bool = True) -> Result:
    """The trial, in this process and folder. Raises what the program raises."""
    result = empty(trial)
    if trial.known is None:
        _measure(result, _train(trial, None))
    else:
        result.first_true, result.is_proved, result.digest = (trial.known[k] for k in ("first_true", "is_proved", "digest"))
    if watched:
        used = tool(trial.tool)
        begun = time.perf_counter()
        seen = _train(trial, used)
        result.seconds = time.perf_counter() - begun
        result.is_same = seen.digest == result.digest
        begun = time.perf_counter()
        result.verdicts = used.verdicts() if not dist.is_initialized() or dist.get_rank() == 0 else []
        result.tool_seconds = time.perf_counter() - begun
    return result


def _measure(result: Result, plain: Case) -> None:
    result.first_true, result.digest = plain.first_true, plain.digest
    result.is_proved = plain.first_true is not None if result.label else plain.first_true is None and plain.proved is True


def _train(trial: Trial, used: Any) -> Case:
    torch.manual_seed(trial.seed)
    case = Case(trial.seed, trial.ill, trial.program.steps, used.watch if used else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks about the faults are not ours to print
        trial.program.train(case)
    if dist.is_initialized():
        dist.barrier()  # the tool reads what all ranks wrote
    return case
