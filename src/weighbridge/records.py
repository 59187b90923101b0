"""The records that travel the whole road: what a row is, and the columns of every table.

docs/format.md describes the same for other programs. Nothing here imports torch.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import pyarrow as pa

FORMAT_VERSION: Final = 1

# Roles of a tensor, from its module's type and its own name.
ROLES: Final = ("weight", "bias", "norm_scale", "norm_shift", "embedding", "other", "output")  # output: what a module gives


class Quantity(IntEnum):
    """What of a tensor was weighed. The number is what stands on disk."""

    PARAMETER = 0
    GRADIENT = 1
    UPDATE = 2
    MOMENT1 = 3
    MOMENT2 = 4
    ACTIVATION = 5
    ACTIVATION_GRADIENT = 6

    @property
    def word(self) -> str:
        """The word for people: "parameter", "gradient", ..."""
        return self.name.lower()


OF_OUTPUTS: Final = (Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT)  # weighed of what modules give, not of parameters
QUANTITIES: Final = {quantity.word: quantity for quantity in Quantity}

# The histogram: sign x exponent. Bins run in the order of the values they hold:
#   0 negative above the range, 1..64 negative 2^23 .. 2^-40, 65 negative below the range,
#   66 positive below the range, 67..130 positive 2^-40 .. 2^23, 131 positive above the range.
# Zeros and non-finite values are counted apart and are in no bin.
EXPONENT_LOW: Final = -40
EXPONENT_HIGH: Final = 23
HISTOGRAM_BINS: Final = 132


def histogram_bins(bits: int) -> int:
    """Bins of a histogram with so many mantissa bits; a negative number is no histogram.

    A finer one divides each power of two into 2 or 4 (1 or 2 bits), linearly: 260 or 516 bins in the same order.
    """
    return 0 if bits < 0 else 2 * (2 + ((EXPONENT_HIGH + 1 - EXPONENT_LOW) << bits))


# Tensors of at least this many elements have every eighth 64-byte line in their histogram.
HISTOGRAM_WHOLE_BELOW: Final = 65_536
HISTOGRAM_LINE_BYTES: Final = 64
HISTOGRAM_STRIDE: Final = 8

# How what one process holds of a tensor lies in the whole: the only word in a run of one process is LOCAL.
LOCAL: Final = "local"  # all of it; nothing is known of other processes
REPLICA: Final = "replica"  # all of it, as others hold it too: this process weighs it for all
COPY: Final = "copy"  # others hold the same and one of them weighs it; here only a row now and then, to compare
SHARD: Final = "shard"  # a part of it; the rows of all parts add up
PLACEMENTS: Final = (LOCAL, REPLICA, COPY, SHARD)

NONFINITE: Final = ("nan", "pos_inf", "neg_inf")  # columns that count elements which are no finite number
WHOLE: Final = 0  # `part` of a row that describes the whole tensor

SAMPLED_ELEMENTS: Final = 4_096  # the numbers of tensors up to this size are kept, unless the plan says otherwise

_KEY = [("step", pa.int64()), ("attempt", pa.int16())]

ROWS: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("quantity", pa.int8()),
        ("part", pa.int16()),
        # counts of elements; zero includes -0.0; subnormal is meant in the tensor's own dtype
        ("count", pa.int64()),
        ("nan", pa.int64()),
        ("pos_inf", pa.int64()),
        ("neg_inf", pa.int64()),
        ("zero", pa.int64()),
        ("subnormal", pa.int64()),
        # over the finite elements; NaN where there is none
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("sum", pa.float64()),
        ("sum_abs", pa.float64()),
        ("sum_sq", pa.float64()),
        # elements that the histogram looked at, its mantissa bits (0 = one bin per octave),
        # its first bin and the counts from there on (leading and trailing zeros left out)
        ("hist_count", pa.int64()),
        ("hist_bits", pa.int8()),
        ("hist_first", pa.int16()),
        ("hist", pa.list_(pa.field("item", pa.uint32(), nullable=False))),
        # update rows only (else NaN and 0), over elements whose factors are finite
        ("dot_gradient_parameter", pa.float64()),
        ("dot_gradient_update", pa.float64()),
        ("dot_update_parameter", pa.float64()),
        ("lost", pa.int64()),  # elements with a gradient that is not 0 and an update that is
    ]
)

STEPS: Final = pa.schema(
    [
        *_KEY,
        ("optimizer", pa.int16()),
        ("optimizer_step", pa.int64()),  # this optimizer's own count, from 0
        ("loss", pa.float64()),  # mean over the backward passes, loss scale taken out; null = none seen
        ("loss_given", pa.float64()),  # sum of the roots as given to backward
        ("backward_passes", pa.int32()),
        ("skipped", pa.bool_()),
        ("found_inf", pa.float32()),
        (
            "clip_factor",
            pa.float64(),
        ),  # what multiplied the gradients after the last backward pass; NaN = nothing, or not known
        ("loss_scale", pa.float64()),  # of a GradScaler; 1 = none
        ("lr", pa.list_(pa.float64())),  # one per parameter group; NaN = the group has none
        ("momentum", pa.list_(pa.float64())),
        ("weight_decay", pa.list_(pa.float64())),
        ("epoch", pa.float64()),
        ("time_ns", pa.int64()),  # wall clock, since 1970
        ("own_ns", pa.int64()),  # time of ours inside this step, on the training thread
        ("samples", pa.int64()),  # that the backward passes were over; null = not known
    ]
)

PASSES: Final = pa.schema(
    [*_KEY, ("loss", pa.float64()), ("loss_given", pa.float64()), ("epoch", pa.float64()), ("time_ns", pa.int64())]
)

LOGS: Final = pa.schema([*_KEY, ("key", pa.string()), ("value", pa.float64()), ("text", pa.string()), ("time_ns", pa.int64())])

TENSORS: Final = pa.schema(
    [
        *_KEY,  # the step from which the tensor is known
        ("tensor", pa.int32()),
        ("model", pa.string()),
        ("name", pa.string()),
        ("role", pa.string()),
        ("module", pa.string()),  # type of the module that owns it, e.g. "Linear"
        ("shape", pa.list_(pa.int64())),
        ("dtype", pa.string()),  # e.g. "float32"
        ("count", pa.int64()),
        ("order", pa.int32()),  # order of definition (of execution where it is known)
        ("aliases", pa.list_(pa.string())),  # other names of the same tensor (tied)
        ("requires_grad", pa.bool_()),
        ("note", pa.string()),  # why it is not weighed, in words; empty where it is
        ("placement", pa.string()),  # one of PLACEMENTS
        ("local_shape", pa.list_(pa.int64())),  # of a shard: its own shape, and where in the tensor it begins
        ("local_offset", pa.list_(pa.int64())),
    ]
)

VALUES: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("quantity", pa.int8()),
        ("dtype", pa.string()),  # of the bytes: as the tensor's, little endian, C order
        ("data", pa.binary()),
    ]
)

EVENTS: Final = pa.schema(
    [
        *_KEY,
        ("kind", pa.string()),  # "config", "changed", "dropped", "skipped", "warned", ...
        ("tensor", pa.int32()),  # -1 = the whole run
        ("message", pa.string()),
        ("detail", pa.string()),  # JSON
        ("time_ns", pa.int64()),
    ]
)

# What is noteworthy of a module's output (or its gradient) at a step. No row: it was called once, and all was finite.
CALLS: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),  # of the output; -1 = the batch that came into the model
        ("quantity", pa.int8()),
        ("calls", pa.int32()),  # calls in this step
        ("nonfinite_call", pa.int32()),  # the first call with NaN or infinity in it, from 0; -1 = all finite
        ("place", pa.int32()),  # when it was met in this step: 0, 1, 2, ... over forward and backward; -1 = all finite
    ]
)

# Per unit of an output, over `steps` weighed steps since the last row; each list has one entry per unit.
UNITS: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("quantity", pa.int8()),
        ("steps", pa.int32()),  # weighed steps in this row
        ("n", pa.int64()),  # numbers seen of each unit
        ("active", pa.list_(pa.field("item", pa.int64(), nullable=False))),  # how many of them were above 0
        ("sum", pa.list_(pa.field("item", pa.float64(), nullable=False))),  # over the finite ones
        ("sum_sq", pa.list_(pa.field("item", pa.float64(), nullable=False))),
        ("max", pa.list_(pa.field("item", pa.float32(), nullable=False))),  # largest absolute value
    ]
)

# How the vectors of an output differ, over a part of it taken evenly: Y [samples, positions, features]. tensor -1 = the batch.
SPREAD: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("samples", pa.int32()),
        ("positions", pa.int32()),
        ("features", pa.int32()),
        ("sum_sq", pa.float64()),  # sum of Y^2; NaN where nothing could be looked at
        ("sample_sq", pa.float64()),  # sum of (Y - its mean over samples)^2
        ("position_sq", pa.float64()),  # sum of (Y - its mean over positions)^2
        ("vectors", pa.int32()),  # rows of V: the vectors of Y - its mean over samples, taken evenly
        ("trace", pa.float64()),  # of K = V V^T: sum of its eigenvalues
        ("trace_sq", pa.float64()),  # sum of K^2: of their squares; trace^2 / trace_sq = participation ratio
        ("logit", pa.float64()),  # of attention: largest |q.k| / sqrt(size of a head); NaN = no queries and keys
        # the function through which this output is given to the next module of the same optimizer: "tanh", "relu", ...
        ("bend", pa.string()),  # empty = none was seen
        ("flat", pa.float64()),  # share of its numbers at which the function's slope is nearly 0; NaN = none was seen
        ("flat_units", pa.float64()),  # share of the units that are there for more than 95 % of the numbers,
        ("asleep_units", pa.float64()),  # and for all of them
    ]
)

# Do inputs and targets of a batch go together? Two sums over part of it, and their variances where they do not.
PAIRING: Final = pa.schema(
    [
        *_KEY,
        ("samples", pa.int32()),  # that differ in their inputs
        ("distance", pa.float64()),  # sum over pairs of U-centred distances between inputs times those between targets
        ("distance_variance", pa.float64()),
        ("neighbour", pa.float64()),  # targets that agree with that of the nearest earlier input, less those expected
        ("neighbour_variance", pa.float64()),
        ("inputs", pa.float64()),  # checksum of the batch, and of its targets
        ("targets", pa.float64()),
        ("loss", pa.string()),  # the loss function, by autograd's name
        ("batch", pa.int32()),  # samples looked at
        ("first", pa.list_(pa.float64())),  # of whole numbers, classes that there were; else sums of the targets, by column
        ("second", pa.list_(pa.float64())),  # how many of each; or sums of their squares
    ]
)

# What a bias adds beside W.x, over all outputs of its module at this step: y = W.x + b.
BIASES: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),  # of the bias
        ("n", pa.int64()),  # numbers seen of each unit
        ("bias_sq", pa.float64()),  # n * sum of b^2
        ("rest_sq", pa.float64()),  # sum of (y - b)^2, that is of (W.x)^2
        ("dot", pa.float64()),  # sum of b * (y - b)
    ]
)

# What is kept of a gradient, to compare it with the next one: all of its numbers, or a sketch of so many.
SKETCH_NUMBERS: Final = 1024

# The gradient that an optimizer used at a step and the one that it had used at its step before. The sums are over what was
# kept of both: exact where `numbers` is `count`. No row where one of them was not finite.
COHERENCE: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("step_before", pa.int64()),  # the step of the earlier one
        ("count", pa.int64()),  # elements
        ("numbers", pa.int64()),  # that the sums are over: `count`, or those of a sketch
        ("dot", pa.float64()),  # sum of earlier * later
        ("sum_sq_before", pa.float64()),
        ("sum_sq", pa.float64()),
    ]
)

# A gradient that several backward passes have added up: its size after the first of them and after the last.
ACCUMULATION: Final = pa.schema(
    [
        *_KEY,
        ("tensor", pa.int32()),
        ("count", pa.int64()),  # elements
        ("passes", pa.int32()),
        ("sum_sq_first", pa.float64()),  # loss scale taken out of both
        ("sum_sq", pa.float64()),  # before any clipping
    ]
)

# What the rules have found while the training ran (diagnosis/kept.py). `step` is the last one whose rows were needed.
FINDINGS: Final = pa.schema(
    [
        *_KEY,
        ("rule", pa.string()),
        ("severity", pa.string()),  # "error", "warning" or "note"
        ("certainty", pa.string()),  # "proof", "test" or "heuristic"
        ("place", pa.string()),  # module or parameter, "input", or empty for the whole run
        ("first_step", pa.int64()),  # at which it began; -1 = before training
        ("depth", pa.float64()),  # when inside that step: 0 to 1 forward, 1 to 2 backward, from 2 on the optimizer
        ("message", pa.string()),
        ("fix", pa.string()),
        ("experiment", pa.string()),
        ("evidence", pa.string()),  # JSON
        ("time_ns", pa.int64()),
    ]
)
# The graphs of the first losses of a run, each with the numbers of its pass: see firstpass.py.
GRAPH: Final = pa.schema([*_KEY, ("detail", pa.string())])  # JSON

TABLES: Final = {
    "rows": ROWS,
    "steps": STEPS,
    "passes": PASSES,
    "logs": LOGS,
    "tensors": TENSORS,
    "values": VALUES,
    "events": EVENTS,
    "calls": CALLS,
    "units": UNITS,
    "spread": SPREAD,
    "pairing": PAIRING,
    "biases": BIASES,
    "coherence": COHERENCE,
    "accumulation": ACCUMULATION,
    "findings": FINDINGS,
    "graph": GRAPH,
}
