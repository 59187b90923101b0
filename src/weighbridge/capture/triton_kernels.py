"""The summary kernel for GPUs, in Triton: the same numbers as native/weighbridge_kernel.c, which says what each means.

One program weighs one piece of one tensor and writes its sums beside those of the other pieces; `add_up` adds them in
their order, so the same bytes always give the same sums. A tensor is told by its address: gradients move from step to step,
and a table of numbers is quicker to renew than a thousand arguments.
"""

from __future__ import annotations

import triton
import triton.language as tl

from weighbridge.capture.triton_rows import (
    F32,
    F64,
    ROWS,
    WIDTH,
    add_tile,
    finite_of,
    histogram_of,
    histograms_of,
    magnitude_of,
    new_sums,
    pointer_to,
    widened,
    write_sums,
)


@triton.jit
def _step_tile(sums, after, before, gradient, offsets, mask, kind: tl.constexpr, gradient_kind: tl.constexpr):
    """Add a tile to the three rows and the cross terms, and refresh the copy."""
    w_row, g_row, u_row, gw, gu, uw, lost = sums
    wide: tl.constexpr = kind == F64
    gradient_wide: tl.constexpr = gradient_kind == F64
    raw = tl.load(after + offsets, mask=mask, other=0)
    now, was = widened(raw, kind), widened(tl.load(before + offsets, mask=mask, other=0), kind)
    g = widened(tl.load(gradient + offsets, mask=mask, other=0), gradient_kind)
    u = now - was
    tl.store(before + offsets, raw, mask=mask)
    w_row = add_tile(w_row, was, mask, kind, wide)
    g_row = add_tile(g_row, g, mask, gradient_kind, gradient_wide)
    u_row = add_tile(u_row, u, mask, F64 if wide else F32, wide)
    w64, g64, u64 = finite_of(was, wide), finite_of(g, gradient_wide), finite_of(u, wide)
    gw += tl.sum(g64 * w64, 1)
    gu += tl.sum(g64 * u64, 1)
    uw += tl.sum(u64 * w64, 1)
    lost += tl.sum(((magnitude_of(g, gradient_wide) != 0) & (magnitude_of(u, wide) == 0) & mask).to(tl.int32), 1)
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
    after = pointer_to(tl.load(addresses + item), kind, aligned)
    before = pointer_to(tl.load(addresses + 2 * n + item), kind, aligned)
    gradient = pointer_to(tl.load(addresses + n + item), gradient_kind, aligned)
    wide: tl.constexpr = kind == F64
    gradient_wide: tl.constexpr = gradient_kind == F64

    if fine >= 0:
        bins = tl.arange(0, BINS)
        of_before, of_update = histograms_of(after, before, first, length, count, kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS) * BINS + bins, of_before)
        tl.store(hists + (slot * ROWS + 2) * BINS + bins, of_update)
        of_gradient = histogram_of(gradient, first, length, count, gradient_kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS + 1) * BINS + bins, of_gradient)
        tl.debug_barrier()  # the copy is refreshed below, by other threads than have read it here

    zero = tl.zeros([T], tl.float64)
    sums = new_sums(T, wide), new_sums(T, gradient_wide), new_sums(T, wide), zero, zero, zero, tl.zeros([T], tl.int32)
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
    write_sums(at, w_row)
    write_sums(at + WIDTH, g_row)
    write_sums(at + 2 * WIDTH, u_row)
    tl.store(at + 2 * WIDTH + 8, tl.sum(gw, 0))
    tl.store(at + 2 * WIDTH + 9, tl.sum(gu, 0))
    tl.store(at + 2 * WIDTH + 10, tl.sum(uw, 0))
    tl.store(at + 2 * WIDTH + 11, tl.sum(lost, 0).to(tl.float64))


@triton.jit
def _sums_of(x, length, kind: tl.constexpr, T: tl.constexpr, E: tl.constexpr):
    """Of so many elements from a pointer on: whole tiles without a mask, to be read 16 bytes at once, then the rest."""
    wide: tl.constexpr = kind == F64
    sums = new_sums(T, wide)
    lanes = tl.arange(0, T)[:, None] * E + tl.arange(0, E)[None, :]
    whole = length // (T * E)
    for tile in range(whole):
        everywhere = tl.full([T, E], 1, tl.int1)
        sums = add_tile(sums, widened(tl.load(x + tile * (T * E) + lanes), kind), everywhere, kind, wide)
    rest = whole * (T * E) + lanes
    mask = rest < length
    sums = add_tile(sums, widened(tl.load(x + rest, mask=mask, other=0), kind), mask, kind, wide)
    return sums


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
    x = pointer_to(tl.load(addresses + item), kind, aligned)
    if fine >= 0:
        found = histogram_of(x, first, length, count, kind, fine, TILE, BINS)
        tl.store(hists + (slot * ROWS + row) * BINS + tl.arange(0, BINS), found)
    sums = _sums_of(x + first, length, kind, T, E)
    write_sums(stats + (slot * ROWS + row) * WIDTH, sums)


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
    x = pointer_to(address.to(tl.int64), kind, aligned)
    if fine >= 0:
        found = histogram_of(x, first, length, count, kind, fine, TILE, BINS)
        bins = tl.arange(0, BINS)
        tl.atomic_add(hists + entry * BINS + bins, found, mask=found > 0)
    sums = _sums_of(x + first, length, kind, T, E)
    write_sums(stats + (slot + number) * WIDTH, sums)
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
