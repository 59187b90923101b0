"""The README's code runs, and its tables name what exists. Oracle: the README itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example {i}" for i in range(1, len(EXAMPLES) + 1)])
def test_every_python_example_runs_and_prints_something(example: str, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{example}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_there_is_an_example_of_at_most_twelve_lines() -> None:
    assert [len([line for line in example.splitlines() if line]) for example in EXAMPLES] == [12]


def test_every_file_that_the_readme_links_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_table_of_commands_has_every_command_and_no_other() -> None:
    from weighbridge.cli.main import COMMANDS

    assert re.findall(r"^\| `weighbridge ([\w-]+)", README, flags=re.MULTILINE) == list(COMMANDS)
