"""From measured cells to the tables of RESULTS.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from interleaved import Spread
from profiling import profile_lines
from variants import VARIANTS
from workloads import WORKLOADS

Cell = dict[str, Any]
_PACKAGES = ("numpy", "pyarrow", "transformers", "wandb", "tensorboard", "torchmortem", "torch-audit")


def versions(load_before: float) -> str:
    """Machine, date, versions; no name of the machine, no path."""
    import torch

    found = [f"torch {torch.__version__}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}; one core, one thread"
    load = f"Load average of the machine before {load_before:.2f}, after {os.getloadavg()[0]:.2f}"
    python = f"Python {platform.python_version()}, {', '.join(found)}; kernel: {_kernel()}"
    return f"{datetime.date.today()}, commit {_commit()}. {machine}. {python}. {load}."


def _kernel() -> str:
    from weighbridge.capture.kernel import load_kernel

    kernel = load_kernel()
    return kernel.name + (f" ({kernel.note})" if kernel.note else "")


def _processor() -> str:
    try:
        names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            " and changes" if git("status", "--porcelain", "--", "../src", "../native") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def each_ms(cell: Cell, clock: str = "wall") -> float:
    """Median milliseconds of a raw step."""
    return 1e3 * float(statistics.median(block[clock] for block in cell["raw"])) / float(cell["steps"])


def spread_of(cell: Cell, clock: str) -> Spread:
    return Spread.of_kinds(cell[clock], cell["kinds"])


def spread_text(cell: Cell, clock: str) -> str:
    spread = spread_of(cell, clock)
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def load_line(cell: Cell) -> str:
    """One line of progress."""
    raw = f"raw {each_ms(cell):.3f} ms a step ({each_ms(cell, 'cpu'):.3f} of CPU)"
    return (
        f"{cell['workload']} {cell['tool']:18s} {spread_text(cell, 'wall')}, CPU time {spread_of(cell, 'cpu').median:.3f}, "
        f"{raw}, loss {cell['first_loss']:.4g} -> {cell['last_loss']:.4g}"
    )


def _of(cells: list[Cell], tool: str) -> dict[str, Cell]:
    return {cell["workload"]: cell for cell in cells if cell["tool"] == tool}


def overhead_table(cells: list[Cell]) -> list[str]:
    """Each variant against raw, what was read back, and the profiles."""
    shown = [cell for cell in cells if cell["tool"] in VARIANTS]
    if not shown:
        return []
    lines = [
        "Step time watched / raw: median of neighbouring blocks (quartiles). CPU time: of this process, all its threads.",
        "",
        "| workload | variant | raw, ms a step (CPU) | watched / raw | CPU time | aim | pairs x steps | losses, weights "
        "| rows read back |",
        "|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    controls, profiles = _of(cells, "raw"), _of(cells, "profile")
    lines += [_ratio_line(cell, "raw / raw") for cell in controls.values()]
    lines += [_ratio_line(cell, VARIANTS[cell["tool"]].title) for cell in shown]
    for letter, profile in profiles.items():
        lines += _profile(letter, profile, _of(cells, "weighbridge").get(letter, profile))
    return lines


def _ratio_line(cell: Cell, variant: str) -> str:
    workload = WORKLOADS[cell["workload"]]
    same = "bit-identical" if cell["losses_identical"] and cell["weights_identical"] else "DIFFER"
    rows = f"{cell['rows']:,}, {_completeness(cell)}" if "rows" in cell else "-"
    return (
        f"| {workload.letter}: {workload.title} | {variant} | {each_ms(cell):.3f} ({each_ms(cell, 'cpu'):.3f}) "
        f"| {spread_text(cell, 'wall')} | {spread_text(cell, 'cpu')} | {workload.aims.get(cell['tool'], '-')} "
        f"| {cell['blocks']} x {cell['steps']} | {same} | {rows} |"
    )


def _completeness(cell: Cell) -> str:
    is_whole = cell["rows_complete"] and not cell["sampled_gaps"] and not cell["rows_dropped"]
    return "all that are due" if is_whole else f"NOT those that are due ({cell['rows_dropped']:,} dropped)"


def _profile(letter: str, profile: Cell, unwrapped: Cell) -> list[str]:
    raw = each_ms(unwrapped, "cpu") / 1e3
    extra = raw * (spread_of(unwrapped, "cpu").median - 1)
    lines = ["", f"Profile of {letter} with the default plan, {profile['profiled_steps']:,} steps:", ""]
    lines += profile_lines(profile["profile"], profile["profiled_steps"], raw, extra)
    if profile["missing"]:
        lines += ["", f"Not found, so not in the profile: {', '.join(profile['missing'])}"]
    return lines


def size_table(cells: list[Cell]) -> list[str]:
    """Memory, disk, start and finish of every tool."""
    lines = [
        "",
        "Memory: growth of the process (both copies) from the end of the warming up to the last block. Start: from the",
    ]
    lines += ["tool's first call until its copy's first step is done, less the first step of the raw copy.", ""]
    lines += ["| workload | tool | memory, MiB | disk, bytes a step | bytes a row | start, s | finish, s |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for cell in cells:
        if cell["tool"] == "profile":
            continue
        row_bytes = f"{cell['bytes'] / cell['rows']:.0f}" if cell.get("rows") else "-"
        lines.append(
            f"| {cell['workload']} | {cell['tool']} | {cell['rss_growth'] / 2**20:.1f} | {cell['disk_bytes_a_step']:,.0f} "
            f"| {row_bytes} | {cell['start'] - cell['first_raw_step']:.2f} | {cell['finish']:.2f} |"
        )
    return lines


def rivals_table(cells: list[Cell]) -> list[str]:
    """Tools x workloads, the same method for all."""
    names = [name for name in dict.fromkeys(cell["tool"] for cell in cells) if name != "profile"]
    if not set(names) - {"raw", *VARIANTS}:
        return []
    letters = list(dict.fromkeys(cell["workload"] for cell in cells))
    lines = ["", "Step time with a tool / raw: median (quartiles) [CPU time of the process, without helper processes].", ""]
    lines += ["| tool | " + " | ".join(letters) + " |", "|---|" + "---:|" * len(letters)]
    for name in names:
        found = _of(cells, name)
        texts = [
            f"{spread_text(found[letter], 'wall')} [{spread_of(found[letter], 'cpu').median:.2f}]" if letter in found else "-"
            for letter in letters
        ]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return [*lines, ""]


def append_results(file: Path, text: str, title: str = "Cost of watching (benchmarks/overhead.py)") -> None:
    """Add a section to RESULTS.md, or to a file beside it."""
    before = file.read_text() if file.exists() else "# Measured\n\nOne section per run of a benchmark; the newest is last.\n"
    file.write_text(f"{before.rstrip()}\n\n## {title}\n\n{text.strip()}\n")
