"""`weighbridge.biases`: of every layer, has it a bias, what does it add, is it redundant or missing, and what is it worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import torch

from weighbridge.capture.hooks import unheard
from weighbridge.diagnosis.redundant import Redundant, redundant_biases
from weighbridge.preflight.bias_proofs import has_constant_before, would_be_absorbed
from weighbridge.preflight.bias_slots import Slot, change, slots
from weighbridge.preflight.bias_sums import Sums, sums
from weighbridge.preflight.bias_trials import constant, put_in, taken_over, without
from weighbridge.preflight.bias_worth import Worth, of_bias, of_gap, worth
from weighbridge.preflight.copying import copied, unwrapped
from weighbridge.preflight.losses import HeldOut, held_out
from weighbridge.preflight.records import Trial
from weighbridge.preflight.signal import try_out

ZERO: Final = "it is 0 throughout: not trained yet, or nothing ever moved it"
NOT_NEEDED, NOT_MISSED, REDUNDANT = "rightly none", "not missed", "redundant"


@dataclass(frozen=True, slots=True)
class LayerBias:
    """A bias, or a place where one could be. None: not measured, or there is no such thing."""

    layer: str  # PyTorch's dotted name of the module; empty for the model itself
    kind: str  # its type
    name: str  # of the parameter: "0.bias"
    role: str  # "bias", or "norm_shift" of a norm
    has_bias: bool
    verdict: str  # needed, no effect, better without, redundant, cannot tell ...; missing, not missed, rightly none
    reason: str  # why, in words
    ratio: float | None  # rms(b) / rms(W.x) over all units
    ratios: tuple[float, ...]  # |b| / rms(W.x) of each unit
    cancelled: float | None  # 1 where the bias takes all of W.E[x] out; below 0 where it adds to it
    input_offset: float | None  # rms of the features' means / rms of the inputs
    has_centred_inputs: bool | None  # whether the means could be 0, at 95 %
    worth: Worth | None  # the loss without the bias minus the loss with it; where there is none: with one minus without
    taken_over: Worth | None  # the same, the weights taking over what they can of the bias
    parameters: int
    size_bytes: int  # of the parameter and its gradient
    state_bytes: int | None  # that the optimizer keeps of it; None: no optimizer was given, or it is not known
    change: str  # the line that leaves the bias out, or puts one in

    def record(self) -> dict[str, Any]:
        """As a dictionary."""
        facts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {key: value.record() if isinstance(value, Worth) else value for key, value in facts.items()}


@dataclass(frozen=True, slots=True, repr=False)
class BiasReport:
    """All biases of a model, in the order of definition. `print` it; `record()` and `to_json()` are for programs.

    `run.attach` keeps it with a run.
    """

    KIND: ClassVar[str] = "biases"

    model: str
    layers: tuple[LayerBias, ...]
    loss: float  # mean over the units
    units: int
    unit: str  # "sample", or "batch" where the loss gives no single samples

    def of(self, verdict: str) -> tuple[LayerBias, ...]:
        """Those with this verdict."""
        return tuple(one for one in self.layers if one.verdict == verdict)

    def record(self) -> dict[str, Any]:
        """As a dictionary."""
        facts = {name: getattr(self, name) for name in ("model", "loss", "units", "unit")}
        return {**facts, "layers": [one.record() for one in self.layers]}

    def to_json(self) -> str:
        """`record` as JSON; NaN and infinity as words."""
        from weighbridge.diagnosis.kept import jsonable

        return json.dumps(jsonable(self.record()), ensure_ascii=False, allow_nan=False, indent=1)

    def __str__(self) -> str:
        from weighbridge.preflight.bias_text import lines
        from weighbridge.preflight.text import screen_width

        return "\n".join(line.plain for line in lines(self, screen_width()))

    def __repr__(self) -> str:
        verdicts = Counter(one.verdict for one in self.layers)
        return f"<BiasReport of {self.model}: {', '.join(f'{n} {verdict}' for verdict, n in verdicts.items()) or 'no layers'}>"

    def _repr_html_(self) -> str:
        from weighbridge.preflight.bias_text import as_html

        return as_html(self)

    def __iter__(self) -> Iterator[LayerBias]:
        return iter(self.layers)


def biases(model: torch.nn.Module, batches: Any, loss_fn: Any = None, optimizer: Any = None) -> BiasReport:
    """Say of every layer whether it has a bias, what the bias adds, whether it is redundant, and what it is worth.

    `batches`: held-out ones, each as for `inspect`, or a single one; all are kept in memory. `loss_fn`, `optimizer`: as for
    `inspect`; the optimizer only says how many bytes it keeps.

    Redundant is a proof on the graph of the loss (docs/rules/redundant-bias.md). What a bias is worth is measured on a copy in
    evaluation mode: the loss without it minus the loss with it, paired by sample, with a 95 % interval; where a loss gives no
    single samples, by batch. That is what this network would lose now; what a network trained without it loses says
    `ablate_bias`. One pass over the batches per bias, two where weights may take over.

    The user's model, modes, gradients, buffers and random state stay as they are. Raises BadInput where these do not fit.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> report = biases(model, (torch.randn(64, 4), torch.arange(64) % 3), torch.nn.functional.cross_entropy)
    >>> [(one.name, one.verdict) for one in report][:1]
    [('0.bias', 'redundant')]
    """
    with unheard(), torch.inference_mode(False):
        twin = copied(unwrapped(model)).eval().requires_grad_(False)
        held = held_out(twin, batches, loss_fn)
        trial = try_out(model, held.batches[0], loss_fn, optimizer)
        found = slots(twin)
        before = held.all(twin)
        names = {id(p): name for name, p in twin.named_parameters()}
        proved = {one.parameter.name: one for one in redundant_biases(trial.first.graph, trial.first.parameters)}
        known = _Known(twin, held, before, trial, sums(twin, found, held), _states(model, optimizer), names, proved)
        return BiasReport(
            type(model).__name__, tuple(known.of(slot) for slot in found), float(before.mean()), len(before), held.unit
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the whole model when a layer's turn comes."""

    twin: torch.nn.Module
    held: HeldOut
    before: torch.Tensor
    trial: Trial
    sums: Mapping[str, Sums]
    states: Mapping[str, int]
    weights: Mapping[int, str]  # names by the id of the parameter
    redundant: Mapping[str, Redundant]

    def of(self, slot: Slot) -> LayerBias:
        if slot.parameter is None:
            return self._record(slot, *self._gap(slot))
        by = self.redundant.get(slot.name)
        return self._record(slot, *(self._bias(slot) if by is None else (REDUNDANT, self._takes_out(by), None, None)))

    def _takes_out(self, by: Redundant) -> str:
        kind = self.trial.first.kinds.get(by.absorber, "")
        what = "subtracts it with each channel's mean" if by.is_before_norm else "only sees differences"
        return f"proof: {by.absorber or 'a function'}{f' ({kind})' if by.absorber else ''} {what}"

    def _bias(self, slot: Slot) -> tuple[str, str, Worth, Worth | None]:
        assert slot.parameter is not None
        found = worth(self.before, without(self.twin, slot, self.held), self.held.unit)
        rest = None
        if not bool(slot.parameter.any()):
            return of_bias(found), ZERO, found, None
        if slot.adds and (fit := constant(self.twin, slot, self.held)) is not None:
            rest = worth(self.before, taken_over(self.twin, fit), self.held.unit)
        return of_bias(found), "", found, rest

    def _gap(self, slot: Slot) -> tuple[str, str, Worth | None, None]:
        graph, weight = self.trial.first.graph, self.weights.get(id(getattr(slot.module, "weight", None)), "")
        by = would_be_absorbed(graph, weight)
        if by is not None:
            return NOT_NEEDED, f"proof: {graph.nodes[by.nodes[0]].module or 'a function'} would take it out again", None, None
        if not slot.adds or has_constant_before(graph, weight):
            return NOT_MISSED, "what comes before can make a constant", None, None
        found = self._put_in(slot)
        return of_gap(found), "zero in gives zero out up to here, whatever the weights", found, None

    def _put_in(self, slot: Slot) -> Worth | None:
        module: Any = slot.module
        fit = constant(self.twin, slot, self.held)
        if fit is None:
            return None
        after = put_in(self.twin, fit, module.weight.shape[0])
        return None if after is None else worth(self.before, after, self.held.unit)

    def _record(self, slot: Slot, verdict: str, reason: str, found: Worth | None, rest: Worth | None) -> LayerBias:
        of, parameter = self.sums.get(slot.name, Sums(None)), slot.parameter
        return LayerBias(
            layer=slot.layer,
            kind=type(slot.module).__name__,
            name=slot.name,
            role=slot.role,
            has_bias=parameter is not None,
            verdict=verdict,
            reason=reason,
            ratio=of.ratio,
            ratios=of.ratios,
            cancelled=of.cancelled,
            input_offset=of.offset,
            has_centred_inputs=of.is_centred,
            worth=found,
            taken_over=rest,
            parameters=0 if parameter is None else parameter.numel(),
            size_bytes=0 if parameter is None else 2 * parameter.numel() * parameter.element_size(),
            state_bytes=None if parameter is None else self._state(slot, parameter),
            change=change(slot, with_bias=parameter is None),
        )

    def _state(self, slot: Slot, parameter: torch.nn.Parameter) -> int | None:
        kept = self.states.get(slot.name)
        if kept is None and self.trial.first.state_tensors is not None:
            kept = self.trial.first.state_tensors * parameter.numel() * parameter.element_size()
        return kept


def _states(model: torch.nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes that optimizers that have stepped already keep of each parameter."""
    held = [] if optimizer is None else list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    found = {}
    for name, parameter in unwrapped(model).named_parameters():
        tensors = [t for one in held for t in one.state.get(parameter, {}).values() if isinstance(t, torch.Tensor) and t.ndim]
        if tensors:
            found[name] = sum(t.numel() * t.element_size() for t in tensors)
    return found
