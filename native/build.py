"""Builds the C kernel: `python native/build.py` puts it beside src/weighbridge/capture/kernel.py.

The build hook calls `build`. Without a compiler nothing is built, a reason is printed, and weighbridge falls back to
torch operations (slower, same numbers). WEIGHBRIDGE_SKIP_KERNEL=1 leaves it out on purpose; CC names a compiler.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "src" / "weighbridge"

# No -ffast-math, neither here nor at the link (gcc would then add code that makes the whole process flush subnormals),
# and no -march=native: what is built here may run elsewhere. -fopenmp-simd reads `omp simd` and links nothing.
# -mno-mmx: gcc 12 moves 8 bytes through an MMX register without EMMS, which breaks the caller's next long double sums.
FLAGS = shlex.split(
    "-std=gnu11 -O3 -fPIC -fvisibility=hidden -fopenmp-simd -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wall -Wextra"
)
X86_LEVELS = {
    "plain": "-mno-mmx",
    "avx2": "-mno-mmx -mavx2 -mfma",
    "avx512": "-mno-mmx -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512",
}

AS_WRITTEN = ("weighbridge_closely.c",)  # each product is rounded before it is added, as torch's own operations do


def build(target_dir: Path) -> Path | None:
    """Compile and link into `target_dir`; the library's path, or None with the reason printed."""
    library = _library_module()
    compiler = find_compiler()
    if os.environ.get("WEIGHBRIDGE_SKIP_KERNEL") or compiler is None:
        why = "WEIGHBRIDGE_SKIP_KERNEL is set" if compiler else "no C compiler (cc, gcc or clang) was found"
        print(f"weighbridge: the C kernel is not built: {why}; weighing will use torch operations", file=sys.stderr)
        return None
    target: Path = target_dir / library.library_name()
    digest = library.digest_of(HERE)
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = _compile(compiler, Path(folder), digest)
            target_dir.mkdir(parents=True, exist_ok=True)
            # a process may have the old one mapped: put a new file in its place, never write into it
            fresh = target.with_name(f"{target.name}.{os.getpid()}")
            shutil.copy2(made, fresh)
            os.replace(fresh, target)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"weighbridge: the C kernel is not built: {error}; weighing will use torch operations", file=sys.stderr)
        return None
    library.write_label(target, digest, _version())
    return target


def find_compiler() -> list[str] | None:
    """The compiler as the start of a command line."""
    if given := os.environ.get("CC"):
        return shlex.split(given)
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    return [found] if found else None


def _compile(compiler: list[str], folder: Path, digest: str) -> Path:
    on_x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    levels = X86_LEVELS if on_x86 else {"plain": ""}
    objects = []
    for name, flags in levels.items():
        objects.append(folder / f"{name}.o")
        _run(compiler, *FLAGS, *flags.split(), f"-DWB_LEVEL={name}", "-c", str(HERE / "weigh_level.c"), "-o", str(objects[-1]))
    defines = [f'-DWB_DIGEST="{digest}"', *(["-DWB_X86_LEVELS"] if on_x86 else [])]
    for source in (
        "weighbridge_kernel.c",
        "weighbridge_closely.c",
        "weighbridge_look.c",
        "weighbridge_output.c",
        "weighbridge_forward.c",
        "weighbridge_helper.c",
        "weighbridge_pairs.c",
        "weighbridge_rows.c",
        "weighbridge_jump.c",
        "weighbridge_sketch.c",
        "weighbridge_step.c",
    ):
        objects.append(folder / f"{source}.o")
        exact = ["-ffp-contract=off"] if source in AS_WRITTEN else []
        _run(compiler, *FLAGS, *exact, *defines, "-c", str(HERE / source), "-o", str(objects[-1]))
    made = folder / "kernel.so"
    _run(compiler, "-shared", *map(str, objects), "-o", str(made), "-lm", "-pthread")
    return made


def _run(compiler: list[str], *arguments: str) -> None:
    done = subprocess.run([*compiler, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()


def _version() -> str:
    found = re.search(r'^__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _library_module() -> ModuleType:
    """capture/library.py, without importing the package (which needs what a build environment does not have)."""
    spec = spec_from_file_location("weighbridge_library", PACKAGE / "capture" / "library.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    made = build(PACKAGE / "capture")
    if made is not None:
        print(f"built {made.name}")
    sys.exit(0)
