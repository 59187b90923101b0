"""Loading the library: only one of this build, and nothing of the process is changed by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from weighing import CODES, item_of, place, rows_of

from conftest import NATIVE
from weighbridge import __version__
from weighbridge.capture import library
from weighbridge.capture.kernel import F32, Kernel, NativeKernel, load_kernel

SOURCE = NATIVE.parent / "src"


def run_python(code: str, **environment: str) -> str:
    import os

    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loading_and_weighing_leave_the_floating_point_state_alone(library_path: Path) -> None:
    # Oracle: a subnormal number survives a multiplication by one, and the control word reads the same before and after.
    state = run_python(
        f"""
import ctypes, mmap
import numpy as np
from pathlib import Path
from weighbridge.capture.kernel import ITEM, NativeKernel
from weighbridge.capture.rowblock import RowBlock
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
import platform
if platform.machine() in ("x86_64", "AMD64"):
    page.write(bytes.fromhex("0fae5c24f8" "8b4424f8" "c3"))  # stmxcsr [rsp-8]; mov eax, [rsp-8]; ret
    mxcsr = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    read = lambda: mxcsr() & ~0x3F  # the low bits only tell what has ever happened
else:
    read = lambda: 0
tiny = np.array([1e-42], np.float32)
before = read(), (tiny * np.float32(1)).tobytes()
kernel = NativeKernel(Path({str(library_path)!r}), Path({str(NATIVE)!r}))
data = np.array([np.nan, np.inf, 1e-45, 3e38], np.float32)
item = np.zeros(1, ITEM)
item["parameter"], item["count"] = data.ctypes.data, 4
for level in range(kernel.levels):
    kernel.use_level(level)
    kernel.weigh(item, 0, 0, RowBlock(9, 999))
print(before == (read(), (tiny * np.float32(1)).tobytes()), before[0] & 0x8040)
"""
    )
    assert state == "True 0"


def test_a_process_that_flushes_subnormals_gets_the_same_row(library_path: Path) -> None:
    found = run_python(
        f"""
import numpy as np, torch
from pathlib import Path
from weighbridge.capture.kernel import ITEM, NativeKernel
from weighbridge.capture.rowblock import RowBlock
data = np.full(2000, 1e-42, np.float32)
expected = float(data[0]) * 2000
before, item = np.zeros(2000, np.float32), np.zeros(1, ITEM)
item["parameter"], item["count"], item["snapshot"] = data.ctypes.data, 2000, before.ctypes.data
block = RowBlock(9, 9999)
torch.set_flush_denormal(True)
NativeKernel(Path({str(library_path)!r}), Path({str(NATIVE)!r})).weigh(item, 0, 0, block)
torch.set_flush_denormal(False)
row = block.take().to_pylist()[1]
print(row["subnormal"], abs(row["sum"] / expected - 1) < 1e-9)
"""
    )
    assert found == "2000 True"


def test_long_double_sums_still_work_after_every_kind_of_weighing(kernel: Kernel) -> None:
    # An MMX instruction without EMMS leaves the x87 stack full, and the next long double is NaN.
    for code in CODES.values():
        for size in (1, 3, 7, 100, 70_000):
            trio = [place(np.arange(float(size)), code) for _ in range(3)]
            rows_of(kernel, item_of(*trio))
            rows_of(kernel, item_of(trio[0]))
            assert np.arange(10, dtype=np.longdouble).sum() == 45


def test_a_library_of_other_sources_is_refused(library_path: Path, tmp_path: Path) -> None:
    for name in library.SOURCES:
        shutil.copy(NATIVE / name, tmp_path)
    with (tmp_path / "weigh_block.h").open("a") as file:
        file.write("/* changed */\n")
    with pytest.raises(OSError, match="another build"):
        NativeKernel(library_path, tmp_path)


def installed(library_path: Path, folder: Path, **label: object) -> Path:
    """The library as in a wheel: no sources, its label beside it."""
    copy = Path(shutil.copy(library_path, folder))
    told = json.loads(library_path.with_name(library_path.name + ".json").read_text()) | label
    copy.with_name(copy.name + ".json").write_text(json.dumps(told))
    return copy


def test_an_installed_library_is_known_by_its_label(library_path: Path, tmp_path: Path) -> None:
    assert NativeKernel(installed(library_path, tmp_path), tmp_path / "none").name == "native"


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ({"version": "0.0.1"}, "built for weighbridge 0.0.1"),
        ({"digest": "0" * 32}, "another build"),
        ({"abi": 99}, "built for"),
    ],
)
def test_an_installed_library_of_another_build_is_refused(
    library_path: Path, tmp_path: Path, label: dict[str, object], why: str
) -> None:
    with pytest.raises(OSError, match=why):
        NativeKernel(installed(library_path, tmp_path, **label), tmp_path / "none")


def test_a_library_without_its_label_or_that_is_no_library_is_refused(library_path: Path, tmp_path: Path) -> None:
    copy = installed(library_path, tmp_path)
    copy.with_name(copy.name + ".json").unlink()
    with pytest.raises(OSError, match="missing or unreadable"):
        NativeKernel(copy, tmp_path / "none")
    garbage = tmp_path / "garbage.so"
    garbage.write_bytes(b"no library at all")
    with pytest.raises(OSError, match=r"garbage\.so"):
        NativeKernel(garbage, NATIVE)
    with pytest.raises(OSError, match="was not built"):
        NativeKernel(tmp_path / "nothing.so", NATIVE)


def test_without_a_library_the_fallback_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHBRIDGE_KERNEL", raising=False)
    monkeypatch.setattr(library, "library_name", lambda: "weighbridge_kernel-nowhere.so")
    kernel = load_kernel()
    assert kernel.name == "torch"
    assert "was not built" in kernel.note
    tensor = place(np.arange(5.0), F32)
    assert rows_of(kernel, item_of(tensor))[0]["sum"] == 10


def test_the_fallback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_kernel("torch").name == "torch"
    monkeypatch.setenv("WEIGHBRIDGE_KERNEL", "torch")
    assert load_kernel().name == "torch"


def test_without_a_compiler_nothing_is_built_and_the_reason_is_said(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert builder.build(tmp_path / "target") is None
    assert "no C compiler" in capsys.readouterr().err
    monkeypatch.setenv("CC", "false")
    assert builder.build(tmp_path / "target") is None
    assert "not built" in capsys.readouterr().err


def test_the_label_and_the_name_say_what_was_built(library_path: Path) -> None:
    assert library_path.name == library.library_name()
    label = json.loads(library_path.with_name(library_path.name + ".json").read_text())
    assert label == {"abi": library.ABI, "digest": library.digest_of(NATIVE), "version": __version__}
