"""A training goes on in its run. Oracle: the same training in one go, without weighbridge, in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.launched import launch
from weighbridge.diagnosis import beside
from weighbridge.errors import BadInput
from weighbridge.store.layout import create_run
from weighbridge.store.verify import verify_run

STEPS, KILLED, CHECKPOINT = 60, 41, 30  # steps in all; taken when the first process is killed; and when it saved

PROGRAM = """
    import os, signal, sys, torch, weighbridge
    from pathlib import Path
    from tests.capture.test_resume import CHECKPOINT, KILLED, STEPS, batch, network

    folder, is_again = Path(sys.argv[1]), (Path(sys.argv[1]) / "checkpoint.pt").exists()
    model, optimizer = network()
    begin = 0
    if is_again:
        saved = torch.load(folder / "checkpoint.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        begin = saved["step"]
    run = weighbridge.init(dir=folder, name="first", config={"again": is_again}, resume=begin)
    run.watch(model)
    for step in range(begin, STEPS):
        if step == CHECKPOINT and not is_again:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, folder / "checkpoint.pt")
        if step == KILLED and not is_again:
            run.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(batch(step)), batch(step)[:, :1]).backward()
        optimizer.step()
    run.finish()
"""


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def batch(step: int) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def in_one_go(steps: int = STEPS) -> tuple[list[float], list[torch.Tensor], list[torch.Tensor]]:
    """The loss of each step, the first layer's weights before it, and its gradient there."""
    model, optimizer = network()
    weight: Any = model[0].weight  # type: ignore[index]
    losses, weights, gradients = [], [], []
    for step in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch(step)), batch(step)[:, :1])
        weights.append(weight.detach().clone())
        loss.backward()
        gradients.append(weight.grad.clone())
        optimizer.step()
        losses.append(loss.item())
    return losses, weights, gradients


def train(model: nn.Module, optimizer: torch.optim.Optimizer, begin: int, stop: int) -> None:
    for step in range(begin, stop):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch(step)), batch(step)[:, :1]).backward()
        optimizer.step()


def first_part(folder: Path, steps: int = 10, name: str = "first", **more: Any) -> Path:
    """A run of so many steps."""
    model, optimizer = network()
    with weighbridge.init(dir=folder, name=name, quiet=True, **more) as run:
        run.watch(model)
        train(model, optimizer, 0, steps)
    return run.path


