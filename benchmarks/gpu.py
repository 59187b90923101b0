"""What weighing costs on a GPU: the kernels against the memory's bandwidth, and whole training steps.

Needs a CUDA device, Triton, and transformers for the models. Each figure is a median; watched and unwatched steps take
turns in one process. `--quick` leaves the large model out. `--sweep` times other shapes of the kernels.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import weighbridge
from weighbridge.capture import devicetable
from weighbridge.capture.devicetable import COPY, GRADIENT, KINDS, PARAMETER, Table

DEVICE = torch.device("cuda")


def milliseconds(work: Callable[[], Any], times: int = 15) -> float:
    """Median time on the device; the work is queued several times so that launching does not count."""
    for _ in range(3):
        work()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(2_000_000)  # about a millisecond: the host queues meanwhile
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def bandwidth() -> float:
    """GB/s of a copy on the device, bytes read and written."""
    x = torch.randn(1 << 28, device=DEVICE)
    y = torch.empty_like(x)
    return 2 * x.nbytes / milliseconds(lambda: y.copy_(x)) / 1e6


def table_of(counts: list[int], dtype: torch.dtype, fine: int) -> tuple[Table, Any]:
    parameters = [torch.randn(n, device=DEVICE).to(dtype) for n in counts]
    copies = [(p.float() * 0.999).to(dtype) for p in parameters]
    gradients = [torch.randn(n, device=DEVICE).to(dtype) for n in counts]
    table = Table(DEVICE, counts, [KINDS[dtype]] * len(counts), fine)
    for row, tensors in ((PARAMETER, parameters), (GRADIENT, gradients), (COPY, copies)):
        table.addresses[row] = [t.data_ptr() for t in tensors]
    table.send_addresses()
    return table, (parameters, copies, gradients)


SHAPES = {
    "one of 268M": [1 << 28],
    "GPT-2 small, 124M in 148": [
        38_597_376,
        786_432,
        *[v for _ in range(12) for v in (1_769_472, 2304, 589_824, 768, 2_359_296, 3072, 2_359_296, 768, 768, 768, 768, 768)],
        768,
        768,
    ],
    "1,000 x (64 x 64 and 64)": [4096, 64] * 1000,
}


def kernels(ceiling: float) -> list[dict[str, Any]]:
    return [
        kernel(name, counts, dtype, fine, ceiling)
        for name, counts in SHAPES.items()
        for dtype in (torch.float32, torch.bfloat16)
        for fine in (-1, 0)
    ]


def kernel(name: str, counts: list[int], dtype: torch.dtype, fine: int, ceiling: float) -> dict[str, Any]:
    """A step over these tensors: bytes of parameter (read), copy (read and written) and gradient (read), over the time."""
    table, _alive = table_of(counts, dtype, fine)
    everything = np.ones(len(counts), bool)
    size = sum(counts) * torch.empty(0, dtype=dtype).element_size()
    step = milliseconds(lambda: table.weigh_steps(everything))
    alone = milliseconds(lambda: table.weigh_alone(everything, PARAMETER, PARAMETER))
    table.weigh_steps(everything)
    add = milliseconds(table.add_up)
    began = time.perf_counter()
    for _ in range(20):
        table.weigh_steps(everything)
        table.add_up()
    host = (time.perf_counter() - began) / 20 * 1e6
    torch.cuda.synchronize()
    row = {
        "tensors": name,
        "dtype": str(dtype).removeprefix("torch."),
        "histogram": fine >= 0,
        "step_ms": step,
        "step_GBps": 4 * size / step / 1e6,
        "step_share": 4 * size / step / 1e6 / ceiling,
        "alone_ms": alone,
        "alone_GBps": size / alone / 1e6,
        "add_up_ms": add,
        "host_us": host,
    }
    print(json.dumps(row), flush=True)
    return row


def sweep() -> None:
    """Other shapes of the kernels: milliseconds of a step in float32 and bfloat16."""
    for lanes, tile, registers, each in (
        (128, 1024, 104, 4), (128, 1024, 104, 8), (128, 1024, 96, 4), (128, 1024, 96, 8), (128, 1024, 80, 4),
        (128, 1024, 112, 4), (64, 1024, 104, 4),
    ):  # fmt: skip
        devicetable.LANES, devicetable.TILE, devicetable.REGISTERS, devicetable.EACH = lanes, tile, registers, each
        found = {}
        for dtype in (torch.float32, torch.bfloat16):
            for name in list(SHAPES)[1:]:
                for fine in (-1, 0):
                    table, _alive = table_of(SHAPES[name], dtype, fine)
                    work = functools.partial(table.weigh_steps, np.ones(len(SHAPES[name]), bool))
                    found[f"{name[:6]} {dtype} {fine}"] = round(milliseconds(work, 7), 3)
        print(f"lanes {lanes}, tile {tile}, registers {registers}, each {each}:", list(found.values()), flush=True)


# --- whole steps ----------------------------------------------------------------------------------------------------------


def decoder(size: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A decoder of transformers' GPT-2 and a batch of 16,384 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"small": (768, 12, 12), "1B": (1792, 24, 14)}[size]
    config = GPT2Config(n_embd=shape[0], n_layer=shape[1], n_head=shape[2], n_positions=1024)
    model = GPT2LMHeadModel(config).to(DEVICE)
    return model, torch.randint(0, config.vocab_size, (16, 1024), device=DEVICE)


def steps(size: str, plan: weighbridge.Plan, blocks: int, each: int, micro: int) -> dict[str, Any]:
    """Unwatched steps of a model, then watched ones, then unwatched ones again, in blocks."""
    torch.manual_seed(0)
    model, tokens = decoder(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        for part in tokens.split(len(tokens) // micro):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=part, labels=part).loss / micro
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def block() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(each):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / each * 1e3

    block()
    before = [block() for _ in range(blocks)]
    with tempfile.TemporaryDirectory() as folder:
        run = weighbridge.init(dir=folder, name="run", plan=plan, quiet=True)
        run.watch(model)
        for _ in range(21):  # kernels are compiled, and the steps are over whose outputs every plan weighs
            step()
        watched = [block() for _ in range(blocks)]
        weighbridge.unwatch(model)
        after = [block() for _ in range(blocks)]
        run.finish()
        finished = [event.detail for event in weighbridge.open_run(run.path).events() if event.kind == "finished"]
    raw = statistics.median(before + after)
    return {
        "model": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "raw_ms": raw,
        "watched_ms": statistics.median(watched),
        "ratio": statistics.median(watched) / raw,
        "blocks": {"before": before, "watched": watched, "after": after},
        "finished": finished,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--no-kernels", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py needs a CUDA device; there is none here")
    import triton

    head = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    ceiling = bandwidth()
    print(json.dumps(head | {"copy_GBps": ceiling}), flush=True)
    if options.sweep:
        sweep()
        return
    results: dict[str, Any] = head | {"copy_GBps": ceiling, "steps": []}
    if not options.no_kernels:
        results["kernels"] = kernels(ceiling)
    alone = {"activations": False, "activation_gradients": False, "units": False, "moments": False}
    plans = {
        "parameters, gradients, updates": weighbridge.Plan(sentinel=False, **alone),
        "these and the sentinel": weighbridge.Plan(**alone),
        "default plan": weighbridge.Plan(),
        "everything at every step": weighbridge.Plan(moments=True, activations=True, activation_gradients=True),
    }
    runs = [("small", words, plan, 5, 10, 1) for words, plan in plans.items()]
    if not options.quick:
        whole = weighbridge.Plan(snapshot="8 GB")
        runs += [
            ("1B", words, plan, 3, 10, 2) for words, plan in (("default plan", weighbridge.Plan()), ("copies of all", whole))
        ]
    for size, words, plan, blocks, each, micro in runs:
        results["steps"].append({"plan": words} | steps(size, plan, blocks, each, micro))
        print(json.dumps(results["steps"][-1]), flush=True)
        torch.cuda.empty_cache()
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
