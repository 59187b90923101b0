"""Every statistic, defined once.

A formula is written over the columns of a row (`records.ROWS`) and `finite`, the number of finite elements. The same
text is evaluated by NumPy and by the query engine, so the two cannot part. What merges is stored (counts, extremes,
sums, histogram); what does not (rms, std, ...) is derived from it here and never stored.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

import numpy as np

from weighbridge.errors import UnknownStatistic, nearest
from weighbridge.records import QUANTITIES, Quantity

FINITE: Final = '("count" - nan - pos_inf - neg_inf)'


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic of one quantity of one tensor at one step."""

    name: str
    symbol: str
    unit: str  # "" = that of the tensor itself
    formula: str  # over the columns of a row; evaluated by NumPy and by SQL alike
    merge: str  # how two shards or steps merge: "+", "min", "max", or "from sums" for a derived one
    plain: str  # one sentence
    scale: str = "linear"  # how it is drawn: linear, log, signed, count
    quantities: tuple[Quantity, ...] = tuple(Quantity)
    source: str = ""


_U = (Quantity.UPDATE,)

_ALL = [
    Statistic("rms", "rms", "", "sqrt(sum_sq / finite)", "from sums", "Root of the mean square: the typical size.", "log"),
    Statistic("mean", "μ", "", "sum / finite", "from sums", "Mean of the finite elements.", "signed"),
    Statistic("abs_mean", "mean |x|", "", "sum_abs / finite", "from sums", "Mean of the absolute values.", "log"),
    Statistic(
        "std",
        "σ",
        "",
        "sqrt(greatest(sum_sq / finite - (sum / finite) * (sum / finite), 0))",
        "from sums",
        "Standard deviation around the mean (population form, divided by n).",
        "log",
    ),
    Statistic("l2_norm", "‖x‖₂", "", "sqrt(sum_sq)", "from sums", "Euclidean norm.", "log"),
    Statistic("l1_norm", "‖x‖₁", "", "sum_abs", "+", "Sum of the absolute values.", "log"),
    Statistic("sum", "Σx", "", "sum", "+", "Sum of the finite elements.", "signed"),
    Statistic("min", "min", "", "min", "min", "Smallest finite element.", "signed"),
    Statistic("max", "max", "", "max", "max", "Largest finite element.", "signed"),
    Statistic("abs_max", "max |x|", "", "greatest(abs(min), abs(max))", "from sums", "Largest absolute value.", "log"),
    Statistic("zero_fraction", "zeros", "share", "zero / count", "from sums", "Share of elements that are exactly 0."),
    Statistic(
        "nonfinite_count", "NaN+Inf", "elements", "nan + pos_inf + neg_inf", "+", "Elements that are NaN or infinite.", "count"
    ),
    Statistic("nan_count", "NaN", "elements", "nan", "+", "Elements that are not a number.", "count"),
    Statistic("pos_inf_count", "+Inf", "elements", "pos_inf", "+", "Elements that are +infinity.", "count"),
    Statistic("neg_inf_count", "−Inf", "elements", "neg_inf", "+", "Elements that are −infinity.", "count"),
    Statistic("zero_count", "zeros", "elements", "zero", "+", "Elements that are exactly 0 (−0 included).", "count"),
    Statistic(
        "subnormal_count",
        "subnormal",
        "elements",
        "subnormal",
        "+",
        "Elements too small for the dtype's full precision.",
        "count",
    ),
    Statistic("count", "n", "elements", "count", "+", "Number of elements.", "count"),
    Statistic(
        "lost_fraction",
        "lost",
        "share",
        "lost / count",
        "from sums",
        "Share of elements whose gradient is not 0 and whose update is: lost in rounding.",
        quantities=_U,
    ),
    Statistic(
        "dot_gradient_parameter", "⟨g,w⟩", "", "dot_gradient_parameter", "+", "Gradient times parameter, summed.", "signed", _U
    ),
    Statistic("dot_gradient_update", "⟨g,u⟩", "", "dot_gradient_update", "+", "Gradient times update, summed.", "signed", _U),
    Statistic(
        "dot_update_parameter", "⟨u,w⟩", "", "dot_update_parameter", "+", "Update times parameter, summed.", "signed", _U
    ),
]

# One statistic needs two rows: the size of the update over the size of the parameter before it.
RATIO: Final = Statistic(
    "ratio",
    "rms(u)/rms(w)",
    "",
    "sqrt(sum_sq / finite) / parameter_rms",
    "from sums",
    "Size of the update over the size of the parameter that it changed.",
    "log",
    _U,
    "CS231n notes, 'Ratio of weights:updates'",
)

