"""A layer's initial weights are far too large or far too small for the number of its inputs.

Symptom        Too large: the first loss is huge, or the activations behind are saturated. Too small: the outputs hardly depend
               on the input, and the gradient does not come through.
How it decides The gain of a weight matrix at the first step is rms(w) sqrt(inputs): 1 keeps sizes, PyTorch's own layers have
               0.58, Kaiming's 1.41. Too large: above LARGE, and what the layer gives has an rms above WIDE, and no norm layer
               follows at once. Too small: below SMALL but not 0, and the layer gives less than FADED of what it gets, and all
               modules before it get less than FADED of the gradient behind it: no shortcut goes around it. The last layer may
               be small. Where the modules cannot be seen, the gains alone are judged, and what the model gives.
What to do     `torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")`, or no init of one's own.
When it errs   Layers with fewer than INPUTS inputs (coordinates before sines) are not judged. A model that goes on training
               from large weights without norm layers.
References     Glorot & Bengio 2010; He et al. 2015, equation 10 (variance 2 / inputs); LeCun et al. 1998, "Efficient
               BackProp", section 4.6; Mishkin & Matas 2016, "All you need is a good init".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors, in_code
from weighbridge.format import number

LARGE = 4.0  # 2 sqrt(2) times Kaiming's gain: two such layers make 16 of 1, and three 64
WIDE = 3.0  # |tanh'| < 0.01 beyond 3; logits that differ by more than e^3
SMALL = 0.1  # a sixth of PyTorch's own
FADED = 0.1
INPUTS = 4
LINEAR = ("Linear", "Conv1d", "Conv2d", "Conv3d", "NonDynamicallyQuantizableLinear")
NORMS = ("Norm",)  # part of the name of a module that divides by what it is given


class WrongInitialScale(Rule):
    id, title = "wrong-initial-scale", "Initial weights have the wrong scale"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(parameter=["rms"], activation=["rms"], activation_gradient=["l2_norm"], tables=["steps"])
    causes = (
        *(
            "vanishing-gradient",
            "exploding-gradient",
            "exploding-activation",
            "saturated-units",
            "dead-units",
            "high-initial-loss",
        ),
        *("stalled-loss", "nonfinite-origin", "high-learning-rate", "rank-collapse", "collapsed-output", "growing-loss"),
        *(
            "overtight-clipping",
            "dominant-epsilon",
            "attention-logit-growth",
            "loss-spike",
            "gradient-spike",
            "exploding-weights",
        ),
    )
    experiment = (
        "Initialise this layer with torch.nn.init.kaiming_normal_ and look at the first step: if the finding is right, "
        "what comes "
        "behind it has a size near 1."
    )

    def __init__(self) -> None:
        self.is_done = self.is_judged = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.outputs = [c for _, c in sorted((t.order, c) for c, t in enumerate(tensors) if t.is_output)]
        self.weights = [c for c, t in enumerate(tensors) if _is_judged(t.role, t.shape, t.requires_grad, t.note, t.is_output)]

    def read(self, block: Block) -> Iterator[Finding]:
        if self.is_done:
            return
        weights, sizes, slopes = (block[name] for name in ("parameter.rms", "activation.rms", "activation_gradient.l2_norm"))
        stepped = {row["step"] for row in block.rows("steps")}
        for i in range(len(block)):
            if block.start + i in stepped and np.isfinite(weights[i, self.weights]).any():
                self.is_done = self.is_judged = True
                yield from self._judge(block.start + i, weights[i], sizes[i], slopes[i])
                return

    def _judge(self, step: int, weights: np.ndarray, sizes: np.ndarray, slopes: np.ndarray) -> Iterator[Finding]:
        ran = [c for c in self.outputs if math.isfinite(sizes[c])]
        found: list[tuple[int, float, str]] = []
        for column in self.weights:
            if not weights[column] > 0:
                continue
            gain = self._gain(column, float(weights[column]))
            given = [c for c in self.tensors.outputs_of(column) if c in ran]
            if given and self.tensors[column].module in LINEAR:
                why = self._of_layer(gain, given[0], ran, sizes, slopes)
            else:
                why = self._of_unseen(gain, column, ran, sizes)
            if why:
                found.append((column, gain, why))
        if found:
            yield self._finding(step, found, weights)

    def _gain(self, column: int, rms: float) -> float:
        tensor = self.tensors[column]
        inputs = tensor.count // tensor.shape[0]
        return rms * math.sqrt(inputs if tensor.module in LINEAR else min(inputs, tensor.shape[0]))

    def _of_layer(self, gain: float, output: int, ran: list[int], sizes: np.ndarray, slopes: np.ndarray) -> str:
        """One linear or convolutional layer of which is known what it gives."""
        at = ran.index(output)
        behind = ran[at + 1 :]
        if gain > LARGE:
            is_normed = bool(behind) and any(name in self.tensors[behind[0]].module for name in NORMS)
            return "" if is_normed or sizes[output] <= WIDE else f"it gives an rms of {number(float(sizes[output]))}"
        heads = [c for c in ran if self.tensors[c].module in LINEAR]
        if gain >= SMALL or not at or output == heads[-1]:
            return ""
        before, after = slopes[ran[:at]], slopes[ran[at:]]
        if not (np.isfinite(before).any() and np.isfinite(after).any()) or sizes[output] > FADED * sizes[ran[at - 1]]:
            return ""
        lost = float(np.nanmax(before) / np.nanmax(after)) if np.nanmax(after) > 0 else 1.0
        return f"the gradient before it is {number(lost)} of that behind it" if lost < FADED else ""

    def _of_unseen(self, gain: float, column: int, ran: list[int], sizes: np.ndarray) -> str:
        """A weight that is used by a function call: only what the model gives in the end tells of it."""
        last = float(sizes[ran[-1]]) if ran else math.nan
        if self.tensors.outputs_of(column) or not last > WIDE**2 or gain <= LARGE:
            return ""
        return f"the model gives an rms of {number(last)}"

    def _finding(self, step: int, found: list[tuple[int, float, str]], weights: np.ndarray) -> Finding:
        worst, gain, why = max(found, key=lambda f: abs(math.log(f[1])))
        name = self.tensors.name(worst)
        owner = self.tensors.place(self.tensors.owner(worst), self.tensors[worst].model)
        limit = LARGE if gain > 1 else SMALL
        more = f" {len(found) - 1} more layers are alike." if len(found) > 1 else ""
        rows = tuple((self.tensors.name(c), float(weights[c]), g) for c, g, _ in found[:24])
        return Finding(
            place=(owner or name) if len(found) == 1 else self._first(found),
            first_step=step,
            told_step=step,
            message=f"The initial weights of {name} have a gain of {number(gain)} (rms times the root of the number of "
            f"inputs; 1 keeps "
            f"sizes), and {why}.{more}",
            evidence=(
                ValueEvidence(f"gain of {name}", gain, limit),
                TableEvidence(f"weights at step {step}", ("parameter", "rms", "gain"), rows),
            ),
            fix=f"torch.nn.init.kaiming_normal_({in_code(self.tensors[worst].name)}, nonlinearity='relu'), or leave "
            f"PyTorch's own init.",
            depth=0.0,
        )

    def _first(self, found: list[tuple[int, float, str]]) -> str:
        first = found[0][0]
        owner = self.tensors.place(self.tensors.owner(first), self.tensors[first].model)
        return owner or self.tensors.name(first)

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_judged else (Outcome.NOT_ENOUGH_DATA, "no step with weights was recorded")


def _is_judged(role: str, shape: tuple[int, ...], requires_grad: bool, note: str, is_output: bool) -> bool:
    is_matrix = role in ("weight", "other") and len(shape) > 1 and not is_output and not note
    return is_matrix and requires_grad and math.prod(shape[1:]) >= INPUTS and shape[0] > 0
