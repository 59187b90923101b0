"""The numbers themselves of small tensors. Oracle: clones around `step`, compared bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import GRADIENT, PARAMETER, UPDATE, Oracle, names, table
from tests.capture.test_tensors import DTYPES, Bag, normal, train
from weighbridge.capture.plan import is_sampled_step
from weighbridge.records import Quantity


def kept(path: Path) -> dict[tuple[int, str, Quantity], tuple[str, bytes]]:
    known = names(weighbridge.open_run(path))
    rows = table(path, "values")
    found = {(r["step"], known[r["tensor"]], Quantity(r["quantity"])): (r["dtype"], r["data"]) for r in rows}
    assert len(found) == len(rows)
    return found


def raw(tensor: torch.Tensor) -> bytes:
    """The elements' bytes in C order."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def expected(oracle: Oracle) -> dict[tuple[int, str, Quantity], bytes]:
    found = {}
    for (step, name), seen in oracle.seen.items():
        assert seen.after is not None
        assert seen.gradient is not None
        wide = torch.float64 if seen.before.dtype is torch.float64 else torch.float32
        found[step, name, PARAMETER] = raw(seen.before)
        found[step, name, GRADIENT] = raw(seen.gradient)
        found[step, name, UPDATE] = raw(seen.after.to(wide) - seen.before.to(wide))
    return found | {(oracle.clock, name, PARAMETER): raw(last) for name, last in oracle.closing.items()}


def test_values_of_every_dtype_and_layout_are_the_true_bytes_at_every_step(tmp_path: Path) -> None:
    tensors = {f"a_{dtype}".replace("torch.", ""): normal(3, 5, dtype=torch.float64).to(dtype) for dtype in DTYPES}
    more = {"scalar": torch.tensor(2.5), "turned": normal(4, 3).t(), "slice": normal(6, 8)[::2, 1:5]}
    half = {"turned_half": normal(4, 3).bfloat16().t(), "turned_complex": normal(2, 3, dtype=torch.complex64).t()}
    path, oracle = train(Bag(**tensors, **more, **half), tmp_path, steps=15, lr=0.01)
    found = kept(path)
    assert {key: data for key, (_, data) in found.items()} == expected(oracle)
    record = weighbridge.open_run(path)
    for name in tensors:
        assert found[3, name, PARAMETER][0] == name.removeprefix("a_")
        step, values = record.values(name, "parameter", 3)
        seen = oracle.seen[3, name].before
        true = torch.view_as_complex(seen) if "complex" in name else seen
        assert step == 3
        assert torch.equal(torch.tensor(values.copy()).to(true.dtype), true)


def test_larger_tensors_are_kept_on_sampled_steps_and_the_last(tmp_path: Path) -> None:
    model = Bag(tiny=normal(64), medium=normal(65), large=normal(4096), huge=normal(4097))
    path, oracle = train(model, tmp_path, steps=40, lr=0.01)
    found, true = kept(path), expected(oracle)
    assert all(true[key] == data for key, (_, data) in found.items())
    steps = {
        name: sorted(s for s, n, q in found if n == name and q == PARAMETER) for name in ("tiny", "medium", "large", "huge")
    }
    sampled = [step for step in range(40) if is_sampled_step(step)] + [40]
    assert sampled[:13] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert len(sampled) < 30
    assert steps == {"tiny": [*range(41)], "medium": sampled, "large": sampled, "huge": []}


def test_a_plan_says_up_to_which_size_numbers_are_kept(tmp_path: Path) -> None:
    for limit, wanted in ((5000, {"tiny", "small", "large"}), (20, {"tiny"}), (0, set())):
        model = Bag(tiny=normal(10), small=normal(40), large=normal(5000), huge=normal(5001))
        before = {name: raw(parameter.detach()) for name, parameter in model.named_parameters()}
        plan = weighbridge.Plan(values=limit)
        with weighbridge.init(dir=tmp_path, name=f"to-{limit}", quiet=True, plan=plan) as run:
            run.watch(model)
            model.loss().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        found = kept(run.path)
        assert {name for _, name, _ in found} == wanted
        assert all(found[0, name, PARAMETER][1] == before[name] for name in wanted)


@pytest.mark.parametrize("values", [-1, "all", 2.5])
def test_a_size_that_is_none_is_refused(values: object) -> None:
    with pytest.raises(weighbridge.WeighbridgeError, match="up to how many elements"):
        weighbridge.Plan(values=values)  # type: ignore[arg-type]


def test_twenty_steps_a_decade_are_sampled() -> None:
    for decade in (100, 1000, 10_000):
        assert sum(is_sampled_step(step) for step in range(decade, 10 * decade)) == 20


@pytest.mark.parametrize("values", [True, False])
def test_a_plan_can_leave_the_values_out(values: bool, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=weighbridge.Plan(values=values)) as run:
        run.watch(model)
        model(torch.ones(1, 2)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert bool(table(run.path, "values")) is values


def test_what_goes_through_torch_is_kept_when_it_is_due_and_as_far_as_it_is_there(tmp_path: Path) -> None:
    model = Bag(wide=normal(65, dtype=torch.float64), still=normal(3, dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(15):
            optimizer.zero_grad()
            model.wide.square().sum().backward()
            optimizer.step()
    found = kept(run.path)
    assert {s for s, n, q in found if (n, q) == ("wide", GRADIENT)} == {s for s in range(15) if is_sampled_step(s)}
    assert not [key for key in found if key[1:] == ("still", GRADIENT)]
