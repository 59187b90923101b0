"""Oracle: plain torch, which runs the very network whose gains are read from the files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from starlette.testclient import TestClient

import weighbridge
from tests.server.conftest import client_of
from weighbridge.server import network
from weighbridge.store.record import open_run

ONE_STEP = 5


class Block(torch.nn.Module):
    """A block with a path around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = torch.nn.LayerNorm(6), torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(self.norm(x))


class Net(torch.nn.Module):
    """first, tanh, two blocks, head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = torch.nn.Linear(4, 6), torch.nn.Tanh()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.head = torch.nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A run, and what each module gave and got back at ONE_STEP as torch itself says."""
    folder = tmp_path_factory.mktemp("network")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    outputs: dict[str, torch.Tensor] = {}
    with weighbridge.init(dir=folder, name="net", quiet=True) as run:
        run.watch(model)
        for step in range(12):
            x = torch.randn(32, 4)
            hooks = []
            if step == ONE_STEP:
                for name, module in model.named_modules():
                    hooks.append(module.register_forward_hook(_keeper(outputs, name)))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for hook in hooks:
                hook.remove()
            optimizer.step()
    gradients = {name: out.grad for name, out in outputs.items() if out.grad is not None}
    return folder, {name: out.detach().double() for name, out in outputs.items()}, gradients


def _keeper(into: dict[str, torch.Tensor], name: str):  # type: ignore[no-untyped-def]
    def keep(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        out.retain_grad()
        into[name] = out

    return keep


def spread(out: torch.Tensor) -> float:
    return float(out.reshape(-1, out.shape[-1]).var(dim=0, unbiased=False).mean().sqrt())


def rms(gradient: torch.Tensor) -> float:
    return float(gradient.double().square().mean().sqrt())


def test_gains_are_those_that_torch_itself_has(trained: tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]) -> None:
    folder, outputs, gradients = trained
    told = network.network_at(open_run(folder / "net"), "gradient.rms", ONE_STEP, "modules", [])
    nodes = {node["path"]: node for node in told["nodes"]}
    assert [*nodes] == ["first", "act", "blocks.0", "blocks.1", "head"]
    assert nodes["blocks.0"]["forward"] == pytest.approx(spread(outputs["blocks.0"]) / spread(outputs["act"]), rel=1e-4)
    assert nodes["head"]["forward"] == pytest.approx(spread(outputs["head"]) / spread(outputs["blocks.1"]), rel=1e-4)
    assert nodes["blocks.0"]["backward"] == pytest.approx(rms(gradients["act"]) / rms(gradients["blocks.0"]), rel=1e-4)
    assert nodes["first"]["forward"] is None
    assert nodes["act"]["forward"] is None, "an activation belongs to the layer before it"


def test_members_are_listed_in_the_order_in_which_they_ran(trained: tuple[Path, object, object]) -> None:
    record = open_run(trained[0] / "net")
    unfolded = [node.path for node in network.spine(record, "none", [])]
    assert unfolded == ["first", "act", "blocks.0.norm", "blocks.0.inner", "blocks.1.norm", "blocks.1.inner", "head"]
    opened = [node.path for node in network.spine(record, "modules", ["blocks.1"])]
    assert opened == ["first", "act", "blocks.0", "blocks.1.norm", "blocks.1.inner", "head"]


def test_every_parameter_belongs_to_one_node(trained: tuple[Path, object, object]) -> None:
    record = open_run(trained[0] / "net")
    for fold in ("none", "modules"):
        listed = [t.name for node in network.spine(record, fold, []) for t in node.parameters]
        assert sorted(listed) == sorted(t.name for t in record.tensors)


def test_a_row_over_several_steps_gives_no_gain(trained: tuple[Path, object, object], monkeypatch: pytest.MonkeyPatch) -> None:
    record = open_run(trained[0] / "net")
    units = record._all.whole("units")
    at = units.schema.get_field_index("steps")
    over_two = units.set_column(at, units.schema.field(at), pa.array([2] * units.num_rows, units.schema.field(at).type))
    assert record.units_seen(ONE_STEP), "rows of one step are seen"
    real = record._all.whole
    monkeypatch.setattr(record._all, "whole", lambda name: over_two if name == "units" else real(name))
    assert record.units_seen(ONE_STEP) == {}
    told = network.network_at(record, "gradient.rms", ONE_STEP, "none", [])
    assert all(node["forward"] is None for node in told["nodes"])
    assert told["spread_step"] is None


def test_the_fill_is_the_recorded_number_and_the_last_one_before_the_step(
    trained: tuple[Path, object, object], tmp_path: Path
) -> None:
    client = client_of(trained[0], tmp_path)
    told = client.get("/api/network?run=net&stat=gradient.rms&step=7&fold=none").json()
    truth = open_run(trained[0] / "net").series("head.weight", "gradient.rms", 7, 8).values[0]
    assert told["nodes"][-1]["value"] == truth
    assert told["nodes"][1]["value"] == "NaN"
    assert client.get("/api/network?run=net&stat=gradient.rsm").status_code == 400


def test_a_run_without_outputs_has_no_nodes(client: TestClient) -> None:
    told = client.get("/api/network?run=first&stat=gradient.rms").json()
    assert told["nodes"] == []
    assert told["forward"] == {"median": None, "all": None}
