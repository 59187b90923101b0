"""The kernels for GPUs on a machine without one: tests/gpu under Triton's interpreter, in a process of its own.

The interpreter runs the same source one operation at a time in NumPy. That holds the arithmetic and the whole way of a row;
it proves nothing about the order of memory accesses on a device, and nothing about speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRITON = Path(os.environ.get("WEIGHBRIDGE_TRITON", Path(sys.prefix) / "triton"))
UnderWay = tuple[dict[str, subprocess.Popen[bytes]], Path]


PARTS = ("test_training.py", "test_table.py", "test_gpu_outputs.py")


def started(part: str, folder: Path) -> subprocess.Popen[bytes]:
    """What it says is in the folder, in a file of its name."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(TRITON), str(ROOT / "src"), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-W", "ignore", f"tests/gpu/{part}"]
    with (folder / part).open("wb") as said:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def under_way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnderWay]:
    """All parts that are wanted, at once: they come last of the whole suite, when a core is free."""
    if not (TRITON / "triton").is_dir():
        assert not os.environ.get("CI"), f"there is no Triton in {TRITON}: ./test installs it"
        pytest.skip("Triton is not installed beside the environment (./test does that)")
    folder = tmp_path_factory.mktemp("interpreted")
    mine = [item for item in request.session.items if item.path == Path(__file__)]
    wanted = [part for part in PARTS if any(f"[{part}]" in item.name for item in mine)]
    children = {part: started(part, folder) for part in wanted}
    yield children, folder
    for child in children.values():
        child.kill()
        child.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", PARTS)
def test_under_the_interpreter(part: str, under_way: UnderWay) -> None:
    children, folder = under_way
    child = children.pop(part, None) or started(part, folder)  # a test that is run again runs again
    try:
        code = child.wait()
    finally:
        child.kill()
    said = (folder / part).read_text(errors="replace")
    assert code == 0, said[-8000:]
    assert " passed" in said