_G = (Quantity.GRADIENT,)
_MCCANDLISH = "McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix A.1"

# Of two successive gradients of an optimizer; over the columns of the table `coherence` (store/coherence.py).
SUCCESSIVE: Final[dict[str, Statistic]] = {
    s.name: s
    for s in [
        Statistic(
            "cosine",
            "cos(g, g′)",
            "",
            "dot / sqrt(sum_sq_before * sum_sq)",
            "from sums",
            "Cosine of the angle between the gradient and that of the optimizer's step before.",
            quantities=_G,
        ),
        Statistic(
            "signal", "|G|²", "", "dot", "+", "Squared norm of the gradient without its noise.", "signed", _G, _MCCANDLISH
        ),
        Statistic(
            "noise",
            "tr Σ / B",
            "",
            "(sum_sq_before + sum_sq) / 2 - dot",
            "+",
            "Squared norm of the noise in a step's gradient.",
            "signed",
            _G,
            _MCCANDLISH,
        ),
    ]
}

# Of a gradient that several backward passes have added up; over the columns of the table `accumulation`.
ACCUMULATED: Final[dict[str, Statistic]] = {
    s.name: s
    for s in [
        Statistic(
            "signal",
            "|G|²",
            "",
            "(sum_sq - passes * sum_sq_first) / (passes * (passes - 1))",
            "+",
            "Squared norm of the gradient without its noise, as one pass scales it.",
            "signed",
            _G,
            _MCCANDLISH,
        ),
        Statistic(
            "noise",
            "tr Σ / b",
            "",
            "(passes * passes * sum_sq_first - sum_sq) / (passes * (passes - 1))",
            "+",
            "Squared norm of the noise in the gradient of one pass.",
            "signed",
            _G,
            _MCCANDLISH,
        ),
    ]
}

STATISTICS: Final[dict[str, Statistic]] = {s.name: s for s in [*_ALL, RATIO]}


def all_names(quantities: Iterable[Quantity] = (Quantity.PARAMETER, Quantity.GRADIENT, Quantity.UPDATE)) -> list[str]:
    """Every full name, "gradient.rms" and so on, of these quantities (default: those of every step)."""
    return [f"{q.word}.{s.name}" for q in quantities for s in STATISTICS.values() if q in s.quantities]


def parse(name: str) -> tuple[Quantity, Statistic]:
    """Take "gradient.rms" apart. Raises UnknownStatistic with the nearest names."""
    word, _, rest = name.partition(".")
    quantity, statistic = QUANTITIES.get(word), STATISTICS.get(rest)
    if quantity is None or statistic is None or quantity not in statistic.quantities:
        raise UnknownStatistic(
            f"There is no statistic {name!r}; a statistic is named quantity.statistic, such as gradient.rms."
            f"{nearest(name, all_names())} All of them: weighbridge show --help"
        )
    return quantity, statistic


def sql(statistic: Statistic) -> str:
    """The formula as an SQL expression over the columns of the table of rows."""
    text = statistic.formula
    for column in ("count", "min", "max", "sum"):  # names of SQL functions too: quoted, they are columns
        text = _replace_word(text, column, f'"{column}"')
    return _replace_word(text, "finite", FINITE)


def evaluate(statistic: Statistic, columns: Mapping[str, Any]) -> np.ndarray:
    """The formula over NumPy columns (float64 in, float64 out; 0/0 is NaN, never an error)."""
    return evaluate_all([statistic], columns)[0]


def evaluate_all(statistics: Iterable[Statistic], columns: Mapping[str, Any]) -> list[np.ndarray]:
    """The same of several, over the same columns."""
    names: dict[str, Any] = {k: np.asarray(v, dtype=np.float64) for k, v in columns.items() if k != "hist"}
    if "finite" not in names and "nan" in names:
        names["finite"] = names["count"] - names["nan"] - names["pos_inf"] - names["neg_inf"]
    names |= {"sqrt": np.sqrt, "greatest": np.maximum, "abs": np.abs, "__builtins__": {}}
    with np.errstate(all="ignore"):
        return [np.asarray(eval(_compiled(one.formula), names), dtype=np.float64) for one in statistics]


@functools.cache
def _compiled(formula: str) -> CodeType:
    return compile(formula, "<formula>", "eval")  # our own constant


def _replace_word(text: str, word: str, by: str) -> str:
    import re

    return re.sub(rf"(?<![\w\"]){word}(?![\w\"(])", by, text)
