"""What Triton's kernels are made of: numbers of every kind, the sums of one row, its histogram.

Sums run in float64, as on the CPU. A tile is [T, E]: T lanes with E neighbouring elements each, summed inside a lane until the
piece is done.
"""

from __future__ import annotations

import triton
import triton.language as tl

# What is written for each piece and row, in this order; then as many counts as the histogram has bins.
STATS = ("nan", "pos_inf", "neg_inf", "zero", "subnormal", "sum", "sum_abs", "sum_sq")
CROSS = ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter", "lost")  # 8 to 11
EXTREMES = ("min", "max")  # 12 and 13; inf and -inf where there is no finite number
WIDTH = tl.constexpr(16)
ROWS = tl.constexpr(3)  # parameter before, gradient, update

F32 = tl.constexpr(0)  # the codes of kernel.py, and those of eight bits
F64 = tl.constexpr(1)
F16 = tl.constexpr(2)
BF16 = tl.constexpr(3)
E4M3 = tl.constexpr(4)
E5M2 = tl.constexpr(5)

LOW = tl.constexpr(-40)  # records.py: exponents 2^-40 .. 2^23 have bins of their own
OCTAVES = tl.constexpr(64)
WHOLE_BELOW = tl.constexpr(65536)
STRIDE = tl.constexpr(8)


@triton.jit
def pointer_to(address, kind: tl.constexpr, aligned: tl.constexpr):
    """A pointer to elements of this kind. Triton loads 16 bytes at once only where it is told that they lie so."""
    if kind == F32:
        pointer = address.to(tl.pointer_type(tl.float32))
    elif kind == F64:
        pointer = address.to(tl.pointer_type(tl.float64))
    elif kind == F16:
        pointer = address.to(tl.pointer_type(tl.float16))
    elif kind == BF16:
        pointer = address.to(tl.pointer_type(tl.uint16))
    else:
        pointer = address.to(tl.pointer_type(tl.uint8))
    return tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
