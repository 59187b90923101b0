"""How vectors of outputs differ, and the largest logit of attention. Oracle: NumPy in float64 on what the module gave,
written with eigenvalues; softmax inverted for the logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import table
from tests.capture.output_oracle import data, train
from weighbridge.capture.spread import FEATURES, POSITIONS, SAMPLES, VECTORS, spread_of


def _rows(path: Path) -> dict[tuple[int, str], dict[str, Any]]:
    names = {t.id: t.name for t in weighbridge.open_run(path).outputs} | {-1: "batch"}
    rows = (row for row in table(path, "spread") if row["tensor"] in names)  # not what is told of a weight (capture/inside.py)
    return {(row["step"], names[row["tensor"]]): row for row in rows}


def _expected(y: np.ndarray) -> dict[str, float]:
    """y: [samples, positions, features], float64; small enough that all of it is looked at."""
    vectors = (y - y.mean(axis=0)).reshape(-1, y.shape[-1])
    values = np.linalg.eigvalsh(vectors.T @ vectors)
    return {
        "sum_sq": float((y**2).sum()),
        "sample_sq": float(y.var(axis=0).sum() * y.shape[0]),
        "position_sq": float(y.var(axis=1).sum() * y.shape[1]),
        "trace": float(values.sum()),
        "trace_sq": float((values**2).sum()),
    }


@pytest.mark.parametrize("kind", ["linear", "tokens", "conv"])
def test_the_sums_are_those_of_the_output(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 5, 2) if kind == "conv" else nn.Linear(4, 5)
    shape = {"linear": (6, 4), "tokens": (6, 3, 4), "conv": (6, 3, 3, 3)}[kind]
    seen: dict[int, np.ndarray] = {}

    def by_hand(step: int) -> None:
        y = module(data(step, *shape)).detach().double()
        seen[step] = (y.flatten(2).transpose(1, 2) if kind == "conv" else y.reshape(6, -1, 5)).numpy()

    model = nn.Sequential(module, nn.ReLU())
    path = train(tmp_path, model, lambda step: model(data(step, *shape)).square().sum(), truth=by_hand)
    rows = _rows(path)
    assert {key[0] for key in rows} == set(seen)
    assert {key[1] for key in rows} == {"0/out", "batch"}  # an activation's is that of what it is given, bent
    for step, y in seen.items():
        row = rows[step, "0/out"]
        assert (row["samples"], row["positions"], row["features"]) == y.shape
        assert row["vectors"] == y.shape[0] * y.shape[1]
        assert math.isnan(row["logit"])
        for name, value in _expected(y).items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        batch = _expected(data(step, *shape).double().numpy().reshape(6, 1, -1))
        assert rows[step, "batch"]["trace_sq"] == pytest.approx(batch["trace_sq"], rel=1e-9)


def test_of_a_large_output_an_even_part_is_looked_at() -> None:
    y = torch.randn(100, 40, 300)
    found = spread_of(y, -1)
    assert found is not None
    part = y[::4, ::5, ::3].double().numpy()
    assert found[:3] == part.shape
    assert part.shape[0] <= SAMPLES
    assert part.shape[1] <= POSITIONS
    assert part.shape[2] <= FEATURES
    assert found.vectors <= VECTORS
    assert found.sample_sq == pytest.approx(_expected(part)["sample_sq"])


def test_a_sparse_output_has_no_sums() -> None:
    assert spread_of(torch.eye(3).to_sparse(), -1) is None
    assert spread_of(torch.eye(3), -1) is not None


def test_all_positions_are_among_the_vectors_that_are_compared() -> None:
    y = torch.zeros(32, 8, 12)  # at position p all samples differ along direction p only
    for p in range(8):
        y[:, p, p] = torch.randn(32, generator=torch.Generator().manual_seed(p))
    found = spread_of(y + torch.arange(8.0)[None, :, None], -1)
    assert found is not None
    assert found.trace**2 / found.trace_sq > 4


@pytest.mark.parametrize(
    "y", [torch.ones(1, 4), torch.ones(4), torch.ones(0, 4), torch.tensor([[1.0, math.nan], [2.0, 3.0]]), torch.ones(2, 0)]
)
def test_what_cannot_be_compared_leaves_nothing(y: torch.Tensor) -> None:
    assert spread_of(y, -1) is None


def test_rows_stand_at_the_steps_of_units_only_and_of_the_first_call(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    loss = lambda step: model(data(step, 5, 4)).sum()
    path = train(tmp_path, model, loss, steps=25, plan=weighbridge.Plan())
    rows = _rows(path)
    units = {row["step"] for row in table(path, "units")}
    assert {step for step, name in rows if name == "0/out"} == units != set(range(25))
    torch.manual_seed(0)
    first = nn.Linear(4, 4)(data(0, 5, 4)).detach().double()
    assert rows[0, "0/out"]["sum_sq"] == pytest.approx(float(first.square().sum()), rel=1e-9)
    plan = weighbridge.Plan(units=False)
    (tmp_path / "none").mkdir()
    model = nn.Sequential(nn.Linear(4, 4))
    assert not _rows(train(tmp_path / "none", model, lambda step: model(data(step, 5, 4)).sum(), plan=plan))


class Heads(nn.Module):
    """Attention by hand, with its logits kept. `fused`: one projection for all three."""

    def __init__(self, fused: bool, normed: bool = False) -> None:
        super().__init__()
        self.num_heads, self.fused, self.seen = 2, fused, [0.0]
        if fused:
            self.qkv = nn.Linear(8, 24)
        else:
            self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        if normed:
            self.q_norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.reshape(*part.shape[:2], 2, 4).transpose(1, 2) for part in parts)
        if hasattr(self, "q_norm"):
            q = self.q_norm(q)
        logits = q @ k.transpose(-1, -2) / 2.0
        self.seen.append(float(logits.detach().abs().max()))
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("fused", [True, False])
def test_the_largest_logit_is_that_of_the_heads(tmp_path: Path, fused: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Heads(fused))
    path = train(tmp_path, model, lambda step: model(data(step, 3, 7, 4)).square().sum())
    name = "1.qkv/out" if fused else "1.k_proj/out"
    found = {step: row["logit"] for (step, which), row in _rows(path).items() if which == name}
    assert 0 in found
    for step, logit in found.items():
        assert logit == pytest.approx(model[1].seen[1 + step], rel=1e-5)
    others = [row["logit"] for (_, which), row in _rows(path).items() if which != name]
    assert all(math.isnan(logit) for logit in others)


def test_behind_a_norm_no_logit_is_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Heads(False, normed=True))
    path = train(tmp_path, model, lambda step: model(data(step, 3, 7, 4)).square().sum())
    rows = _rows(path)
    assert (0, "1.k_proj/out") in rows
    assert all(math.isnan(row["logit"]) for row in rows.values())


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_largest_logit_of_pytorchs_own_module(tmp_path: Path, batch_first: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    model, seen = nn.ModuleDict({"attention": attention, "embed": nn.Linear(4, 8)}), {}

    def loss(step: int) -> torch.Tensor:
        x = model["embed"](data(step, 3, 5, 4))
        return attention(x, x, x)[0].square().sum()

    def by_hand(step: int) -> None:
        x = model["embed"](data(step, 3, 5, 4)).detach()
        x = x if batch_first else x.transpose(0, 1)
        q, k, _ = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in
                   (x @ attention.in_proj_weight.detach().T + attention.in_proj_bias.detach()).chunk(3, -1))  # fmt: skip
        seen[step] = float((q @ k.transpose(-1, -2) / 2.0).abs().max())

    rows = _rows(train(tmp_path, model, loss, truth=by_hand))
    assert seen
    for step, logit in seen.items():
        assert rows[step, "attention/out.0"]["logit"] == pytest.approx(logit, rel=1e-5)


class Functional(nn.Module):
    """Each function between two modules, none of them a module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 6), nn.Conv1d(6, 6, 1), nn.Linear(6, 2)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x))
        h = torch.relu_(self.norm(self.b(h)))
        h = torch.sigmoid(self.c(h.transpose(1, 2)))
        return torch.tanh(self.d(h.transpose(1, 2)[:, 0]))


