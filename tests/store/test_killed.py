"""Oracle: what the writer itself printed before it was killed with signal 9."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_rows import rows, steps

from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.parquet import same_bits
from weighbridge.store.record import open_run
from weighbridge.store.segment import SegmentReader
from weighbridge.store.tables import RankTables
from weighbridge.store.verify import verify_run
from weighbridge.store.writer import RankWriter

PROGRAM = Path(__file__).with_name("killed_writer.py")
SOURCE = Path(__file__).parents[2] / "src"
STOP = 240  # steps; 8 segments
# Lines after which the child is killed: the very start, flushes, segment changes (every 6th flush), and then moments
# inside finish and its compaction, told in thousandths of a second after "finishing".
AFTER_LINES = [0, 1, 2, 7, 12, 13, 26, 37, 60, 85]
AFTER_FINISHING = [0, 5, 15, 30, 50, 80]


def start(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(PROGRAM.parent)])}
    arguments = [sys.executable, str(PROGRAM), str(path), str(STOP)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def acknowledged(lines: list[str]) -> list[tuple[str, int, int, int, str, int, int]]:
    found = []
    for line in lines:
        words = line.split()
        if len(words) == 7 and line.endswith("\n"):
            found.append((words[0], int(words[1]), int(words[2]), int(words[3]), words[4], int(words[5]), int(words[6])))
    return found


def check(path: Path, lines: list[str], *, finished: bool) -> None:
    """Nothing acknowledged is lost, nothing half is shown, bytes agree with the printed CRC, and the state is told."""
    told = acknowledged(lines)
    for table, number, offset, length, crc, _rows, _last in told:
        data = path / "rank-0" / f"{table}-{number:04d}.arrows"
        if data.exists():
            assert f"{zlib.crc32(data.read_bytes()[offset : offset + length]):08x}" == crc
    record = open_run(path)
    assert record.info.state == ("finished" if finished else "ended without finish")
    last = max((t[6] for t in told if t[0] == "rows"), default=-1)
    assert record.last_step in (last, last + 5)  # the flush after the last line may have been acknowledged, not told
    shown = RankTables(path / "rank-0").whole("rows")
    expected = [rows(first, first + 5) for first in range(0, record.last_step + 1, 5)]
    order = [("step", "ascending"), ("tensor", "ascending"), ("quantity", "ascending")]
    if expected:
        wanted = pa.Table.from_batches(expected).sort_by(order)
        assert same_bits(shown.sort_by(order).combine_chunks(), wanted.combine_chunks())
    losses = record.losses()
    assert losses.steps.tolist() == list(range(len(losses.steps)))
    assert len(losses.steps) >= max((t[6] for t in told if t[0] == "steps"), default=-1) + 1
    assert verify_run(path) == []


@pytest.mark.parametrize("lines_before", AFTER_LINES)
def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path, lines_before: int) -> None:
    path = create_run(tmp_path, "first", {})
    _as_if_by_a_dead_process(path)
    child = start(path)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(lines_before)]
    child.kill()
    lines += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    check(path, lines, finished=False)
    compact_run(path)  # and the dead run can be compacted whole
    check(path, lines, finished=False)
    assert not list(path.rglob("*.part"))


@pytest.mark.parametrize("wait_ms", AFTER_FINISHING)
def test_nothing_is_lost_when_the_writer_is_killed_while_it_finishes(tmp_path: Path, wait_ms: int) -> None:
    path = create_run(tmp_path, "first", {})
    child = start(path)
    assert child.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "finishing\n":
        lines.append(child.stdout.readline())
    try:
        child.wait(wait_ms / 1000)
    except subprocess.TimeoutExpired:
        child.kill()
    lines += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    check(path, lines, finished=(path / "rank-0" / "finish.json").exists())
    compact_run(path)
    check(path, lines, finished=(path / "rank-0" / "finish.json").exists())


def test_killed_inside_a_compaction_leaves_the_segment_or_the_whole_folder(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path, segment_steps=30)
    for first in range(0, STOP, 5):
        writer.write({"rows": rows(first, first + 5), "steps": steps(first, first + 5)}, first, first + 4)
    writer.finish(STOP, compact_seconds=0)
    program = (
        "import pathlib, sys; from weighbridge.store.compact import compact_run; print('x', flush=True);"
        f" compact_run(pathlib.Path({str(path)!r}))"
    )
    dice = random.Random(3)
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdout=-1)
        assert child.stdout is not None
        child.stdout.read(1)
        try:
            child.wait(0.2 * dice.random())
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert RankTables(path / "rank-0").whole("rows").num_rows == STOP * 9
        assert verify_run(path) == []


def _as_if_by_a_dead_process(path: Path) -> None:
    """run.json names this process, which lives: killed before it made its rank file, the child must not look alive."""
    from weighbridge.store.checked import read_sealed, write_sealed

    content = read_sealed(path / "run.json")
    del content["check"]
    write_sealed(path / "run.json", {**content, "process_start": "1"}, replace=True)


def test_a_segment_cut_at_every_byte_shows_whole_flushes_only(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path)
    for first in range(3):
        writer.write({"steps": steps(first, first + 1)}, first, first)
    stem = path / "rank-0" / "steps-0001"
    data, sidecar = stem.with_suffix(".arrows").read_bytes(), stem.with_suffix(".flushes").read_bytes()
    ends = [flush.end for flush in _reader(stem).flushes]
    cut = tmp_path / "steps-0001"
    for length in range(len(sidecar) + 1):  # a sidecar that was cut: whole lines count
        cut.with_suffix(".flushes").write_bytes(sidecar[:length])
        cut.with_suffix(".arrows").write_bytes(data)
        reader = _reader(cut)
        assert len(reader.batches()) == length // 192
    for length in range(len(data) + 1):  # data that was cut behind its last line: the same flushes
        whole = sum(end <= length for end in ends)
        cut.with_suffix(".flushes").write_bytes(sidecar[: 192 * whole])
        cut.with_suffix(".arrows").write_bytes(data[:length])
        shown = _reader(cut).batches()
        assert [batch.column("step")[0].as_py() for batch in shown] == list(range(whole))


def _reader(stem: Path) -> SegmentReader:
    reader = SegmentReader(stem)
    reader.poll()
    return reader


def test_a_full_disk_keeps_what_was_acknowledged_and_a_later_write_goes_on(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path)
    written, failed = [], 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        for first in range(0, 100, 5):
            try:
                writer.write({"rows": rows(first, first + 5)}, first, first + 4)
                written.append(first)
            except OSError:
                failed += 1
                assert writer.unwritten == ("rows",)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert failed
    assert len(written) > 10
    writer.write({"rows": rows(100, 105)}, 100, 104)
    writer.finish(105, compact_seconds=0)
    expected = [rows(first, first + 5) for first in [*written, 100]]
    shown = RankTables(path / "rank-0").whole("rows")
    assert same_bits(shown.combine_chunks(), pa.Table.from_batches(expected).combine_chunks())
    assert verify_run(path) == []
    compact_run(path)
    steps_shown = np.unique(RankTables(path / "rank-0").whole("rows").column("step").to_numpy())
    assert len(steps_shown) == 5 * len(expected)
    assert verify_run(path) == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root and mount for a tmpfs")
def test_a_full_tmpfs_loses_nothing_acknowledged(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        return  # a container without the right to mount; the test with RLIMIT_FSIZE covers the same code
    try:
        path = create_run(disk, "first", {})
        writer = RankWriter(path)
        written = []
        for first in range(0, 4000, 50):
            try:
                writer.write({"rows": rows(first, first + 50)}, first, first + 49)
                written.append(first)
            except OSError:
                break
        assert 0 < len(written) < 80
        for _ in range(3):  # still full
            with pytest.raises(OSError, match="No space left"):
                writer.write({"rows": rows(5000, 5500)}, 5000, 5499)
        shown = RankTables(path / "rank-0").whole("rows")
        assert same_bits(shown.combine_chunks(), pa.Table.from_batches([rows(f, f + 50) for f in written]).combine_chunks())
        assert verify_run(path) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
