"""Vision: milliseconds a batch of classifiers of images on a processor, beside transformers, ONNX Runtime, OpenVINO.

    python benchmarks/vision.py [--models ViT-B/16 Swin-T] [--batch 1 8] [--threads 2] [--out docs/results/vision-speed.json]
    python benchmarks/vision.py --training [--out docs/results/vision-speed.json]

Random weights, images of 224 x 224. Each system has a process of its own, which waits while others compute; they take
turns, so that a busy neighbour slows all, and the table has the medians over rounds, with the median of the rounds'
ratios. The product rate is that of a large bf16 product in this process, measured between the turns. With --out,
records of the same name are replaced and others stay, so that models can be measured one at a time.
"""  # noqa: E501  commands on one line each

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing as mp
import re
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vision_peers import CLASSES, MODELS, SIZE, SYSTEMS, TRAINED, TRAININGS, quiet  # noqa: E402

from tessella.zoo.catalog import model_spec  # noqa: E402
from tessella.zoo.counts import multiply_adds  # noqa: E402

OURS, RIVAL = "tessella bfloat16", "OpenVINO bfloat16"
TARGETS = {"ViT-B/16": 1.05, "Swin-T": 1.15, "CvT-13": 1.0}
"""How many times the rival's speed ours shall have, at a batch of 8."""
LARGE = 8
Times = dict[tuple[str, int], list[float]]
"""(system, batch) -> seconds of each round."""


def serve(pipe: Connection, name: str, model: str, batches: list[int], threads: int, training: bool) -> None:
    """A process: runs the batch it is told, as often as it is told, and says how long one took."""
    quiet()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if training:
        runs = {batch: TRAININGS[name](model, batch) for batch in batches}
    else:
        load, dtype = SYSTEMS[name]
        runs = load(model, batches, threads, dtype)
    for run in runs.values():  # compiles what compiles, and touches the memory
        run(), run()
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        batch, times = job
        runs[batch]()  # caches are a neighbour's
        began = time.perf_counter()
        for _ in range(times):
            runs[batch]()
        pipe.send((time.perf_counter() - began) / times)


