"""Class tables: scores of classifiers for a person to read in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessella.class_evaluate import Compared, Judged
from tessella.class_scores import ClassReport
from tessella.data.quarantine import Quarantine

EVERY_CLASS = 20
"""So many classes are all shown; of more, those that are found worst."""
WORST = 10
MATRIX = 10
"""So many classes have their whole confusion matrix shown; of more, the most frequent confusions."""
SET_ASIDE = 5


def show_judged(found: Sequence[Judged], differences: Sequence[Compared], split: str | None) -> None:
    """Prints what a person asks first, the classes, what was taken for what, and what was set aside."""
    console = Console()
    console.print(overall(found, split))
    console.print(by_class({one.run: one.report for one in found}))
    for one in found:
        table = confusions(one.run, one.report, one.classifier.classes)
        if table is not None:
            console.print(table)
    if differences:
        console.print(against_first(found[0].run, differences))
    for one in found:
        for line in remarks(one):
            console.print(line, highlight=False, markup=False, style="yellow" if "set aside" in line else "dim")


def overall(found: Sequence[Judged], split: str | None) -> Table:
    """One row a run."""
    images = sorted({one.report.images for one in found})
    table = Table(title=f"{' or '.join(f'{n:,}' for n in images)} images{f' of {split}' if split else ''}")
    table.add_column("run", overflow="fold")
    top5 = any(one.report.top5 is not None for one in found)
    for column in ("top-1", "95 %", *(["top-5"] if top5 else []), "F1", "ECE", "NLL", "images/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        r, (low, high) = one.report, one.report.interval
        fives = [f"{r.top5:.2%}" if r.top5 is not None else "–"] if top5 else []
        calibrated = f"{r.calibration.ece:.3f}", f"{r.calibration.nll:.3f}"
        span = f"{100 * low:.1f}–{100 * high:.1f}"
        table.add_row(escape(one.run), f"{r.top1:.2%}", span, *fives, f"{r.f1:.3f}", *calibrated, f"{one.rate:,.0f}")
    return table


def by_class(reports: Mapping[str, ClassReport], things: str = "images") -> Table:
    """Precision, recall and F1 of one run, or the F1 of several side by side; things: what has a class."""
    first = next(iter(reports.values()))
    few = len(first.classes) <= EVERY_CLASS
    chosen = first.classes if few else sorted(first.classes, key=lambda one: (one.f1, one.name))[:WORST]
    title = "by class" if few else f"the {WORST} worst of {len(first.classes)} classes"
    table = Table(title=f"{title}{'' if len(reports) == 1 else ', F1'}")
    table.add_column("class", overflow="fold")
    table.add_column(things, justify="right")
    if len(reports) == 1:
        for column in ("precision", "recall", "F1"):
            table.add_column(column, justify="right")
        table.add_column("taken for")
        for one in chosen:
            scores = f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}"
            table.add_row(escape(one.name), f"{one.images:,}", *scores, escape(one.mistaken_for or ""))
        return table
    columns = [{one.name: one for one in report.classes} for report in reports.values()]
    for run in reports:
        table.add_column(escape(run), justify="right", overflow="fold")
    for one in chosen:
        scores = [f"{column[one.name].f1:.3f}" if one.name in column else "–" for column in columns]
        table.add_row(escape(one.name), f"{one.images:,}", *scores)
    return table


def confusions(run: str, report: ClassReport, names: Sequence[str], things: str = "images") -> Table | None:
    """Of few classes the matrix, of many the most frequent confusions; None where nothing was confused."""
    counts = np.array(report.confusion)
    if len(names) <= MATRIX:
        told = "confusions: rows are the labels, columns the answers"
        table = Table(title=told, caption=escape(run), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), min_width=len(told))
        table.add_column("", no_wrap=True, max_width=14)
        for name in names:
            table.add_column(escape(name), justify="right", no_wrap=True, max_width=5)
        for name, row in zip(names, counts.tolist(), strict=True):
            if sum(row):
                cells = [f"{n:,}" if n else "·" for n in row]
                cells = [f"[bold]{cell}[/bold]" if names[i] == name else cell for i, cell in enumerate(cells)]
                table.add_row(escape(name), *cells)
        return table
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = [place for place in np.argsort(-wrong, axis=None, kind="stable")[:WORST] if wrong.flat[place]]
    if not order:
        return None
    table = Table(title="the most frequent confusions", caption=escape(run))
    for column in (f"{things} of", "taken for"):
        table.add_column(column, overflow="fold")
    table.add_column("count", justify="right")
    for place in order:
        label, answer = divmod(int(place), len(names))
        table.add_row(escape(names[label]), escape(names[answer]), f"{wrong.flat[place]:,}")
    return table


def against_first(first: str, differences: Sequence[Compared]) -> Table:
    """Paired: only images on which two runs differ tell them apart."""
    table = Table(title=f"against {escape(first)}, image by image", caption="only it, only first: alone in being right")
    table.add_column("run", overflow="fold")
    for column in ("top-1", "95 %", "only it", "only first", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in differences:
        d = one.difference
        span = f"{100 * d.interval[0]:+.2f} to {100 * d.interval[1]:+.2f}"
        p = f"{d.p:.3f}" if d.p >= 0.001 else "<0.001"
        table.add_row(escape(one.run), f"{100 * d.top1:+.2f}", span, f"{d.gained:,}", f"{d.lost:,}", p)
    return table


def remarks(one: Judged) -> list[str]:
    """What the numbers leave out: classes without an image, and what was set aside."""
    lines = []
    if one.report.absent:
        absent = one.report.absent
        shown = f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}"
        lines.append(f"{one.run}: {len(absent)} of its classes have no image here and count nowhere: {shown}")
    if one.report.temperature is not None:
        lines.append(f"{one.run}: its logits divided by {one.report.temperature:.3g} would be calibrated best here")
    return [*lines, *set_aside(one.run, one.quarantine)]


def set_aside(run: str, quarantine: Quarantine) -> list[str]:
    """How much for what reason, and the first ones by name."""
    lines = [f"{run}: {count:,} set aside: {reason}" for reason, count in quarantine.reasons().items()]
    for item in list(quarantine)[:SET_ASIDE]:
        lines.append(f"  set aside: {item.where}{f' row {item.line}' if item.line else ''}: {item.reason}")
    if len(quarantine) > SET_ASIDE:
        lines.append(f"  and {len(quarantine) - SET_ASIDE:,} more; --csv lists all that were set aside")
    return lines
