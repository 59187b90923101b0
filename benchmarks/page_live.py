"""The page of a run that is being written: how soon a step is on the screen, and what memory it takes over time.

Another process writes a block of steps twice a second and prints when it was on the disk; the page keeps when it showed it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from page_browser import browser, heap, middle, opened, resident, serving, until_usable  # noqa: E402

STEPS_A_BLOCK = 10
BLOCK_SECONDS = 0.5
BEFORE = 40  # blocks that are there before the page is opened
HEAP_GROWTH = 20.0  # MiB, after the warming up
SERVER_GROWTH = 80.0  # MiB: DuckDB and Arrow keep what they once took
# When the head, and when the picture, first showed each number of steps.
WATCH = """() => {
  window.shown = { head: {}, picture: {} };
  const keep = (where, steps) => { if (steps && !(steps in window.shown[where])) window.shown[where][steps] = Date.now(); };
  const look = () => {
    keep("head", document.querySelector("[data-fact=steps]")?.innerText.replaceAll(",", ""));
    const last = /to ([0-9,]+),/.exec(document.querySelector(".heat")?.ariaLabel ?? "")?.[1];
    keep("picture", last && String(Number(last.replaceAll(",", "")) + 1));
    requestAnimationFrame(look);
  };
  look();
}"""
TAKEN = "() => { const taken = window.shown; window.shown = { head: {}, picture: {} }; return taken; }"


@dataclass
class Watched:
    """What was seen."""

    lags: dict[str, list[float]] = field(default_factory=lambda: {"head": [], "picture": []})  # ms
    heaps: list[tuple[float, float]] = field(default_factory=list)  # seconds, MiB
    servers: list[tuple[float, float]] = field(default_factory=list)
    steps: int = 0

    @property
    def is_flat(self) -> bool:
        return grown(self.heaps) <= HEAP_GROWTH and grown(self.servers) <= SERVER_GROWTH

    def lines(self) -> list[tuple[str, str, str]]:
        minutes = self.heaps[-1][0] / 60 if self.heaps else 0
        found = [
            (
                f"from the flush to the {where}, ms: median (slowest), {len(lags)} blocks",
                middle(lags) if lags else "never",
                "1000",
            )
            for where, lags in self.lags.items()
        ]
        for what, sizes, most in (
            ("JavaScript heap", self.heaps, HEAP_GROWTH),
            ("server's memory", self.servers, SERVER_GROWTH),
        ):
            ends = (
                f"{sizes[0][1]:.0f} to {sizes[-1][1]:.0f}, +{grown(sizes):.1f} after the warming up"
                if sizes
                else "never looked at"
            )
            found.append((f"{what} over {minutes:.1f} min live and {self.steps:,} steps, MiB", ends, f"+{most:g} at most"))
        return found


def grown(sizes: list[tuple[float, float]]) -> float:
    """Median of the last quarter less that of the second one: the first quarter warms up."""
    values = [size for _, size in sizes]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter] or values)


def watch(folder: Path, tensors: int, seconds: float) -> Watched:
    """Look at a run for so long while it is written."""
    found, written = Watched(), {}
    line = [sys.executable, str(Path(__file__)), str(folder), str(tensors), str(seconds)]
    writer = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    name = json.loads(writer.stdout.readline())["name"]
    os.set_blocking(writer.stdout.fileno(), False)
    with browser() as chromium, serving(folder) as (address, server, _):
        page = opened(chromium)
        until_usable(page, f"{address}/run/{name}")
        page.evaluate(WATCH)
        began = time.monotonic()
        shown: dict[str, dict[str, int]] = {"head": {}, "picture": {}}
        every = min(10.0, seconds / 12)
        while time.monotonic() - began < seconds:
            page.wait_for_timeout(every * 1000)
            for told in writer.stdout.read().splitlines():
                block = json.loads(told)
                written[str(block["steps"])] = block["at"]
            for where, seen in page.evaluate(TAKEN).items():
                shown[where].update(seen)
            found.heaps.append((time.monotonic() - began, heap(page)))
            found.servers.append((time.monotonic() - began, resident(server)))
    writer.kill()
    writer.wait()
    for where, seen in shown.items():
        found.lags[where] = [
            seen[steps] - 1000 * at for steps, at in written.items() if steps in seen and seen[steps] >= 1000 * at
        ]
    found.steps = max(map(int, written), default=0)
    return found


def write(folder: Path, tensors: int, seconds: float) -> None:
    """The other process: blocks of steps, at their times."""
    import page_run

    from weighbridge.store.layout import create_run
    from weighbridge.store.writer import RankWriter

    path = create_run(folder, "live", {})
    out, source = RankWriter(path), page_run.Source(tensors)
    out.write({"tensors": page_run.tensors_table(tensors)}, 0, 0)
    stop = BEFORE * STEPS_A_BLOCK
    out.write(source.block(0, stop), 0, stop - 1)
    print(json.dumps({"name": path.name}), flush=True)
    began = time.monotonic()
    blocks = 0
    while time.monotonic() - began < seconds + 30:
        first, stop = stop, stop + STEPS_A_BLOCK
        out.write(source.block(first, stop), first, stop - 1)
        print(json.dumps({"steps": stop, "at": time.time()}), flush=True)
        blocks += 1
        time.sleep(max(0.0, blocks * BLOCK_SECONDS - (time.monotonic() - began)))


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
