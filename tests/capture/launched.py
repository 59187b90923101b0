"""Real processes of one training, started by torchrun over gloo. `launch` runs a text of Python in each of them.

What every program begins with: `rank`, `world`, `folder`, `batch(step)` (one for each rank), `Seen` (what truly happened at
a step, noted by `clone` and, of shards, by `full_tensor` outside of every hook) and `save`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

START = """
    import os, sys, torch, weighbridge
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    folder = sys.argv[1]
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    def batch(step):
        return torch.randn(6, 4, generator=torch.Generator().manual_seed(100 * step + rank))

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))

    def whole(tensor):
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return full.detach().clone()

    seen = {}

    def step(optimizer, model, at):
        before = [whole(p) for p in model.parameters()]
        optimizer.step()
        after = [whole(p) for p in model.parameters()]
        gradients = [whole(p.grad) for p in model.parameters()]
        seen[at] = list(zip(before, gradients, after))

    def save():
        torch.save(seen, f"{folder}/truth-{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
"""


def launch(folder: Path, processes: int, program: str, *, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the program in so many processes; its folder is sys.argv[1]."""
    script = folder / "train.py"
    script.write_text(textwrap.dedent(START) + textwrap.dedent(program))
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", str(script), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *run], capture_output=True, text=True, timeout=200, env=environment)
    assert may_fail or done.returncode == 0, done.stderr
    return done
