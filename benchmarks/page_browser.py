"""A browser on the page, with a clock inside it: how long until something is shown, how many frames a second."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
SERVE = "import sys; from weighbridge.cli.main import run; sys.argv = ['weighbridge', 'ui', *sys.argv[1:]]; run()"
MIB = 2**20
MOST_SECONDS = 120.0  # until a page can be used; then it is told and no more waited for
USABLE = "!!document.querySelector('.heat') && !!document.querySelector('section[aria-label=Loss] .uplot')"
# From an act to the second frame after what it was for is there: then it is on the screen.
TIMED = """async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const heat = () => document.querySelector('.heat')?.ariaLabel;
  const key = (name) => document.body.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
  const choose = (label, value) => {
    const list = document.querySelector(`select[aria-label='${label}']`);
    list.value = value;
    list.dispatchEvent(new Event('change', { bubbles: true }));
  };
  const before = heat();
  const began = performance.now();
  %(act)s;
  while (!(%(until)s)) {
    if (performance.now() - began > 30000) return null;
    await frame();
  }
  await frame();
  return performance.now() - began;
}"""
FRAMES = """(seconds) => new Promise((done) => {
  const times = [];
  const began = performance.now();
  const count = (now) => {
    times.push(now);
    if (now - began < seconds * 1000) requestAnimationFrame(count);
    else done(times);
  };
  requestAnimationFrame(count);
})"""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    """A server that is just started: its address, its process, and the seconds until it answered."""
    began = time.perf_counter()
    line = [sys.executable, "-c", SERVE, str(folder), "--port", "0", "--no-open"]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1].rstrip("/"), server, time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("WEIGHBRIDGE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


def opened(browser: Any) -> Any:
    """A page of its own, with nothing in its cache."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    return page


def until_usable(page: Any, address: str, usable: str = USABLE) -> float:
    """Milliseconds from asking for the page until it can be used."""
    page.goto(address, wait_until="commit")
    end = time.monotonic() + MOST_SECONDS
    while not page.evaluate(usable):
        if time.monotonic() > end:
            raise SystemExit(f"{address} cannot be used after {MOST_SECONDS:.0f} s: {page.inner_text('body')[:200]!r}")
        time.sleep(0.01)
    return float(page.evaluate("performance.now()"))


def timed(page: Any, act: str, until: str) -> float:
    """Milliseconds from an act until what it was for is on the screen; infinite where it never came."""
    found = page.evaluate(TIMED % {"act": act, "until": until})
    return float("inf") if found is None else float(found)


def frames(page: Any, seconds: float, points: Sequence[tuple[float, float]], wheel: float) -> tuple[float, float]:
    """Frames a second, and the longest gap in ms, while the pointer goes along these points and the wheel turns."""
    page.evaluate("window.counted = (" + FRAMES + ")(" + str(seconds) + ")")
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        page.mouse.move(*points[i % len(points)])
        if wheel:
            page.mouse.wheel(0, wheel if (i // 20) % 2 == 0 else -wheel)
        i += 1
    times: list[float] = page.evaluate("window.counted")
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return 1000 * len(gaps) / (times[-1] - times[0]), max(gaps)


def heap(page: Any) -> float:
    """MiB of JavaScript's heap after its garbage is collected."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")
    client.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
    client.detach()
    return float(found["JSHeapUsedSize"]) / MIB


def resident(process: subprocess.Popen[str]) -> float:
    """MiB of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def middle(found: Sequence[float]) -> str:
    """Median, and the largest in brackets."""
    return f"{statistics.median(found):.0f} ({max(found):.0f})"
