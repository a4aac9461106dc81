"""Contrast: memory and time of contrastive training in huge batches that are computed chunk by chunk.

    python benchmarks/contrast.py [--batches 64 512 4096] [--chunk 64] [--threads 1] [--out docs/results/clip-batches.json]

A whole step of the training loop, its optimizer included, of `clip_small` with layer norms, in the precision that the
loop would choose; images of 96 x 96 and texts of 32 ids, all noise. Images wait as bytes and are normalised chunk by
chunk. A batch of one chunk is computed as usual, once.

Memory is the largest resident set that the kernel saw (VmHWM) of a process of its own for each size, over two steps or
more: interpreter, torch, model, optimizer and batch included. Times are processor seconds, so that neighbours count little:
a step in chunks and steps of one chunk with as many samples take turns in one process.
"""  # noqa: E501  commands on one line each

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tessella.contrast import Contrast
from tessella.data.pixels import Preprocess, normalised
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.optimizers import AdamW
from tessella.precision import choose
from tessella.processes import launch, seed_all
from tessella.stepper import Stepper
from tessella.zoo.catalog import create

SIDE, LENGTH, VOCAB = 96, 32, 8000
STEPS, TURNS = 2, 2
"""The fewest steps whose memory is measured (in the second, the optimizer has its own), and turns whose times are."""
PAIRS = 2048
"""Smaller batches take more steps and turns, until so many pairs are learned (for memory, a quarter)."""
MEMORY, TIME = 1.3, 1.4
"""The targets, times: of the largest batch's memory over the smallest's; of a sample in chunks over one as usual."""
Row = tuple[str, float, str, str | None, bool | None]
"""name, value, unit, target, met."""


def stepping(chunk: int) -> tuple[Callable[[int], None], int]:
    """A function that takes one step with so many pairs, and the number of parameters."""
    loop = LoopSpec(steps=1, device="cpu")
    fabric = launch(loop)
    seed_all(1)
    model = create("clip_small", norm="layer", image_size=SIDE, vocab=VOCAB, length=LENGTH)
    objective = partial(Contrast(chunk=chunk), prepare=partial(normalised, preprocess=Preprocess(size=(SIDE, SIDE))))
    stepper = Stepper(fabric, Lesson(model, objective, lambda place: iter(())), loop, AdamW())

    def step(pairs: int) -> None:
        batch = {"image": torch.randint(0, 256, (pairs, 3, SIDE, SIDE), dtype=torch.uint8)}
        batch["text"] = torch.randint(1, VOCAB, (pairs, LENGTH))
        assert stepper.take(1, [batch], rate=1e-4, stop=False).isfinite().all()

    return step, sum(p.numel() for p in model.parameters())


def largest() -> float:
    """MB of this process's largest resident set so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def memory(batch: int, chunk: int) -> dict[str, Any]:
    """What a process needs before there is a model, and at most."""
    bare = largest()
    step, parameters = stepping(chunk)
    for _ in range(max(STEPS, PAIRS // 4 // batch)):
        step(batch)
    return {"bare": bare, "most": largest(), "parameters": parameters}


def times(batch: int, chunk: int) -> dict[str, Any]:
    """Processor milliseconds a sample: [in chunks, as usual] of each turn."""
    step, _ = stepping(chunk)
    step(chunk)
    turns = []
    for _ in range(max(TURNS, PAIRS // batch)):
        began = time.process_time()
        step(batch)
        between = time.process_time()
        for _ in range(batch // chunk):
            step(chunk)
        ended = time.process_time()
        turns.append([1e3 * (between - began) / batch, 1e3 * (ended - between) / (batch // chunk * chunk)])
    return {"turns": turns}


MEASURES = {"memory": memory, "times": times}


def alone(what: str, batch: int, chunk: int, threads: int) -> dict[str, Any]:
    """The measure in a process of its own."""
    print(f"{what} of {batch} pairs, {chunk} at once", file=sys.stderr, flush=True)
    options = ["--measure", what, "--batches", str(batch), "--chunk", str(chunk), "--threads", str(threads)]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def rows(batches: list[int], chunk: int, threads: int) -> list[Row]:
    """What is printed and recorded."""
    made: list[Row] = []
    needed = {batch: alone("memory", batch, chunk, threads) for batch in batches}
    for batch, found in needed.items():
        made.append((f"peak memory, batch {batch}, {chunk} at once", round(found["most"]), "MB", None, None))
    least, most = min(batches), max(batches)
    made.append(("of it: Python, torch and imports", round(needed[least]["bare"]), "MB", None, None))
    ratio = needed[most]["most"] / needed[least]["most"]
    name = f"peak memory, batch {most} over batch {least}"
    made.append((name, round(ratio, 3), "x", f"<= {MEMORY}", ratio <= MEMORY))
    ratio = (needed[most]["most"] - needed[most]["bare"]) / (needed[least]["most"] - needed[least]["bare"])
    made.append((f"{name}, without Python, torch and imports", round(ratio, 3), "x", None, None))
    whole = sorted(batches)[len(batches) // 2]
    if whole > chunk:
        found = alone("memory", whole, whole, threads)
        made.append((f"peak memory, batch {whole}, all at once", round(found["most"]), "MB", None, None))
    for batch in [b for b in batches if b > chunk]:
        turns = alone("times", batch, chunk, threads)["turns"]
        name = f"a sample of training, batch {batch}, {chunk} at once"
        cached, usual = (round(statistics.median(turn[side] for turn in turns), 2) for side in (0, 1))
        made.append((name, cached, "ms", None, None))
        made.append((f"a sample of training, batch {chunk}, taking turns with batch {batch}", usual, "ms", None, None))
        ratio = statistics.median(turn[0] / turn[1] for turn in turns)
        made.append((f"{name}, over batch {chunk}", round(ratio, 3), "x", f"<= {TIME}", ratio <= TIME))
    return made


def write(path: Path, made: list[Row], signature: str, threads: int) -> None:
    """Records in the form of docs/results."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = f"{threads} {'core' if threads == 1 else 'cores'}"
    same = {
        "topic": "clip",
        "command": "python benchmarks/contrast.py",
        "data": f"noise: images of {SIDE} x {SIDE} as bytes, texts of {LENGTH} ids",
        "split": "none",
        "signature": signature,
        "seeds": [1],
        "hardware": f"{cores} {found[1].strip() if found else ''}, torch {torch.__version__.split('+')[0]} CPU",
        "date": dt.date.today().isoformat(),
    }
    fields = ("name", "value", "unit", "target", "met")
    records = [{**same, **dict(zip(fields, row, strict=True))} for row in made]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measures, prints and, if asked, writes down."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--batches", type=int, nargs="+", default=[64, 512, 4096])
    parse.add_argument("--chunk", type=int, default=64)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--out", type=Path, help="file of records, such as docs/results/clip-batches.json")
    parse.add_argument("--measure", choices=MEASURES, help="in this process: one number of one batch, as JSON")
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(json.dumps(MEASURES[given.measure](given.batches[0], given.chunk)))
        return
    made = rows(given.batches, given.chunk, given.threads)
    for name, value, unit, target, met in made:
        goal = "" if target is None else f"   ({target}: {'yes' if met else 'no'})"
        print(f"{name:80} {value:10.5g} {unit}{goal}")
    if given.out:
        signature = f"clip_small with layer norms and AdamW, {choose('auto', 'cpu')}; VmHWM of a process; CPU time"
        write(given.out, made, signature, given.threads)


if __name__ == "__main__":
    main()
