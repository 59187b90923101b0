"""`python -m clinic run`, `prove` and `list`; from the folder that holds clinic/."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clinic.frame.program import PARTS, Program, programs
from clinic.frame.table import save, saved, written
from clinic.frame.trial import Result, Trial, run_all
from clinic.frame.truths import key, load
from clinic.frame.truths import save as save_truths
from clinic.tools import NAMES

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    if asked.do == "table":
        print(written([r for file in asked.files for r in saved(file)], " and ".join(file.stem for file in asked.files)))
        return 0
    chosen = [p for p in programs(asked.part) if any(fnmatchcase(text, asked.only) for text in (p.name, p.label))]
    if asked.do == "list":
        print("\n".join(_line(p) for p in chosen))
        return 0
    tools = asked.tool or ["weighbridge"]
    truths = {} if asked.afresh else load()
    trials = [t for name in tools for p in chosen for t in _trials(p, asked.seeds, name, truths)]
    keys = {(t.name, t.seed): key(t.program, t.name, t.seed) for t in trials}
    random.Random(0).shuffle(trials)  # a run that is stopped has seen some of everything
    results: list[Result] = []
    with suppress(KeyboardInterrupt):
        for result in run_all(trials, asked.jobs, watched=asked.do == "run"):
            results.append(result)
            _say(result, len(results), len(trials))
            if result.is_proved and keys[result.name, result.seed] not in truths:
                kept = {"first_true": result.first_true, "is_proved": True, "digest": result.digest}
                save_truths(load() | {keys[result.name, result.seed]: kept})
    if asked.do == "run":
        seen = f"{asked.seeds} seeds, {len(results)} of {len(trials)} trials"
        title = f"{datetime.now():%Y-%m-%d %H:%M}, clinic/{asked.part}, {seen}{_commit()}"
        print(written(results, title))
        if asked.only == "*":
            save(results, title, RESULTS / f"{datetime.now():%Y-%m-%d-%H%M}-{asked.part}")
    return int(any(r.failure or not r.is_proved for r in results))


def _trials(program: Program, seeds: int, tool: str, truths: Mapping[str, Any]) -> list[Trial]:
    bare = [Trial(program, seed, ill, tool) for seed in range(seeds) for ill in ([True, False] if program.label else [False])]
    return [replace(t, known=truths.get(key(program, t.name, t.seed))) for t in bare]


def _commit() -> str:
    """Of the repository that this runs in; empty where there is none."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True)
    return f", commit {asked.stdout.strip()}" if asked.returncode == 0 else ""


def _say(result: Result, number: int, of: int) -> None:
    state = "failed" if result.failure else "" if result.is_proved else "NOT PROVED"
    said = ", ".join(sorted({f"{v.label}:{v.severity[0]}" for v in result.verdicts}))
    true = "" if result.first_true is None else f"true from {result.first_true}"
    line = [f"{number}/{of}", result.name, f"seed {result.seed}", f"[{result.label or 'none'}]", true, state, said]
    print("  ".join(word for word in line if word), file=sys.stderr, flush=True)
    if result.failure:
        print(result.failure, file=sys.stderr, flush=True)


def _line(program: Program) -> str:
    return f"{program.name:40} {program.label or 'healthy':28} {program.kind:14} {program.data:10} {program.source}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clinic", description="Programs with a known fault, and what tools say of them."
    )
    parser.add_argument("do", choices=["run", "prove", "list", "table"], help="prove: the plain measurements only, no tool")
    parser.add_argument("files", nargs="*", type=Path, help="for table: results of several runs as one, tools side by side")
    parser.add_argument("--part", choices=PARTS, default="tuning")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names of programs or labels; then no file is written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--afresh", action="store_true", help="measure truths again that were measured before")
    parser.add_argument("--tool", choices=NAMES, action="append", help="may be given several times")
    return parser


if __name__ == "__main__":
    sys.exit(main())
