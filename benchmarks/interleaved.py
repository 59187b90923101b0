"""Two copies of one training take turns in one process, on one core, with one thread: a block of the one, one of the other.

What disturbs both (other processes, clock rates, heat) cancels in the ratio of neighbours. The process has to be
started with ENVIRONMENT: glibc reads it before Python runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from workloads import Training

# Without these glibc gives freed memory back and faults it in again, one copy more than its twin: up to 30 % on (b).
# 32 MiB is the largest threshold for mmap that glibc takes.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "OMP_NUM_THREADS": "1"}


class Tool(Protocol):
    """What watches the second copy."""

    name: str
    after_step: Callable[[torch.Tensor], None] | None  # what the tool wants said in the loop; timed

    def begin(self, training: Training) -> None:
        """Set up; not timed."""

    def resume(self) -> None:
        """Before each block of its copy; not timed."""

    def end_of_block(self) -> None:
        """Timed: bring what was recorded so far to safety."""

    def pause(self) -> None:
        """After each block of its copy: leave the raw copy alone; not timed."""

    def finish(self) -> None:
        """Not timed."""


class Raw:
    """No tool at all: the control."""

    name = "raw"
    after_step: Callable[[torch.Tensor], None] | None = None

    def __init__(self, folder: Path | None = None) -> None: ...
    def begin(self, training: Training) -> None: ...
    def resume(self) -> None: ...
    def end_of_block(self) -> None: ...
    def pause(self) -> None: ...
    def finish(self) -> None: ...


# Of a long run under the default plan: parameters alone; what modules give, too; each unit of it and the moments, too
KINDS = {"plain": 0.90, "sampled": 0.09, "closer": 0.01}


@dataclass(frozen=True)
class Block:
    """What one block took."""

    wall: float  # seconds
    cpu: float  # seconds of this process, all threads


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ratios of neighbouring blocks."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @classmethod
    def of_kinds(cls, values: Sequence[float], kinds: Sequence[str]) -> Spread:
        """Of blocks that are single steps: each kind counts as often as in a long run, however many of it were measured."""
        spreads = {
            kind: cls.of([v for v, k in zip(values, kinds, strict=True) if k == kind]) for kind in KINDS if kind in kinds
        }
        if len(spreads) < 2:
            return cls.of(values)
        shares = {kind: KINDS[kind] for kind in spreads}
        commonest = next(iter(shares))  # where a plan weighs outputs at every step, none is plain
        shares[commonest] += 1 - sum(shares.values())
        mixed = (sum(shares[k] * getattr(s, name) for k, s in spreads.items()) for name in ("median", "low", "high"))
        return cls(*mixed)


def pin_to_one_core() -> int:
    """The last core that we may use; threads and processes started later inherit it. WEIGHBRIDGE_CORES keeps the others."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.environ["WEIGHBRIDGE_CORES"] = ",".join(map(str, sorted(allowed)))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    return core


@dataclass(frozen=True)
class Turns:
    """What a process measured: the blocks of both copies, and what is measured once."""

    raw: list[Block]
    watched: list[Block]
    start: float  # seconds from the tool's first call until the first step of its copy is done
    first_raw_step: float
    rss_growth: int  # bytes, from the end of the warming up to the end of the last block


def take_turns(
    raw: Training, watched: Training, tool: Tool, steps: int, blocks: int, warm_up: int, is_warm: Callable[[], None]
) -> Turns:
    """raw, watched (these warm up and are not counted), then raw, watched, raw, ..., raw, and watched uncounted: even.

    The warming up, of so many steps, runs its first step alone, to time it. is_warm: called when it is over.
    """
    nothing = Raw()
    first_raw = one_block(raw, nothing, 1).wall
    began = time.perf_counter()
    tool.begin(watched)
    one_block(watched, tool, 1)
    start = time.perf_counter() - began
    if warm_up > 1:
        one_block(raw, nothing, warm_up - 1)
        one_block(watched, tool, warm_up - 1)
    is_warm()
    warm_rss = rss_bytes()
    raw_blocks = [one_block(raw, nothing, steps)]
    watched_blocks = []
    for _ in range(blocks):
        watched_blocks.append(one_block(watched, tool, steps))
        raw_blocks.append(one_block(raw, nothing, steps))
    one_block(watched, tool, steps)
    return Turns(raw_blocks, watched_blocks, start, first_raw, rss_bytes() - warm_rss)


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_block(training: Training, tool: Tool, steps: int) -> Block:
    training.begin_block()
    tool.resume()
    cpu, wall = time.process_time(), time.perf_counter()
    training.run(steps, tool.after_step)
    tool.end_of_block()
    block = Block(time.perf_counter() - wall, time.process_time() - cpu)
    tool.pause()
    training.end_block()
    return block


def ratios(raw: Sequence[Block], watched: Sequence[Block], which: str) -> list[float]:
    """Each block of the watched copy over the mean of the two raw blocks beside it, so that a steady drift cancels."""
    raws, others = [getattr(block, which) for block in raw], [getattr(block, which) for block in watched]
    return [2 * other / (raws[i] + raws[i + 1]) for i, other in enumerate(others)]
