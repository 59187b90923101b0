"""./demo on a machine with neither compiler nor Node. Oracle: it ends with what `weighbridge demo` prints.

The environment is made beforehand and linked to this one's packages, so that nothing has to be downloaded; all the rest
is what the script does on a fresh machine. CONTRIBUTING.md shows how to try it with every download.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.checkout import bare_path, copy_to, environment, linked_environment

pytestmark = pytest.mark.slow


def test_demo_installs_and_runs_without_compiler_and_node_and_the_second_time_installs_nothing(tmp_path: Path) -> None:
    checkout = copy_to(tmp_path / "check out")  # with a blank
    linked_environment(checkout / ".venv")
    # PIP_NO_BUILD_ISOLATION: hatchling is here already
    bare = environment(PATH=bare_path(tmp_path / "bin"), WEIGHBRIDGE_NO_APT="1", PIP_NO_BUILD_ISOLATION="0")

    def demo() -> subprocess.CompletedProcess[str]:
        command = [str(checkout / "demo"), "--help"]
        return subprocess.run(command, capture_output=True, text=True, env=bare, cwd=tmp_path, stdin=subprocess.DEVNULL)

    first = demo()
    assert first.returncode == 0, first.stderr
    assert "Usage: weighbridge demo" in first.stdout
    assert first.stderr.count("There is no C compiler") == 1
    assert "sudo apt-get install gcc libc6-dev" in first.stderr
    assert list((checkout / "src/weighbridge/capture").glob("*.so")) == []

    second = demo()
    assert second.stdout == first.stdout
    assert second.stderr == ""


def test_without_a_usable_python_the_line_to_type_is_said(tmp_path: Path) -> None:
    path = Path(bare_path(tmp_path / "bin"))
    (path / "python3").write_text("#!/bin/sh\nexit 1\n")
    checkout = copy_to(tmp_path / "checkout")
    bare = environment(PATH=str(path), WEIGHBRIDGE_NO_APT="1")
    done = subprocess.run([str(checkout / "demo")], capture_output=True, text=True, env=bare, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert re.search(r"needs Python 3\.11 or newer.*\n.*sudo apt-get install python3 python3-venv", done.stderr)
