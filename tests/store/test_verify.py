"""Oracle: we flip the bits ourselves, so we know which file and which byte."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_rows import event, logs, rows, steps, tensors, values
from typer.testing import CliRunner

from weighbridge.cli.main import app
from weighbridge.errors import CorruptRun, NewerFormat, NotARun, WeighbridgeError
from weighbridge.store import verify
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.verify import verify_run
from weighbridge.store.writer import RankWriter

FLIPS = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has closed segments and compacted units side by side."""
    path = create_run(tmp_path_factory.mktemp("verify"), "first", {"config": {"lr": 0.1}})
    writer = RankWriter(path, segment_steps=100)
    writer.write({"tensors": tensors(), "events": event(0, "config")}, 0, 0)
    for first in range(0, 400, 50):
        made = {"rows": rows(first, first + 50), "steps": steps(first, first + 50), "logs": logs(first, first + 50)}
        writer.write(made, first, first + 49)
        if first == 200:
            compact_run(path)
    writer.write({"values": values(0, 5)}, 0, 4)
    writer.finish(400, compact_seconds=0)
    kinds = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert kinds == {".json", ".arrows", ".flushes", ".parquet"}
    return path


def test_a_sound_run_has_no_damage(run: Path) -> None:
    assert verify_run(run) == []
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert result.exit_code == 0
    assert "every byte is as it was written" in result.output


def places(run: Path) -> list[tuple[Path, int]]:
    """First and last 16 bytes of each file, then random ones over all files, each file as often as the others."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    chosen = [(path, at) for path in files for at in (*range(16), *range(path.stat().st_size - 16, path.stat().st_size))]
    dice = random.Random(7)
    chosen += [(path, dice.randrange(path.stat().st_size)) for _ in range(-(-FLIPS // len(files))) for path in files]
    return chosen


def test_every_flipped_bit_is_named_with_its_file_and_bytes(run: Path) -> None:
    dice = random.Random(11)
    chosen = places(run)
    assert len(chosen) > 1000
    for path, at in chosen:
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[at] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            damages = verify_run(run)
        finally:
            path.write_bytes(sound)
        assert [d for d in damages if d.path == path and d.start <= at < d.stop], (path, at, damages)
        assert {d.path for d in damages} <= {path, path.with_suffix(".flushes"), path.with_suffix(".arrows")}
    assert verify_run(run) == []


def test_verify_tells_the_place_and_ends_with_2(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    target = copy / "rank-0" / "rows-0001" / "rows.parquet"
    data = bytearray(target.read_bytes())
    data[100] ^= 4
    target.write_bytes(data)
    result = CliRunner().invoke(app, ["verify", str(copy)])
    assert result.exit_code == 2
    assert f"{target}, bytes 0 to " in result.output
    result = CliRunner().invoke(app, ["verify", "--json", str(copy)])
    assert result.exit_code == 2
    assert '"start": 0' in result.output


@pytest.mark.parametrize("name", ["rows-0004.flushes", "rows-0004.arrows", "rows-0001/rows.parquet", "rows-0001/manifest.json"])
def test_a_file_that_is_gone_is_missed(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "rank-0" / name).unlink()
    assert verify_run(copy)


def test_reading_a_damaged_segment_names_file_and_bytes(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    target = copy / "rank-0" / "rows-0004.arrows"
    data = bytearray(target.read_bytes())
    data[-100] ^= 1
    target.write_bytes(data)
    with pytest.raises(CorruptRun, match=r"rows-0004.arrows, bytes \d+ to \d+: the bytes disagree"):
        open_run(copy).series("layers.0.bias", "gradient.rms")


def test_reading_a_damaged_parquet_file_raises_no_bare_error(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    target = copy / "rank-0" / "rows-0001" / "rows.parquet"
    target.write_bytes(target.read_bytes()[:-10])
    with pytest.raises(WeighbridgeError, match="weighbridge verify"):
        open_run(copy).series("layers.0.bias", "gradient.rms")
    with pytest.raises(WeighbridgeError, match="weighbridge verify"):
        open_run(copy).heat_map("gradient.rms")


def test_a_newer_format_is_not_touched(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    content = read_sealed(copy / "run.json")
    del content["check"]
    write_sealed(copy / "run.json", {**content, "format": 99}, replace=True)
    for call in (open_run, verify_run, compact_run):
        with pytest.raises(NewerFormat, match="has format 99; this weighbridge reads up to format 1"):
            call(copy)
    assert CliRunner().invoke(app, ["verify", str(copy)]).exit_code == 2
    with pytest.raises(NotARun):
        verify_run(tmp_path)


def test_a_run_that_is_compacted_while_it_is_looked_at_is_sound(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(run, tmp_path / "run"))
    looked = verify._lines
    compacted = []

    def compacted_meanwhile(*arguments: Any) -> Any:
        if not compacted:
            compacted.append(compact_run(path))
        return looked(*arguments)

    monkeypatch.setattr(verify, "_lines", compacted_meanwhile)
    assert verify_run(path) == []
    assert compacted[0] > 0
