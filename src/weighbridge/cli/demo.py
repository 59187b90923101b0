"""`weighbridge demo`: five small trainings that show what weights and biases do."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.format import visible


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    dir: Annotated[Path | None, typer.Option("--dir", help="Where the runs go (default: ./weighbridge-runs).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs and seeds: under half a minute.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page at the end.")] = False,
) -> None:
    """Train small networks, watched, and show what their weights and biases do.

    Takes a minute or two. In a terminal with a display it ends by opening the page on its runs; else it just ends.
    """
    from weighbridge.teaching.demo import play

    folder = dir if dir is not None else Path("weighbridge-runs")
    began = time.monotonic()
    paths = play(folder, quick=quick, say=lambda text: print(text, flush=True))
    shown = visible(str(folder))
    print(f"\n{len(paths)} runs in {shown}, recorded in {time.monotonic() - began:.0f} seconds. Look at them:")
    print(f"  weighbridge ls {shown}")
    print(f"  weighbridge show {visible(str(paths[0]))} --per epoch --stat parameter.mean")
    print(f"  weighbridge ui {shown}", flush=True)
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("weighbridge") is None and activate.exists():
        print(f"A shell that knows these commands:  . {shlex.quote(visible(str(activate)))}", flush=True)
    if not no_open and _can_show_a_page():
        _open_page(folder)


def _can_show_a_page() -> bool:
    """A person at a terminal with a display of their own."""
    is_remote = bool(os.environ.get("SSH_CONNECTION"))
    has_display = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdin.isatty() and sys.stdout.isatty() and has_display and not is_remote


def _open_page(folder: Path) -> None:
    """Serve the page until Ctrl-C, as `weighbridge ui` does."""
    import subprocess

    print("\nOpening the page; Ctrl-C ends it.", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "weighbridge", "ui", str(folder)], check=False)
    except KeyboardInterrupt:
        print()
