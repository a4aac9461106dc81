"""Names chapter: damaged digits and their damaged names, read alone and together, and what attended to what."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tessella.charts import bar_chart
from tessella.class_scores import interval, softmax
from tessella.data.pixels import Preprocess
from tessella.data.records import Records, read_records
from tessella.demo.digits import digit_splits
from tessella.demo.digits_drawings import Line
from tessella.demo.names import COPIES, NAMES, STREAMS, Rows, damaged_rows, ideal, write_rows
from tessella.demo.names_drawings import scenes
from tessella.demo.names_looks import habits, scene
from tessella.demo.names_words import fused_told, habits_told, missing_told, multiplied_told
from tessella.fuser import Fuser
from tessella.fusing import train
from tessella.loop import LoopSpec
from tessella.predict import load
from tessella.recipes.design import Design, SchemeName
from tessella.recipes.fusing import Fusion, MixedRows, fuse
from tessella.report import Chapter, Report
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.text import CodecSpec

INTRO = """A digit that somebody wrote by hand, and its English name, such as {example}. **Both are damaged:** of the \
picture one half is lost, and the rest is noisy; of the name some letters are left out, and some of those that stay \
are wrong. Often one of them is not enough: “{letter}” may be {names}.

**Fusion** makes tokens of both, 2 x 2 pixels or a letter or two, and one Transformer reads them. In **early-concat** \
every token looks at all tokens of both from the beginning; in **cross-to-concat** each of the two first looks at the \
other one, and then all at all. In training, one of the two is taken away from some rows (modality dropout), so that \
the model can do with either."""


@dataclass(frozen=True)
class System:
    """One of the five: its name on the page, its folder, the columns it reads, its scheme and modality dropout."""

    name: str
    folder: str
    reads: tuple[str, ...] = ("digit", "word")
    scheme: SchemeName = "early-concat"
    drop: float = 0.3


KINDS = {"digit": "image", "word": "text"}
ALONE = {name: System(f"{name} alone", name, (name,), drop=0.0) for name in STREAMS}
EARLY = System("early-concat", "early-concat")
CROSS = System("cross-to-concat", "cross-to-concat", scheme="cross-to-concat")
UNDROPPED = System("early-concat, nothing ever missing", "undropped", drop=0.0)
SYSTEMS = (*ALONE.values(), EARLY, CROSS, UNDROPPED)
MULTIPLIED = "chances of both, multiplied"
STEPS = 600
BATCH = 64
SHOWN = 6
"""Rows of the test that are drawn."""
MEANT = 30
"""Rows of the test over which attention is averaged."""
HEADS = ("as it is", "what the answer\nrests on", "where the other\nlooks", "who looks\nat whom", "read as")
LOOKS = """What an answer **rests on**: how much each place of the digit and each piece of the word adds to its \
log-odds, on average over the orders in which they could become known (Shapley values; orange speaks for the answer, \
blue against it; below, the sums). **Where the other looks** is attention: how much the tokens of the word look at \
each place of the digit in the last block, and the other way round. The squares say how much of its attention the one \
at the left gives to each. “␣” begins a word, “end” ends it."""


@dataclass
class Read:
    """A system, and what it says of the test."""

    fuser: Fuser
    records: Records
    seconds: float
    logits: dict[str, np.ndarray]
    """What of the two is left ("" for both, or all that it reads) -> n k."""

    @property
    def right(self) -> dict[str, np.ndarray]:
        """The same -> n."""
        return {left: logits.argmax(axis=1) == self.records.labels for left, logits in self.logits.items()}


def names(report: Report, out: Path, say: Callable[[str], None]) -> None:
    """Trains the five systems under `out` (made anew), reads the test with and without each half, tells of it."""
    parts = damaged_rows(digit_splits())
    shutil.rmtree(out, ignore_errors=True)
    data = write_rows(out / "data", parts)
    say(f"\n{len(parts['train'].words):,} damaged digits with their damaged names to learn from, {STEPS} steps each")
    found: dict[str, Read] = {}
    for system in SYSTEMS:
        began = time.monotonic()
        train(recipe(system, parts["train"]), data, out / system.folder, say=lambda line: None)
        found[system.name] = read(system, out, data, time.monotonic() - began)
        right = found[system.name].right[""]
        say(f"{system.name}: {right.mean():.1%} of {len(right)} unseen rows right")
    example = f"“{NAMES[7]}”"
    of_e = [name for name in NAMES if "e" in name]
    intro = INTRO.format(example=example, letter="e", names=f"{', '.join(of_e[:-1])} or {of_e[-1]}")
    chapter = report.chapter("names", "Names: two halves of an answer", intro)
    write_scores(chapter, found, parts, out)
    write_missing(chapter, found)
    write_looks(chapter, found, parts["test"], say)
    say(f"\ntry: tessella predict {out / EARLY.folder} {data / 'test.parquet'} --out {out / 'answers.csv'}")
    say(f"     tessella show {out / EARLY.folder} {data / 'test.parquet'} --row 1 --out {out / 'why.html'}")


def recipe(system: System, rows: Rows) -> Fusion:
    """All learn alike; who reads one column only ignores the other."""
    pixels = rows.pixels / 255
    return fuse().replace(
        data=MixedRows(task="classes", kinds={n: kind if n in system.reads else "ignore" for n, kind in KINDS.items()}),
        image=Preprocess(
            size=(8, 8), channels=1, mean=(round(float(pixels.mean()), 3),), std=(round(float(pixels.std()), 3),),
            crop=1.0,
        ),
        codec=CodecSpec(size=300, lowercase=True),
        length=12,
        design=Design(
            scheme=system.scheme, dim=64, depth=2, heads=4, hidden=128, dropout=0.0, drop=system.drop, patch=2
        ),
        schedule=Cosine(peak=5e-3, warmup=STEPS // 10),
        loop=LoopSpec(
            steps=STEPS, metric="accuracy", validate_every=STEPS, checkpoint_every=STEPS, checkpoint_minutes=None,
            log_every=20, keep=1, precision="32", ema=0.99,
        ),
        batch=BATCH,
    )  # fmt: skip


def read(system: System, out: Path, data: Path, seconds: float) -> Read:
    """What a trained system says of the test, and what it says where only one of the two is left."""
    fuser = load(out / system.folder)
    records = read_records([data / "test.parquet"], fuser.schema)
    left = {"": ()} | {name: tuple(STREAMS[n] for n in STREAMS if n != name) for name in STREAMS}
    logits = {
        name: torch.stack([answer for answer in fuser.answers(records, without) if isinstance(answer, torch.Tensor)])
        for name, without in left.items()
        if not name or len(system.reads) > 1
    }
    return Read(fuser, records, seconds, {name: one.numpy() for name, one in logits.items()})


def multiplied(found: Mapping[str, Read]) -> np.ndarray:
    """Whether what both systems of one stream say together is right, n: by the product of their probabilities."""
    both = [np.log(softmax(found[one.name].logits[""].astype(float))) for one in ALONE.values()]
    return np.sum(both, axis=0).argmax(axis=1) == found[EARLY.name].records.labels


def write_scores(chapter: Chapter, found: Mapping[str, Read], parts: Mapping[str, Rows], out: Path) -> None:
    """Numbers, all systems in a table, and what fusion is worth."""
    alone = {one.name: found[one.name].right[""] for one in ALONE.values()}
    fused = {one.name: found[one.name].right[""] for one in (EARLY, CROSS)}
    product, test = multiplied(found), parts["test"]
    chapter.numbers({name: f"{right.mean():.1%}" for name, right in {**alone, **fused}.items()})
    learned = len(parts["train"].words)
    reader = (ideal(test.words) == test.labels).mean()
    chapter.text(
        f"Share of {len(test.labels)} damaged digits read right. Training has seen none of these digits, in whatever "
        f"state: it learned from {learned:,} rows, of {learned // COPIES['train']:,} others with {COPIES['train']} "
        "kinds of damage each. Who knew exactly how names are damaged could read "
        f"{reader:.1%} of this test from the word alone; in the long run, nobody reads more."
    )
    rows = []
    for system in SYSTEMS:
        one = found[system.name]
        weights = sum(tensor.numel() for tensor in RunFolder(out / system.folder).weights().values())
        rows.append([system.name, weights, round(one.seconds), *_level(one.right[""])])
    rows.append([MULTIPLIED, None, None, *_level(product)])
    chapter.table(["system", "weights", "seconds", "right", "95 % interval"], rows, "Intervals by bootstrap.")
    chapter.heading("What is read from both")
    chapter.text(f"{fused_told(alone, fused)}\n\n{multiplied_told(product, fused)}")


def _level(right: np.ndarray) -> list[str]:
    return [f"{right.mean():.1%}", "{:.1%} to {:.1%}".format(*interval(right))]


def write_missing(chapter: Chapter, found: Mapping[str, Read]) -> None:
    """What becomes of fusions where one of the two is missing altogether."""
    chapter.heading("When one of them is missing")
    right = {system.name: found[system.name].right for system in (EARLY, CROSS, UNDROPPED)}
    alone = {name: found[one.name].right[""] for name, one in ALONE.items()}
    series: dict[str, list[float | None]] = {"alone": [None, *(float(one.mean()) for one in alone.values())]}
    series |= {name: [float(one.mean()) for one in runs.values()] for name, runs in right.items()}
    chapter.figure(
        bar_chart(["both", *(f"the {name} only" for name in STREAMS)], series, "what is there", "right", percent=True),
        "The same rows, and those from which the other one was taken away. “Nothing ever missing”: the same scheme "
        "without modality dropout.",
    )
    chapter.text(missing_told(alone, {one.name: right[one.name] for one in (EARLY, CROSS)}, right[UNDROPPED.name]))


def write_looks(chapter: Chapter, found: Mapping[str, Read], test: Rows, say: Callable[[str], None]) -> None:
    """Some rows with what the answer rests on and where each looks at the other, and the mean over more of them."""
    chapter.heading("What attended to what")
    chosen = telling(found)
    panes: dict[str, str | bytes] = {}
    told = []
    for system in (EARLY, CROSS):
        one = found[system.name]
        rows = [scene(one.fuser, one.records, i, test.pixels[i], answers(found, system, i)) for i in chosen]
        panes[system.name] = scenes(rows, HEADS, list(STREAMS), f"what attends to what in {system.name}")
        told.append(habits_told(system.name, *habits(one.fuser, one.records.take(range(min(MEANT, len(one.records)))))))
    chapter.text(LOOKS)
    chapter.figure(
        panes, "Unseen rows: first those that only both together tell, then those in which one of them misleads."
    )
    chapter.text(f"Over the first {MEANT} rows of the test:\n\n" + "\n\n".join(told))
    for i in chosen[:3]:
        said = ", ".join(line.text for line in answers(found, EARLY, i)[1:])
        say(f"  a {test.labels[i]}, “{test.words[i]}”. {said}")


def telling(found: Mapping[str, Read]) -> list[int]:
    """Rows that both fusions read and neither alone, then those that the word, or the digit, misleads; by their order.

    Of different digits, as far as there are.
    """
    digit, word = (found[one.name].right[""] for one in ALONE.values())
    fused = found[EARLY.name].right[""] & found[CROSS.name].right[""]
    labels = found[EARLY.name].records.labels
    assert labels is not None
    chosen: dict[int, int] = {}
    for rows in (fused & ~digit & ~word, fused & digit & ~word, fused & ~digit & word):
        new = [i for i in np.flatnonzero(rows).tolist() if int(labels[i]) not in chosen]
        for i in sorted({int(labels[i]): i for i in reversed(new)}.values())[: SHOWN // 3]:
            chosen[int(labels[i])] = i
    return list(chosen.values()) or list(range(SHOWN))


def answers(found: Mapping[str, Read], system: System, i: int) -> list[Line]:
    """What a row is, and what it is read as, alone and together."""
    labels = found[system.name].records.labels
    assert labels is not None
    lines = [Line(f"a {labels[i]}")]
    for one in (*ALONE.values(), system):
        chances = softmax(found[one.name].logits[""][i : i + 1].astype(float))[0]
        answer = int(chances.argmax())
        lines.append(Line(f"{one.name}: {answer}, {chances[answer]:.0%}", answer == labels[i]))
    return lines
