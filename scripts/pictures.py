"""Pictures of every page at both widths: `python scripts/pictures.py docs/pages`. About eight minutes.

Trains the runs of scripts/example_runs.py into a temporary folder (or takes --runs FOLDER), serves them, and takes each page at
1280 px and at 390 px, most in the dark too. WEIGHBRIDGE_BROWSER names a Chromium where none is found.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from palette import png
from playwright.sync_api import sync_playwright

from weighbridge.teaching.lessons import LESSONS, TUTORIALS

SOURCE = Path(__file__).parents[1] / "src"
SIGMOID = next(one for one in LESSONS if one.title == "Ten sigmoid layers")
PAIR = "run=relu&run=relu-rate-doubled&tensor=14.weight"
DEEP = "run=deep&run=deep-rate-doubled"
# Name, address, what has to be there before the picture is taken.
PAGES = [
    ("runs", "/?group=activation&pick=relu&pick=relu-rate-doubled", "[data-run=deep-sigmoid] canvas"),
    ("glance", "/run/deep-sigmoid", "article.cause"),
    ("glance-broken", "/run/overflow", "article.cause"),
    ("glance-time", "/run/overflow?axis=time&steps=300-800", ".heat"),
    ("glance-clear", "/run/digits-cnn", ".heat"),
    ("glance-folded", "/run/transformer", ".heat"),
    ("glance-deep", "/run/deep", ".heat"),
    ("glance-ranks", "/run/four-ranks", ".heat"),
    ("layer", "/run/relu-rate-doubled/layer/14", "section.units"),
    ("layer-kernels", "/run/digits-cnn/layer/3", "[data-worth]"),
    ("layer-deep", "/run/deep/layer/50.fc2", "section.units"),
    ("network", "/run/deep-sigmoid/network", "ol li"),
    ("network-health", "/run/deep-sigmoid/network?stat=health", "ol li"),
    ("network-deep", "/run/deep/network", "ol li"),
    ("before", "/run/deep-sigmoid/before", "section.layers"),
    ("tensors", "/run/relu/tensors", "[data-statistic]"),
    ("findings", "/run/overflow/findings", "article.detail"),
    ("findings-muted", "/run/piled-up/findings?muted=1", "article.detail"),
    ("rules", "/rules", "ul.all li"),
    ("rule", "/rules/vanishing-gradient", "article.rule"),
    ("compare", f"/compare?{PAIR}", ".heat"),
    ("compare-time", f"/compare?{PAIR}&axis=time", ".heat"),
    ("compare-deep", f"/compare?{DEEP}", ".heat"),
    ("lab", "/lab?play=900", "[data-step='900']"),
    ("lab-sigmoid", f"/lab?{SIGMOID.link}&play=600", "[data-step='600']"),
    ("lab-tutorial", f"/lab?{TUTORIALS[0].link}&play=200", "[data-step='200']"),
]
# Runs at the edge, of tests/browser/states.py, at a glance.
STATES = ("none", "one", "nan", "died", "skipped", "zero", "restart", "newer", "damaged", "million", "names")
LOOKS = [(1280, "light"), (390, "light"), (1280, "dark")]
DARK_PHONE = ("runs", "glance", "layer", "network", "findings", "compare", "lab")
LIGHT_ONLY = (
    "glance-broken",
    "glance-time",
    "glance-clear",
    "glance-folded",
    "glance-ranks",
    "findings-muted",
    "compare-time",
    "lab-sigmoid",
    "lab-tutorial",
)
UNREADABLE = ("newer", "damaged")
REFUSED = (
    "the server responded with a status of 4",
    "net::ERR_",
)  # the browser itself: of a run that cannot be read, of a font from afar
NOTEBOOK = "notebook-1280-light.png"
STREAMS = ("/api/growth", "/api/lab/events")  # never finished
QUIET = 12  # looks at what is under way, 0.1 s apart
WHOLE = 1800  # px of a page; what is longer ends there
DECODE = """async (png) => {
  const image = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d");
  pen.drawImage(image, 0, 0);
  const reader = new FileReader();
  const read = new Promise((done) => (reader.onload = () => done(reader.result.split(",")[1])));
  reader.readAsDataURL(new Blob([pen.getImageData(0, 0, image.width, image.height).data]));
  return [image.width, image.height, await read];
}"""
SERVE = "import sys; from weighbridge.cli.main import run; sys.argv = ['weighbridge', 'ui', *sys.argv[1:]]; run()"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The page over these runs; its address."""
    line = [sys.executable, "-c", SERVE, folder.name, "--port", "0", "--no-open"]  # its place is no part of the picture
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1].rstrip("/")
    finally:
        server.terminate()
        server.wait(20)


def looks_of(name: str) -> list[tuple[int, str]]:
    looks = [look for look in LOOKS if look[1] == "light" or name not in LIGHT_ONLY]
    return [*looks, *([(390, "dark")] if name in DARK_PHONE else [])]


def all_names() -> list[str]:
    """Of the files, as they lie in docs/pages."""
    pages = [f"{name}-{width}-{theme}.png" for name, _, _ in PAGES for width, theme in looks_of(name)]
    states = [f"state-{name}-{width}.png" for name in (*STATES, "empty") for width in (1280, 390)]
    return [*pages, *states, NOTEBOOK]


