"""Fuse page: an evaluation of fusions as a page: scores, what each stream is worth, and what went most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling

from tessella.charts import bar_chart, line_chart
from tessella.class_page import by_class, confusions, reliability, sheet
from tessella.data.pixels import decode
from tessella.fuse_evaluate import Compared, Fused
from tessella.fuse_words import (
    PLAIN,
    change,
    chief,
    figure,
    group_name,
    level,
    masked_name,
    outcome,
    unseen,
    worth,
)
from tessella.report import Cell, Chapter, Report

WORST = 12
SAMPLE = 160
SIDE = 160


def save_page(found: Sequence[Fused], differences: Sequence[Compared], data: str, out: Path) -> Path:
    """Writes one self-contained page; gives its path. data: what people call the rows and their split."""
    first = found[0]
    report = Report("Evaluation", f"{', '.join(first.schema.label)} from {data}, {len(first.records):,} rows")
    for number, one in enumerate(found, 1):
        mean, span = level(one.schema, *one.level)
        intro = f"{outcome(one.schema)} {mean}, with a 95 % interval of {span}."
        chapter = report.chapter(f"run-{number}", one.run, intro[0].upper() + intro[1:])
        _measures(chapter, one)
        _asides(chapter, one)
        _streams(chapter, one)
        _lacking(chapter, one)
        if one.scores.classes is not None:
            reliability(chapter, one.scores.classes)
            confusions(chapter, one.scores.classes, one.schema.names, "rows")
        _trends(chapter, one)
        _worst(chapter, one)
        if one.scores.classes is not None:
            by_class(chapter, one.scores.classes, "rows")
        _labels(chapter, one)
    if differences:
        _differences(report, first, differences)
    return report.save(out)


def _measures(chapter: Chapter, one: Fused) -> None:
    """The few in large figures where one thing is asked, and all beside what needs no model."""
    measured, plain = one.scores.measured, one.scores.plain
    if len(measured) == 1:
        told = {name: figure(name, value) for name, value in chief(one.schema, dict(measured)).items()}
        chapter.numbers({**told, "rows a second": f"{one.rate:,.0f}"})
    names = list(next(iter(measured.values())))
    rows: list[list[Cell]] = []
    for key, values in measured.items():
        rows.append([key or "this run", *(figure(name, values[name]) for name in names)])
        rows.append([PLAIN[one.schema.task], *(figure(name, plain[key][name]) for name in names)])
    chapter.table(["", *names], rows, "Below: what needs no model, only the labels.")


def _asides(chapter: Chapter, one: Fused) -> None:
    if len(one.quarantine):
        told = "; ".join(f"{reason}: {count:,}" for reason, count in one.quarantine.reasons().items())
        chapter.text(f"**Set aside and not scored**: {told}.")
    if one.unseen:
        chapter.text(f"**Cells of categories never seen in training**, read as unknown: {unseen(one.unseen)}.")
    if one.scores.absent:
        chapter.text(f"**Without a row here**, and counted nowhere: {', '.join(one.scores.absent)}.")


def _streams(chapter: Chapter, one: Fused) -> None:
    """What each stream is worth."""
    if not one.masked:
        return
    chapter.heading("What each stream is worth")
    told = "; ".join(f"**{worth(one.schema, masked)}**" for masked in one.masked)
    chapter.text(f"The same {one.masked[0].change.rows:,} rows, with streams taken away from all of them. {told}.")
    whole = chief(one.schema, one.whole)
    rows: list[list[Cell]] = [["all streams", *(figure(n, v) for n, v in whole.items()), "", "", ""]]
    for masked in one.masked:
        values = chief(one.schema, masked.measured)
        cells = [figure(name, value) for name, value in values.items()]
        rows.append([masked_name(masked), *cells, *change(one.schema, masked.change)])
    name = next(iter(whole))
    groups = ["all streams", *map(masked_name, one.masked)]
    heights = [whole[name], *(chief(one.schema, masked.measured)[name] for masked in one.masked)]
    shares = one.schema.task != "numbers"
    chapter.figure(bar_chart(groups, {name: heights}, "", name, percent=shares))
    test = "z test" if one.schema.task == "numbers" else "McNemar"
    head = [f"change of {outcome(one.schema)}{', points' * shares}", "95 % interval", f"p ({test})"]
    chapter.table(["", *whole, *head], rows)


def _lacking(chapter: Chapter, one: Fused) -> None:
    if one.groups:
        rows = [[group_name(g), g.rows, *level(one.schema, g.outcome, g.interval)] for g in one.groups]
        chapter.heading("Rows by what they lack themselves")
        chapter.table(["without", "rows", outcome(one.schema), "95 % interval"], rows)


def _trends(chapter: Chapter, one: Fused) -> None:
    """Of numbers: mean answer by label."""
    trends = one.scores.trends
    if trends:
        chapter.heading("Answers by label")
        drawn: dict[str, str | bytes] = {}
        for name, points in trends.items():
            series = {"mean answer": points, "as it should be": [(x, x) for x, _ in points]}
            drawn[name] = line_chart(series, f"{name}, rows of like labels together", "mean answer")
        told = "Rows in order of their labels, in parts of the same size; a flat line would be the mean for everybody."
        chapter.figure(drawn if len(drawn) > 1 else next(iter(drawn.values())), told)


def _worst(chapter: Chapter, one: Fused) -> None:
    """The rows whose answers are most wrong: often it is the label that is."""
    chosen = one.sums.worst(WORST)
    if not chosen:
        return
    chapter.heading("What went most wrong")
    images = [name for name, holds in one.schema.streams.items() if holds == "image"]
    seen = [number for number in chosen if images and one.records.read(images[0], number) is not None]
    if seen:
        tiles = [_tile(one, images[0], number) for number in seen]
        chapter.figure(sheet(tiles), "From left to right, row by row; their list is below.")
    columns = [name for name in one.sums.columns if name != "correct"]
    shown = ["text"] if one.schema.texts else []
    rows: list[list[Cell]] = []
    for number in chosen:
        text = one.records.text(number)
        cells = [text[:SAMPLE] + " …" * (len(text) > SAMPLE)] if shown else []
        rows.append([one.records.place(number)[1], *one.sums.told(number)[: len(columns)], *cells])
    chapter.table(["row", *columns, *shown], rows)


def _tile(one: Fused, stream: str, number: int) -> np.ndarray:
    """An image of a row inside a white square, uint8 r c v."""
    source = one.records.read(stream, number)
    assert source is not None
    picture = decode(source, 3)
    small = max(picture.size) <= SIDE // 2
    picture = ImageOps.contain(picture, (SIDE, SIDE), Resampling.NEAREST if small else Resampling.BICUBIC)
    tile = Image.new("RGB", (SIDE, SIDE), "white")
    tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(tile)


def _labels(chapter: Chapter, one: Fused) -> None:
    if one.scores.labels:
        rows: list[list[Cell]] = [
            [
                each.name,
                each.rows,
                each.answered,
                each.precision,
                each.recall,
                each.f1,
                each.average_precision,
                each.auc,
            ]
            for each in one.scores.labels
        ]
        chapter.heading("Label by label")
        chapter.table(["label", "rows", "given", "precision", "recall", "F1", "AP", "AUC"], rows)


def _differences(report: Report, first: Fused, differences: Sequence[Compared]) -> None:
    chapter = report.chapter("comparison", f"Against {first.run}", "Row by row, on the rows that both have answered.")
    rows: list[list[Cell]] = [
        [one.run, one.difference.rows, *change(first.schema, one.difference)] for one in differences
    ]
    unit = ", points" if first.schema.task != "numbers" else ""
    chapter.table(["run", "rows", f"change of {outcome(first.schema)}{unit}", "95 % interval", "p"], rows)
