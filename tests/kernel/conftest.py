from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.files import module_at

from weighbridge.capture.fallback import TorchKernel
from weighbridge.capture.kernel import Kernel, NativeKernel, load_kernel

NATIVE = Path(__file__).resolve().parents[2] / "native"
LEVELS = ("plain", "avx2", "avx512")


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    """native/build.py as a module."""
    return module_at(NATIVE / "build.py", "weighbridge_native_build")


@pytest.fixture(scope="session")
def library_path(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel as built from the sources that are here."""
    path: Path | None = builder.build(tmp_path_factory.mktemp("library"))
    if path is None:
        pytest.skip("no C compiler on this machine")
    return path


@pytest.fixture(scope="session")
def native(builder: ModuleType, request: pytest.FixtureRequest) -> NativeKernel:
    kernel = load_kernel()
    if isinstance(kernel, NativeKernel):
        return kernel
    return NativeKernel(request.getfixturevalue("library_path"), NATIVE)


@pytest.fixture(params=[*LEVELS, "torch"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Each instruction level that this processor has, and the fallback."""
    if request.param == "torch":
        yield TorchKernel()
        return
    native: NativeKernel = request.getfixturevalue("native")
    level = LEVELS.index(request.param)
    if level >= native.levels:
        pytest.skip(f"this processor has no {request.param}")
    assert native.use_level(level) == request.param
    yield native
    native.use_level(-1)
