"""A stand-in for a Matcher: it sees the colours of a picture and knows a few words for them. Also as a process:

python tests/colours.py FOLDER DB [seconds a picture] [rows a write]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from tessella.data.pixels import decode
from tessella.errors import InputError

DIM = 16
COLOURS = {"red": (230, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40)}
COLOURS |= {"white": (250, 250, 250), "black": (5, 5, 5)}


class Colours:
    """Mean colours of four by four places, through a fixed random matrix."""

    dim = DIM
    scale = 1.0

    def __init__(self, fingerprint: str = "colours", wait: float = 0.0):
        self.fingerprint, self.wait, self.seen = fingerprint, wait, 0
        self.matrix = np.random.default_rng(0).standard_normal((48, DIM)).astype(np.float32)

    def images(self, sources, batch: int = 32):
        for source in sources:
            try:
                small = np.asarray(decode(source).resize((4, 4)), np.float32)
            except InputError as error:
                yield error
                continue
            self.seen += 1
            time.sleep(self.wait)
            yield self._vector(small)

    def texts(self, texts):
        rows = [
            np.mean([COLOURS[word] for word in text.split() if word in COLOURS] or [(128, 128, 120)], 0)
            for text in texts
        ]
        return np.stack([self._vector(np.broadcast_to(row, (4, 4, 3))) for row in rows]).astype(np.float32)

    def _vector(self, small):
        flat = (np.asarray(small, np.float32).reshape(-1) / 255 - 0.5) @ self.matrix
        return (flat / np.linalg.norm(flat)).astype(np.float32)


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.lines: list[str] = []
        self.total, self.advanced = 0, 0

    def say(self, line):
        self.lines.append(line)

    def begin(self, pictures):
        self.total = pictures

    def advance(self, pictures):
        self.advanced += pictures


def main(folder: str, db: str, wait: str = "0", rows: str = "1024") -> None:
    from tessella.retrieval import pending
    from tessella.retrieval.indexing import Task, index

    pending.ROWS, pending.WRITES = int(rows), 4
    print("begun", flush=True)
    try:
        print(index(Task(Path(folder), Path(db), "colours", Colours(wait=float(wait))), Silent()), flush=True)
    except InputError as error:
        sys.exit(f"tessella: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
