"""Training speed: words a second of tessella and of plain torch, by turns on the same machine.

    python benchmarks/train_translation.py [--data ../shared/data/multi30k] [--rounds 9] [--write docs/results]

Each system has a process of its own (memory is measured there, and neither's allocator helps the other); the parent
lets them train by turns, a second or two each, so that a busy neighbour slows both. A round's speed is words a second,
real source and target pieces, padding not counted; printed are medians over rounds, and the median of the rounds'
ratios. tessella runs the step of its training loop: its batches, objective, clipping and optimizer. The share of the
machine is the products with weights that real words need, forward and backward, over the bf16 rate of one large
matrix product, measured in the same process between its turns.

With --tuned-peer the peer's process gets an allocator that keeps freed memory (glibc's thresholds), which plain
training does without unless somebody knows.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import json
import multiprocessing as mp
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from plain_transformer import PlainTraining, PlainTransformer, source_sorted
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tessella.data.batches import Position, TokenBatches  # noqa: E402
from tessella.data.pairs import PairData  # noqa: E402
from tessella.data.parallel import read_split  # noqa: E402
from tessella.lesson import Lesson  # noqa: E402
from tessella.loop import LoopSpec  # noqa: E402
from tessella.objectives import Translate  # noqa: E402
from tessella.optimizers import AdamW  # noqa: E402
from tessella.processes import launch  # noqa: E402
from tessella.stepper import Stepper  # noqa: E402
from tessella.text import CodecSpec, train_codec  # noqa: E402
from tessella.zoo.transformer import SIZES, transformer  # noqa: E402

TARGET = 1.5
"""How many times the peer's words a second were hoped for."""

QUIET = 0.9
"""Words a second are recorded only where the systems had this share of their cores; what compares them, always."""


@dataclass
class Task:
    """What both systems train on."""

    data: PairData
    vocab: int
    budget: int
    threads: int


@dataclass
class Turn:
    """What a system did when it was its turn."""

    words: int
    seconds: float
    processor: float
    work: float
    """Multiplications and additions in products with weights, for real words."""
    rate: float
    """The same a second in one large bf16 product."""
    peak: float
    """MiB this process has held at most."""
    threads: int

    @property
    def alone(self) -> float:
        """The seconds it would have taken with the cores to itself."""
        return self.processor / self.threads


class Tessella:
    """The step of tessella's loop."""

    def __init__(self, task: Task, size: str) -> None:
        model = transformer(size, task.vocab, norm="post+final").build()
        lesson = Lesson(model, Translate(smoothing=0.1), lambda position: iter(()))
        loop = LoopSpec(steps=1, device="cpu", precision="bf16")
        self.stepper = Stepper(launch(loop), lesson, loop, AdamW())
        lengths = task.data.lengths - [0, 1]  # a target is read without its eos
        self.batches = TokenBatches(lengths, task.budget, seed=1).epoch(Position().epoch)
        self.done = 0

    def step(self, batch: dict[str, Tensor]) -> None:
        self.done += 1
        self.stepper.take(self.done, [batch], 5e-4, False).tolist()


class Plain:
    """The step of plain torch."""

    def __init__(self, task: Task, size: str) -> None:
        self.training = PlainTraining(PlainTransformer(task.vocab, *SIZES[size]))
        lengths = [(int(s), int(t) - 1) for s, t in task.data.lengths]
        self.batches = source_sorted(lengths, task.budget, seed=1)
        self.step = self.training.step


SYSTEMS = {"plain torch": Plain, "tessella": Tessella}


def work_of(size: str, vocab: int, source: int, target: int) -> float:
    """2 operations a weight and word, forward, and twice that backward (Kaplan et al. 2020, sec. 2.1)."""
    depth, dim, hidden, _, _ = SIZES[size]
    encoder = depth * (4 * dim * dim + 2 * dim * hidden) + depth * 2 * dim * dim  # and keys and values for the decoder
    decoder = depth * (6 * dim * dim + 2 * dim * hidden) + vocab * dim
    return 6.0 * (encoder * source + decoder * target)


def product_rate(threads: int, n: int = 1024, times: int = 20) -> float:
    """Operations a second in the fastest of several n x n bf16 products, had they the cores to themselves."""
    a = torch.randn(n, n).bfloat16()
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        a @ a
        best = min(best, time.process_time() - began)
    return 2 * n**3 / (best / threads)


