"""Does it hold for long? A real training is watched with the default plan, while a second process reads the run.

    python benchmarks/soak.py                          one hour, 100,000 steps or more (make soak)
    python benchmarks/soak.py --seconds 60 --pace 900 --disk "60 MB"     a cut of it
    python benchmarks/soak.py --dir /data/soak         where the run goes; default: a temporary folder, taken away afterwards

Conditions, each a line of the table; the exit code is 1 where one is broken:
  steps     at least --steps (default 28 a second, which is 100,000 an hour); the time is prolonged until they are done
  memory    after the first --warm-up seconds (default 60, at most a quarter of the time) the process grows by no more
            than --growth MiB (default 20)
  folder    inside Plan(disk=...) and its slack (store/limit.py) at every look, once a second
  thinned   the limit was really felt: single steps gave way to buckets
  reading   at every look of the second process, at random moments: no damaged byte, no step that was there and is gone,
            every step has its row, a loss that was read reads the same again
  losses    recorded = those of the training; no row dropped
  left out  on a machine so busy that thinning came too late, single rows were not written: of at most --left-out steps

The limit cannot be held for ever: buckets, the steps table and the units stay. With 60 steps a second (--pace) they take
about 45 MB an hour, and 120 MB (--disk) make single steps give way all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this checkout, installed or not

STEPS_A_SECOND = 100_000 / 3600
MIB = 2**20


# --- the training -------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What is looked at once a second, beside the training."""

    folder: Path
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, bytes
    sizes: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self, every: float) -> None:
        from interleaved import rss_bytes

        from weighbridge.store.status import size_of

        began = time.perf_counter()
        while not self._stop.wait(every):
            self.memory.append((time.perf_counter() - began, rss_bytes()))
            self.sizes.append(size_of(self.folder))

    def stop(self) -> None:
        self._stop.set()


