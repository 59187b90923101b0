"""What may not be in the repository. Oracle: the list of files that git tracks."""

from __future__ import annotations

import json
import re
import tomllib

import weighbridge
from tests.packaging.checkout import ROOT, files, texts

# Written in two pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.<-])/(?:" + "root|home|work|Users" + r")/\w")
REGISTRY_HOST = re.compile(
    "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs", "npmjs" + r"\.com", "deb" + r"\.debian"])
)


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [f"{path}: {match[0]}" for path, text in texts() for match in MACHINE_PATH.finditer(text)]
    assert found == []


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert [str(path) for path, text in texts() if REGISTRY_HOST.search(text)] == []


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert "version" not in project
    assert "version" not in json.loads((ROOT / "frontend/package.json").read_text())
    assert "version" not in json.loads((ROOT / "frontend/package-lock.json").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", weighbridge.__version__)


def test_no_third_party_javascript_is_tracked() -> None:
    names = [path.as_posix() for path in files()]
    assert not any("node_modules" in name or ".min." in name or "/static/" in name for name in names)
    scripts = [name for name in names if name.endswith((".js", ".mjs", ".cjs"))]
    assert all(re.fullmatch(r"frontend/\w+\.config\.js", name) for name in scripts), scripts


def test_no_tracked_file_is_large() -> None:
    large = [str(path) for path in files() if (ROOT / path).stat().st_size > 300_000]
    assert large == []


def test_every_pinned_package_is_pinned_exactly_and_torch_without_a_local_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert "torch==2.13.0" in lines
