"""What rules have learnt to work out once, or for many steps at once, is what the obvious way gives.

Oracle: the same question asked of each pair of layers, each bias and each step on its own.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.graphs import Drawing
from weighbridge.diagnosis import affine, flow, sizes
from weighbridge.diagnosis.affine import NO_ACTIVATION, _ahead, _bends, is_excused, without_activation_anywhere
from weighbridge.diagnosis.flow import Axes, absorbed
from weighbridge.diagnosis.losscourse import median_of
from weighbridge.diagnosis.redundant import redundant_biases
from weighbridge.diagnosis.sizes import SIZES
from weighbridge.diagnosis.stream import Block, Group
from weighbridge.diagnosis.taken import norm_of, taken, whole_norm
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import AFFINE, NORMS, Graph

WIDTHS = (4, 8)


def drawn(seed: int) -> FirstPass:
    """Layers in a row with branches, joints, norms, activations, shared weights and layers of many widths, by chance."""
    chance, made = random.Random(seed), Drawing()
    kinds = {f"l{i}": chance.choice(["Linear"] * 12 + ["LSTM"]) for i in range(20)}
    ends: list[int] = []
    for i in range(chance.randint(3, 9)):
        ends.append(_next(made, chance, ends, f"l{i}"))
    made.op("MseLoss", [ends[-1]], ())
    return made.done(kinds=kinds)


def _next(made: Drawing, chance: random.Random, ends: list[int], module: str) -> int:
    given = None if not ends else ends[-1] if chance.random() < 0.8 else chance.choice(ends)
    wide, inside = chance.choice(WIDTHS), made.nodes[given].shape[1] if given is not None else 8
    kind = chance.choice(["linear"] * 6 + ["Relu", "bare", "norm", "size", "Add", "joint", "again", "conv", "View"])
    weights = [i for i, node in enumerate(made.nodes) if node.op == "T"]
    if given is None or kind == "linear":
        return made.linear(module, given, 32, inside, wide, bias=chance.random() < 0.7)
    if kind == "again" and weights:
        return made.op("Mm", [given, chance.choice(weights)], (32, wide), module)
    if kind == "conv":
        weight = made.parameter(f"{module}.weight", wide, inside, 1)
        return made.op("Convolution", [given, weight, None], (32, wide, 1), module, groups=chance.choice([1, 1, 1, 2]))
    if kind == "norm":
        names = [made.parameter(f"{module}.{name}", inside) for name in ("weight", "bias")]
        return made.op("NativeBatchNorm", [given, *names], (32, inside), module, training=True)
    if kind == "bare":
        return made.op("NativeLayerNorm", [given, None, None], (32, inside), module)
    if kind == "size":
        return made.op("Div", [given, made.op("LinalgVectorNorm", [given], (32, 1))], (32, inside), other_shape=(32, 1))
    if kind in ("Add", "joint"):
        other = chance.choice([*ends, None]) if kind == "joint" else made.parameter(f"{module}.shift", inside)
        return made.op("Add", [given, other], (32, inside), module)
    return made.op(kind if kind != "again" else "View", [given], (32, inside), module)


def pairs_one_by_one(first: FirstPass) -> dict[int, int]:
    found = {}
    for index, node in enumerate(first.graph.nodes):
        if node.op not in AFFINE:
            continue
        ahead = _ahead(first.graph, node.inputs[AFFINE[node.op][0]])
        nodes = [first.graph.nodes[i] for i in ahead]
        if not {one.op for one in nodes} <= NO_ACTIVATION or any(map(_bends, nodes)):
            continue
        layers = [i for i in ahead if first.graph.nodes[i].op in AFFINE]
        is_shared = any({user for user, _ in first.graph.users[i]} - ahead - {index} for i in ahead)
        if layers and not is_shared and not any(is_excused(first, i, index) for i in layers):
            found[index] = max(layers)
    return found


def is_divided_looking_at_all(graph: Graph, index: int) -> bool:
    made, measures = {index}, set[int]()
    for user in range(index + 1, len(graph.nodes)):
        node = graph.nodes[user]
        given = {edge[0] for edge in node.inputs if edge is not None} & made
        if not given or node.op in AFFINE:
            continue
        if node.op in NORMS or (node.op in ("Div", "Mul") and given & measures and given - measures):
            return True
        made.add(user)
        if node.op in SIZES or given <= measures:
            measures.add(user)
    return False


def test_layers_without_activation_are_those_found_pair_by_pair() -> None:
    passes = [drawn(seed) for seed in range(600)]
    found = [without_activation_anywhere(first) for first in passes]
    assert found == [pairs_one_by_one(first) for first in passes]
    assert sum(map(len, found)) > 100  # the drawing is worth something
    assert sum(not one for one in found) > 100


def test_what_is_divided_by_its_size_is_found_among_its_users_alone() -> None:
    asked = [
        (first.graph, i) for first in map(drawn, range(300)) for i, node in enumerate(first.graph.nodes) if node.op in AFFINE
    ]
    found = [sizes._is_divided_by_itself(graph, index) for graph, index in asked]
    assert found == [is_divided_looking_at_all(graph, index) for graph, index in asked]
    assert 100 < sum(found) < len(found) - 100


def test_what_is_known_of_later_layers_changes_no_bias() -> None:
    counted = {True: 0, False: 0}
    for graph in (drawn(seed).graph for seed in range(600)):
        leaves = [leaf for leaf in graph.leaves.values() if len(graph.nodes[leaf].shape) == 1]
        lost: set[tuple[int, Axes]] = set()
        for leaf in leaves:
            alone = absorbed(graph, leaf)
            assert absorbed(graph, leaf, lost=lost) == alone
            counted[alone is None] += 1
    assert min(counted.values()) > 100


def chain(depth: int) -> FirstPass:
    made, given = Drawing(), None
    for i in range(depth):
        given = made.linear(f"l{i}", given, 4, 4, 4)
    made.op("MseLoss", [given], ())
    return made.done()


def called(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[object]:
    """One entry for each call of this function from now on."""
    raw, calls = getattr(module, name), list[object]()
    monkeypatch.setattr(module, name, lambda *given: (calls.append(given), raw(*given))[1])
    return calls


def test_a_deep_model_is_looked_at_layer_by_layer_and_not_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    first, depth = chain(300), 300
    layers, ahead = called(monkeypatch, affine, "runs_itself"), called(monkeypatch, affine, "_ahead")
    steps = called(monkeypatch, flow, "_passed_on")
    assert len(without_activation_anywhere(first)) == depth - 1
    assert len(layers) <= 3 * depth
    assert not ahead
    assert not [*redundant_biases(first.graph, first.parameters)]
    assert len(steps) <= 3 * depth


def block_of(norms: np.ndarray, tensors: int) -> Block:
    row = {"optimizer": 0, "loss": 1.0, "lr": [0.1], "samples": None, "skipped": False}
    steps = tuple({"step": i, **row} for i in range(len(norms)))
    groups = (Group(0, "SGD", 0, tuple(range(tensors))[::-1]),)
    return Block(0, len(norms), Tensors(()), groups, {"gradient.l2_norm": norms}, {"steps": steps})


@pytest.mark.parametrize("tensors", [1, 3, 9, 200, 1500])
def test_a_whole_norm_is_that_of_its_step_to_the_last_bit(tensors: int) -> None:
    norms = np.exp(np.random.default_rng(tensors).normal(0, 5, (40, tensors)))
    norms[3], norms[5, 0], norms[7, 0], norms[9, 0] = np.nan, np.nan, np.inf, 1e200
    block = block_of(norms, tensors)
    with np.errstate(over="ignore"):
        for one in taken(block):
            assert whole_norm(block, "gradient.l2_norm", one) == norm_of(norms[one.at, one.columns])


def test_the_median_of_a_handful_is_numpys() -> None:
    chance = np.random.default_rng(0)
    for size in range(1, 12):
        values = chance.normal(size=size).tolist()
        for odd in ([], [np.inf], [np.nan], [np.inf, -np.inf], [-np.inf]):
            with np.errstate(invalid="ignore"):
                assert np.array_equal(median_of([*values, *odd]), np.median([*values, *odd]), equal_nan=True)
    assert np.isnan(median_of([]))


def test_a_pass_is_drawn_the_same_again() -> None:
    assert dataclasses.asdict(drawn(5)) == dataclasses.asdict(drawn(5))
