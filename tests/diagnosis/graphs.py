"""First passes made by hand, for rules that read graphs: a chain of operations, or what a test puts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weighbridge.firstpass import FirstPass, Parameter, Scale, Start, to_text
from weighbridge.lossgraph import Edge, Graph, Node


class Drawing:
    """Nodes in the order in which they are drawn."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.parameters: dict[str, Parameter] = {}

    def op(self, op: str, inputs: Sequence[int | None], shape: tuple[int, ...], module: str = "", **facts: Any) -> int:
        edges: tuple[Edge | None, ...] = tuple(None if i is None else (i, 0) for i in inputs)
        self.nodes.append(Node(op, edges, (shape,), "", module, facts))
        return len(self.nodes) - 1

    def parameter(self, name: str, *shape: int, **more: Any) -> int:
        module = name.rpartition(".")[0]
        self.parameters[name] = Parameter(name, module, "Linear", shape, 4, True, **more)
        self.nodes.append(Node("Parameter", (), (shape,), name))
        return len(self.nodes) - 1

    def linear(self, module: str, given: int | None, rows: int, inside: int, out: int, bias: bool = True) -> int:
        weight = self.op("T", [self.parameter(f"{module}.weight", out, inside)], (inside, out), module)
        if not bias:
            return self.op("Mm", [given, weight], (rows, out), module)
        return self.op("Addmm", [self.parameter(f"{module}.bias", out), given, weight], (rows, out), module, alpha=1)

    def done(
        self, starts: Sequence[Start] = (), scales: Sequence[Scale] = (), kinds: Mapping[str, str] | None = None, **more: Any
    ) -> FirstPass:
        graph, parameters = Graph(tuple(self.nodes), (len(self.nodes) - 1,)), tuple(self.parameters.values())
        return FirstPass(graph, parameters, kinds or {}, starts=tuple(starts), scales=tuple(scales), **more)


def rows(*passes: FirstPass, step: int = 0) -> list[dict[str, Any]]:
    """What stands in the table `graph`."""
    return [{"step": step, "detail": to_text(one)} for one in passes]


def all_wrong() -> FirstPass:
    """Two linear layers with only a batch norm between, a softmax too many, raw inputs, a high loss."""
    made = Drawing()
    one = made.linear("a", None, 32, 8, 16)
    norm = made.op(
        "NativeBatchNorm", [one, made.parameter("n.weight", 16), made.parameter("n.bias", 16)], (32, 16), "n", training=True
    )
    two = made.linear("b", norm, 32, 16, 4)
    soft = made.op("Softmax", [two], (32, 4), "s", dim=1)
    logs = made.op("LogSoftmax", [soft], (32, 4), dim=1)
    loss = made.op("NllLoss", [logs], ())
    start = Start("cross-entropy", loss, "b", 20.0, 1.4, 0.5, 32, 9.0, 1.0)
    free = made.linear("c", None, 32, 8, 16)
    scale = Scale(free, "c", 32, 100.0, 120.0, 255.0, 60.0, 0.0, 8e4, 0)
    return made.done([start], [scale])


def all_wrong_again() -> FirstPass:
    """A batch of two in a batch norm, a tanh for targets far outside, an output without a bias that they need."""
    made = Drawing()
    one = made.linear("c", None, 2, 8, 16)
    norm = made.op(
        "NativeBatchNorm", [one, made.parameter("m.weight", 16), made.parameter("m.bias", 16)], (2, 16), "m", training=True
    )
    two = made.linear("d", made.op("Relu", [norm], (2, 16)), 32, 16, 1, bias=False)
    loss = made.op("MseLoss", [two], ())
    three = made.op("Tanh", [made.linear("e", None, 32, 8, 1)], (32, 1), "t")
    bounded = made.op("MseLoss", [three], ())
    far = {"target_mean": 5.0, "target_std": 1.0, "target_low": 3.0, "target_high": 8.0, "rows": 32, "offset": 25.0}
    starts = [
        Start("squared error", loss, "d", 26.0, 1.0, 0.1, 32, 0.3, 1.0, **far),
        Start("squared error", bounded, "t", 26.0, 1.0, 0.1, 32, 0.3, 1.0, **far, floor=16.0),
    ]
    return made.done(starts)
