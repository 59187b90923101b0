"""What the rules beside a training cost it: processor time of their thread, which of them take it, and how far behind they are.

    python benchmarks/rules.py                    a, b, d and f for a minute each
    python benchmarks/rules.py -w a --seconds 10  one of them, shorter
    python benchmarks/rules.py --steps 300        so many steps instead: the suite's cut
    python benchmarks/rules.py --write            append to benchmarks/RESULTS-rules.md

A training as `watch(model)` leaves it: the default plan, all rules, on the thread that reads what was just written. That thread
keeps to a share of the time (diagnosis/beside.py), so what a rule costs is not what the training loses: it is how far the
rules lag behind. What the training can notice is the longest single look, in which the interpreter is theirs.

Functions of the product are wrapped from outside. Times are those of the thread, blind to other work on the core.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this checkout, installed or not

from interleaved import pin_to_one_core  # noqa: E402
from results import append_results, versions  # noqa: E402
from workloads import WORKLOADS, Training, Workload  # noqa: E402

import weighbridge  # noqa: E402
from weighbridge.diagnosis.arriving import Arriving  # noqa: E402
from weighbridge.diagnosis.beside import Beside  # noqa: E402
from weighbridge.diagnosis.engine import _Asked  # noqa: E402

LETTERS = ("a", "b", "d", "f")
SHOWN = 12  # rules of each workload
PARTS = {(Beside, "add"): "kept", (Beside, "_take"): "taken", (Beside, "_judge"): "judged", (Arriving, "_grids"): "placed"}


@dataclass
class Costs:
    """Seconds of processor time of every call, by part of the work or by rule, and when steps were judged."""

    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rules: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    judged: list[tuple[float, int]] = field(default_factory=list)  # when, and below which step all were

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """While this is entered, runs that are watched are charged to it."""
        with contextlib.ExitStack() as undo:
            for (owner, name), part in PARTS.items():
                self._wrap(undo, owner, name, lambda _, part=part: self.parts[part])
            self._wrap(undo, _Asked, "read", lambda asked: self.rules[asked.rule.id])
            yield

    def _wrap(self, undo: contextlib.ExitStack, owner: type, name: str, of: Callable[[Any], list[float]]) -> None:
        raw: Callable[..., Any] = vars(owner)[name]

        @functools.wraps(raw)
        def timed(one: Any, *given: Any) -> Any:
            began = time.thread_time()
            try:
                return raw(one, *given)
            finally:
                of(one).append(time.thread_time() - began)
                if name == "_judge":
                    self.judged.append((time.monotonic(), one._arriving.next))

        setattr(owner, name, timed)
        undo.callback(setattr, owner, name, raw)


def measure(workload: Workload, folder: Path, seconds: float = 60.0, steps: int | None = None) -> dict[str, Any]:
    """One training of so many seconds, or steps, with rules beside it."""
    costs, done = Costs(), list[float]()
    [training] = workload.copies(1)
    with costs.taken():
        run = weighbridge.init(dir=folder, name=workload.letter, quiet=True)
        weighbridge.watch(training.model, run=run, live="silent")
        began, busy = time.monotonic(), time.thread_time()
        while len(done) < steps if steps is not None else time.monotonic() - began < seconds:
            _step(training)
            done.append(time.monotonic())
        wall, busy = time.monotonic() - began, time.thread_time() - busy
        beside = run._live.beside
        behind, spent, looks = beside._arriving.next if costs.judged else 0, beside.seconds, len(costs.judged)
        waits = [when - done[below - 1] for when, below in costs.judged if 0 < below <= len(done)]
        run.finish()
    found = {"workload": workload.letter, "steps": len(done), "wall": wall, "busy": busy, "while_training": spent}
    found |= {"judged": behind, "looks": looks, "waits": waits, "late": done[-1] - done[min(behind, len(done) - 1)]}
    found |= {"in_the_end": beside._arriving.next, "gave_up": beside.gave_up, "is_all": beside.diagnosis is not None}
    return found | {"parts": dict(costs.parts), "rules": dict(costs.rules)}


def _step(training: Training) -> None:
    training.run(1, None)
    training._pending.clear()


def table(cells: list[dict[str, Any]]) -> list[str]:
    """What it costs, by workload."""
    heads = (
        *("workload", "steps", "training, ms of CPU a step", "rules, ms a step", "share of the time", "longest look, ms"),
        *("writer's part, ms a step", "behind when the training ended", "a step waits, median", "looked at in the end"),
    )
    return [_line(heads), "|---|" + "---:|" * (len(heads) - 1), *(_line(_cells(cell)) for cell in cells)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(cell: dict[str, Any]) -> Iterator[str]:
    letter, steps, parts = cell["workload"], cell["steps"], {name: cell["parts"].get(name, [0.0]) for name in PARTS.values()}
    yield f"{letter}: {WORKLOADS[letter].title}"
    yield f"{steps:,}"
    yield f"{1e3 * cell['busy'] / steps:.2f}"
    yield f"{1e3 * (sum(parts['taken']) + sum(parts['judged'])) / max(cell['in_the_end'], 1):.2f}"
    yield f"{100 * cell['while_training'] / cell['wall']:.2f} %"
    yield f"{1e3 * max(parts['judged']):.0f}"
    yield f"{1e3 * sum(parts['kept']) / steps:.3f}"
    yield f"{steps - cell['judged']:,} steps, {cell['late']:.1f} s"
    yield f"{statistics.median(cell['waits']):.1f} s" if cell["waits"] else "-"
    yield "all" if cell["is_all"] else f"{cell['in_the_end']:,}"


def of_rules(cell: dict[str, Any]) -> str:
    """Which rules take it, one line."""
    spent = {rule: sum(each) for rule, each in cell["rules"].items()}
    whole, steps = max(sum(spent.values()), 1e-9), max(cell["in_the_end"], 1)
    first = sorted(spent, key=lambda rule: -spent[rule])[:SHOWN]
    told = [f"{rule} {100 * spent[rule] / whole:.0f} % (at most {1e3 * max(cell['rules'][rule]):.1f} ms)" for rule in first]
    return f"- {cell['workload']}, {1e6 * whole / steps:,.0f} us a step for all {len(spent)} rules: {', '.join(told)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workloads", nargs="+", choices=list(WORKLOADS), default=list(LETTERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each training")
    parser.add_argument("--steps", type=int, help="of each training, instead")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/RESULTS-rules.md")
    options = parser.parse_args()
    pin_to_one_core()
    load, cells = os.getloadavg()[0], []
    for letter in options.workloads:
        if letter in "de" and importlib.util.find_spec("transformers") is None:
            print(f"{letter} skipped: transformers is not there", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="weighbridge-rules-") as folder:
            cells.append(measure(WORKLOADS[letter], Path(folder), options.seconds, options.steps))
    text = "\n".join([versions(load), "", *table(cells), "", *map(of_rules, cells)])
    print(text)
    if options.write:
        append_results(HERE / "RESULTS-rules.md", text, "Cost of rules beside a training (benchmarks/rules.py)")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
