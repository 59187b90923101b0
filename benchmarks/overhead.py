"""What watching costs a step: watched / raw, everything of the default plan, at every step, stored and acknowledged.

    python benchmarks/overhead.py                      all workloads, about 4 minutes
    python benchmarks/overhead.py -w a f --profile     two of them, and where the time goes
    python benchmarks/overhead.py --rivals --write     other tools beside it; append the tables to benchmarks/RESULTS.md
    python benchmarks/overhead.py --quick              a few blocks of a and b: that it runs, not how fast

Each cell has a process of its own, on one core and with one thread: two bit-identical copies of a training take turns
there (interleaved.py). A watched block ends with `run.flush()` inside its timed part. After that the losses and weights
of the two copies are compared bit by bit, and the rows are read back and compared with those that are due.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this checkout, installed or not

from interleaved import ENVIRONMENT, Raw, pin_to_one_core, ratios, take_turns  # noqa: E402
from results import append_results, load_line, overhead_table, rivals_table, versions  # noqa: E402
from rivals import RIVALS, Weighbridge  # noqa: E402
from workloads import WORKLOADS, Training, Workload  # noqa: E402

Cell = dict[str, Any]
TOOLS: dict[str, Callable[[Path], Any]] = {"raw": Raw, Weighbridge.name: Weighbridge, **RIVALS}


# --- in the process of one cell -----------------------------------------------------------------------------------------


def measure(workload: Workload, tool_name: str, steps: int, blocks: int, is_profiled: bool) -> Cell:
    """One workload with one tool. Everything that the tables need, as JSON."""
    core = pin_to_one_core()
    raw, watched = workload.copies(2)
    with tempfile.TemporaryDirectory(prefix="weighbridge-overhead-", ignore_cleanup_errors=True) as folder:
        tool = TOOLS[tool_name](Path(folder))
        profile = None
        if is_profiled:
            from profiling import Profile

            profile = Profile(is_short=steps >= 100)
        raw_blocks, watched_blocks = take_turns(raw, watched, tool, steps, blocks, profile.clear if profile else lambda: None)
        cell: Cell = {"workload": workload.letter, "tool": tool_name, "core": core, "steps": steps, "blocks": blocks}
        cell["raw"], cell["watched"] = [asdict(block) for block in raw_blocks], [asdict(block) for block in watched_blocks]
        cell["wall"], cell["cpu"] = ratios(raw_blocks, watched_blocks, "wall"), ratios(raw_blocks, watched_blocks, "cpu")
        cell |= same_bits(raw, watched)
        if profile is not None:
            warm_steps = len(watched.losses) - steps
            cell["profile"] = [asdict(part) for part in profile.parts(warm_steps)]
            cell["profiled_steps"], cell["missing"] = warm_steps, profile.missing
        tool.finish()
        if isinstance(tool, Weighbridge):
            cell |= what_was_stored(tool, watched)
    return cell


def same_bits(raw: Training, watched: Training) -> Cell:
    """Every loss and every final weight has to be the same, bit by bit."""

    ours, theirs = np.array(watched.losses), np.array(raw.losses)
    return {
        "losses": len(ours),
        "losses_identical": ours.tobytes() == theirs.tobytes(),
        "weights_identical": all(
            torch.equal(p, q) for p, q in zip(*(t.model.parameters() for t in (raw, watched)), strict=True)
        ),
        "losses_finite": bool(np.isfinite(ours).all()),
        "first_loss": float(ours[0]),
        "last_loss": float(ours[-1]),
    }


def what_was_stored(tool: Weighbridge, watched: Training) -> Cell:
    from readback import disk_bytes, is_complete, read_rows

    from weighbridge.store.record import open_run

    steps, tensors = len(watched.losses), len(list(watched.model.parameters()))
    rows = read_rows(tool.run.path)
    recorded = open_run(tool.run.path).losses().values
    return {
        "rows": len(rows),
        "rows_due": steps * tensors * 3 + tensors,
        "rows_complete": is_complete(rows, steps, tensors),
        "recorded_losses_identical": [float(loss) for loss in recorded] == watched.losses,
        "tensors": tensors,
        "bytes": disk_bytes(tool.run.path),
    }


# --- in the process that was started by hand ----------------------------------------------------------------------------


def cell_of(workload: Workload, tool: str, blocks: int, steps: int, profile: bool = False) -> Cell | None:
    """Measure one cell in a process of its own; None (and a printed reason) where it failed."""
    command = [sys.executable, str(Path(__file__)), "--cell", workload.letter, tool, str(steps), str(blocks)]
    with tempfile.TemporaryDirectory(prefix="weighbridge-overhead-") as folder:
        answer = Path(folder) / "cell.json"
        command += ["--json", str(answer), *(["--profile"] if profile else [])]
        done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True)
        if not answer.exists():
            print(f"{workload.letter} with {tool} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}", file=sys.stderr)
            return None
        cell: Cell = json.loads(answer.read_text())
        return cell


def problems(cells: list[Cell]) -> list[str]:
    """What must never happen, in words."""
    found = []
    for cell in cells:
        where = f"{cell['workload']} with {cell['tool']}"
        if not cell["losses_identical"]:
            found.append(f"{where}: the losses of the two copies differ")
        if not cell["weights_identical"]:
            found.append(f"{where}: the final weights of the two copies differ")
        if not cell["losses_finite"]:
            found.append(f"{where}: a loss is not finite")
        if not cell.get("rows_complete", True):
            found.append(f"{where}: {cell['rows']:,} rows stored, {cell['rows_due']:,} are due, or others than those")
        if not cell.get("recorded_losses_identical", True):
            found.append(f"{where}: the recorded losses differ from those of the training")
    return found


def run_all(arguments: argparse.Namespace) -> tuple[list[Cell], list[str]]:
    """All cells that were asked for, and the rivals that are not there."""
    tools = [Weighbridge.name] if arguments.quick else ["raw", Weighbridge.name]
    skipped = []
    if arguments.rivals:
        for name, rival in RIVALS.items():
            if missing := rival.missing():
                skipped.append(f"{name} skipped: {', '.join(missing)} is not installed")
                print(skipped[-1], file=sys.stderr)
            else:
                tools.append(name)
    cells = []
    for letter in arguments.workloads:
        workload = WORKLOADS[letter]
        for tool in tools:
            if arguments.only_rivals and tool not in RIVALS:
                continue
            blocks, steps = size_of(workload, tool, arguments)
            cell = cell_of(workload, tool, blocks, steps)
            if cell is not None:
                cells.append(cell)
                print(load_line(cell), file=sys.stderr)
        if arguments.profile and (
            profiled := cell_of(workload, Weighbridge.name, *size_of(workload, "profile", arguments), True)
        ):
            cells.append(profiled | {"tool": "profile"})
    return cells, skipped


def size_of(workload: Workload, tool: str, arguments: argparse.Namespace) -> tuple[int, int]:
    """(pairs of blocks, steps of a block)"""
    if arguments.quick:
        return 2, min(workload.steps, 10)
    if tool in RIVALS:
        return workload.rival_blocks, max(workload.steps // 5, 1)
    blocks = workload.blocks if tool == Weighbridge.name else (workload.blocks + 1) // 2
    return arguments.blocks or blocks, workload.steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--rivals", action="store_true", help="other tools too, where they are installed")
    parser.add_argument("--only-rivals", action="store_true", help="nothing but the other tools")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--blocks", type=int, help="pairs of blocks, instead of each workload's own number")
    parser.add_argument("--quick", action="store_true", help="a and b, two short blocks: does it run?")
    parser.add_argument("--write", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="also write every block's times to this file")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        letter, tool, steps, blocks = arguments.cell
        arguments.json.write_text(json.dumps(measure(WORKLOADS[letter], tool, int(steps), int(blocks), arguments.profile)))
        sys.stdout.flush()
        os._exit(0)  # rivals write reports or wait for helpers at exit
    arguments.rivals |= arguments.only_rivals
    if arguments.quick:
        arguments.workloads = ["a", "b"]
    load_before = os.getloadavg()[0]
    cells, skipped = run_all(arguments)
    text = "\n".join([versions(load_before), "", *overhead_table(cells), *rivals_table(cells), *skipped])
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells))
    wrong = problems(cells)
    for one in wrong:
        print(f"WRONG: {one}", file=sys.stderr)
    if arguments.write:
        append_results(HERE / "RESULTS.md", text)
    measured = {cell["workload"] for cell in cells if cell["tool"] == Weighbridge.name}
    return 1 if wrong or (not arguments.only_rivals and measured != set(arguments.workloads)) else 0


if __name__ == "__main__":
    sys.exit(main())
