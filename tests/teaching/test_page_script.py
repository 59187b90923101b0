"""Oracle: Python itself. What the Lab prints as its script, and as its command line, is run, and must give the same numbers."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from weighbridge.cli.main import app
from weighbridge.teaching import link
from weighbridge.teaching.script import script
from weighbridge.teaching.training import Loop

LINKS = [
    "",
    "bias=0",
    "bias=010&act=relu&start=he&bstart=zeros",
    "batch=59&norm=batch&opt=adam:amsgrad=true&lr=0.01",
    "data=tutorial&layers=4&act=relu&seed=7",
    "data=bends&layers=4,4&act=none&batch=32&norm=layer",
    "data=xor&layers=none&start=normal:0.3&bstart=constant:0.1",
    "data=moons&act=sigmoid&start=orthogonal",
    "data=spiral&layers=8,8&act=leaky_relu&start=xavier_normal",
    "data=iris&layers=8&centre=none&batch=50",
    "data=diabetes&layers=4&scale=inputs",
    "data=wine&layers=6&start=uniform:0.2",
    "data=breast_cancer&layers=3&start=zeros",
]


def trained(query: str, steps: int, changes: dict[int, tuple[float, int]] | None = None) -> Loop:
    wish = link.read(query)
    loop = Loop(wish.data, wish.variant, wish.seed)
    for step in range(steps):
        if changes and step in changes:
            loop.rate, loop.batch = changes[step]
        loop.step()
    return loop


def losses_of(source: str) -> list[float]:
    assert "weighbridge." not in source
    assert "import weighbridge" not in source
    ran = subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return [float(line.split()[1]) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("query", LINKS)
def test_the_printed_script_gives_the_same_losses_to_the_last_bit(query: str) -> None:
    loop = trained(query, 25)
    assert losses_of(script(loop)) == loop.training.step_losses


def test_the_script_repeats_what_was_done_with_the_sliders() -> None:
    changes = {4: (0.05, 180), 9: (0.05, 32), 11: (0.4, 32), 12: (0.4, 7), 20: (0.4, 180)}
    loop = trained("", 30, changes)
    assert [change[:2] for change in loop.changes] == [
        (4, "rate"), (9, "batch"), (11, "rate"), (12, "batch"), (20, "batch"),
    ]  # fmt: skip
    assert losses_of(script(loop)) == loop.training.step_losses
    assert loop.training.step_losses != trained("", 30).training.step_losses


@pytest.mark.parametrize("query", [*LINKS[:6], "twin=act:relu", "twin=layers:8&data=iris", "twin=seed:6", "twin=lr:9"])
def test_the_command_line_trains_the_same(query: str, tmp_path) -> None:
    from typer.testing import CliRunner

    wish = link.read(query)
    epochs = 4
    line = shlex.split(link.command(wish, epochs))
    assert line[:2] == ["weighbridge", "lab"]
    ran = CliRunner().invoke(app, ["lab", *line[2:], "--dir", str(tmp_path), "--json"])
    assert ran.exit_code == 0, ran.output
    told = {(t["variant"], t["seed"]): t["loss"] for t in json.loads(ran.stdout)["trainings"]}
    for one in (wish, wish.twin):
        loop = Loop(one.data, one.variant, one.seed)
        while len(loop.training.losses) < epochs:
            loop.step()
        assert loop.training.losses[-1] in told.values()
    assert len(told) == 2
