"""The summary kernel for GPUs, in Triton: the same numbers as native/weighbridge_kernel.c, which says what each means.

One program weighs one piece of one tensor and writes its sums beside those of the other pieces; `add_up` adds them in
their order, so the same bytes always give the same sums. Nothing is counted with atomics. All sums run in float64, as on
the CPU. A tensor is told by its address: gradients move from step to step, and a table of numbers is quicker to renew
than a thousand arguments.
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
def _at(address, kind: tl.constexpr, aligned: tl.constexpr):
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
def _widen(raw, kind: tl.constexpr):
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
def _magnitude(x, wide: tl.constexpr):
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
def _finite(x, wide: tl.constexpr):
    """x in float64 with zeros in place of NaN and infinity: they add nothing to a sum or a product."""
    return tl.where(_magnitude(x, wide) < _infinite(wide), x, 0.0).to(tl.float64)


@triton.jit
def _start(T: tl.constexpr, wide: tl.constexpr):
    """The sums of one row, one of each for every lane: counts of what is not finite, of what is small, sums, extremes."""
    none = tl.zeros([T], tl.int32)
    zero = tl.zeros([T], tl.float64)
    infinite = tl.zeros([T], tl.float64 if wide else tl.float32) + float("inf")
    return none, none, zero, zero, zero, infinite, -infinite


@triton.jit
def _count(row, x, mask, kind: tl.constexpr, wide: tl.constexpr):
    """Add a tile of [T, E] elements to a row; lanes outside the mask hold 0 and count as nothing.

    Counts share a register, for there are few: NaN, +infinity and -infinity have ten bits each, zeros and subnormals
    sixteen, and a lane sees at most 1,023 elements of a piece.
    """
    odd, small, total, total_abs, total_sq, least, most = row
    magnitude = _magnitude(x, wide)
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
def _write(at, row):
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
    magnitude = _magnitude(x, wide)
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
def _histogram(x, first, length, count, kind: tl.constexpr, fine: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr):
    """Of one tensor's piece. Pieces begin at a multiple of eight lines."""
    wide: tl.constexpr = kind == F64
    stride = _stride(count)
    found = tl.zeros([BINS], tl.int32)
    for start in range(0, _number_looked_at(length, stride, kind), TILE):
        offsets = _looked_at(start, first, stride, kind, TILE)
        mask = offsets < first + length
        found += _bins(_widen(tl.load(x + offsets, mask=mask, other=0), kind), mask, wide, fine, BINS)
    return found