def race(
    model: str, names: list[str], batches: list[int], threads: int, rounds: int, training: bool = False
) -> tuple[Times, float]:
    """Seconds of every system in every round, and the best rate of a large product (multiply-adds a second)."""
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        print(f"{model}: loading {name}", file=sys.stderr, flush=True)
        context.Process(target=serve, args=(theirs, name, model, batches, threads, training), daemon=True).start()
        theirs.close()
        try:
            pipes[name].recv()  # one after the other: compilers want all cores
        except EOFError:
            sys.exit(f"{name} failed")
    seconds: Times = {(name, batch): [] for batch in batches for name in names}
    a, b = (torch.randn(2048, 2048).to(torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        for name, batch in seconds:
            pipes[name].send((batch, 1 if training else max(LARGE // batch // 2, 1)))
            seconds[name, batch].append(pipes[name].recv())
        for _ in range(3):
            began = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - began)
    for pipe in pipes.values():
        pipe.send(None)
    return seconds, 2048**3 / best


def ratio(seconds: Times, other: str, ours: str, batch: int) -> float:
    """How many times the other's speed ours has: the median over rounds."""
    pairs = zip(seconds[other, batch], seconds[ours, batch], strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


Row = tuple[str, float, str, str | None, bool | None]
"""name, value, unit, target, met."""


def inference_rows(model: str, seconds: Times, rate: float) -> list[Row]:
    """What is printed and recorded of a race."""
    rows: list[Row] = []
    work = multiply_adds(model_spec(MODELS[model], {"classes": CLASSES}), (1, 3, SIZE, SIZE))
    for (name, batch), times in seconds.items():
        took = statistics.median(times)
        rows.append((f"{model}, batch {batch}: {name}", round(took * 1e3, 1), "ms", None, None))
        share = round(batch * work / took / rate, 3)
        rows.append((f"{model}, batch {batch}: share of the bf16 product rate, {name}", share, "of 1", None, None))
    for name, batch in seconds:
        if (OURS, batch) not in seconds or name.startswith("tessella"):
            continue
        least = TARGETS.get(model) if name == RIVAL else 1.0 if "transformers" in name else None
        least = least if batch == LARGE else None
        value = ratio(seconds, name, OURS, batch)
        goal = (None, None) if least is None else (f">= {least}", value >= least)
        rows.append((f"{model}, batch {batch}: {OURS} over {name}", round(value, 3), "x", *goal))
    return rows


def training_rows(model: str, seconds: Times) -> list[Row]:
    """The same of training."""
    rows: list[Row] = []
    for (name, batch), times in seconds.items():
        speed = batch / statistics.median(times)
        rows.append((f"{model}, training, batch {batch}: {name}", round(speed, 2), "images/s", None, None))
        if name == "transformers" and ("tessella", batch) in seconds:
            value = ratio(seconds, name, "tessella", batch)
            title = f"{model}, training, batch {batch}: tessella over transformers"
            rows.append((title, round(value, 3), "x", ">= 1", value >= 1))
    return rows


def hardware(threads: int) -> str:
    """Such as ``2 cores AMD EPYC, torch 2.13 CPU``."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = f"{threads} {'core' if threads == 1 else 'cores'}"
    return f"{cores} {found[1].strip() if found else ''}, torch {torch.__version__.split('+')[0]} CPU"


def write(path: Path, rows: list[Row], command: str, threads: int, rounds: int) -> None:
    """Records in the form of docs/results; those of other names stay."""
    same = {
        "topic": "vision",
        "command": command,
        "data": f"random images of {SIZE} x {SIZE}",
        "split": "none",
        "signature": f"random weights; medians of {rounds} interleaved rounds",
        "seeds": [0],
        "hardware": hardware(threads),
        "date": dt.date.today().isoformat(),
    }
    fields = ("name", "value", "unit", "target", "met")
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [record for record in kept if record["name"] not in {row[0] for row in rows}]
    kept += [{**same, **dict(zip(fields, row, strict=True))} for row in rows]
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measures, prints and, if asked, writes down."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--models", nargs="+", choices=sorted({*MODELS, *TRAINED}), help="all of them, unless given")
    parse.add_argument("--batch", nargs="+", type=int, default=[1, LARGE])
    parse.add_argument("--systems", default=".", help="only those whose name this expression finds")
    parse.add_argument("--threads", type=int, default=2)
    parse.add_argument("--rounds", type=int, default=7)
    parse.add_argument("--quick", action="store_true", help="two rounds, and nothing that is compiled")
    parse.add_argument("--training", action="store_true", help="images a second of training instead")
    parse.add_argument("--training-batch", type=int, default=16)
    parse.add_argument("--out", type=Path, help="file of records, such as docs/results/vision-speed.json")
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    rounds = 2 if given.quick else given.rounds
    systems = TRAININGS if given.training else SYSTEMS
    names = [n for n in systems if re.search(given.systems, n) and not (given.quick and "compiled" in n)]
    for model in [m for m in (TRAINED if given.training else MODELS) if not given.models or m in given.models]:
        batches = [given.training_batch] if given.training else given.batch
        seconds, rate = race(model, names, batches, given.threads, rounds, given.training)
        rows = training_rows(model, seconds) if given.training else inference_rows(model, seconds, rate)
        print(f"\n{model} on {hardware(given.threads)}, {rate / 1e9:.0f} G multiply-adds/s in a large bf16 product")
        for name, value, unit, target, met in rows:
            goal = "" if target is None else f"   ({target}: {'yes' if met else 'no'})"
            print(f"  {name:80} {value:10.5g} {unit}{goal}", flush=True)
        if given.out:
            write(
                given.out, rows, "python benchmarks/vision.py" + " --training" * given.training, given.threads, rounds
            )


if __name__ == "__main__":
    main()