def test_a_training_that_was_killed_goes_on_in_its_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(PROGRAM))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, os.getcwd()])}
    command = [sys.executable, str(script), str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = weighbridge.open_run(tmp_path / "first")
    assert (half.info.state, half.steps) == ("ended without finish", KILLED)
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr
    assert f"goes on in {tmp_path / 'first'} at step 30, as attempt 1; steps 30 to 40 are trained again" in again.stderr

    losses, weights, gradients = in_one_go()
    assert [info.name for info in weighbridge.list_runs(tmp_path)] == ["first"]
    record = weighbridge.open_run(tmp_path / "first")
    assert (record.info.state, record.steps) == ("finished", STEPS)
    assert record.losses().steps.tolist() == list(range(STEPS))
    assert record.losses().values.tolist() == losses  # to the last bit
    assert [(a.first_step, a.last_step, a.kept_until) for a in record.attempts] == [(0, 40, 29), (30, 59, 59)]
    assert record.value_steps("0.weight", "parameter").tolist() == list(range(STEPS + 1))
    for step in (0, 29, 30, 45, 59):
        assert record.values("0.weight", "parameter", step)[1].tolist() == weights[step].tolist()
        assert record.values("0.weight", "gradient", step)[1].tolist() == gradients[step].tolist()
    assert [t.name for t in record.tensors if t.role != "output"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    old = weighbridge.open_run(tmp_path / "first", attempt=0)
    assert old.losses().values.tolist() == losses[:KILLED]
    assert record.config["again"] is True
    assert verify_run(tmp_path / "first") == []
    assert weighbridge.diagnose(record).findings == ()


def test_true_goes_on_after_the_last_recorded_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = first_part(tmp_path, 10)
    model, optimizer = network()
    train(model, optimizer, 0, 10)
    with weighbridge.init(dir=tmp_path, name="first", resume=True) as run:
        run.watch(model)
        train(model, optimizer, 10, 20)
    assert run.path == path
    assert "at step 10, as attempt 1\n" in capfd.readouterr().err
    record = weighbridge.open_run(path)
    assert record.losses().values.tolist() == in_one_go(20)[0]
    assert record.steps == 20


def test_the_last_words_of_a_name_are_enough(tmp_path: Path) -> None:
    path = first_part(tmp_path, name="20261126-132305-calm-oak")
    with weighbridge.init(dir=tmp_path, name="calm-oak", resume=True, quiet=True) as run:
        assert run.path == path


def test_where_there_is_no_such_run_it_is_begun_at_the_step_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, optimizer = network()
    train(model, optimizer, 0, 7)
    with weighbridge.init(dir=tmp_path, name="first", resume=7) as run:
        run.watch(model)
        train(model, optimizer, 7, 12)
    told = capfd.readouterr().err
    assert "resume: there is no run 'first' in" in told
    assert "A new run is begun" in told
    record = weighbridge.open_run(run.path)
    assert record.losses().steps.tolist() == [7, 8, 9, 10, 11]
    assert record.losses().values.tolist() == in_one_go(12)[0][7:]


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys, weighbridge; run = weighbridge.init(dir=sys.argv[1], name='first'); run.flush(); print('on', flush=True)"
    )
    wait = "; sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script + wait, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        with weighbridge.init(dir=tmp_path, name="first", resume=True, quiet=True) as run:
            assert run.path == tmp_path / "first-2"
        told = capfd.readouterr().err
        assert f"is being written by process {child.pid}, and a run has one writer. A new run is begun" in told
    finally:
        child.communicate("")


def test_two_that_go_on_at_the_same_moment_do_not_write_into_each_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_part(tmp_path)
    from weighbridge.capture import ranks

    asked = ranks.resumed_of
    late = lambda *given: _taken(path, asked(*given))
    monkeypatch.setattr(ranks, "resumed_of", late)
    model, optimizer = network()
    with weighbridge.init(dir=tmp_path, name="first", resume=True) as run:
        run.watch(model)
        train(model, optimizer, 0, 3)
    assert "nothing is recorded" in capfd.readouterr().err
    assert weighbridge.open_run(path).steps == 10


def _taken(path: Path, resumed: Any) -> Any:
    """Another process takes the same attempt meanwhile."""
    first, second = (path / "rank-0" / f"attempt-{number}.json" for number in (0, resumed.attempt))
    second.write_bytes(first.read_bytes())
    return resumed


def test_a_run_that_cannot_be_read_does_not_stop_the_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = first_part(tmp_path)
    (path / "rank-0" / "attempt-0.json").write_text("{")
    with weighbridge.init(dir=tmp_path, name="first", resume=True, quiet=True) as run:
        assert run.path == tmp_path / "first-2"
    assert "A new run is begun" in capfd.readouterr().err


def test_an_attempt_that_takes_no_step_takes_nothing_away(tmp_path: Path) -> None:
    path = first_part(tmp_path, 10)
    before = weighbridge.open_run(path).series("0.weight", "parameter.rms")
    with weighbridge.init(dir=tmp_path, name="first", resume=4, quiet=True) as run:
        run.watch(network()[0])  # and then the script ends, say for a wrong path of its data
    record = weighbridge.open_run(path)
    assert (record.steps, record.last_step, len(record.losses().steps)) == (10, 10, 10)
    assert record.losses().values.tolist() == in_one_go(10)[0]
    after = record.series("0.weight", "parameter.rms")
    assert (after.steps.tolist(), after.values.tolist()) == (before.steps.tolist(), before.values.tolist())


def test_another_model_is_told_and_its_tensors_are_not_mixed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = first_part(tmp_path, 10)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="first", resume=True) as run:
        run.watch(model)
        train(model, optimizer, 10, 15)
    told = capfd.readouterr().err
    assert "0.weight was (8, 4) and is (16, 4)" in told
    assert "4.weight is new" in told
    record = weighbridge.open_run(path)
    assert record.tensor("0.weight").shape == (16, 4)
    assert record.series("4.weight", "gradient.rms").steps.tolist() == [10, 11, 12, 13, 14]
    assert record.series("2.bias", "gradient.rms").steps.tolist() == list(range(15))
    assert any("is not the model" in event.message for event in record.events())
    steps, numbers = record.values_over("0.weight", "parameter", 100)  # those of the other shape cannot stand beside these
    assert steps.min() >= 10
    assert numbers.shape == (len(steps), 64)