def peak_memory() -> float:
    """MiB; of this program alone, unlike getrusage, which remembers the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def serve(pipe: Connection, name: str, size: str, task: Task, tuned: bool) -> None:
    """A process: trains for as many seconds as it is told, and says what it did."""
    if tuned:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    torch.set_num_threads(task.threads)
    torch.manual_seed(1)
    system = SYSTEMS[name](task, size)
    at = 0
    while (span := pipe.recv()) > 0:
        rate, words, work = product_rate(task.threads), 0, 0.0
        began, began_processor = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < span:
            indices = system.batches[at % len(system.batches)]
            at += 1
            system.step(task.data.collate(indices))
            source, target = (task.data.lengths[np.asarray(indices)] - [0, 1]).sum(0).tolist()
            words += source + target
            work += work_of(size, task.vocab, source, target)
        spent, processor = time.perf_counter() - began, time.process_time() - began_processor
        pipe.send(Turn(words, spent, processor, work, rate, peak_memory(), task.threads))


def race(size: str, task: Task, rounds: int, span: float, tuned: bool) -> dict[str, list[Turn]]:
    """Each system's turns, the first of them (warming up) left out."""
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in SYSTEMS:
        pipes[name], theirs = context.Pipe()
        arguments = (theirs, name, size, task, tuned and name == "plain torch")
        context.Process(target=serve, args=arguments, daemon=True).start()
    turns: dict[str, list[Turn]] = {name: [] for name in SYSTEMS}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(span)
            turn = pipe.recv()
            if number:
                turns[name].append(turn)
    for pipe in pipes.values():
        pipe.send(0)
    return turns


def numbers(turns: dict[str, list[Turn]]) -> dict[str, float]:
    """What is printed and recorded of a race."""
    found: dict[str, float] = {}
    for name, own in turns.items():
        found[f"words/s, {name}"] = statistics.median(t.words / t.seconds for t in own)
        found[f"words per processor second, {name}"] = statistics.median(t.words / t.processor for t in own)
        found[f"share of the bf16 product rate, {name}"] = statistics.median(t.work / t.alone / t.rate for t in own)
        found[f"peak memory, {name}"] = max(t.peak for t in own)
    found["share of its cores, at the least"] = min(
        sum(t.alone for t in own) / sum(t.seconds for t in own) for own in turns.values()
    )
    pairs = list(zip(turns["tessella"], turns["plain torch"], strict=True))
    ratios = [(a.words / a.seconds) / (b.words / b.seconds) for a, b in pairs]
    found["times the words/s of plain torch"] = statistics.median(ratios)
    found["times the words/s of plain torch, worst round"] = min(ratios)
    found["times the words/s of plain torch, best round"] = max(ratios)
    found["times the words per processor second"] = statistics.median(
        (a.words / a.processor) / (b.words / b.processor) for a, b in pairs
    )
    return found


UNITS = {"words/s": "words/s", "words per": "words/s", "share": "of 1", "peak": "MiB", "times": "x"}


def record(size: str, name: str, value: float, command: str, hardware: str) -> dict[str, object]:
    """One number in the form of docs/results."""
    hoped = name == "times the words/s of plain torch"
    return {
        "topic": "translation",
        "name": f"training speed, {size} Transformer: {name}",
        "value": round(value, 3),
        "unit": next(unit for begin, unit in UNITS.items() if name.startswith(begin)),
        "target": f">= {TARGET}" if hoped else None,
        "met": value >= TARGET if hoped else None,
        "command": command,
        "data": "Multi30k de-en",
        "split": "train",
        "signature": None,
        "seeds": [1],
        "hardware": hardware,
        "date": dt.date.today().isoformat(),
    }


def hardware(threads: int) -> str:
    """Such as ``2 cores AMD EPYC, torch 2.13 CPU``."""
    info = Path("/proc/cpuinfo")
    models = [s.split(":")[1].strip() for s in info.read_text().splitlines() if s.startswith("model name")]
    name = models[0] if models else platform.processor()
    return f"{threads} {'core' if threads == 1 else 'cores'} {name}, torch {torch.__version__.split('+')[0]} CPU"


def prepare(data: Path, budget: int, threads: int) -> Task:
    """German to English, a joint vocabulary of ten thousand pieces."""
    pairs = read_split(data, "train", ("de", "en"))
    codec = train_codec(CodecSpec(size=10_000), (p.source for p in pairs), (p.target for p in pairs))
    return Task(PairData.from_pairs(pairs, codec), codec.source.size, budget, threads)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/multi30k")
    parse.add_argument("--sizes", nargs="+", default=["tiny", "small"], choices=list(SIZES))
    parse.add_argument("--budget", type=int, default=4096, help="padded source and target tokens of a batch")
    parse.add_argument("--rounds", type=int, default=9)
    parse.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parse.add_argument("--threads", type=int, default=torch.get_num_threads())
    parse.add_argument("--tuned-peer", action="store_true", help="a better allocator for the peer")
    parse.add_argument("--write", type=Path, help="folder for translation-speed.json")
    given = parse.parse_args()
    task = prepare(given.data, given.budget, given.threads)
    command = f"python benchmarks/train_translation.py --budget {given.budget} --threads {given.threads}"
    command += f" --rounds {given.rounds} --seconds {given.seconds:g}"
    command += " --tuned-peer" if given.tuned_peer else ""
    records = []
    for size in given.sizes:
        print(f"\n{size}: {SIZES[size]}, vocabulary {task.vocab}, {hardware(given.threads)}")
        found = numbers(race(size, task, given.rounds, given.seconds, given.tuned_peer))
        for name, value in found.items():
            print(f"  {name:50} {value:12,.2f}", flush=True)
            if found["share of its cores, at the least"] > QUIET or not name.startswith("words/s"):
                records.append(record(size, name, value, command, hardware(given.threads)))
    if given.write:
        path = given.write / "translation-speed.json"
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
