"""Is the page fast, live, and does it keep its memory? A real server, a real browser, rows that differ.

    python benchmarks/page.py                  # 300 tensors x 100,000 steps: to make the run takes most of the time
    python benchmarks/page.py --small          # 80 tensors x 2,000 steps: about a minute
    python benchmarks/page.py --runs FOLDER    # keeps the runs there, and takes them from there the next time
    python benchmarks/page.py --only live --live-minutes 30   # the exit code is 1 where memory is not flat (make soak)
    python benchmarks/page.py --only tensorboard --tensorboard tb/bin/python

TensorBoard is no dependency of weighbridge: `python -m venv tb && tb/bin/pip install tensorboard==2.20.0 setuptools==80.9.0`,
and give tb/bin/python. Its event files hold the very same numbers of the first 500 steps: one scalar and one histogram a tensor
and step.

Every time is from the act to the second frame that shows what it was for, on a clock in the page. A server is cold when its
process has just started; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this checkout, installed or not

import page_live  # noqa: E402
import page_run  # noqa: E402
from page_browser import MIB, browser, frames, heap, middle, opened, resident, serving, timed, until_usable  # noqa: E402

CHANGED = "heat() !== before"
STATISTICS = ("gradient.abs_max", "gradient.zero_fraction", "gradient.mean", "parameter.rms", "gradient.rms")
NAME = "document.querySelector('h2.mono')?.textContent"
LAYER_DRAWN = (
    f"[...document.querySelectorAll('[role=img]')]"
    f".some((one) => one.ariaLabel?.startsWith('gradient, rms of ' + {NAME} + '.weight: steps'))"
)
STEP = "document.querySelector('b[data-step]').dataset.step"
AIMS = {"usable": 1000, "redraw": 200, "frames": 30, "live": 1000}

Line = tuple[str, str, str]  # what, found, aim


def session(page: Any, pause: float) -> list[Line]:
    """What a reader does on the page of a run, one act after the other with so many seconds in between; milliseconds until each
    is shown."""
    acts: dict[str, list[float]] = {}

    def act(name: str, what: str, until: str = CHANGED) -> None:
        page.wait_for_timeout(1000 * pause)
        acts.setdefault(name, []).append(timed(page, what, until))

    for statistic in STATISTICS:
        act("another statistic", f"choose('statistic', '{statistic}')")
    for key in "wwwdda0":
        act("zoom or pan in steps", f"key('{key}')")
    for fold in ("none", "modules", "none", "modules"):
        act("fold or unfold", f"choose('fold', '{fold}')")
    for _ in range(3):
        act("weights, biases, both", "key('b')")
    act("open the layers' page", "document.querySelectorAll('nav[aria-label=Run] a')[1].click()", LAYER_DRAWN)
    for key in "]]]":
        act("next layer", f"window.was = {NAME}; key('{key}')", f"{NAME} !== window.was && {LAYER_DRAWN}")
    for key in ("ArrowLeft", "ArrowRight", "ArrowLeft"):
        act("another step", f"window.was = {STEP}; key('{key}')", f"{STEP} !== window.was")
    act("back at a glance", "document.querySelectorAll('nav[aria-label=Run] a')[0].click()", "heat()")
    return [(f"{name}, ms: median (slowest)", middle(times), f"{AIMS['redraw']}") for name, times in acts.items()]


def one_run(folder: Path, name: str, wish: argparse.Namespace) -> list[Line]:
    """A cold server, a fresh browser, the whole session."""
    with browser() as chromium, serving(folder) as (address, server, started):
        page = opened(chromium)
        first = until_usable(page, f"{address}/run/{name}")
        again = opened(chromium)
        second = until_usable(again, f"{address}/run/{name}")
        again.context.close()
        lines = [
            ("server: from start to its address, s", f"{started:.1f}", ""),
            ("page usable, server cold, ms", f"{first:.0f}", str(AIMS["usable"])),
            ("page usable, server warm, ms", f"{second:.0f}", str(AIMS["usable"])),
            *session(page, wish.pause),
        ]
        box = page.locator(".heat").bounding_box()
        points = [(box["x"] + 300 + 7 * i % 700, box["y"] + 30 + 11 * i % max(40, box["height"] - 60)) for i in range(400)]
        for what, wheel in (("hovering over the picture", 0.0), ("scrolling the page", 120.0)):
            rate, gap = frames(page, wish.seconds, points, wheel)
            lines.append((f"frames a second while {what} (longest gap, ms)", f"{rate:.0f} ({gap:.0f})", str(AIMS["frames"])))
        lines += [
            ("JavaScript heap after the session, MiB", f"{heap(page):.0f}", ""),
            ("server's memory after the session, MiB", f"{resident(server):.0f}", ""),
        ]
    return lines


def kept(folder: Path, name: str, tensors: int, steps: int) -> None:
    """The run, made where it is not there yet."""
    if not (folder / name).exists():
        began = time.perf_counter()
        path = page_run.make(folder, name, tensors, steps)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(
            f"{name}: {tensors} tensors x {steps:,} steps made in {time.perf_counter() - began:.0f} s, {size / MIB:.0f} MiB",
            flush=True,
        )


def wide(folder: Path, wish: argparse.Namespace) -> list[Line]:
    kept(folder, "wide", wish.tensors, wish.steps)
    return one_run(folder, "wide", wish)


def deep(folder: Path, wish: argparse.Namespace) -> list[Line]:
    kept(folder, "deep", wish.deep_tensors, wish.deep_steps)
    return one_run(folder, "deep", wish)


def live(folder: Path, wish: argparse.Namespace) -> list[Line]:
    found = page_live.watch(folder, wish.tensors, wish.live_minutes * 60)
    wish.failed = wish.failed or not found.is_flat
    return found.lines()


def tensorboard(folder: Path, wish: argparse.Namespace) -> list[Line]:
    if wish.tensorboard is None:
        return [("TensorBoard", "not asked for: --tensorboard PYTHON (see the top of this file)", "")]
    line = [
        sys.executable,
        str(HERE / "page_tensorboard.py"),
        str(wish.tensorboard),
        str(wish.tensors),
        str(min(500, wish.steps)),
    ]
    told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    return [tuple(row.split("\t")) for row in told.splitlines() if row.count("\t") == 2]  # type: ignore[misc]


PARTS: dict[str, Callable[[Path, argparse.Namespace], list[Line]]] = {
    "wide": wide,
    "deep": deep,
    "live": live,
    "tensorboard": tensorboard,
}


def table(title: str, lines: list[Line]) -> str:
    return "\n".join(
        [f"### {title}", "", "| what | found | aim |", "|---|---|---|", *(f"| {' | '.join(line)} |" for line in lines), ""]
    )


def wishes() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tensors", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--deep-tensors", type=int, default=4_000, help="two of each layer")
    parser.add_argument("--deep-steps", type=int, default=1_000)
    parser.add_argument("--live-minutes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=4.0, help="of hovering and of scrolling")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two acts; 0: nobody looks at anything")
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument("--tensorboard", type=Path, help="a Python that has TensorBoard")
    parser.add_argument("--out", type=Path, help="append to this Markdown file")
    chosen = parser.parse_args()
    if chosen.small:
        chosen.tensors, chosen.steps, chosen.deep_tensors, chosen.deep_steps, chosen.seconds = 80, 2_000, 400, 60, 1.0
        chosen.live_minutes = min(chosen.live_minutes, 0.25)
    chosen.failed = False
    return chosen


def main() -> int:
    from store import machine

    wish = wishes()
    with tempfile.TemporaryDirectory(prefix="weighbridge-page-") as scratch:
        folder = wish.runs or Path(scratch)
        parts = [table(name, PARTS[name](folder, wish)) for name in wish.only or PARTS]
    text = "\n".join([f"## {machine()}", "", *parts])
    print(text)
    if wish.out:
        with open(wish.out, "a") as file:
            file.write("\n" + text)
    return 1 if wish.failed else 0


if __name__ == "__main__":
    sys.exit(main())