@triton.jit
def _histograms(
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
        was = _widen(tl.load(before + offsets, mask=mask, other=0), kind)
        update = _widen(tl.load(after + offsets, mask=mask, other=0), kind) - was
        of_before += _bins(was, mask, wide, fine, BINS)
        of_update += _bins(update, mask, wide, fine, BINS)
    return of_before, of_update


@triton.jit
def _step_tile(sums, after, before, gradient, offsets, mask, kind: tl.constexpr, gradient_kind: tl.constexpr):
    """Add a tile to the three rows and the cross terms, and refresh the copy."""
    w_row, g_row, u_row, gw, gu, uw, lost = sums
    wide: tl.constexpr = kind == F64
    gradient_wide: tl.constexpr = gradient_kind == F64
    raw = tl.load(after + offsets, mask=mask, other=0)
    now, was = _widen(raw, kind), _widen(tl.load(before + offsets, mask=mask, other=0), kind)
    g = _widen(tl.load(gradient + offsets, mask=mask, other=0), gradient_kind)
    u = now - was
    tl.store(before + offsets, raw, mask=mask)
    w_row = _count(w_row, was, mask, kind, wide)
    g_row = _count(g_row, g, mask, gradient_kind, gradient_wide)
    u_row = _count(u_row, u, mask, F64 if wide else F32, wide)
    w64, g64, u64 = _finite(was, wide), _finite(g, gradient_wide), _finite(u, wide)
    gw += tl.sum(g64 * w64, 1)
    gu += tl.sum(g64 * u64, 1)
    uw += tl.sum(u64 * w64, 1)
    lost += tl.sum(((_magnitude(g, gradient_wide) != 0) & (_magnitude(u, wide) == 0) & mask).to(tl.int32), 1)
    return w_row, g_row, u_row, gw, gu, uw, lost


@triton.jit(do_not_specialize=["n"])
def weigh_steps(
    pieces, addresses, counts, stats, hists, n,
    kind: tl.constexpr, gradient_kind: tl.constexpr, fine: tl.constexpr, aligned: tl.constexpr,
    T: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """The three rows of a step and its cross terms, and the copy refreshed, in one pass.

    pieces     int64 [programs, 4]: tensor, first element, elements, slot
    addresses  int64 [3, n]: of parameters, of gradients, of the parameters' copies from before the step
    counts     int64 [n]: elements
    stats      float64 [slots, 3, 16], hists int32 [slots, 3, BINS]: what is written
    fine       mantissa bits of the histogram, -1: none
    aligned    all addresses are multiples of 16
    """
    piece = pieces + tl.program_id(0) * 4
    item, length, slot = tl.load(piece), tl.load(piece + 2).to(tl.int32), tl.load(piece + 3)
    first = tl.multiple_of(tl.load(piece + 1), 512)
    count = tl.load(counts + item)
    after = _at(tl.load(addresses + item), kind, aligned)
    before = _at(tl.load(addresses + 2 * n + item), kind, aligned)
    gradient = _at(tl.load(addresses + n + item), gradient_kind, aligned)
    wide: tl.constexpr = kind == F64
    gradient_wide: tl.constexpr = gradient_kind == F64

    if fine >= 0:
        bins = tl.arange(0, BINS)
        of_before, of_update = _histograms(after, before, first, length, count, kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS) * BINS + bins, of_before)
        tl.store(hists + (slot * ROWS + 2) * BINS + bins, of_update)
        of_gradient = _histogram(gradient, first, length, count, gradient_kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS + 1) * BINS + bins, of_gradient)
        tl.debug_barrier()  # the copy is refreshed below, by other threads than have read it here

    zero = tl.zeros([T], tl.float64)
    sums = _start(T, wide), _start(T, gradient_wide), _start(T, wide), zero, zero, zero, tl.zeros([T], tl.int32)
    lanes = tl.arange(0, T)[:, None] * E + tl.arange(0, E)[None, :]
    after, before, gradient = after + first, before + first, gradient + first
    whole = length // (T * E)
    for tile in range(whole):
        everywhere = tl.full([T, E], 1, tl.int1)
        sums = _step_tile(sums, after, before, gradient, tile * (T * E) + lanes, everywhere, kind, gradient_kind)
    rest = whole * (T * E) + lanes
    sums = _step_tile(sums, after, before, gradient, rest, rest < length, kind, gradient_kind)
    w_row, g_row, u_row, gw, gu, uw, lost = sums
    at = stats + slot * ROWS * WIDTH
    _write(at, w_row)
    _write(at + WIDTH, g_row)
    _write(at + 2 * WIDTH, u_row)
    tl.store(at + 2 * WIDTH + 8, tl.sum(gw, 0))
    tl.store(at + 2 * WIDTH + 9, tl.sum(gu, 0))
    tl.store(at + 2 * WIDTH + 10, tl.sum(uw, 0))
    tl.store(at + 2 * WIDTH + 11, tl.sum(lost, 0).to(tl.float64))


@triton.jit(do_not_specialize=["row"], do_not_specialize_on_alignment=["addresses"])
def weigh_alone(
    pieces, addresses, counts, stats, hists, row,
    kind: tl.constexpr, fine: tl.constexpr, aligned: tl.constexpr,
    T: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """One row, number `row` of the three, of each tensor on its own. `addresses`: int64 [n]."""
    piece = pieces + tl.program_id(0) * 4
    item, length, slot = tl.load(piece), tl.load(piece + 2).to(tl.int32), tl.load(piece + 3)
    first = tl.multiple_of(tl.load(piece + 1), 512)
    count = tl.load(counts + item)
    x = _at(tl.load(addresses + item), kind, aligned)
    wide: tl.constexpr = kind == F64
    if fine >= 0:
        found = _histogram(x, first, length, count, kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS + row) * BINS + tl.arange(0, BINS), found)
    sums = _start(T, wide)
    lanes = tl.arange(0, T)[:, None] * E + tl.arange(0, E)[None, :]
    x += first
    whole = length // (T * E)
    for tile in range(whole):
        everywhere = tl.full([T, E], 1, tl.int1)
        sums = _count(sums, _widen(tl.load(x + tile * (T * E) + lanes), kind), everywhere, kind, wide)
    rest = whole * (T * E) + lanes
    mask = rest < length
    sums = _count(sums, _widen(tl.load(x + rest, mask=mask, other=0), kind), mask, kind, wide)
    _write(stats + (slot * ROWS + row) * WIDTH, sums)