def keep(picture: bytes, blank: Any, file: Path) -> None:
    """The picture in few colours."""
    file.write_bytes(png(decoded(blank, picture)))
    print(f"{file.name}  {file.stat().st_size:,} bytes", flush=True)


def take_states(browser: Any, runs: Path, target: Path, only: str) -> None:
    """The edge states, and a folder without a run. Of a million steps the rules speak after minutes."""
    blank = browser.new_page()
    wanted = [name for name in STATES if only in f"state-{name}"]
    with serving(runs) as address:
        for name, (width, theme) in itertools.product(wanted, LOOKS[:2]):
            sign = "section.map" if name not in UNREADABLE else "[role=alert]"
            run = next(runs.glob("sweep*")).name if name == "names" else name
            with_rules = name != "million"
            picture = screenshot(browser, f"{address}/run/{run}", sign, width, theme, with_rules=with_rules)
            keep(picture, blank, target / f"state-{name}-{width}.png")
    (runs.parent / "empty").mkdir()
    with serving(runs.parent / "empty") as address:
        for width, theme in LOOKS[:2] if only in "state-empty" else []:
            keep(screenshot(browser, f"{address}/", "pre", width, theme), blank, target / f"state-empty-{width}.png")


def take(browser: Any, address: str, target: Path, only: str) -> None:
    """All pictures; an error on a page's console ends it."""
    blank = browser.new_page()
    for name, path, sign in PAGES:
        for width, theme in looks_of(name) if only in name else []:
            picture = screenshot(browser, address + path, sign, width, theme)
            keep(picture, blank, target / f"{name}-{width}-{theme}.png")


def take_notebook(browser: Any, runs: Path, target: Path, scratch: Path) -> None:
    """A notebook that shows two runs, as the HTML that nbconvert makes of it."""
    import nbformat

    cells = [
        nbformat.v4.new_code_cell(f"weighbridge.show({names})") for names in ("'deep-sigmoid'", "'relu', 'relu-rate-doubled'")
    ]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import weighbridge"), *cells])
    nbformat.write(made, scratch / "notebook.ipynb")
    (scratch / "weighbridge-runs").symlink_to(runs) if not (scratch / "weighbridge-runs").exists() else None
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "notebook.ipynb"]
    subprocess.run(command, check=True, cwd=scratch, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    picture = screenshot(browser, f"file://{scratch / 'notebook.html'}", "iframe:not([hidden])", 1280, "light")
    keep(picture, browser.new_page(), target / NOTEBOOK)


def screenshot(browser: Any, address: str, sign: str, width: int, theme: str, *, with_rules: bool = True) -> bytes:
    """A page when all its numbers are there, as PNG; `with_rules`: and the rules have spoken."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    complaints: list[str] = []
    asked: set[Any] = set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: (
            complaints.append(said.text) if said.type == "error" and not any(one in said.text for one in REFUSED) else None
        ),
    )
    page.on("request", lambda request: asked.add(request) if not request.url.split("?")[0].endswith(STREAMS) else None)
    page.on("requestfinished", lambda request: asked.discard(request))
    page.on("requestfailed", lambda request: asked.discard(request))
    page.goto(address)
    page.wait_for_selector(sign, timeout=300_000)
    if with_rules:
        page.get_by_text("The rules are reading").wait_for(state="hidden", timeout=120_000)
    page.get_by_text("not read yet").first.wait_for(state="hidden", timeout=120_000)
    quiet = 0
    while quiet < QUIET:
        page.wait_for_timeout(100)
        quiet = 0 if asked else quiet + 1
    tall = min(WHOLE, page.evaluate("document.documentElement.scrollHeight"))
    taken: bytes = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": tall})
    context.close()
    if complaints:
        raise SystemExit(f"{address} at {width}: {complaints}")
    return taken


def decoded(blank: Any, content: bytes) -> np.ndarray:
    """The pixels of a PNG, uint8 [height, width, 3], as the browser reads it."""
    width, height, pixels = blank.evaluate(DECODE, base64.b64encode(content).decode())
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)[:, :, :3]


def main() -> None:
    """Read the command line, make what is missing, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--runs", type=Path, help="folder with the example runs")
    parser.add_argument("--only", default="", help="pages whose name has this in it")
    wish = parser.parse_args()
    wish.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs = (wish.runs or Path(scratch) / "weighbridge-runs").resolve()
        subprocess.run([sys.executable, str(Path(__file__).with_name("example_runs.py")), str(runs)], check=True)
        executable = os.environ.get("WEIGHBRIDGE_BROWSER") or shutil.which("chromium")
        with sync_playwright() as playwright, serving(runs) as address:
            browser = playwright.chromium.launch(
                executable_path=executable, args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            take(browser, address, wish.target, wish.only)
            if wish.only in "notebook":
                take_notebook(browser, runs, wish.target, Path(scratch))
            if any(wish.only in name for name in all_names() if name.startswith("state-")):
                edge = Path(scratch) / "states"
                environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
                program = [sys.executable, "-m", "tests.browser.states", str(edge)]
                subprocess.run(program, check=True, cwd=SOURCE.parent, env=environment)
                take_states(browser, edge, wish.target, wish.only)
            browser.close()


if __name__ == "__main__":
    main()
