"""Run as a program: writes a run with small segments, prints each acknowledged flush, and finishes, if it may live."""

from __future__ import annotations

import sys
from pathlib import Path

from made_rows import rows, steps

from weighbridge.store.segment import Flush
from weighbridge.store.writer import RankWriter


def main(path: Path, stop: int) -> None:
    def tell(table: str, flush: Flush) -> None:
        sys.stdout.write(f"{table} {number(table)} {flush.offset} {flush.length} {flush.crc} {flush.rows} {flush.last_step}\n")
        sys.stdout.flush()

    print("start", flush=True)
    writer = RankWriter(path, on_flush=tell, segment_bytes=40_000, segment_steps=30)

    def number(table: str) -> int:
        return writer._numbers[table]

    for first in range(0, stop, 5):
        writer.write({"rows": rows(first, first + 5), "steps": steps(first, first + 5)}, first, first + 4)
        if first % 60 == 55:
            print("changed", flush=True)
    print("finishing", flush=True)
    writer.finish(stop)
    print("finished", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
