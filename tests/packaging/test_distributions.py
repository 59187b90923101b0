"""The sdist and the wheel, as `make dist` builds them; oracle: what a person gets who installs the wheel.

The wheel is installed into an environment of its own and used on a PATH without compiler and Node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.checkout import bare_path, copy_to, environment, has_compiler, linked_environment

pytestmark = pytest.mark.slow

WATCH = """
import json, sys, torch, weighbridge
from weighbridge.capture.kernel import load_kernel
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run = weighbridge.init(dir=sys.argv[1], name="first", quiet=True)
run.watch(model)
for _ in range(5):
    torch.nn.functional.mse_loss(model(torch.ones(3, 2)), torch.zeros(3, 1)).backward()
    optimizer.step()
    optimizer.zero_grad()
run.finish()
series = weighbridge.open_run(run.path).series("0.weight", "parameter.rms")
print(json.dumps([weighbridge.__file__, load_kernel().name, len(series.steps)]))
"""


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel; the wheel is built from the sdist, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    source = copy_to(tmp_path_factory.mktemp("checkout"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, env=environment())
    (folder / "log").write_text(built.stdout + built.stderr)
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = linked_environment(tmp_path_factory.mktemp("installed") / "venv")
    install = ["-m", "pip", "--python", str(folder / "bin/python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, env=environment())
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has neither compiler nor Node."""
    path = bare_path(tmp_path_factory.mktemp("bare") / "bin")
    assert not any(shutil.which(name, path=path) for name in ("cc", "gcc", "clang", "node", "npm"))
    return environment(PATH=path)


def test_the_wheel_holds_the_page_the_kernel_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "weighbridge/py.typed" in names
    assert "weighbridge/server/static/index.html" in names
    assert any(name.startswith("weighbridge/server/static/assets/") and name.endswith(".js") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert all(name.startswith(("weighbridge/", "weighbridge-")) for name in names)
    libraries = [name for name in names if name.endswith(".so")]
    if has_compiler():
        (library,) = libraries
        assert library + ".json" in names
        assert "-py3-none-" in wheel.name
        assert not wheel.name.endswith("-any.whl")
    else:
        assert libraries == []
        assert wheel.name.endswith("-py3-none-any.whl")


def test_the_sdist_holds_the_built_page_and_all_sources_but_no_library(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {
        "src/weighbridge/server/static/index.html",
        "frontend/package-lock.json",
        "native/build.py",
        "hatch_build.py",
    } <= names
    assert {"README.md", "LICENSE", "constraints.txt", "tests/packaging/test_distributions.py"} <= names
    assert not any(name.endswith((".so", ".pyc")) or "node_modules" in name for name in names)


def test_the_wheel_is_built_from_the_sdist_without_building_the_page_again(dist: Path) -> None:
    assert (dist / "log").read_text().count("$ npm run build") <= 1


def test_the_installed_wheel_watches_a_training(venv: Path, bare: dict[str, str], tmp_path: Path) -> None:
    command = [str(venv / "bin/python"), "-c", WATCH, str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=bare, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    home, kernel, steps = json.loads(done.stdout.splitlines()[-1])
    assert Path(home).is_relative_to(venv)
    assert kernel == ("native" if has_compiler() else "torch")
    assert steps == 6  # five steps and the closing row


@pytest.fixture
def page_address(venv: Path, bare: dict[str, str], tmp_path: Path) -> Iterator[str]:
    command = [str(venv / "bin/weighbridge"), "ui", str(tmp_path), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bare, cwd=tmp_path)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait(timeout=20)
        server.stdout.close()


def read(address: str, patience_seconds: float = 30) -> str:
    """What a GET brings; waits for a server that has said its address and is about to listen."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + patience_seconds
    while True:
        try:
            with direct.open(address, timeout=patience_seconds) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def test_the_installed_wheel_serves_the_page(page_address: str) -> None:
    page = read(page_address)
    script = page.split('src="')[1].split('"')[0]
    assert len(read(page_address + script.lstrip("/"))) > 10_000
