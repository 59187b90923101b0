"""Pictures of every page at both widths: `python scripts/pictures.py docs/pages`. About two minutes.

Trains the runs of scripts/example_runs.py into a temporary folder (or takes --runs FOLDER), serves them, and takes each page at
1280 px and at 390 px, the main ones in the dark too. WEIGHBRIDGE_BROWSER names a Chromium where none is found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SOURCE = Path(__file__).parents[1] / "src"
PAIR = "run=relu&run=relu-rate-doubled&tensor=14.weight"
# Name, address, what has to be there before the picture is taken.
PAGES = [
    ("runs", "/?pick=relu&pick=relu-rate-doubled", "canvas"),
    ("glance", "/run/deep-sigmoid", "article.cause"),
    ("glance-broken", "/run/overflow", "article.cause"),
    ("glance-folded", "/run/transformer", ".heat"),
    ("glance-one-step", "/run/one-step", ".heat"),
    ("layer", "/run/relu-rate-doubled/layer/14", "section.units"),
    ("network", "/run/deep-sigmoid/network", "ol li"),
    ("tensors", "/run/relu/tensors", "[data-statistic]"),
    ("findings", "/run/overflow/findings", "article.detail"),
    ("rules", "/rules", "ul.all li"),
    ("rule", "/rules/vanishing-gradient", "article.rule"),
    ("compare", f"/compare?{PAIR}", ".heat"),
]
LOOKS = [(1280, "light"), (390, "light"), (1280, "dark")]
IN_DARK = ("glance", "layer", "network", "compare")
WHOLE = 1800  # px of a page; what is longer ends there
SERVE = "import sys; from weighbridge.cli.main import run; sys.argv = ['weighbridge', 'ui', *sys.argv[1:]]; run()"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The page over these runs; its address."""
    line = [sys.executable, "-c", SERVE, str(folder), "--port", "0", "--no-open"]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1].rstrip("/")
    finally:
        server.terminate()
        server.wait(20)


def take(browser: Any, address: str, target: Path, only: str) -> None:
    """All pictures; an error on a page's console ends it."""
    for name, path, sign in PAGES:
        for width, theme in LOOKS if only in name else []:
            if theme == "dark" and name not in IN_DARK:
                continue
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
            page = context.new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error, into=complaints: into.append(str(error)))
            page.goto(address + path)
            page.wait_for_selector(sign, timeout=60_000)
            page.wait_for_timeout(1500)  # all charts of the page have their numbers
            tall = min(WHOLE, page.evaluate("document.documentElement.scrollHeight"))
            clip = {"x": 0, "y": 0, "width": width, "height": tall}
            page.screenshot(path=target / f"{name}-{width}-{theme}.png", full_page=True, clip=clip)
            context.close()
            if complaints:
                raise SystemExit(f"{name} at {width}: {complaints}")
            print(f"{name}-{width}-{theme}.png", flush=True)


def main() -> None:
    """Read the command line, make what is missing, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--runs", type=Path, help="folder with the example runs")
    parser.add_argument("--only", default="", help="pages whose name has this in it")
    wish = parser.parse_args()
    wish.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs = wish.runs or Path(scratch)
        subprocess.run([sys.executable, str(Path(__file__).with_name("example_runs.py")), str(runs)], check=True)
        executable = os.environ.get("WEIGHBRIDGE_BROWSER") or shutil.which("chromium")
        with sync_playwright() as playwright, serving(runs) as address:
            browser = playwright.chromium.launch(
                executable_path=executable, args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            take(browser, address, wish.target, wish.only)
            browser.close()


if __name__ == "__main__":
    main()