def train(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train until the time is over and the steps are done; what was seen meanwhile."""
    import torch

    import weighbridge

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.Tanh())
    model.append(torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    run = weighbridge.init(dir=folder, name="soak", plan=weighbridge.Plan(disk=options.disk), quiet=True)
    run.watch(model)
    watch = Watch(run.path)
    beside = threading.Thread(target=watch.look, args=(min(1.0, options.seconds / 50),), daemon=True)
    reader = start_reader(run.path, options.seed)
    beside.start()
    losses = open(folder / "losses.bin", "wb", buffering=1 << 16)  # noqa: SIM115  # kept out of this process's memory
    began, told, step = time.perf_counter(), 0.0, 0
    while (passed := time.perf_counter() - began) < options.seconds or step < options.steps:
        inputs = torch.randn(16, 16)
        optimizer.zero_grad()
        loss = (model(inputs).squeeze(1) - inputs.square().mean(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.write(loss.detach().numpy().tobytes())
        step += 1
        if passed - told >= max(60.0, options.seconds / 10) and watch.memory:
            told = passed
            say(f"{passed:6.0f} s, {step:,} steps, {watch.memory[-1][1] / MIB:.1f} MiB, folder {watch.sizes[-1] / MIB:.1f} MiB")
        if options.pace and (ahead := step / options.pace - (time.perf_counter() - began)) > 0:
            time.sleep(ahead)
    watch.stop()
    beside.join()
    losses.close()
    run.flush()
    before_the_end = looks_of(reader)
    run.finish()
    watch.sizes.append(folder_bytes(run.path))
    return {
        "path": str(run.path),
        "steps": step,
        "seconds": passed,
        "memory": watch.memory,
        "sizes": watch.sizes,
        "limit": run.plan.disk_bytes,
        "dropped": run._recorder.rows_dropped,
        "losses": str(folder / "losses.bin"),
        "reader": before_the_end,
    }


def folder_bytes(path: Path) -> int:
    from weighbridge.store.status import size_of

    return int(size_of(path))


# --- the second process ---------------------------------------------------------------------------------------------------


def start_reader(run: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__)), "--read", str(run), "--seed", str(seed)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def looks_of(reader: subprocess.Popen[str]) -> dict[str, Any]:
    """End the second process (closing its input asks it to) and take what it saw."""
    answer, _ = reader.communicate(timeout=300)
    if reader.returncode:
        return asdict(Looks()) | {"wrong": [f"the reading process ended with code {reader.returncode}"]}
    found: dict[str, Any] = json.loads(answer)
    return found


@dataclass
class Looks:
    """What the second process has found so far."""

    looks: int = 0
    last_step: int = -1
    wrong: list[str] = field(default_factory=list)
    known: dict[int, float] = field(default_factory=dict)  # losses that were read, by step: they may never change

    def look(self, run: Path, dice: random.Random) -> None:
        """Verify every byte, and ask what a page would ask."""
        from weighbridge.store.record import open_run
        from weighbridge.store.verify import verify_run

        self.looks += 1
        self.wrong += [f"damaged: {damage}" for damage in verify_run(run)]
        record = open_run(run)
        last = record.last_step
        if last < self.last_step:
            self.wrong.append(f"the last step was {self.last_step}, and is {last} now")
        self.last_step = last
        if last >= 0:
            self._ask(record, last, dice)

    def _ask(self, record: Any, last: int, dice: random.Random) -> None:
        start = dice.randrange(max(last - 500, 1))
        stop = min(start + 500, last)
        table = record.steps_table(start, stop)
        steps = table.column("step").to_pylist()
        if steps != list(range(start, stop)):
            self.wrong.append(f"of the steps {start} to {stop - 1} there are {len(steps)} in {len(set(steps))} places")
        for step, loss in zip(steps, table.column("loss").to_pylist(), strict=True):
            if self.known.setdefault(step, loss) != loss:
                self.wrong.append(f"the loss of step {step} was {self.known[step]} and is {loss} now")
        tensor = dice.choice(record.tensors).name
        means = record.series_buckets(tensor, "gradient.rms", 50, start, stop).mean  # thinned or not
        gone = left_out(record)
        if any(first < stop and last >= start for first, last in gone):
            return  # not recorded, and said so
        if any(mean != mean for mean in means.tolist()) or (stop > start and not len(means)):
            self.wrong.append(f"no gradient of {tensor} somewhere in the steps {start} to {stop - 1}")


def left_out(record: Any) -> list[tuple[int, int]]:
    """Stretches of steps of which the writer left single rows out; one that lasts goes on to the last step there is."""
    told = [event.detail for event in record.events() if event.kind == "dropped" and "first_step" in event.detail]
    ends = {detail["first_step"]: detail.get("last_step", record.last_step) for detail in told}  # the later word counts
    return list(ends.items())


def read_on(run: Path, seed: int) -> None:
    """Look at random moments until the input ends; print what was found as JSON."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    dice, looks = random.Random(seed), Looks()
    while not ended.is_set() or looks.looks == 0:
        try:
            looks.look(run, dice)
        except Exception as error:
            looks.wrong.append(f"{type(error).__name__}: {error} ({_where(error)})")
        if len(looks.known) > 200_000:
            looks.known.clear()
        ended.wait(dice.uniform(0.05, 1.5))
    print(json.dumps(asdict(looks) | {"known": len(looks.known), "wrong": looks.wrong[:20]}))


def _where(error: BaseException) -> str:
    places = traceback.extract_tb(error.__traceback__)
    return ", ".join(f"{Path(place.filename).name}:{place.lineno}" for place in places[-3:])


# --- the verdict ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """One line of the table."""

    name: str
    found: str
    bound: str
    is_kept: bool


def verdict(seen: dict[str, Any], options: argparse.Namespace) -> list[Condition]:
    """Everything that has to hold."""
    from weighbridge.store.limit import SLACK

    growth, reader, largest = grown(seen["memory"], options.warm_up), seen["reader"], max(seen["sizes"])
    wrong, limit = reader["wrong"], seen["limit"]
    thinned = thinned_steps(Path(seen["path"]))
    lacking, most = steps_left_out(Path(seen["path"])), limit * (1 + SLACK)
    recorded = recorded_as_trained(Path(seen["path"]), Path(seen["losses"]))
    return [
        Condition("steps", f"{seen['steps']:,}", f"at least {options.steps:,}", seen["steps"] >= options.steps),
        Condition("memory", memory_text(growth), f"at most +{options.growth:g} MiB", 0 <= growth <= options.growth * MIB),
        Condition("folder", f"{largest / 1e6:.1f} MB at most", f"{limit / 1e6:.1f} MB + {SLACK:.0%}", largest <= most),
        Condition("thinned", f"{thinned:,} steps", f"at least {options.thinned}", thinned >= options.thinned),
        Condition("reading", f"{reader['looks']} looks" + "".join(f"; {one}" for one in wrong), "nothing wrong", not wrong),
        Condition("looks", f"{reader['looks']}", "at least 5", reader["looks"] >= 5),
        Condition("losses", "as trained" if recorded else "NOT as trained", "as trained", recorded),
        Condition("rows dropped", f"{seen['dropped']:,}", "0", seen["dropped"] == 0),
        Condition("left out", f"of {lacking:,} steps", f"of at most {options.left_out:,}", lacking <= options.left_out),
    ]


def thinned_steps(run: Path) -> int:
    """Steps of which only buckets are left."""
    from weighbridge.store.record import open_run

    return sum(stop - start + 1 for start, stop in open_run(run).thinned)


def steps_left_out(run: Path) -> int:
    """Steps of the stretches in which the writer left single rows out."""
    from weighbridge.store.record import open_run

    return sum(last - first + 1 for first, last in left_out(open_run(run)))


def grown(memory: list[tuple[float, int]], warm_up: float) -> int:
    """The most that the process ever had after the warming up, less what it had at its end."""
    after = [size for second, size in memory if second >= warm_up]
    return max(after) - after[0] if after else -1


def memory_text(growth: int) -> str:
    return f"+{growth / MIB:.1f} MiB" if growth >= 0 else "never looked at after the warming up"


def recorded_as_trained(run: Path, losses: Path) -> bool:
    import numpy as np

    from weighbridge.store.record import open_run

    trained = np.fromfile(losses, np.float32).astype(np.float64)
    return bool(np.array_equal(np.asarray(open_run(run).losses().values, np.float64), trained))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--steps", type=int, help="at least so many; default 28 a second")
    parser.add_argument("--pace", type=float, default=60, help="no more steps a second than this; 0: as many as it can")
    parser.add_argument("--warm-up", type=float, help="seconds before memory has to be flat")
    parser.add_argument("--growth", type=float, default=20, help="MiB")
    parser.add_argument("--disk", default="120 MB", help="Plan(disk=...)")
    parser.add_argument("--thinned", type=int, default=1, help="steps that have to give way; 0 for very short runs")
    parser.add_argument("--left-out", type=int, default=0, help="steps whose single rows may be left out")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read_on(options.read, options.seed)
        return 0
    options.steps = int(options.seconds * STEPS_A_SECOND) if options.steps is None else options.steps
    options.warm_up = min(60.0, options.seconds / 4) if options.warm_up is None else options.warm_up
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="weighbridge-soak-", dir=options.dir) as folder:
        seen = train(options, Path(folder), lambda text: print(text, file=sys.stderr, flush=True))
        conditions = verdict(seen, options)
    print(f"\n{seen['seconds']:,.0f} s, {seen['steps']:,} steps\n\n| condition | found | bound | |\n|---|---|---|---|")
    for one in conditions:
        print(f"| {one.name} | {one.found} | {one.bound} | {'kept' if one.is_kept else 'BROKEN'} |")
    if options.json:
        options.json.write_text(json.dumps(seen | {"conditions": [asdict(one) for one in conditions]}))
    return 0 if all(one.is_kept for one in conditions) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
