"""Dates chapter: three translators learn to write English dates in Korean, and show where they look."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessella.charts import bar_chart, heat_map, line_chart
from tessella.demo.dates import DatePair, date_splits, write_dates
from tessella.loop import LoopSpec
from tessella.models import Model
from tessella.predict import load
from tessella.recipes.translation import ParallelText, Translation
from tessella.report import Chapter, Example, Report
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.text import CodecSpec
from tessella.translation import train
from tessella.translator import Answer, Translator
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import Size, sized

INTRO = """Babel carries the Unicode consortium's date formats. Here it writes dates, times and spans in many English \
styles, and once in Korean, where everything stands in the opposite order. Three systems learn to translate; no day \
of the test is seen in training.

The first reads the sentence into **one vector** and writes from it. The second **looks back** at every word it read, \
each time it writes one. The third is a **Transformer**: nothing but looking."""


@dataclass(frozen=True)
class System:
    """One of the three: its name on the page, its folder, its model, its training."""

    name: str
    folder: str
    model: Model
    steps: int
    peak: float


SYSTEMS = (
    System("one vector", "seq2seq", seq2seq(0, "none", dim=96, hidden=96, dropout=0.0), 500, 3e-3),
    System("+ attention", "additive", seq2seq(0, "additive", dim=96, hidden=96, dropout=0.0), 350, 3e-3),
    System("Transformer", "transformer", sized(Size(2, 128, 256, 4, 0.0), 0, norm="pre"), 450, 2e-3),
)
SIZES = ((0, 15), (16, 24), (25, 36), (37, 1000))
"""Letters of the input, for the scores by length."""
SHOWN = ("day", "moment", "days")


def dates(report: Report, out: Path, say: Callable[[str], None]) -> None:
    """Trains the three systems under `out` (made anew), scores them, and writes the chapter."""
    splits = date_splits()
    shutil.rmtree(out, ignore_errors=True)
    write_dates(out / "data", splits)
    test = splits["test"]
    answers: dict[str, list[Answer]] = {}
    minutes: dict[str, float] = {}
    for system in SYSTEMS:
        say(f"\n{system.name}: {system.steps} steps")
        began = time.monotonic()
        train(recipe(system), out / "data", out / system.folder, say=say)
        minutes[system.name] = (time.monotonic() - began) / 60
        answers[system.name] = load(out / system.folder).translate([p.source for p in test])
        say(f"{system.name}: {exact(answers[system.name], test):.1%} of {len(test)} unseen dates exactly right")
    chapter = report.chapter("dates", "Dates: from one vector to attention", INTRO)
    chapter.numbers({name: f"{exact(found, test):.0%}" for name, found in answers.items()})
    chapter.text(f"Share of {len(test)} unseen inputs translated exactly, to the letter.")
    write_scores(chapter, out, answers, minutes, test)
    write_looks(chapter, {s.name: load(out / s.folder) for s in SYSTEMS[1:]}, test)
    shown = [
        next(i for i, p in enumerate(test) if p.domain == d) for d in ("day", "moment", "days", "hours", "moments")
    ]
    chapter.heading("A few answers")
    chapter.examples(
        [Example(test[i].source, test[i].target, {n: found[i].text for n, found in answers.items()}) for i in shown]
    )
    for i in shown:
        say(f"\n  {test[i].source}")
        for name, found in answers.items():
            say(f"  {'✓' if found[i].text == test[i].target else '✗'} {name:<12} {found[i].text}")


def recipe(system: System) -> Translation:
    """The recipe of one system."""
    return Translation(
        data=ParallelText(source="en", target="ko", validation="validation"),
        codec=CodecSpec(size=700),
        model=system.model,
        schedule=Cosine(peak=system.peak, warmup=system.steps // 10),
        loop=LoopSpec(
            steps=system.steps, validate_every=100, checkpoint_every=system.steps, log_every=20, metric="exact"
        ),
        batch_tokens=2048,
    )


def exact(answers: Sequence[Answer], test: Sequence[DatePair]) -> float:
    """Share of answers equal to the truth, to the letter."""
    return sum(a.text == p.target for a, p in zip(answers, test, strict=True)) / len(test)


def write_scores(
    chapter: Chapter, out: Path, answers: Mapping[str, list[Answer]], minutes: Mapping[str, float], test: list[DatePair]
) -> None:
    """Table, curves, and scores by length."""
    records = {s.name: RunFolder(out / s.folder).metrics() for s in SYSTEMS}
    chapter.table(
        ["system", "parameters", "minutes", "exactly right"],
        [
            [s.name, parameters(out / s.folder), round(minutes[s.name], 1), f"{exact(answers[s.name], test):.1%}"]
            for s in SYSTEMS
        ],
    )
    chapter.figure(
        line_chart({name: validations(rows) for name, rows in records.items()}, "step", "exactly right", percent=True),
        "While learning: share of the validation dates that are exactly right.",
    )
    parts = [[i for i, p in enumerate(test) if low <= len(p.source) <= high] for low, high in SIZES]
    names = [f"{low}–{high}" if high < 1000 else f"over {low - 1}" for low, high in SIZES]
    bars = {
        name: [exact([found[i] for i in part], [test[i] for i in part]) if part else None for part in parts]
        for name, found in answers.items()
    }
    chapter.figure(
        bar_chart(names, bars, "letters read", "exactly right", counts=[len(p) for p in parts], percent=True),
        "By length: one vector has to hold more and more; attention looks things up instead.",
    )


def validations(records: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(step, share exactly right) of every validation."""
    return [(0.0, 0.0)] + [(r["step"], r["validation"]["exact"] / 100) for r in records if "validation" in r]


def parameters(run: Path) -> int:
    """Weights in a run, tied ones once."""
    seen = {t.data_ptr(): t.numel() for t in RunFolder(run).weights().values()}
    return sum(seen.values())


def write_looks(chapter: Chapter, translators: Mapping[str, Translator], test: list[DatePair]) -> None:
    """Attention maps of a few unseen inputs."""
    chapter.heading("Where they look")
    chapter.text(
        "Each row is a piece that was written, each column a piece that was read. Korean begins with the year, which "
        "English puts last: the bright cells run against the diagonal."
    )
    for domain in SHOWN:
        pair = next(p for p in test if p.domain == domain)
        panes: dict[str, str | bytes] = {}
        for name, translator in translators.items():
            answer = translator.translate([pair.source], attention=True)[0]
            if answer.looked:
                looked = answer.looked
                panes[name] = heat_map(looked.target, looked.source, looked.weights.tolist())
        chapter.figure(panes, f"{pair.source} → {pair.target}")
