"""What the packaging tests ask of the checkout they stand in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path("src/weighbridge/server/static")
BASIC_TOOLS = ("sh", "cat", "cksum", "env", "find", "grep", "id", "sed", "sort", "uname", "rm", "dirname")


def files() -> list[Path]:
    """Relative paths of all files that git tracks, and of new ones that it would not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in sorted(set(found.split("\0"))) if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    """Path and content of all of them that are text."""
    found = []
    for path in files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found.append((path, content.decode()))
    return found


def copy_to(target: Path) -> Path:
    """A copy of the checkout, with the page where it is built, and without a kernel library."""
    for path in files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    if (ROOT / STATIC).is_dir():
        shutil.copytree(ROOT / STATIC, target / STATIC)
    return target


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("cc", "gcc", "clang"))


def linked_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages through a .pth file, so that nothing is downloaded.

    The line in the .pth makes its packages importable but does not read its own .pth files: an editable weighbridge of
    this environment is not seen in the new one.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "packages-of-the-tests.pth").write_text("\n".join(ours) + "\n")
    return folder


def bare_path(folder: Path) -> str:
    """A PATH of one folder: Python and the basic tools, and neither compiler nor Node."""
    folder.mkdir()
    for name in BASIC_TOOLS:
        tool = shutil.which(name)
        assert tool is not None, f"{name} is missing on this machine"
        (folder / name).symlink_to(tool)
    # not a link: a link into a virtual environment would not know its environment
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    return str(folder)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would lead back to the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WEIGHBRIDGE", "COV_"))}
    return {**kept, **changes}
