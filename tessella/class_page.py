"""Class page: an evaluation of classifiers as a page: scores, reliability, confusions, and the surest mistakes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from tessella.charts import bar_chart, heat_map
from tessella.class_evaluate import Compared, Judged
from tessella.class_scores import ClassReport, softmax
from tessella.data.pixels import fitted
from tessella.overlays import enlarged
from tessella.report import Cell, Chapter, Report

CLASSES = 40
"""So many classes fit into a matrix that can be read; of more, the most frequent confusions are listed."""
CONFUSIONS = 20
SIDE = 160


def save_page(found: Sequence[Judged], differences: Sequence[Compared], data: str, out: Path) -> Path:
    """Writes one self-contained page; gives its path. data: what people call the set and its split."""
    report = Report("Evaluation", f"{data}, {found[0].report.images:,} images")
    for number, one in enumerate(found, 1):
        r = one.report
        low, high = r.interval
        chapter = report.chapter(f"run-{number}", one.run, f"95 % of resampled sets give {low:.1%} to {high:.1%}.")
        fives = {"top-5": f"{r.top5:.2%}"} if r.top5 is not None else {}
        calibrated = {"calibration error": f"{r.calibration.ece:.3f}", "images a second": f"{one.rate:,.0f}"}
        chapter.numbers({"top-1": f"{r.top1:.2%}", **fives, "F1, mean of classes": f"{r.f1:.3f}", **calibrated})
        if len(one.quarantine):
            told = "; ".join(f"{reason}: {count:,}" for reason, count in one.quarantine.reasons().items())
            chapter.text(f"**Set aside and not scored**: {told}.")
        if r.absent:
            chapter.text(f"**Without an image here**, and counted nowhere: {', '.join(r.absent)}.")
        reliability(chapter, r)
        confusions(chapter, r, one.classifier.classes)
        _mistakes(chapter, one)
        by_class(chapter, r)
    if differences:
        _differences(report, found[0].run, differences)
    return report.save(out)


def reliability(chapter: Chapter, report: ClassReport) -> None:
    """Probability and accuracy side by side, from unsure to sure."""
    bins = report.calibration.bins
    groups = [f"{bin.low:.2f}–{bin.high:.2f}" if len(bins) <= 8 else f"≤{bin.high:.2f}" for bin in bins]
    series = {"accuracy": [bin.accuracy for bin in bins], "probability": [bin.confidence for bin in bins]}
    chart = bar_chart(groups, series, "probability of the answer", "share", [bin.images for bin in bins], percent=True)
    chapter.heading("Do probabilities mean what they say?")
    chapter.figure(chart, "Of answers given with about the same probability, how many were right.")


def confusions(chapter: Chapter, report: ClassReport, names: Sequence[str], things: str = "images") -> None:
    """Of few classes the matrix, of many the most frequent confusions; things: what has a class."""
    counts = np.array(report.confusion)
    chapter.heading("What was taken for what")
    if len(names) <= CLASSES:
        there = np.flatnonzero(counts.sum(axis=1))
        shares = counts[there] / counts[there].sum(axis=1, keepdims=True)
        chart = heat_map([names[i] for i in there], names, shares.tolist(), "confusion")
        chapter.figure(chart, f"Rows are the {things} of a class, columns what was answered; each row sums to 1.")
        return
    wrong = counts * ~np.eye(len(names), dtype=bool)
    rows: list[list[Cell]] = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS].tolist():
        if wrong.flat[place]:
            label, answer = divmod(place, len(names))
            rows.append([names[label], names[answer], int(wrong.flat[place])])
    chapter.table([f"{things} of", "taken for", "count"], rows)


def _mistakes(chapter: Chapter, one: Judged) -> None:
    """The wrong answers given with the greatest probability: often the label is what is wrong."""
    chosen = one.mistakes()
    if not chosen:
        return
    chapter.heading("The surest mistakes")
    channels = one.classifier.image.channels
    tiles, rows = [], []
    for number in chosen:
        pixels = fitted(one.pictures.decode(number, channels), one.classifier.image)
        tiles.append(enlarged(rearrange(pixels, "v r c -> r c v"), SIDE))
        chances = softmax(one.logits[number : number + 1].astype(float))[0]
        label, answer = int(one.pictures.labels[number]), int(chances.argmax())
        names = one.classifier.classes
        rows.append([len(rows) + 1, one.pictures.name(number), names[label], names[answer], f"{chances[answer]:.1%}"])
    chapter.figure(sheet(tiles), "From left to right, row by row, as the model read them; their list is below.")
    chapter.table(["", "image", "label", "answer", "probability"], rows)


def sheet(tiles: list[np.ndarray]) -> bytes:
    """Pictures of one size, uint8 r c v, six in a row, as PNG."""
    tiles = [np.pad(tile, ((0, 6), (0, 6), (0, 0)), constant_values=255) for tile in tiles]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 6 if len(tiles) > 6 else 0)
    across = min(6, len(tiles))
    drawn = np.concatenate([np.concatenate(tiles[i : i + across], 1) for i in range(0, len(tiles), across)])
    kept = io.BytesIO()
    Image.fromarray(drawn).save(kept, "PNG")
    return kept.getvalue()


def by_class(chapter: Chapter, report: ClassReport, things: str = "images") -> None:
    """A row a class."""
    rows = [[c.name, c.images, c.precision, c.recall, c.f1, c.mistaken_for or "–"] for c in report.classes]
    chapter.heading("Class by class")
    chapter.table(["class", things, "precision", "recall", "F1", "most often taken for"], rows)


def _differences(report: Report, first: str, differences: Sequence[Compared]) -> None:
    chapter = report.chapter(
        "comparison", f"Against {first}", "Image by image: only those that one of the two has right tell them apart."
    )
    rows = []
    for one in differences:
        d = one.difference
        low, high = (100 * end for end in d.interval)
        rows.append([one.run, f"{100 * d.top1:+.2f}", f"{low:+.2f} to {high:+.2f}", d.gained, d.lost, round(d.p, 4)])
    chapter.table(["run", "top-1, points", "95 % interval", "only it right", "only the first", "p (McNemar)"], rows)
