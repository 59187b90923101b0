"""One reader per option of a lab: any value of the Python or command-line form -> the one form that Options holds."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from weighbridge.errors import BadInput, nearest

NORMS: Final = ("none", "batch", "layer")
INITS: Final = ("default", "xavier", "xavier_normal", "he", "he_normal", "orthogonal", "zeros", "ones")
INITS_WITH_NUMBER: Final = ("constant", "normal", "uniform")
BIAS_INITS: Final = ("default", "zeros", "ones")
PARTS: Final = ("auto", "none", "inputs", "targets", "both")
LOSSES: Final = ("auto", "mse", "cross_entropy", "bce", "l1", "huber")
_YES, _NO = ("yes", "true", "on"), ("no", "false", "off")


def _word(option: str, known: Sequence[str], value: Any, aliases: dict[str, str] | None = None) -> str:
    word = "none" if value is None else str(value).strip().lower().replace("-", "_")
    word = (aliases or {}).get(word, word)
    if word not in known:
        raise BadInput(f"--{option.replace('_', '-')} {value}: not known.{nearest(word, known)} Known: {', '.join(known)}.")
    return word


def _layers(value: Any) -> str:
    return "-".join(str(v) for v in value) if isinstance(value, (tuple, list)) else str(value)


def _activation(value: Any) -> str:
    from weighbridge.teaching.networks import ACTIVATIONS

    return _word("activation", ["none", *ACTIVATIONS], value, {"leakyrelu": "leaky_relu", "identity": "none", "swish": "silu"})


def _bias(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "all" if value else "none"
    if isinstance(value, (tuple, list, set, frozenset, int)):
        numbers = [value] if isinstance(value, int) else sorted(value)
        return ",".join(str(n) for n in numbers) or "none"
    word = str(value).strip().lower().replace(" ", "")
    if word in ("all", "none"):
        return word
    if word in (*_YES, *_NO):
        return "all" if word in _YES else "none"
    try:
        return ",".join(str(n) for n in sorted({int(part) for part in word.split(",")}))
    except ValueError:
        raise BadInput(
            f"--bias {value}: say all, none, or the numbers of the layers that have one, such as 1,3 "
            f"(counted from 1).{nearest(word, ('all', 'none'))}"
        ) from None


def _norm(value: Any) -> str:
    return _word("norm", NORMS, value, {"batchnorm": "batch", "layernorm": "layer", "no": "none"})


def _init(option: str, known: Sequence[str], value: Any) -> str:
    word, _, number = str(value).strip().lower().replace("-", "_").replace("_uniform", "").partition(":")
    word = {"kaiming": "he", "kaiming_normal": "he_normal", "zero": "zeros", "glorot": "xavier"}.get(word, word)
    if word in INITS_WITH_NUMBER:
        try:
            return f"{word}:{float(str(value).partition(':')[2]):g}"
        except ValueError:
            raise BadInput(f"--{option} {value}: {word} needs a number, such as {word}:0.1.") from None
    if number:
        raise BadInput(f"--{option} {value}: {word} takes no number; {', '.join(INITS_WITH_NUMBER)} do (constant:0.1).")
    every = [*known, *(f"{w}:NUMBER" for w in INITS_WITH_NUMBER)]
    if word not in known:
        more = " A bias is a vector: it has no fan-in to scale by." if word in INITS else ""
        raise BadInput(f"--{option} {value}: not known.{nearest(word, every)}{more} Known: {', '.join(every)}.")
    return word


def _part(option: str, value: Any) -> str:
    word = str(value).lower()
    aliases = dict.fromkeys(_YES, "inputs") | dict.fromkeys(_NO, "none")
    return _word(option, PARTS, aliases.get(word, word))


def _loss(value: Any) -> str:
    aliases = {"crossentropy": "cross_entropy", "ce": "cross_entropy", "mae": "l1", "mean_squared_error": "mse"}
    return _word("loss", LOSSES, value, aliases)


def _optimizer(value: Any) -> str:
    from weighbridge.teaching.networks import optimizer_names

    word, _, rest = str(value).strip().partition(":")
    name = _word("optimizer", optimizer_names(), word.lower())
    optimizer_arguments(f"{name}:{rest}")  # raises where they cannot be read
    if name == "lbfgs" and "line_search_fn" not in rest:
        rest = ",".join(filter(None, ["line_search_fn=strong_wolfe", rest]))  # without one it leaps, and often diverges
    return f"{name}:{rest}" if rest else name


def optimizer_arguments(word: str) -> dict[str, Any]:
    """ "sgd:momentum=0.9,nesterov=true" -> {"momentum": 0.9, "nesterov": True}"""
    found: dict[str, Any] = {}
    for part in filter(None, word.partition(":")[2].split(",")):
        name, equals, value = part.partition("=")
        value = {"true": "True", "false": "False", "none": "None"}.get(value.strip().lower(), value.strip())
        if value.isidentifier() and value not in ("True", "False", "None"):
            value = repr(value)  # a bare word, as in line_search_fn=strong_wolfe
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise BadInput(f"--optimizer {word}: {part!r} is not understood; write it as in sgd:momentum=0.9,nesterov=true.")
    return found


def _lr(value: Any) -> float | None:
    if value is None or value == "auto":
        return None
    return _number("lr", value, least=0.0)


def _number(option: str, value: Any, least: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"--{option} {value}: a number is needed.") from None
    if not least <= number < float("inf"):
        raise BadInput(f"--{option} {value}: must be a finite number of at least {least:g}.")
    return number


def whole(option: str, value: Any, least: int) -> int:
    """A whole number of at least `least`. Raises BadInput."""
    number = _number(option, value, least)
    if number != int(number):
        raise BadInput(f"--{option} {value}: a whole number is needed.")
    return int(number)


def _batch(value: Any) -> int | None:
    if value is None or value == "auto":
        return None
    return 0 if value == "all" else whole("batch", value, 1)


READERS: Final[dict[str, Any]] = {
    "layers": _layers,
    "activation": _activation,
    "bias": _bias,
    "norm": _norm,
    "init": lambda v: _init("init", INITS, v),
    "init_bias": lambda v: _init("init-bias", BIAS_INITS, v),
    "centre": lambda v: _part("centre", v),
    "scale": lambda v: _part("scale", v),
    "loss": _loss,
    "optimizer": _optimizer,
    "lr": _lr,
    "epochs": lambda v: whole("epochs", v, 1),
    "batch": _batch,
}
