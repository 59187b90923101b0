"""A layer's initial weights are far too large or far too small for the number of its inputs.

Symptom        Too large: the first loss is huge, or the activations behind are saturated. Too small: the outputs hardly depend
               on the input, and the gradient does not come through.
How it decides The gain of a weight matrix at the first step is rms(w) sqrt(inputs): 1 keeps sizes, PyTorch's own layers
               have 0.58, Kaiming's 1.41. Too large: above LARGE, and what the layer gives has an rms above WIDE, and
               neither a norm layer follows at once nor, by the graph of the first loss, anything that divides it by its own
               size. Too small: below SMALL but not 0, no norm layer before the next weights and no batch norm behind them (it
               divides the size out, wherever it stands, and takes off what the biases between add), and all modules before it
               get less than FADED of the gradient at its own output: no shortcut goes around it. Layers that end the graph,
               several heads among them, may be small. Inside recurrent layers and attention, CLOSED_LARGE alone is too large.
               Where modules cannot be seen, the gains and what the model gives are judged. Weights with numbers too large for
               a normal or uniform distribution (by TAIL) are trained ones, and clear.
What to do     `torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")`, or no init of one's own. An embedding that
               is the head too: `torch.nn.init.normal_(embedding.weight, std=width ** -0.5)`.
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
from weighbridge.diagnosis.sizes import ends, normed
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors, in_code
from weighbridge.firstpass import FirstPass, from_text
from weighbridge.format import counted, number
from weighbridge.store.views import Tensor

LARGE = 4.0  # 2 sqrt(2) times Kaiming's gain: two such layers make 16 of 1, and three 64
WIDE = 3.0  # |tanh'| < 0.01 beyond 3; logits that differ by more than e^3
SMALL = 0.1  # a sixth of PyTorch's own
FADED = 0.1
INPUTS = 4
TAIL = 2.0  # the largest of n normal numbers is near sqrt(2 ln 2n) and hardly ever more than 2 above it
LINEAR = ("Linear", "Conv1d", "Conv2d", "Conv3d", "NonDynamicallyQuantizableLinear")
CLOSED = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "MultiheadAttention")  # squash what their weights give
CLOSED_LARGE = 2 * LARGE  # as nothing is seen of it


class WrongInitialScale(Rule):
    id, title = "wrong-initial-scale", "Initial weights have the wrong scale"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(parameter=["rms", "abs_max"], activation=["rms"], activation_gradient=["l2_norm"], tables=["steps", "graph"])
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
        self.passes: list[FirstPass] = []

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.outputs = [c for _, c in sorted((t.order, c) for c, t in enumerate(tensors) if t.is_output)]
        self.weights = [c for c, t in enumerate(tensors) if self._is_judged(c, t)]

    def _is_judged(self, column: int, tensor: Tensor) -> bool:
        """A weight matrix that multiplies enough inputs. An embedding does where a linear layer shares it."""
        is_matrix = not tensor.is_output and not tensor.note and tensor.requires_grad and len(tensor.shape) > 1
        if not is_matrix or 0 in tensor.shape or tensor.count // tensor.shape[0] < INPUTS:
            return False
        return tensor.role in ("weight", "other") or any(self._kind(c) in LINEAR for c in self.tensors.outputs_of(column))

    def _kind(self, column: int) -> str:
        return self.tensors[column].module

    def read(self, block: Block) -> Iterator[Finding]:
        if self.is_done:
            return
        self.passes += [from_text(row["detail"]) for row in block.rows("graph")]
        weights = block["parameter.rms"]
        stepped = {row["step"] for row in block.rows("steps")}
        for i in range(len(block)):
            if block.start + i in stepped and np.isfinite(weights[i, self.weights]).any():
                self.is_done = self.is_judged = True
                self.row = {name: block[name][i] for name in self.needs.statistics}
                yield from self._judge(block.start + i)
                return

    def _judge(self, step: int) -> Iterator[Finding]:
        weights = self.row["parameter.rms"]
        self.ran = [c for c in self.outputs if math.isfinite(self.row["activation.rms"][c])]
        gains = {c: self._gain(c) for c in self.weights if weights[c] > 0}
        ending, self.free = ends(self.passes), normed(self.passes)
        heads = [c for c in self.ran if self._kind(c) in LINEAR]
        heads = [c for c in heads if c == heads[-1] or self.tensors.place_of(c) in ending]
        found = {c: why for c, gain in gains.items() if (why := self._why(c, gain, heads))}
        if any(gains[c] < SMALL for c in found):  # of the first layer nothing is seen in front
            inner = [c for c in gains if (given := self.tensors.outputs_of(c)) and not {*given} <= {*heads}]
            found = {c: "nothing comes through" for c in inner if gains[c] < SMALL} | found
        if found:
            yield self._finding(step, dict(sorted((c, (gains[c], why)) for c, why in found.items())))

    def _gain(self, column: int) -> float:
        tensor = self.tensors[column]
        inputs = tensor.count // tensor.shape[0]
        is_known = tensor.module in (*LINEAR, *CLOSED) or tensor.role == "embedding"
        return float(self.row["parameter.rms"][column]) * math.sqrt(inputs if is_known else min(inputs, tensor.shape[0]))

    def _is_fresh(self, column: int) -> bool:
        """Can the weights have been drawn from a normal or uniform distribution? Trained ones have some that are far too "
        "large."""
        tensor, rms, largest = self.tensors[column], self.row["parameter.rms"][column], self.row["parameter.abs_max"][column]
        return not largest > rms * (math.sqrt(2 * math.log(2 * tensor.count)) + TAIL)

    def _why(self, column: int, gain: float, heads: list[int]) -> str:
        given = [c for c in self.tensors.outputs_of(column) if c in self.ran]
        linear = [c for c in given if self._kind(c) in LINEAR]
        if SMALL <= gain <= LARGE or not self._is_fresh(column) or self.tensors.name(column) in self.free:
            return ""
        if self.tensors[column].module in CLOSED:
            return "it is squashed at once, inside the module" if gain > CLOSED_LARGE else ""
        if linear:
            return self._of_large(linear[-1]) if gain > LARGE else self._of_small(linear[-1], heads)
        last = float(self.row["activation.rms"][self.ran[-1]]) if self.ran else math.nan
        is_called = not given and gain > LARGE and last > WIDE**2  # by a function call: only what the model gives tells of it
        return f"the model gives an rms of {number(last)}" if is_called else ""

    def _is_normed(self, output: int) -> bool:
        """Does a norm layer run before the next layer with weights? Then the scale is free."""
        for column in self.ran[self.ran.index(output) + 1 :]:
            if "Norm" in self._kind(column) or self._kind(column) in (*LINEAR, *CLOSED):
                return "Norm" in self._kind(column)
        return False

    def _is_restored(self, output: int) -> bool:
        """Does a batch norm come later, which gives outputs of size 1 whatever the size of what it is given?"""
        return any(self._kind(c).startswith("BatchNorm") for c in self.ran[self.ran.index(output) + 1 :])

    def _of_large(self, output: int) -> str:
        """A layer whose weights are too large: does it give too much, and does nothing divide it out?"""
        size = float(self.row["activation.rms"][output])
        is_normed = any("Norm" in self._kind(c) for c in self.ran[self.ran.index(output) + 1 :][:1])
        return "" if is_normed or size <= WIDE else f"it gives an rms of {number(size)}"

    def _of_small(self, output: int, heads: list[int]) -> str:
        """A layer whose weights are too small: does no gradient come through, or around it?

        Held against the gradient at its own output: what is lost further behind (in a small head, say) is not its doing.
        """
        at, slopes = self.ran.index(output), self.row["activation_gradient.l2_norm"]
        before, behind = slopes[self.ran[:at]], float(slopes[output])
        if output in heads or self._is_normed(output) or self._is_restored(output):
            return ""
        if not np.isfinite(before).any() or not behind > 0:
            return ""
        lost = float(np.nanmax(before)) / behind
        return f"the gradient before it is {number(lost)} of that behind it" if lost < FADED else ""

    def _finding(self, step: int, found: dict[int, tuple[float, str]]) -> Finding:
        worst = max(found, key=lambda c: abs(math.log(found[c][0])))
        gain, why = found[worst]
        name, first = self.tensors.name(worst), next(iter(found))
        more = f" {counted(len(found) - 1, 'more layer')} alike." if len(found) > 1 else ""
        weights = self.row["parameter.rms"]
        rows = tuple((self.tensors.name(c), float(weights[c]), g) for c, (g, _) in list(found.items())[:24])
        return Finding(
            place=self.tensors.place(self.tensors.owner(first), self.tensors[first].model) or self.tensors.name(first),
            first_step=step,
            told_step=step,
            message=f"The initial weights of {name} have a gain of {number(gain)} (rms times the root of the number of "
            f"inputs; 1 "
            f"keeps sizes), and {why}.{more}",
            evidence=(
                ValueEvidence(f"gain of {name}", gain, LARGE if gain > 1 else SMALL),
                TableEvidence(f"weights at step {step}", ("parameter", "rms", "gain"), rows),
            ),
            fix=self._fix(worst),
            depth=-0.5,  # weights are there before the first pass
        )

    def _fix(self, column: int) -> str:
        tensor = self.tensors[column]
        code = in_code(tensor.name)
        if tensor.role == "embedding":  # PyTorch starts it from N(0, 1), made for looking up
            std = number((tensor.count // tensor.shape[0]) ** -0.5)
            return (
                f"torch.nn.init.normal_({code}, std={std}): a linear layer shares it, and PyTorch's own start of an "
                f"embedding, N(0, 1), is too large for that."
            )
        is_pytorchs = tensor.module in (*LINEAR, *CLOSED)
        return f"torch.nn.init.kaiming_normal_({code}, nonlinearity='relu')" + (
            ", or leave PyTorch's own." if is_pytorchs else "."
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_judged else (Outcome.NOT_ENOUGH_DATA, "no step with weights was recorded")