def widened(raw, kind: tl.constexpr):
    """Their values, exactly: float32 for all but float64."""
    if kind == F32 or kind == F64:
        return raw
    elif kind == F16:
        return raw.to(tl.float32)
    elif kind == BF16:  # the upper half of a float32
        return (raw.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif kind == E5M2:  # the upper half of a float16
        return (raw.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
    else:  # E4M3: no infinities, one NaN of each sign
        code = raw.to(tl.int32)
        magnitude = code & 0x7F
        normal = ((magnitude << 20) + (120 << 23)).to(tl.float32, bitcast=True)
        value = tl.where(magnitude < 8, magnitude.to(tl.float32) * 0.001953125, normal)
        value = tl.where(magnitude == 0x7F, float("nan"), value)
        return tl.where(code > 127, -value, value)


@triton.jit
def _bits(x, wide: tl.constexpr):
    if wide:
        return x.to(tl.int64, bitcast=True)
    else:
        return x.to(tl.int32, bitcast=True)


@triton.jit
def magnitude_of(x, wide: tl.constexpr):
    if wide:
        return _bits(x, wide) & 0x7FFFFFFFFFFFFFFF
    else:
        return _bits(x, wide) & 0x7FFFFFFF


@triton.jit
def _infinite(wide: tl.constexpr):
    return 0x7FF0000000000000 if wide else 0x7F800000


@triton.jit
def _smallest_normal(kind: tl.constexpr):
    """Its bits in the wider form."""
    if kind == F64:
        return 0x0010000000000000
    elif kind == F16 or kind == E5M2:
        return 0x38800000
    elif kind == E4M3:
        return 0x3C800000
    else:
        return 0x00800000


@triton.jit
def _line(kind: tl.constexpr):
    """Elements of a 64-byte line."""
    return 8 if kind == F64 else 16 if kind == F32 else 32 if kind == F16 or kind == BF16 else 64


@triton.jit
def finite_of(x, wide: tl.constexpr):
    """x in float64 with zeros in place of NaN and infinity: they add nothing to a sum or a product."""
    return tl.where(magnitude_of(x, wide) < _infinite(wide), x, 0.0).to(tl.float64)


@triton.jit
def new_sums(T: tl.constexpr, wide: tl.constexpr):
    """The sums of one row, one of each for every lane: counts of what is not finite, of what is small, sums, extremes."""
    none = tl.zeros([T], tl.int32)
    zero = tl.zeros([T], tl.float64)
    infinite = tl.zeros([T], tl.float64 if wide else tl.float32) + float("inf")
    return none, none, zero, zero, zero, infinite, -infinite


@triton.jit
def add_tile(row, x, mask, kind: tl.constexpr, wide: tl.constexpr):
    """Add a tile of [T, E] elements to a row; lanes outside the mask hold 0 and count as nothing.

    Counts share a register, for there are few: NaN, +infinity and -infinity have ten bits each, zeros and subnormals
    sixteen, and a lane sees at most 1,023 elements of a piece.
    """
    odd, small, total, total_abs, total_sq, least, most = row
    magnitude = magnitude_of(x, wide)
    infinite: tl.constexpr = _infinite(wide)
    is_infinite = tl.where(x > 0, 1 << 10, 1 << 20)
    odd += tl.sum(tl.where(magnitude < infinite, 0, tl.where(magnitude > infinite, 1, is_infinite)), 1)
    is_small = tl.where(magnitude == 0, 1, 1 << 16)
    small += tl.sum(tl.where((magnitude < _smallest_normal(kind)) & mask, is_small, 0), 1)
    is_there = (magnitude < infinite) & mask
    value = tl.where(is_there, x, 0.0).to(tl.float64)
    total += tl.sum(value, 1)
    total_abs += tl.sum(tl.abs(value), 1)
    total_sq += tl.sum(value * value, 1)
    comparable = tl.where(is_there, x, float("nan"))  # the lesser and the greater of NaN and a number is the number
    least = tl.minimum(least, tl.min(comparable, 1))
    most = tl.maximum(most, tl.max(comparable, 1))
    return odd, small, total, total_abs, total_sq, least, most


@triton.jit
def write_sums(at, row):
    """A piece's row into its place, float64 throughout: counts are exact there up to 2^53."""
    odd, small, total, total_abs, total_sq, least, most = row
    tl.store(at, tl.sum(odd & 1023, 0).to(tl.float64))
    tl.store(at + 1, tl.sum(odd >> 10 & 1023, 0).to(tl.float64))
    tl.store(at + 2, tl.sum(odd >> 20, 0).to(tl.float64))
    tl.store(at + 3, tl.sum(small & 65535, 0).to(tl.float64))
    tl.store(at + 4, tl.sum(small >> 16, 0).to(tl.float64))
    tl.store(at + 5, tl.sum(total, 0))
    tl.store(at + 6, tl.sum(total_abs, 0))
    tl.store(at + 7, tl.sum(total_sq, 0))
    for unused in tl.static_range(8, 12):
        tl.store(at + unused, 0.0)
    tl.store(at + 12, tl.min(least, 0).to(tl.float64))
    tl.store(at + 13, tl.max(most, 0).to(tl.float64))
    tl.store(at + 14, 0.0)
    tl.store(at + 15, 0.0)


@triton.jit
def _bins(x, mask, wide: tl.constexpr, fine: tl.constexpr, BINS: tl.constexpr):
    """How many elements of a flat tile fall into each bin. Zeros and what is not finite go into the last, which is none."""
    mantissa: tl.constexpr = 52 if wide else 23
    bias: tl.constexpr = 1023 if wide else 127
    low: tl.constexpr = ((bias + LOW) << fine) - 1
    half: tl.constexpr = 2 + (OCTAVES << fine)
    magnitude = magnitude_of(x, wide)
    place = (magnitude >> (mantissa - fine)) - low
    place = tl.minimum(tl.maximum(place, 0), half - 1).to(tl.int32)
    chosen = tl.where(_bits(x, wide) < 0, half - 1 - place, half + place)
    counted = mask & (magnitude > 0) & (magnitude < _infinite(wide))
    return tl.histogram(tl.where(counted, chosen, BINS - 1), BINS)


@triton.jit
def _looked_at(start, first, stride, kind: tl.constexpr, TILE: tl.constexpr):
    """The elements that the histogram looks at, from the start-th of a piece on: all, or those of every eighth line."""
    line: tl.constexpr = _line(kind)
    index = start + tl.arange(0, TILE)
    return first + (index // line) * (line * stride) + index % line


@triton.jit
def _stride(count):
    return tl.where(count < WHOLE_BELOW, 1, STRIDE)


@triton.jit
def _number_looked_at(length, stride, kind: tl.constexpr):
    line: tl.constexpr = _line(kind)
    return length // (line * stride) * line + tl.minimum(length % (line * stride), line)


@triton.jit
def histogram_of(x, first, length, count, kind: tl.constexpr, fine: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr):
    """Of one tensor's piece. Pieces begin at a multiple of eight lines."""
    wide: tl.constexpr = kind == F64
    stride = _stride(count)
    found = tl.zeros([BINS], tl.int32)
    for start in range(0, _number_looked_at(length, stride, kind), TILE):
        offsets = _looked_at(start, first, stride, kind, TILE)
        mask = offsets < first + length
        found += _bins(widened(tl.load(x + offsets, mask=mask, other=0), kind), mask, wide, fine, BINS)
    return found


@triton.jit
def histograms_of(
    after, before, first, length, count, kind: tl.constexpr, fine: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr
):
    """Of the copy from before the step and of the update."""
    wide: tl.constexpr = kind == F64
    stride = _stride(count)
    of_before = tl.zeros([BINS], tl.int32)
    of_update = tl.zeros([BINS], tl.int32)
    for start in range(0, _number_looked_at(length, stride, kind), TILE):
        offsets = _looked_at(start, first, stride, kind, TILE)
        mask = offsets < first + length
        was = widened(tl.load(before + offsets, mask=mask, other=0), kind)
        update = widened(tl.load(after + offsets, mask=mask, other=0), kind) - was
        of_before += _bins(was, mask, wide, fine, BINS)
        of_update += _bins(update, mask, wide, fine, BINS)
    return of_before, of_update
