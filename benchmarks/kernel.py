"""How fast the kernel weighs, against a plain read of the same memory, torch.sum and memcpy.

    taskset -c 1 python benchmarks/kernel.py        (about 20 s, one thread; add --levels for every instruction level)

GB/s count the bytes of the tensors read and the snapshot written. Median of the repetitions, best in brackets.
"The same bytes plainly": the three tensors of a step are summed by torch and its snapshot is copied, nothing else; where
that takes nearly as long as weighing, the memory of the machine is the limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from weighbridge.capture.kernel import ITEM, NO_HISTOGRAM, Kernel, NativeKernel, load_kernel
from weighbridge.capture.rowblock import RowBlock

SIZES = {"256 KiB (L2)": 1 << 16, "8 MiB (L3)": 1 << 21, "256 MiB (memory)": 1 << 26}  # float32 elements
SECONDS = 0.4  # of repetitions per figure


class Tensors:
    """Items over their own arrays: parameter, snapshot and gradient of each, float32, normally distributed."""

    def __init__(self, number: int, elements: int, step: bool = True) -> None:
        random = np.random.default_rng(0)
        one = random.standard_normal(min(elements * number, 1 << 22)).astype(np.float32)
        count = 3 if step else 1
        self.data = [np.resize(one * 0.02, (number, elements)) for _ in range(count)]
        if step:
            self.data[0] = self.data[1] + np.float32(1e-4) * np.roll(self.data[2], 7)
        self.before = self.data[1].copy() if step and number * elements < 1 << 24 else None
        self.items = np.zeros(number, ITEM)
        for name, array in zip(("parameter", "snapshot", "gradient"), self.data, strict=False):
            self.items[name] = array.ctypes.data + np.arange(number) * elements * 4
        self.items["count"] = elements
        self.bytes = number * elements * 4 * (4 if step else 1)


def median_ns(work: Callable[[], object], least: int = 5) -> tuple[float, float]:
    """Median and best nanoseconds of one call."""
    work()
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(taken) < least or time.perf_counter() < until:
        start = time.perf_counter_ns()
        work()
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken), min(taken)


def weigh_ns(kernel: Kernel, tensors: Tensors) -> tuple[float, float]:
    """One call for all items. Steps move the parameters back and forth, so that every update is one."""
    rows = len(tensors.items) * 3
    block = RowBlock(rows, rows * 132)

    def once() -> None:
        if block.rows:
            block._struct.rows = block._struct.counts = 0  # time weighing, not the hand-over
        if tensors.before is not None:
            tensors.data[1][...] = tensors.before  # timed apart below
        kernel.weigh(tensors.items, 0, 0, block)

    if tensors.before is None:
        return median_ns(once)
    before = tensors.before
    copy, _ = median_ns(lambda: tensors.data[1].__setitem__(..., before))
    whole, best = median_ns(once)
    return whole - copy, best - copy


def plainly_ns(tensors: Tensors) -> tuple[float, float]:
    """What a step cannot do without: read parameter, snapshot and gradient, write the snapshot."""
    parameter, snapshot, gradient = (torch.from_numpy(array) for array in tensors.data)

    def once() -> None:
        snapshot.sum()
        gradient.sum()
        snapshot.copy_(parameter)

    return median_ns(once)


def rate(size: float, nanoseconds: tuple[float, float]) -> str:
    return f"{size / nanoseconds[0]:6.1f} ({size / nanoseconds[1]:.1f})"


def memory(kernel: Kernel) -> None:
    print(
        "| size of a tensor | read | torch.sum | memcpy | one row | step: 3 rows + snapshot | the same bytes plainly |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for words, elements in SIZES.items():
        alone, step = Tensors(1, elements, step=False), Tensors(1, elements // 4)
        array = alone.data[0].ravel()
        tensor, integers, to = torch.from_numpy(array), array.view(np.int64), np.empty_like(array)
        cells = [
            rate(array.nbytes, median_ns(lambda: np.bitwise_or.reduce(integers))),  # noqa: B023
            rate(array.nbytes, median_ns(tensor.sum)),
            rate(array.nbytes * 2, median_ns(lambda: np.copyto(to, array))),  # noqa: B023
            rate(alone.bytes, weigh_ns(kernel, alone)),
            rate(step.bytes, weigh_ns(kernel, step)),
            rate(step.bytes, plainly_ns(step)),
        ]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


def items(kernel: Kernel) -> None:
    print(
        "| items | elements | us a call | ns an item | ns a row | ns an element (best) | the same bytes plainly |\n"
        "|---:|---:|---:|---:|---:|---:|---:|"
    )
    for number, elements in ((1, 2), (1, 8), (2000, 4), (2000, 64), (2000, 4096), (100, 65_536), (1, 669_706)):
        tensors = Tensors(number, elements)
        taken, best = weigh_ns(kernel, tensors)
        plain = plainly_ns(tensors)[1] / number / elements
        each = taken / number
        print(
            f"| {number} | {elements} | {taken / 1000:.1f} | {each:.0f} | {each / 3:.0f} | {each / elements:.2f} "
            f"({best / number / elements:.2f}) | {plain:.2f} |",
            flush=True,
        )


def limits(kernel: Kernel, elements: int) -> None:
    """The summary pass over tensors in memory, sums alone and with the sampled histogram, against what is aimed at."""
    print("| one row, from memory | GB/s: median (best) | aim | |\n|---|---:|---:|---|")
    tensors = Tensors(1, elements, step=False)
    for words, histogram, aim in (("moments", NO_HISTOGRAM, 15), ("moments, sampled histogram", 0, 12)):
        tensors.items["histogram"] = histogram
        taken = weigh_ns(kernel, tensors)
        word = "reached" if tensors.bytes / taken[0] >= aim else "missed"
        print(f"| {words} | {rate(tensors.bytes, taken)} | {aim} | {word} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", action="store_true", help="every instruction level, not only the best")
    parser.add_argument("--items-only", action="store_true")
    parser.add_argument("--limits-only", action="store_true", help="GB/s against the aims: 15 with moments, 12 with histogram")
    parser.add_argument("--elements", type=int, default=SIZES["256 MiB (memory)"], help="of the tensor of --limits-only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kernel = load_kernel()
    names = [(kernel.name, -1)]
    if isinstance(kernel, NativeKernel):
        names = [(kernel.use_level(i), i) for i in range(0 if arguments.levels else kernel.levels - 1, kernel.levels)]
    for name, level in names:
        if isinstance(kernel, NativeKernel):
            kernel.use_level(level)
        print(f"\n{kernel.name} kernel, {name}, numpy {np.__version__}, torch {torch.__version__}\n")
        if not arguments.limits_only:
            items(kernel)
            print()
        if not arguments.items_only and not arguments.limits_only:
            memory(kernel)
            print()
    if isinstance(kernel, NativeKernel) and not arguments.items_only:
        limits(kernel, arguments.elements)


if __name__ == "__main__":
    main()
