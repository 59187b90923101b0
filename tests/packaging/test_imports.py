"""What importing weighbridge loads, what it offers, and who may import whom. Oracle: a fresh process, and docs/api.md."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import weighbridge
from tests.packaging.checkout import ROOT

HEAVY = ("torch", "starlette", "uvicorn", "duckdb", "typer", "sklearn", "pyarrow")


def in_a_fresh_process(code: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_importing_weighbridge_loads_no_heavy_package() -> None:
    assert in_a_fresh_process(f"import weighbridge\nprint([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_reading_a_run_needs_no_torch_and_no_web_framework() -> None:
    code = "import weighbridge; weighbridge.open_run\nprint([name for name in ('torch', 'starlette') if name in sys.modules])"
    assert in_a_fresh_process(code) == "[]"


def test_the_command_line_starts_without_torch() -> None:
    code = "import weighbridge.cli.main\nprint([name for name in ('torch', 'starlette', 'sklearn') if name in sys.modules])"
    assert in_a_fresh_process(code) == "[]"


def test_the_public_names_are_the_documented_ones() -> None:
    documented = re.findall(r"^\| `(\w+)", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(weighbridge.__all__)
    assert list(weighbridge.__all__) == sorted(weighbridge.__all__)
    for name in weighbridge.__all__:
        assert getattr(weighbridge, name) is not None


def test_no_folder_bears_the_name_of_a_public_function() -> None:
    # importing weighbridge.watch as a module would replace the function
    modules = {path.stem for path in (ROOT / "src/weighbridge").iterdir()}
    assert modules.isdisjoint(weighbridge.__all__)


def test_the_import_contract_holds() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    where = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([str(tool), "--no-cache"], cwd=ROOT, capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stdout


def _names(module: ast.Module) -> set[str]:
    """What a module binds anywhere: defined, assigned, or imported into it."""
    made = {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    made |= {node.id for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return made | {a.asname or a.name for n in ast.walk(module) if isinstance(n, ast.ImportFrom | ast.Import) for a in n.names}


def test_what_tests_take_from_one_another_is_there() -> None:
    """A piece that moved is missed here in a second, and not by the file that nobody ran beside it."""
    read = {path: ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")}

    @functools.cache
    def offered(module: str) -> set[str]:
        source = ROOT / module.replace(".", "/")
        there = read.get(source.with_suffix(".py")) or read.get(source / "__init__.py") or ast.Module([], [])
        return _names(there) | {child.stem for child in source.glob("*")}

    missing = []
    for path, module in read.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
                lost = {alias.name for alias in node.names} - offered(node.module)
                missing += [f"{path.relative_to(ROOT)} takes {name} from {node.module}" for name in sorted(lost)]
    assert missing == []
