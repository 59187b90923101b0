"""Every kind of parameter there is. Oracle: clones around `step`, and weighbridge.reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import GRADIENT, PARAMETER, UPDATE, Oracle, check, events, recorded_rows, steps_of, watched
from tests.capture.oracle import train as train_watched

STEPS = 4


class Bag(nn.Module):
    """Parameters without layers: each adds the sum of its elements' squares to the loss."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            trains = tensor.is_floating_point() or tensor.is_complex()
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=trains))

    def loss(self) -> torch.Tensor:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.stack([(p.abs().double() ** 2).sum() for p in trained]).sum()


def train(
    model: Bag,
    folder: Path,
    steps: int = STEPS,
    lr: float = 0.1,
    momentum: float = 0.5,
    between: Callable[[int], object] = lambda step: None,
) -> tuple[Path, Oracle]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return train_watched(folder, model, optimizer, lambda step: model.loss(), steps, between=between)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
KINDS: dict[str, Callable[[], torch.Tensor]] = {
    **{str(d).removeprefix("torch."): (lambda d=d: normal(5, 7).to(d)) for d in DTYPES[:4]},  # type: ignore[misc]
    "complex64": lambda: normal(5, 7, dtype=torch.complex64),
    "complex128": lambda: normal(3, dtype=torch.complex128),
    "no elements": lambda: torch.zeros(0, 3),
    "0-dim": lambda: torch.tensor(2.5),
    "transposed": lambda: normal(5, 7).t(),
    "transposed bfloat16": lambda: normal(5, 7).bfloat16().t(),
    "slice": lambda: normal(6, 8)[::2, 1:5],
    "slice complex": lambda: normal(6, 8, dtype=torch.complex64)[::2, ::3],
    "slice no elements": lambda: normal(6, 8)[2:2, ::3],
    "channels last": lambda: normal(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
    "unaligned": lambda: normal(65)[1:],
    "one channel": lambda: normal(1, 1, 3, 3).contiguous(memory_format=torch.channels_last),
    "conjugate": lambda: normal(5, 7, dtype=torch.complex64).conj(),
    "negative view": lambda: torch._neg_view(normal(11)),
    "tiny numbers": lambda: normal(9) * 1e-41,
    "5000 elements": lambda: normal(5000),
    "5000 sliced": lambda: normal(10_000)[::2],
}


@pytest.mark.parametrize("kernel", ["native", "torch"])
def test_every_dtype_and_layout_is_weighed_as_it_is(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_KERNEL", kernel)
    model = Bag(**{"a_" + name.replace(" ", "_"): make() for name, make in KINDS.items()})
    path, oracle = train(model, tmp_path)
    check(path, oracle)
    record = weighbridge.open_run(path)
    told = {t.name: (t.dtype, t.shape, t.count, t.note) for t in record.tensors}
    assert told == {n: (str(p.dtype)[6:], tuple(p.shape), p.numel(), "") for n, p in model.named_parameters()}
    assert not events(path, "changed")


def test_integer_and_bool_parameters_are_counted_and_said_not_to_be_weighed(tmp_path: Path) -> None:
    model = Bag(weight=normal(3), index=torch.arange(10), small=torch.ones(4, dtype=torch.int8), mask=torch.ones(6) > 0)
    path, oracle = train(model, tmp_path)
    check(path, oracle)
    tensors = {t.name: t for t in weighbridge.open_run(path).tensors}
    assert {name: (t.count, t.dtype) for name, t in tensors.items() if name != "weight"} == {
        "index": (10, "int64"),
        "small": (4, "int8"),
        "mask": (6, "bool"),
    }
    assert "counted, not weighed" in tensors["index"].note
    assert {name for _, name, _ in recorded_rows(path)} == {"weight"}


def test_tied_parameters_are_one_tensor_with_two_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False))
    model[2].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters())
    with watched(tmp_path, model) as (run, oracle):
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.arange(5)).square().mean().backward()
            oracle.step(optimizer)
    record = weighbridge.open_run(run.path)
    assert record.tensor("0.weight").aliases == ("2.weight",)
    assert record.tensor("2.weight").name == "0.weight"
    assert len(record.tensors) == 3


def test_two_parameters_on_one_storage_are_weighed_each_on_its_own(tmp_path: Path) -> None:
    storage = normal(8)
    model = Bag(whole=storage)
    model.register_parameter("front", nn.Parameter(storage[:4]))
    path, oracle = train(model, tmp_path)
    check(path, oracle)
    assert len(weighbridge.open_run(path).tensors) == 2


def test_an_expanded_gradient_has_every_element(tmp_path: Path) -> None:
    model = Bag(weight=normal(4, 6), slow=normal(3).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for _ in range(STEPS):
            model.get_parameter("weight").grad = torch.tensor([[2.0]]).expand(4, 6)
            oracle.step(optimizer)
    rows = recorded_rows(run.path)
    assert rows[0, "weight", GRADIENT]["sum"] == 48
    assert steps_of(rows, "slow", UPDATE) == [*range(STEPS)]
    assert not steps_of(rows, "slow", GRADIENT)


@pytest.mark.parametrize("coalesced", [True, False])
def test_a_sparse_gradient_is_weighed_as_the_dense_one_that_it_stands_for(coalesced: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 3, sparse=True), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (_run, oracle):
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.tensor([1, 1, 4])).square().sum().backward()
            if coalesced:
                model[0].weight.grad = model[0].weight.grad.coalesce()
            oracle.step(optimizer)


