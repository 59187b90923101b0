"""What is known of a bias beside its own numbers: that the loss does not depend on it (a proof on the graph of the first loss),
or what the loss does without it (measured, in a report of `weighbridge.biases` that was attached to the run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow.compute as pc

from weighbridge.diagnosis.kept import jsonable
from weighbridge.diagnosis.redundant import redundant_biases
from weighbridge.diagnosis.states import kept_of_each
from weighbridge.diagnosis.stream import groups_at, rows_of, tensors_at
from weighbridge.firstpass import FirstPass, from_text
from weighbridge.server.layerpage import find, main_pair
from weighbridge.store.record import RunRecord

BIASES: Final = "run.attach(weighbridge.biases(model, held_out_batches, loss_fn, optimizer))"
REDUNDANT: Final = "redundant"
Verdicts = dict[str, dict[str, Any]]  # by the module's dotted name


def worth_of(record: RunRecord, path: str) -> dict[str, Any]:
    """What the bias of this layer is worth, ready for JSON; `verdict` is null where nobody has found out, and `ask` is the line
    that does. `step`: at which the report was attached. Raises UnknownTensor."""
    layers, at = find(record, path)
    bias = main_pair(layers[at])[1]
    told: dict[str, Any] = {"bias": bias.name if bias is not None else None, "verdict": None, "step": None, "ask": BIASES}
    if bias is None:
        return told
    events = [event for event in record.events() if event.kind == "biases"]
    measured = from_report(events[-1].detail).get(layers[at].path) if events else None
    proof = from_graph(first_pass(record), kept_at_first(record)).get(layers[at].path)
    if proof is not None and proof["name"] == bias.name:
        told["verdict"] = proof
    elif measured is not None:
        told |= {"verdict": measured, "step": events[-1].step}
    ready: dict[str, Any] = jsonable(told)
    return ready


def first_pass(record: RunRecord) -> FirstPass | None:
    """The graph of the first loss, where one was taken down."""
    found = record.whole("graph").column("detail").slice(0, 1).to_pylist()
    return from_text(found[0]) if found else None


def kept_at_first(record: RunRecord) -> dict[str, int | None]:
    """Tensors that an optimizer keeps of each parameter, by its name, as the rule asks it: of the step whose graph was taken
    down."""
    taken = record.whole("graph").column("step").slice(0, 1).to_pylist()
    if not taken:
        return {}
    tensors, table = tensors_at(record.descriptions(), taken[0]), record.steps_table()
    steps = rows_of(table.filter(pc.equal(table.column("step"), taken[0])))
    return kept_of_each(groups_at(record.events(), taken[0], tensors), tensors, steps)


def from_graph(first: FirstPass | None, kept: Mapping[str, int | None]) -> Verdicts:
    """Biases that the loss does not depend on. kept: see `kept_at_first`."""
    if first is None:
        return {}
    found: Verdicts = {}
    for one in redundant_biases(first.graph, first.parameters):
        states = kept.get(one.parameter.name, first.state_tensors)
        named = f"module {one.absorber}" if one.absorber else "a function"
        what = "subtracts it with each channel's mean" if one.is_before_norm else "only sees differences"
        found[one.parameter.module] = {
            "name": one.parameter.name,
            "word": REDUNDANT,
            "reason": f"proof: {named} {what}",
            "bytes": one.parameter.size_bytes * (2 + (states or 0)),  # with its gradient, and what the optimizer keeps of it
            "knows_states": states is not None,
        }
    return found


def from_report(report: Mapping[str, Any] | None) -> Verdicts:
    """What each bias is worth, as `weighbridge.biases` measured it. `worth`: loss without it minus loss with it, 95 %."""
    found: Verdicts = {}
    for one in objects_in(report, "layers"):
        if not all(isinstance(one.get(name), str) for name in ("layer", "name", "verdict")):
            continue  # others may write an event of this kind, too
        sizes = [one.get(name) for name in ("size_bytes", "state_bytes")]
        found[one["layer"]] = {
            "name": one["name"],
            "word": one["verdict"],
            "reason": str(one.get("reason", "")),
            "bytes": sum(size for size in sizes if isinstance(size, int | float)),
            "knows_states": sizes[1] is not None,
            **{name: one.get(name) for name in ("worth", "taken_over", "ratio")},
        }
    return found


def objects_in(report: Mapping[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The objects of a list in a report; of one that is damaged, as many as are objects."""
    found = (report or {}).get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
