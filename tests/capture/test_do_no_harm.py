"""Oracle: the same program, run without us."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.programs import PROGRAMS

STEPS = 200


def random_states() -> list[Any]:
    return [torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()]


def seed_everything() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)


@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_weights_and_random_states_are_bit_identical(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    seed_everything()
    plain_losses, plain_weights = program(STEPS, lambda model: None)
    plain_states = random_states()

    seed_everything()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        losses, weights = program(STEPS, run.watch)
    assert losses == plain_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, plain_weights, strict=True))
    assert random_states() == plain_states
    record = weighbridge.open_run(run.path)
    assert record.last_step == STEPS  # 0 to 199, and the closing row: it did watch


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))


def train(model: nn.Module, steps: int = 5) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 2)).square().mean().backward()
        optimizer.step()


def test_a_model_saved_whole_while_watched_loads_where_weighbridge_is_not_installed(tmp_path: Path) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        train(model)
        torch.save(model, tmp_path / "model.pt")
    code = f"""
        import sys, torch
        sys.modules["weighbridge"] = None            # importing it now raises ImportError
        model = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
        print(model(torch.ones(1, 2)).item())
    """
    done = subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) == model(torch.ones(1, 2)).item()


def test_copies_and_pickles_of_a_watched_model_are_plain_and_unwatched(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        train(model, 2)
        twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        pickle.dumps(optimizer)
        copy.deepcopy(optimizer)
        before = {k: set(vars(m)) for k, m in small().named_modules()}
        assert {k: set(vars(m)) for k, m in model.named_modules()} == before
        train(twin, 3)
        train(loaded, 3)
    assert weighbridge.open_run(run.path).last_step == 2


def test_hooks_are_gone_after_finish(tmp_path: Path) -> None:
    from torch.optim import optimizer as torch_optimizer

    backward = torch.autograd.backward
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(small())
        assert torch.autograd.backward is not backward
    assert torch.autograd.backward is backward
    assert not torch_optimizer._global_optimizer_pre_hooks
    assert not torch_optimizer._global_optimizer_post_hooks


def test_an_error_of_ours_does_not_reach_training_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from weighbridge.capture.weighing import Weighing

    model = small()
    run = weighbridge.init(dir=tmp_path, name="run", quiet=True)
    run.watch(model)
    train(model, 3)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(Weighing, "weigh", broken)
    train(model, 5)
    run.finish()
    said = capsys.readouterr().err
    assert said.count("made up") == 1
    assert "Training goes on unchanged" in said
    assert weighbridge.open_run(run.path).steps_table().num_rows == 3


PROGRAM = """
    import sys, torch, weighbridge
    from torch import nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    def step():
        optimizer.zero_grad(); model(torch.ones(3, 2)).square().mean().backward(); optimizer.step()
"""


def run_program(body: str, folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # whether or not weighbridge is installed
    more = {"capture_output": True, "text": True, "timeout": 120, "env": environment, **more}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, **more)


def only_run(folder: Path) -> weighbridge.RunRecord:
    (info,) = weighbridge.list_runs(folder / "weighbridge-runs")
    return weighbridge.open_run(info.path)


def test_a_run_without_finish_is_finished_at_exit(tmp_path: Path) -> None:
    done = run_program("weighbridge.watch(model)\nfor _ in range(7): step()", tmp_path)
    assert done.returncode == 0
    assert "7 steps, 4 tensors" in done.stderr
    record = only_run(tmp_path)
    assert record.info.state == "finished"
    assert record.last_step == 7  # the closing row
    assert record.info.steps == 7


def test_an_exception_in_the_loop_ends_training_as_it_would_have(tmp_path: Path) -> None:
    body = """
        with weighbridge.watch(model):
            for k in range(9):
                step()
                if k == 4: raise RuntimeError('theirs')
    """
    done = run_program(body, tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: theirs" in done.stderr
    assert only_run(tmp_path).steps_table().num_rows == 5


def test_ctrl_c_in_the_loop_leaves_a_readable_run(tmp_path: Path) -> None:
    body = """
        import os, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests were started in the background
        weighbridge.watch(model)
        for k in range(9):
            step()
            if k == 5: os.kill(os.getpid(), signal.SIGINT)
    """
    done = run_program(body, tmp_path)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0
    assert only_run(tmp_path).steps_table().num_rows == 6


def test_a_notebook_cell_run_twice_gives_two_runs(tmp_path: Path) -> None:
    cell = """
        for _ in range(2):
            model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            weighbridge.watch(model)
            for _ in range(3): step()
    """
    done = run_program(cell, tmp_path)
    assert done.returncode == 0, done.stderr
    infos = weighbridge.list_runs(tmp_path / "weighbridge-runs")
    assert [info.state for info in infos] == ["finished", "finished"]


def test_forked_data_loader_workers_do_not_disturb(tmp_path: Path) -> None:
    body = """
        from torch.utils.data import DataLoader, TensorDataset
        run = weighbridge.watch(model)
        loader = DataLoader(TensorDataset(torch.ones(12, 2)), batch_size=3, num_workers=2, multiprocessing_context="fork")
        for _ in range(2):
            for (x,) in loader:
                optimizer.zero_grad(); model(x).square().mean().backward(); optimizer.step()
    """
    done = run_program(body, tmp_path)
    assert done.returncode == 0, done.stderr
    assert only_run(tmp_path).steps_table().num_rows == 8


def test_an_unwritable_folder_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "weighbridge-runs").write_text("a file where the folder should be")
    done = run_program("with weighbridge.watch(model):\n    for _ in range(5): step()\nprint('trained')", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained\n"
    assert done.stderr.count("nothing is recorded") == 1


def test_a_model_saved_while_watched_loads_where_weighbridge_is_not_installed(tmp_path: Path) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        torch.save(model, tmp_path / "model.pt")
        torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    first, second = (torch.load(tmp_path / name) for name in ("state.pt", "plain.pt"))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in second)
    code = """
import sys
sys.modules["weighbridge"] = None  # importing it would raise
import torch
model = torch.load(sys.argv[1], weights_only=False)
print(model(torch.ones(2, 2)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_copies_and_unwatched_models_carry_no_hook_of_ours(tmp_path: Path) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        assert any(module._forward_hooks for module in model.modules())
        copied = copy.deepcopy(model)
        hooks = [hook for module in copied.modules() for hook in module._forward_hooks.values()]
        assert not [hook for hook in hooks if type(hook).__module__.startswith("weighbridge")]
        assert torch.equal(copied(torch.ones(2, 2)), model(torch.ones(2, 2)))
        run.unwatch(model)
        assert not any(module._forward_hooks for module in model.modules())
        run.watch(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_run_that_is_over_keeps_no_parameter_alive(tmp_path: Path) -> None:
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        train(model)
    gone = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert run.is_finished
    assert [reference() for reference in gone] == [None] * 4


def test_parameters_can_be_swapped_while_they_are_watched(tmp_path: Path) -> None:
    """What `model.to(...)` does to DTensors, and to all parameters where torch is told to."""
    model = small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        train(model, 2)
        model.zero_grad()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.to(torch.float64)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        train(model.to(torch.float32), 2)
    assert weighbridge.open_run(run.path).last_step == 4