def test_a_lazy_layer_is_known_before_and_weighed_after_its_first_forward(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1))
    with watched(tmp_path, model) as (run, oracle):
        run.flush()
        before = weighbridge.open_run(run.path).tensor("0.weight")
        assert "not initialised" in before.note
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
    after = weighbridge.open_run(run.path).tensor("0.weight")
    assert (after.shape, after.count, after.note) == ((4, 3), 12, "")


def test_a_lazy_layer_that_first_runs_in_the_middle_of_training_is_weighed_from_then_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "late": nn.LazyLinear(2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            optimizer.zero_grad()
            out = model["first"](torch.ones(2, 3))
            (model["late"](out) if step >= 3 else out).square().mean().backward()
            oracle.step(optimizer)
    assert steps_of(recorded_rows(run.path), "late.weight", UPDATE) == [3, 4, 5]


def test_meta_tensors_are_said_to_have_no_numbers_until_they_do(tmp_path: Path) -> None:
    model = nn.Linear(3, 2, device="meta")
    other = nn.Linear(2, 2, device="meta")
    with watched(tmp_path, model, other) as (run, oracle):
        model.to_empty(device="cpu")
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
    notes = {(t.model, t.name): t.note for t in weighbridge.open_run(run.path).tensors}
    assert notes["model", "weight"] == notes["model", "bias"] == ""
    assert "meta" in notes["model-2", "weight"]


def test_frozen_and_later_unfrozen_parameters(tmp_path: Path) -> None:
    """In the optimizer with requires_grad toggled, and brought in by add_param_group."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            if step == 2:
                model[0].requires_grad_(True)
            if step == 4:
                model[1].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.01})
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
    rows = recorded_rows(run.path)
    assert steps_of(rows, "0.weight", GRADIENT) == [2, 3, 4, 5]
    assert steps_of(rows, "1.weight", UPDATE) == [4, 5]
    assert steps_of(rows, "1.weight", PARAMETER) == [4, 5, 6]
    record = weighbridge.open_run(run.path)
    assert all(t.requires_grad for t in record.tensors)
    assert record.steps_table().column("lr").to_pylist()[-1] == [0.1, 0.01]


def test_a_frozen_tensor_outside_the_optimizer_has_its_closing_row_only(tmp_path: Path) -> None:
    model = Bag(weight=normal(3), frozen=normal(3))
    model.get_parameter("frozen").requires_grad_(False)
    optimizer = torch.optim.SGD([model.get_parameter("weight")], lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model.loss().backward()
            optimizer.step()
    assert steps_of(recorded_rows(run.path), "frozen", PARAMETER) == [STEPS]
    assert not weighbridge.open_run(run.path).tensor("frozen").requires_grad


def test_a_parameter_replaced_during_training_keeps_its_name_and_series(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            if step == 3:  # a wider layer takes the place of the first, and of its input's
                model[0], model[1] = nn.Linear(3, 9), nn.Linear(9, 1)
                optimizer.param_groups[0]["params"] = list(model.parameters())
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
    record = weighbridge.open_run(run.path)
    assert len(record.tensors) == 4
    assert record.tensor("0.weight").shape == (9, 3)
    assert record.series("0.weight", "parameter.count").values.tolist() == [12] * 3 + [27] * 4


@pytest.mark.parametrize("change", [torch.float64, torch.float16], ids=str)
def test_a_model_cast_during_training_is_weighed_in_its_new_dtype(change: torch.dtype, tmp_path: Path) -> None:
    """`model.to(dtype)` keeps the Parameter objects and exchanges their memory."""
    model = Bag(weight=normal(300), large=normal(5000))
    cast: Callable[[int], object] = lambda step: model.to(change) if step == 3 else None
    path, seen = train(model, tmp_path, 6, lr=0.01, momentum=0, between=cast)
    check(path, seen)
    assert weighbridge.open_run(path).tensor("large").dtype == str(change).removeprefix("torch.")


def test_a_parameter_pruned_by_its_data_is_weighed_at_its_new_size(tmp_path: Path) -> None:
    model = Bag(weight=normal(64), rest=normal(64))

    def prune(step: int) -> None:
        if step == 3:
            model.get_parameter("weight").data = model.get_parameter("weight").data[::2].clone()
            model.get_parameter("rest").data = model.get_parameter("rest").data[8:]

    path, seen = train(model, tmp_path, 6, lr=0.01, momentum=0, between=prune)
    check(path, seen)
    counts = weighbridge.open_run(path).series("weight", "parameter.count").values
    assert np.array_equal(counts, [64, 64, 64, 32, 32, 32, 32])


def test_freezing_and_thawing_in_mid_run_are_told_with_their_steps(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name="run")) as run:
        for step in range(60):
            if step in (25, 40):
                model[0].requires_grad_(step == 40)
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    told = [(step, t.requires_grad) for step, t in weighbridge.open_run(run.path).descriptions() if t.name == "0.weight"]
    assert told == [(0, True), (25, False), (40, True)]
