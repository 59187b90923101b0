"""TensorBoard beside the page: the same numbers of the first steps in its own event files, its server, the same browser.

    python benchmarks/page_tensorboard.py PYTHON TENSORS STEPS        # PYTHON has TensorBoard installed

Prints lines of "what<TAB>found<TAB>". Scalars are the rms of gradients, histograms their stored bins.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

# Run by the other Python: NumPy and TensorBoard are all that it needs.
WRITE = """
import sys
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

file = np.load(sys.argv[1])
kept = {name: file[name] for name in file.files}  # each look into the file reads it anew
writer = EventFileWriter(sys.argv[2])
for step in range(len(kept["rms"])):
    values = []
    for tensor, name in enumerate(kept["names"]):
        tag = str(name).replace(".", "/")
        values.append(Summary.Value(tag=tag + "/rms", simple_value=float(kept["rms"][step, tensor])))
        counts, edges = kept["counts"][step, tensor], kept["edges"]
        used = np.flatnonzero(counts)
        ends = {"min": float(edges[used[0]]), "max": float(edges[used[-1] + 1])}
        histo = HistogramProto(**ends, num=float(counts.sum()), sum=0.0, sum_squares=0.0)
        histo.bucket_limit.extend(float(edge) for edge in edges[used[0] + 1 : used[-1] + 2])
        histo.bucket.extend(float(count) for count in counts[used[0] : used[-1] + 1])
        values.append(Summary.Value(tag=tag + "/values", histo=histo))
    writer.add_event(Event(wall_time=1.7e9 + step, step=step, summary=Summary(value=values)))
writer.close()
"""


def numbers(folder: Path, tensors: int, steps: int) -> Path:
    """rms, histograms and names of the run that page.py measures, in a file for the other Python."""
    import page_run

    from weighbridge.store.record import open_run

    record = open_run(page_run.make(folder, "first", tensors, steps))
    names = page_run.names_of(tensors)
    rms = np.array([record.series(name, "gradient.rms").values for name in names]).T
    edges = np.clip(record.histogram(names[0], "gradient", 0)[0], -1e30, 1e30)
    counts = np.array([record.histograms(name, "gradient", range(steps))[2] for name in names]).transpose(1, 0, 2)
    np.savez(folder / "numbers.npz", rms=rms, counts=counts, edges=edges, names=np.array(names))
    return folder / "numbers.npz"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def asked(address: str) -> object:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


def tags_of(address: str, plugin: str) -> int:
    try:
        found = asked(f"{address}/data/plugin/{plugin}/tags")
    except OSError:
        return -1
    return sum(len(tags) for tags in found.values()) if isinstance(found, dict) else -1


def until_loaded(address: str, tensors: int, began: float) -> float:
    """Seconds until its server knows all scalars; infinite after two minutes."""
    while time.monotonic() - began < 120:
        if tags_of(address, "scalars") >= tensors:
            return time.monotonic() - began
        time.sleep(0.2)
    return float("inf")


def main(python: str, tensors: int, steps: int) -> None:
    from page_browser import browser, opened

    with tempfile.TemporaryDirectory(prefix="weighbridge-tensorboard-") as scratch:
        folder = Path(scratch)
        kept, port = numbers(folder, tensors, steps), free_port()
        subprocess.run([python, "-c", WRITE, str(kept), str(folder / "events")], check=True)
        size = sum(file.stat().st_size for file in (folder / "events").iterdir()) / 2**20
        began = time.monotonic()
        line = [python, "-m", "tensorboard.main", "--logdir", str(folder / "events"), "--port", str(port)]
        server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://localhost:{port}"
        try:
            loaded = until_loaded(address, tensors, began)
            print(f"TensorBoard: event files, {tensors} scalars and histograms x {steps} steps, MiB\t{size:.0f}\t")
            print(f"TensorBoard: its server knows all scalars after, s\t{loaded:.1f}\t")
            with browser() as chromium:
                page = opened(chromium)
                start = time.monotonic()
                page.goto(f"{address}/#timeseries", wait_until="commit")
                page.wait_for_selector("card-view", timeout=120_000)
                print(f"TensorBoard: first card after, ms\t{1000 * (time.monotonic() - start):.0f}\t")
                page.wait_for_timeout(5000)
                cards = page.locator("card-view").count()
                print(f"TensorBoard: cards on the page 5 s later, of {2 * tensors} tags\t{cards}\t")
            shown = [len(asked(f"{address}/data/plugin/histograms/histograms?run=.&tag={page_tag(0)}"))]  # type: ignore[arg-type]
            print(f"TensorBoard: histograms of one tensor that its server keeps, of {steps}\t{shown[0]}\t")
        finally:
            server.terminate()
            server.wait(20)


def page_tag(tensor: int) -> str:
    import page_run

    return page_run.names_of(tensor + 1)[tensor].replace(".", "/") + "/values"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