def test_a_model_in_another_order_keeps_the_series_of_each_tensor(tmp_path: Path) -> None:
    """What a run calls a tensor inside is a number: it follows the name, not the place."""

    def of(*names: str) -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in names})

    def step(model: nn.ModuleDict) -> None:
        model["a"].weight.data.fill_(1.0)
        model["b"].weight.data.fill_(2.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model["b"](model["a"](torch.ones(1, 3))).sum().backward()
        optimizer.step()

    for names, resume in ((("a", "b"), False), (("b", "a"), True)):
        model = of(*names)
        with weighbridge.init(dir=tmp_path, name="first", resume=resume, quiet=True) as run:
            run.watch(model)
            step(model)
    record = weighbridge.open_run(run.path)
    assert record.series("a.weight", "parameter.mean").values.tolist() == [1.0, 1.0, 1.0]
    assert record.series("b.weight", "parameter.mean").values.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("resume", ["yes", -1, 2.5, None])
def test_what_is_neither_true_nor_a_step_is_refused(tmp_path: Path, resume: Any) -> None:
    with pytest.raises(BadInput, match="resume=True to go on after the last recorded step"):
        weighbridge.init(dir=tmp_path, name="first", resume=resume)
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_name_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="which run shall go on"):
        weighbridge.init(dir=tmp_path, resume=True)


def test_a_run_of_another_number_of_processes_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    create_run(tmp_path, "first", {"world_size": 4})
    with weighbridge.init(dir=tmp_path, name="first", resume=True, quiet=True) as run:
        assert run.path == tmp_path / "first-2"
    assert "is of 4 processes, and now there are 1" in capfd.readouterr().err


def test_rules_know_how_the_training_began(tmp_path: Path) -> None:
    """What they say beside a training that goes on is what they say of the whole run afterwards."""
    model, optimizer = network()
    with weighbridge.init(dir=tmp_path, name="first", quiet=True) as run:
        run.watch(model)
        train(model, optimizer, 0, 40)
        before = run.findings
    with weighbridge.init(dir=tmp_path, name="first", resume=True, quiet=True) as run:
        run.watch(model)
        for step in range(40, 140):  # and now nobody empties the gradients
            nn.functional.mse_loss(model(batch(step)), batch(step)[:, :1]).backward()
            optimizer.step()
    assert before == ()
    afterwards = weighbridge.diagnose(run.path).findings
    assert [(f.key, f.first_step, f.told_step) for f in run.findings] == [
        (f.key, f.first_step, f.told_step) for f in afterwards
    ]
    assert "gradients-not-zeroed" in [f.rule for f in run.findings]


def test_what_was_found_before_is_not_told_again(tmp_path: Path) -> None:
    model, optimizer = network()
    found = []
    for begin in (0, 60):
        with weighbridge.init(dir=tmp_path, name="first", resume=begin, quiet=True) as run:
            run.watch(model)
            for step in range(begin, begin + 60):
                nn.functional.mse_loss(model(batch(step)), batch(step)[:, :1]).backward()
                optimizer.step()
        found.append([f.key for f in run.findings])
    assert "gradients-not-zeroed" in found[0]
    assert not set(found[0]) & set(found[1])


def test_too_many_earlier_steps_leave_the_rules_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_part(tmp_path, 10)
    monkeypatch.setattr(beside, "BEFORE_SECONDS", -1.0)
    model, optimizer = network()
    with weighbridge.init(dir=tmp_path, name="first", resume=True, quiet=True) as run:
        run.watch(model)
        train(model, optimizer, 10, 20)
    assert "no rule runs beside this training" in capfd.readouterr().err
    assert weighbridge.open_run(run.path).steps == 20


RANKS = """
    from pathlib import Path
    import numpy as np

    again = Path(folder, "again").exists()
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for at in range(6 if again else 0):  # in place of a checkpoint
        optimizer.zero_grad()
        model(batch(at)).square().mean().backward()
        optimizer.step()
    losses = []
    with weighbridge.init(dir=folder, name="two", quiet=True, resume=6 if again else False) as run:
        run.watch(model)
        for at in range(6, 12) if again else range(9):
            optimizer.zero_grad()
            loss = model(batch(at)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.save(f"{folder}/losses-{rank}-{int(again)}.npy", losses)
    dist.barrier()
    Path(folder, "again").touch()
    dist.barrier()
    dist.destroy_process_group()
"""


def test_all_ranks_go_on_together(tmp_path: Path) -> None:
    for _ in range(2):
        launch(tmp_path, 2, RANKS)
    assert [info.name for info in weighbridge.list_runs(tmp_path)] == ["two"]
    for rank in (0, 1):
        first, second = (np.load(tmp_path / f"losses-{rank}-{again}.npy") for again in (0, 1))
        record = weighbridge.open_run(tmp_path / "two", rank)
        assert record.losses().values.tolist() == [*first[:6], *second]
        assert [a.number for a in record.attempts] == [0, 1]
        assert (first[6:] == second[:3]).all()  # the same training, so the oracle is one
