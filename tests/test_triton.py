"""The kernels for GPUs on a machine without one: tests/gpu under Triton's interpreter, in a process of its own.

The interpreter runs the same source one operation at a time in NumPy. That holds the arithmetic and the whole way of a row;
it proves nothing about the order of memory accesses on a device, and nothing about speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRITON = Path(os.environ.get("WEIGHBRIDGE_TRITON", Path(sys.prefix) / "triton"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["test_table.py", "test_training.py", "test_gpu_outputs.py"])
def test_under_the_interpreter(part: str) -> None:
    if not (TRITON / "triton").is_dir():
        assert not os.environ.get("CI"), f"there is no Triton in {TRITON}: ./test installs it"
        pytest.skip("Triton is not installed beside the environment (./test does that)")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(TRITON), str(ROOT / "src"), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-W", "ignore", f"tests/gpu/{part}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