@triton.jit(do_not_specialize=["address", "count", "piece", "slot", "entry", "flag"])
def weigh_one(
    address, count, piece, stats, slot, hists, entry, flags, flag,
    kind: tl.constexpr, fine: tl.constexpr, aligned: tl.constexpr, T: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """The row of one tensor that has come by itself, a program for each piece of so many elements.

    stats  float64 [slots, 16]: written from `slot` on
    hists  int32 [entries, BINS]: counts are added to those of `entry`; whole numbers, so in any order the same
    flags  float32: number `flag` becomes infinite where NaN or infinity is in the tensor
    """
    number = tl.program_id(0).to(tl.int64)
    first = tl.multiple_of(number * piece, 512)
    length = tl.minimum(count - first, piece).to(tl.int32)
    x = _at(address.to(tl.int64), kind, aligned)
    wide: tl.constexpr = kind == F64
    if fine >= 0:
        found = _histogram(x, first, length, count, kind, fine, TILE, BINS)
        bins = tl.arange(0, BINS)
        tl.atomic_add(hists + entry * BINS + bins, found, mask=found > 0)
    sums = _start(T, wide)
    lanes = tl.arange(0, T)[:, None] * E + tl.arange(0, E)[None, :]
    x += first
    whole = length // (T * E)
    for tile in range(whole):
        everywhere = tl.full([T, E], 1, tl.int1)
        sums = _count(sums, _widen(tl.load(x + tile * (T * E) + lanes), kind), everywhere, kind, wide)
    rest = whole * (T * E) + lanes
    mask = rest < length
    sums = _count(sums, _widen(tl.load(x + rest, mask=mask, other=0), kind), mask, kind, wide)
    _write(stats + (slot + number) * WIDTH, sums)
    if tl.sum(sums[0], 0) > 0:
        tl.store(flags + flag, float("inf"))


@triton.jit
def add_up(
    stats, hists, slots, out, out_hists,
    fine: tl.constexpr, S: tl.constexpr, BINS: tl.constexpr, SOME: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The rows of one tensor from those of its pieces: program 0 of the last axis the sums, the others some bins each.

    slots: int64 [n + 1], where each tensor's slots begin. ROWS: of a tensor.
    """
    item, row, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(slots + item), tl.load(slots + item + 1)
    if part == 0:
        column = tl.arange(0, WIDTH)
        total = tl.zeros([WIDTH], tl.float64)
        least = tl.zeros([WIDTH], tl.float64) + float("inf")
        most = -least
        for start in range(begin, end, S):
            slot = start + tl.arange(0, S)
            there = (slot < end)[:, None]
            numbers = tl.load(stats + ((slot * ROWS + row) * WIDTH)[:, None] + column[None, :], mask=there, other=0.0)
            total += tl.sum(numbers, 0)
            least = tl.minimum(least, tl.min(tl.where(there, numbers, float("inf")), 0))
            most = tl.maximum(most, tl.max(tl.where(there, numbers, -float("inf")), 0))
        found = tl.where(column < 12, total, tl.where(column == 12, least, most))
        tl.store(out + (item * ROWS + row) * WIDTH + column, found)
    elif fine >= 0:
        bins = (part - 1) * SOME + tl.arange(0, SOME)
        counts = tl.zeros([SOME], tl.int32)
        for start in range(begin, end, S):
            slot = start + tl.arange(0, S)
            at = hists + ((slot * ROWS + row) * BINS)[:, None] + bins[None, :]
            counts += tl.sum(tl.load(at, mask=(slot < end)[:, None], other=0), 0)
        tl.store(out_hists + (item * ROWS + row) * BINS + bins, counts)


@triton.jit(do_not_specialize=["n"])
def copy_small(addresses, sizes, n, SIZE: tl.constexpr):
    """Refresh the copies of the first tensors: of those so small that nothing is gained by asking whether they moved."""
    item = tl.program_id(0)
    source = tl.load(addresses + item).to(tl.pointer_type(tl.uint8))
    target = tl.load(addresses + 2 * n + item).to(tl.pointer_type(tl.uint8))
    size = tl.load(sizes + item)
    for start in range(0, size, SIZE):
        offsets = start + tl.arange(0, SIZE)
        tl.store(target + offsets, tl.load(source + offsets, mask=offsets < size), mask=offsets < size)