def test_functions_between_modules_are_seen_and_how_much_is_flat(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, seen = Functional(), {}
    model.a.weight.data *= 20

    def by_hand(step: int) -> None:
        a = torch.tanh(model.a(data(step, 5, 3, 4))).detach()
        n = model.norm(model.b(a)).detach()
        seen[step] = {"a/out": 1 - a.double() ** 2 < 1e-2, "norm/out": n <= 0}

    path = train(tmp_path, model, lambda step: model(data(step, 5, 3, 4)).square().sum(), truth=by_hand)
    rows = _rows(path)
    assert seen
    for step, flat in seen.items():
        bends = {name: row["bend"] for (at, name), row in rows.items() if at == step}
        assert bends == {
            "batch": "",
            "a/out": "tanh",
            "b/out": "",
            "norm/out": "relu",
            "c/out": "sigmoid",
            "d/out": "",
            "/out": "",
        }
        for name, one in flat.items():
            row, units = rows[step, name], one.reshape(-1, 6).double().mean(0)
            assert row["flat"] == pytest.approx(float(one.double().mean()), abs=1e-6)
            assert row["flat_units"] == float((units > 0.95).double().mean())
            assert row["asleep_units"] == float((units == 1).double().mean())


def test_what_another_optimizers_module_takes_is_an_end_and_not_bent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Sequential(nn.Linear(4, 6), nn.Tanh()), "d": nn.Linear(6, 1)})
    other = torch.optim.SGD(model["g"].parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        optimizer = torch.optim.SGD(model["d"].parameters(), lr=0.01)
        for step in range(4):
            model["d"](model["g"](data(step, 5, 4))).sum().backward()
            for one in (other, optimizer):
                one.step()
                one.zero_grad()
    rows = _rows(run.path)
    assert {row["bend"] for (step, name), row in rows.items() if name == "g.0/out" and step > 0} == {""}


class Loop(nn.Module):
    """A recurrent network by hand: the same module is called once for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(len(x), 6)
        for position in range(x.shape[1]):
            h = torch.tanh(self.into(x[:, position]) + self.again(h))
        return self.head(h)


def test_the_tanh_of_recurrent_networks_is_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Loop()
    rows = _rows(train(tmp_path, model, lambda step: model(data(step, 5, 3, 4)).square().sum()))
    assert {row["bend"] for (_, name), row in rows.items() if name == "into/out"} == {"tanh"}
    (tmp_path / "own").mkdir()
    cells = nn.ModuleDict({"rnn": nn.RNN(4, 6, batch_first=True), "head": nn.Linear(6, 2)})
    with torch.no_grad():
        cells["rnn"].weight_ih_l0 *= 100
    loss = lambda step: cells["head"](cells["rnn"](data(step, 5, 3, 4))[0][:, -1]).square().sum()
    rows = _rows(train(tmp_path / "own", cells, loss))
    found = [row for (_, name), row in rows.items() if name == "rnn/out.0"]
    assert found
    assert all(row["bend"] == "tanh" and row["flat"] > 0.5 for row in found)


def test_passes_that_no_step_follows_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.capture.looks.MOST_CALLS", 10)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(30):
            model(data(step, 5, 4)).sum().backward()
        outputs = run._stepper.outputs
        assert outputs is not None
        assert 0 < len(outputs.looks.made) <= 10


@pytest.mark.parametrize("first", ["alike", "different"])
def test_of_several_calls_the_first_counts_in_which_samples_differ(first: str, tmp_path: Path) -> None:
    """At its first step of time a layer behind spikes is given zeros."""
    torch.manual_seed(0)
    model = nn.Linear(4, 5)
    times = [0.0, 1.0, 2.0] if first == "alike" else [3.0, 1.0, 2.0]

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(self.layer(x * time) for time in times)  # type: ignore[return-value]

    loop, seen = Loop(), {}

    def by_hand(step: int) -> None:
        seen[step] = model(data(step, 6, 4) * next(t for t in times if t)).detach().double().numpy()[:, None]

    rows = _rows(train(tmp_path, loop, lambda step: loop(data(step, 6, 4)).square().sum(), truth=by_hand))
    looked_at = [step for step in seen if (step, "layer/out") in rows]
    assert looked_at
    for step in looked_at:
        for name, value in _expected(seen[step]).items():
            assert rows[step, "layer/out"][name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
