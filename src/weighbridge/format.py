"""Numbers, sizes, times and names as people read them, the same in the terminal, in reports and in messages.

Three significant digits (metrics four), `4.70×10⁻¹¹` below 10⁻³ and from 10⁵, a real minus sign, commas in counts.
What was not recorded is a dot, never 0; NaN is written NaN. Only the standard library; programs get full precision
from report/machine.py instead.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Final

NOT_RECORDED: Final = "·"
MINUS: Final = "−"
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BARS: Final = "▁▂▃▄▅▆▇█"
# A series that moves by less than this factor is drawn flat-ish: rounding noise must not look like a mountain.
_LEAST_SPAN: Final = math.log(2.0)


def number(value: float | None, digits: int = 3) -> str:
    """One number with `digits` significant digits.

    >>> number(0.05123), number(-1234.5), number(4.7e-11), number(float("nan")), number(None)
    ('0.0512', '−1,234', '4.70×10⁻¹¹', 'NaN', '·')
    """
    if value is None:
        return NOT_RECORDED
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else f"{MINUS}Inf"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")  # rounds first, so 99,999.7 becomes 1.00×10⁵
    power = int(exponent)
    if power < -3 or power >= 5:
        body = f"{mantissa}×10{str(power).translate(_RAISED)}"
    else:
        body = f"{abs(value):,.{max(digits - 1 - power, 0)}f}"
    return f"{MINUS}{body}" if value < 0 else body


def metric(value: float | None) -> str:
    """A loss or a metric of the user's own: four digits."""
    return number(value, digits=4)


def count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}".replace("-", MINUS)


def counted(value: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    >>> counted(1, "step"), counted(1200, "step"), counted(2, "bias", "biases")
    ('1 step', '1,200 steps', '2 biases')
    """
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


def share(value: float) -> str:
    """A share of 1 in per cent: `3.7 %`."""
    percent = 100 * value
    if not math.isfinite(percent):
        return NOT_RECORDED
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.0f} %" if percent >= 99.95 or percent == 0 else f"{percent:.1f} %"


def factor(value: float) -> str:
    """How many times as large: `×23`."""
    return f"×{number(value, digits=2)}"


def duration(seconds: float) -> str:
    """A span of time.

    >>> duration(0.0213), duration(7.12), duration(200), duration(7500)
    ('21 ms', '7.1 s', '3 min 20 s', '2 h 05 min')
    """
    if not math.isfinite(seconds):
        return NOT_RECORDED
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(size_bytes: int) -> str:
    """A size on disk, in MiB (KiB or GiB where that would be unreadable)."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= scale * (0.1 if unit == "MiB" else 1):
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} bytes"


def when(moment: datetime, now: datetime | None = None) -> str:
    """A local date and time; only the time if it is of today."""
    local = moment.astimezone()
    today = (now or datetime.now().astimezone()).astimezone().date()
    return f"today {local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def shape(sizes: Sequence[int]) -> str:
    """The shape of a tensor: `4×2`; a single number is `scalar`."""
    return "×".join(str(n) for n in sizes) if sizes else "scalar"


def visible(text: str) -> str:
    r"""The text with everything that a terminal would obey (escape codes, line ends, reversed writing) spelled out.

    >>> visible("a\x1b[31mb\n")
    'a\\x1b[31mb\\x0a'
    """
    return "".join(c if _is_harmless(c) else _spelled(c) for c in text)


def _is_harmless(character: str) -> bool:
    return character == " " or (unicodedata.category(character)[0] not in "CZ")


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cut_middle(text: str, width: int) -> str:
    """The text in at most `width` characters, its middle left out: the end of a tensor's name tells most."""
    if len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def sparkline(values: Sequence[float | None], scale: str = "linear") -> str:
    """A series as one character a value, on its own scale.

    `None` (not recorded) is a dot, NaN and infinity are ×, and on a log scale exactly zero is 0: neither is a small value.

    >>> sparkline([1.0, 10.0, 100.0, None, float("nan"), 0.0], "log")
    '▁▅█·×0'
    """
    places = [_place(v, scale) for v in values]
    drawn = [p for p in places if isinstance(p, float)]
    low, high = (min(drawn), max(drawn)) if drawn else (0.0, 0.0)
    span = high - low
    if scale == "log" and span < _LEAST_SPAN:
        low, span = (low + high - _LEAST_SPAN) / 2, _LEAST_SPAN
    return "".join(p if isinstance(p, str) else _bar(p - low, span) for p in places)


def _place(value: float | None, scale: str) -> float | str:
    if value is None:
        return NOT_RECORDED
    if not math.isfinite(value):
        return "×"
    if scale != "log":
        return float(value)
    return "0" if value == 0 else math.log(abs(value))


def _bar(height: float, span: float) -> str:
    if not span > 0:
        return _BARS[3]
    return _BARS[min(int(height / span * len(_BARS)), len(_BARS) - 1)]
