"""What fusion costs: every scheme over two streams against the plain encoder of as many tokens, side by side.

python benchmarks/fusion_speed.py [--out docs/results/fusion-speed.json]

A scheme's multiply-adds say how long it should take next to the plain encoder; here stands how long it does take. The
time is that of the processor, one thread, so that other processes disturb it less; medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tessella.fusion import (
    BottleneckFusion,
    CrossAttention,
    CrossToConcat,
    EarlyConcat,
    EarlySum,
    ManyToOne,
    OneToMany,
    Scheme,
)
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.objectives import Classify
from tessella.stems.patches import Patches
from tessella.stems.streams import Streams
from tessella.stems.words import Stem, Words
from tessella.trunks.plain import Plain
from tessella.zoo.counts import multiply_adds_of

SIZES = {"large": (256, 4, 64, 16), "small": (128, 4, 16, 64), "single": (128, 4, 16, 1)}
"""Width, blocks a token, tokens a stream, rows at once; of single rows it is told only what they take."""
DIM, DEPTH, TOKENS, BATCH = SIZES["large"]
NAMES = ("first", "second")
TARGET = 1.15


def stack(depth: int) -> Plain:
    return Plain(dim=DIM, depth=depth, heads=4, hidden=4 * DIM, dropout=0.0, activation="gelu", norm="pre")


def schemes() -> dict[str, Scheme]:
    """Of the same depth for every token."""
    both, half = {"dim": DIM, "streams": NAMES}, DEPTH // 2
    return {
        "early-sum": EarlySum(**both, joint=stack(DEPTH)),
        "early-concat": EarlyConcat(**both, joint=stack(DEPTH)),
        "many-to-one": ManyToOne(**both, own=stack(half), joint=stack(half)),
        "one-to-many": OneToMany(**both, own=stack(half), joint=stack(half)),
        "cross": CrossAttention(**both, own=stack(DEPTH)),
        "cross-to-concat": CrossToConcat(**both, own=stack(half), joint=stack(half)),
        "bottleneck": BottleneckFusion(**both, own=stack(half), after=stack(half), tokens=4),
    }


def side() -> int:
    """Pixels of an image's side, for patches of 4 x 4."""
    return 4 * math.isqrt(TOKENS)


def images(sides: int) -> Stem:
    """A square of patches, or two."""
    return Patches(dim=DIM, patch=4, size=(side(), side() * sides), special=0)


def texts(sides: int) -> Stem:
    return Words(vocab=1000, dim=DIM, dropout=0.0)


def some_images(sides: int) -> Tensor:
    return torch.randn(BATCH, 3, side(), side() * sides)


def some_texts(sides: int) -> Tensor:
    """Every other one is half as long as the rest."""
    ids = torch.randint(1, 1000, (BATCH, TOKENS * sides))
    ids[1::2, TOKENS * sides // 2 :] = 0
    return ids


KINDS: dict[str, tuple[Callable[[int], Stem], Callable[[int], Tensor]]] = {
    "images": (images, some_images),
    "padded texts": (texts, some_texts),
}


def models(kind: str) -> dict[str, tuple[nn.Module, object, str]]:
    """Name -> model, what it reads, and the plain encoder of as many tokens."""
    stem, some = KINDS[kind]
    head = Classes(dim=DIM, classes=10, pool="streams")
    made: dict[str, tuple[nn.Module, object, str]] = {}
    for sides in (1, 2):
        spec = Encoder(stem=stem(sides), trunk=stack(DEPTH), head=head)
        made[f"plain, {sides * TOKENS}"] = spec.build(), some(sides), f"plain, {sides * TOKENS}"
    streams = Streams(dim=DIM, stems={name: stem(1) for name in NAMES})
    for name, scheme in schemes().items():
        given = {stream: some(1) for stream in NAMES}
        tokens = TOKENS if name == "early-sum" else 2 * TOKENS
        made[name] = Encoder(stem=streams, trunk=scheme, head=head).build(), given, f"plain, {tokens}"
    return made


def answering(model: nn.Module, given: object) -> Callable[[], None]:
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(given)

    return run


def training(model: nn.Module, given: object) -> Callable[[], None]:
    model.train()
    batch = {"source": given, "label": torch.arange(BATCH) % 10}

    def run() -> None:
        model.zero_grad()
        Classify()(model, batch)["loss"].backward()

    return run


DOING = {"answering": answering, "training": training}


def seconds(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Processor time of each, round by round, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:  # the first round warms up
                times[name].append(time.process_time() - began)
    return times


def records(kind: str, doing: str, rounds: int) -> list[dict[str, object]]:
    """How many rows a second, and how far from what multiply-adds say."""
    made = models(kind)
    work = {name: multiply_adds_of(copy.deepcopy(model), given) for name, (model, given, _) in made.items()}
    times = seconds({name: DOING[doing](model, given) for name, (model, given, _) in made.items()}, rounds)
    found = []
    for name, (_, _, plain) in made.items():
        rate = BATCH / statistics.median(times[name])
        what = f"{doing}, two streams of {kind}: {name}"
        if name.startswith("plain"):
            what = f"{doing}, {kind}: {name} tokens"
        found.append({"name": what, "value": round(rate, 1), "unit": "rows/s"})
        if name == plain:
            continue
        should = work[name] / work[plain]
        taken = statistics.median(a / b for a, b in zip(times[name], times[plain], strict=True))
        told = f"{what}: time against what its multiply-adds ({should:.3f} of {plain} tokens) say"
        record: dict[str, object] = {"name": told, "value": round(taken / should, 3), "unit": "of 1"}
        aim = {"target": f"<= {TARGET}", "met": taken / should <= TARGET} if BATCH > 1 else {}
        found.append(record | aim)
    return found


def common(rounds: int) -> dict[str, object]:
    """What the records of a size share."""
    return {
        "topic": "fusion",
        "command": "python benchmarks/fusion_speed.py",
        "data": f"random rows: two streams of {TOKENS} tokens, width {DIM}, {DEPTH} blocks a token, batch {BATCH}",
        "split": "none",
        "signature": f"float32, 1 thread, processor time; medians of {rounds} interleaved rounds",
        "seeds": [0],
        "hardware": f"1 core {processor()}, torch {torch.__version__}",
        "date": dt.date.today().isoformat(),
    }


def chosen(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """For the page of results: rates of one kind, and of each size and scheme the ratio that is farthest off."""
    kept: dict[str, dict[str, object]] = {}
    for record in found:
        name = str(record["name"])
        if record["unit"] == "rows/s":
            if name.startswith("large, answering") and "images" in name:
                kept[name] = record
            continue
        size, scheme = name.split(", ")[0], name.split(": ")[1]
        told = f"{size}: {scheme}, time against what its multiply-adds say, the most of texts and images"
        told += "" if size == "single" else ", of training and answering"
        if told not in kept or float(str(record["value"])) > float(str(kept[told]["value"])):
            kept[told] = {**record, "name": told}
    return list(kept.values())


def processor() -> str:
    """What the machine calls its processor."""
    told = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    global DIM, DEPTH, TOKENS, BATCH
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    for size in arguments.sizes:
        DIM, DEPTH, TOKENS, BATCH = SIZES[size]
        for kind in KINDS:
            for doing in DOING if BATCH > 1 else ("answering",):
                for record in records(kind, doing, arguments.rounds):
                    print(f"{size}: {record['name']}: {record['value']} {record['unit']}", flush=True)
                    found.append({**common(arguments.rounds), **record, "name": f"{size}, {record['name']}"})
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(chosen(found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
