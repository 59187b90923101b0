"""What watching costs a step: watched / raw, the default plan and variants of it, stored and acknowledged.

    python benchmarks/overhead.py                      all workloads, all variants: about 25 minutes
    python benchmarks/overhead.py -w a f --profile     two of them, and where the time goes
    python benchmarks/overhead.py -w e --variants weighbridge outputs      one workload, two variants
    python benchmarks/overhead.py --rivals --write     other tools beside it; append the tables to benchmarks/RESULTS.md
    python benchmarks/overhead.py --quick              a few blocks of a and b: that it runs, not how fast

In pieces of less than ten minutes: -w a b; -w c f; -w d; -w e; then --only-rivals -w ... for the same. What the aims are
for: --variants weighbridge outputs two_cores; what rules beside a training add: --variants weighbridge live. Figures
are those of a long run: a and b are measured from step 1,000 on; elsewhere a block is a single step, and the median of plain
steps counts 90 %, that of steps at which activations are weighed too 9 %, that of steps at which units are, too, 1 %.

Each cell has a process of its own, on one core and with one thread: two bit-identical copies of a training take turns
there (interleaved.py; in the variant two_cores the writer has another core). A watched block ends with `run.flush()`
inside its timed part. After that the losses and weights of the two copies are compared bit by bit, and the rows are read
back and compared with those that are due.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this checkout, installed or not

from interleaved import ENVIRONMENT, Raw, pin_to_one_core, ratios, take_turns  # noqa: E402
from readback import disk_bytes, is_complete, of_parameters, read_rows, sampled_gaps  # noqa: E402
from results import append_results, load_line, overhead_table, rivals_table, size_table, versions  # noqa: E402
from rivals import RIVALS  # noqa: E402
from variants import VARIANTS, Live, NoSentinel, TwoCores, Weighbridge  # noqa: E402
from workloads import WORKLOADS, Training, Workload  # noqa: E402

from weighbridge.records import Quantity  # noqa: E402

Cell = dict[str, Any]
TOOLS: dict[str, Callable[[Path], Any]] = {"raw": Raw, **VARIANTS, **RIVALS}


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
        warm_up = workload.warm_up if steps == workload.steps else steps
        turns = take_turns(raw, watched, tool, steps, blocks, warm_up, profile.clear if profile else lambda: None)
        cell: Cell = {"workload": workload.letter, "tool": tool_name, "core": core, "steps": steps, "blocks": blocks}
        cell |= asdict(turns)
        cell |= {which: ratios(turns.raw, turns.watched, which) for which in ("wall", "cpu")}
        cell |= same_bits(raw, watched)
        cell["kinds"] = kinds(tool, steps, range(warm_up, warm_up + blocks))
        if profile is not None:
            warm_steps = len(watched.losses) - warm_up
            cell["profile"] = [asdict(part) for part in profile.parts(warm_steps)]
            cell["profiled_steps"], cell["missing"] = warm_steps, profile.missing
        began = time.perf_counter()
        tool.finish()
        cell["finish"] = time.perf_counter() - began
        cell["disk_bytes_a_step"] = disk_bytes(Path(folder)) / len(watched.losses)
        if isinstance(tool, Weighbridge):
            cell |= what_was_stored(tool, watched)
    return cell


def kinds(tool: Any, steps: int, blocks: range) -> list[str]:
    """Of blocks that are single steps: how much is weighed in each; of longer ones nothing."""
    if steps > 1 or not isinstance(tool, Weighbridge):
        return [""] * len(blocks)
    plan = tool.run.plan
    closer, sampled = ("units", "moments", "coherence"), ("activations", "activation_gradients")
    return [
        "closer"
        if any(plan.schedule(name).due(step) for name in closer)
        else "sampled"
        if any(plan.schedule(name).due(step) for name in sampled)
        else "plain"
        for step in blocks
    ]


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
    from weighbridge.store.record import open_run

    steps, tensors = len(watched.losses), len(list(watched.model.parameters()))
    rows = read_rows(tool.run.path)
    record = open_run(tool.run.path)
    return {
        "rows": len(rows),
        "parameter_rows": len(of_parameters(rows)),
        "parameter_rows_due": steps * tensors * 3 + tensors,
        "rows_complete": is_complete(rows, steps, tensors),
        "sampled_gaps": sampled_gaps(rows, sampled_steps(tool, steps)),
        "outputs": len(np.unique(rows[rows[:, 2] == Quantity.ACTIVATION][:, 1])),
        "rows_dropped": tool.run._recorder.rows_dropped,
        "recorded_losses_identical": [float(loss) for loss in record.losses().values] == watched.losses,
        "tensors": tensors,
        "sentinel": tool.run.plan.sentinel,
        "bytes": disk_bytes(tool.run.path),
        **rules_of(tool),
    }


def rules_of(tool: Weighbridge) -> Cell:
    """How far the rules beside the training came, and the processor time that they took."""
    beside = tool.run._live.beside
    if not tool.live:
        return {"rules_seconds": 0.0, "rules_gave_up": "", "rules_looked_at_all": False}
    is_all = beside.diagnosis is not None
    return {"rules_seconds": beside.seconds, "rules_gave_up": beside.gave_up, "rules_looked_at_all": is_all}


def sampled_steps(tool: Weighbridge, steps: int) -> dict[int, list[int]]:
    """On which steps the plan wants what is not weighed at every step, by quantity."""
    plan = tool.run.plan
    names = {Quantity.ACTIVATION: ("activations", "units"), Quantity.ACTIVATION_GRADIENT: ("activation_gradients",)}
    names |= dict.fromkeys((Quantity.MOMENT1, Quantity.MOMENT2), ("moments",))
    if plan.activations is False:
        names[Quantity.ACTIVATION] = ("activations",)
    schedules = {int(quantity): [plan.schedule(name) for name in those] for quantity, those in names.items()}
    return {
        quantity: [step for step in range(steps) if any(schedule.due(step) for schedule in those)]
        for quantity, those in schedules.items()
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
            counts = f"{cell['parameter_rows']:,} rows of parameters stored, {cell['parameter_rows_due']:,} are due"
            found.append(f"{where}: {counts}, or others than those")
        for gap in cell.get("sampled_gaps", [])[:3]:
            found.append(f"{where}: {gap}")
        if cell.get("rows_dropped"):
            found.append(f"{where}: {cell['rows_dropped']:,} rows were dropped")
        if cell["tool"] in ("weighbridge", "live", "outputs") and not cell.get("outputs", 1):
            found.append(f"{where}: no activation was recorded")
        if not cell.get("recorded_losses_identical", True):
            found.append(f"{where}: the recorded losses differ from those of the training")
    return found


def run_all(arguments: argparse.Namespace) -> tuple[list[Cell], list[str]]:
    """All cells that were asked for, and the rivals that are not there."""
    tools: list[str] = [] if arguments.only_rivals else [*([] if arguments.quick else ["raw"]), *arguments.variants]
    skipped = []
    for name, tool in ({**VARIANTS, **RIVALS} if arguments.rivals else VARIANTS).items():
        if name in VARIANTS and name not in tools:
            continue
        if missing := tool.missing():
            skipped.append(f"{name} skipped: {', '.join(missing)} is not there")
            print(skipped[-1], file=sys.stderr)
            tools = [one for one in tools if one != name]
        elif name in RIVALS:
            tools.append(name)
    cells = []
    for letter in arguments.workloads:
        workload = WORKLOADS[letter]
        for tool in tools:
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
    is_mixed = tool in (Weighbridge.name, Live.name, NoSentinel.name, TwoCores.name)  # steps of either kind have to be met
    blocks = (
        workload.blocks
        if tool in (Weighbridge.name, Live.name) or (is_mixed and workload.steps == 1)
        else (workload.blocks + 2) // 3
    )
    return arguments.blocks or blocks, workload.steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workloads", nargs="+", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="of weighbridge; default: all")
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
    arguments.workloads = arguments.workloads or (["a", "b"] if arguments.quick else list(WORKLOADS))
    arguments.variants = arguments.variants or ([Weighbridge.name] if arguments.quick else list(VARIANTS))
    load_before = os.getloadavg()[0]
    cells, skipped = run_all(arguments)
    text = "\n".join([versions(load_before), "", *overhead_table(cells), *size_table(cells), *rivals_table(cells), *skipped])
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells))
    wrong = problems(cells)
    for one in wrong:
        print(f"WRONG: {one}", file=sys.stderr)
    if arguments.write:
        append_results(HERE / "RESULTS.md", text)
    measured = {(cell["workload"], cell["tool"]) for cell in cells}
    wanted = {(letter, name) for letter in arguments.workloads for name in arguments.variants}
    lost = set() if arguments.only_rivals else wanted - measured - {(letter, "two_cores") for letter in arguments.workloads}
    return 1 if wrong or lost else 0


if __name__ == "__main__":
    sys.exit(main())
