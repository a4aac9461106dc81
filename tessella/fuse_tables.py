"""Fuse tables: scores of fusions for a person to read in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessella.class_tables import EVERY_CLASS, WORST, by_class, confusions, set_aside
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
)

GROUPS = 8
"""So many kinds of rows, by what they lack, are shown."""


def show_fused(found: Sequence[Fused], differences: Sequence[Compared], split: str | None) -> None:
    """Prints what a person asks first, the classes or labels, what each stream is worth, and what was set aside."""
    console = Console()
    console.print(overall(found, split))
    reports = {one.run: one.scores.classes for one in found if one.scores.classes}
    if reports:
        console.print(by_class(reports, "rows"))
    for one in found:
        table = confusions(one.run, reports[one.run], one.schema.names, "rows") if one.run in reports else None
        if table is not None:
            console.print(table)
    if found[0].scores.labels:
        console.print(by_label(found))
    if differences:
        console.print(against_first(found[0], differences))
    for one in found:
        if one.masked:
            console.print(without_streams(one))
        if one.groups:
            console.print(by_lacking(one))
    for one in found:
        for line in remarks(one):
            console.print(line, highlight=False, markup=False, style="yellow" if "set aside" in line else "dim")


def overall(found: Sequence[Fused], split: str | None) -> Table:
    """One row a run, and of several numbers one a number; below it what needs no model."""
    first = found[0]
    rows = " or ".join(f"{n:,}" for n in sorted({len(one.records) for one in found}))
    several = len(first.scores.measured) > 1
    table = Table(title=f"{escape(', '.join(first.schema.label))}: {rows} rows{f' of {split}' if split else ''}")
    table.add_column("", overflow="fold")
    for column in ["number"] * several:
        table.add_column(column, overflow="fold")
    names = list(next(iter(first.scores.measured.values())))
    for name in names:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for one in found:
        for number, measured in one.scores.measured.items():
            cells = [figure(name, measured[name]) for name in names]
            table.add_row(escape(one.run), *[escape(number)] * several, *cells)
    for number, plain in first.scores.plain.items():
        cells = [figure(name, plain[name]) for name in names]
        table.add_row(PLAIN[first.schema.task], *[escape(number)] * several, *cells, style="dim")
    return table


def by_label(found: Sequence[Fused]) -> Table:
    """Of several labels at once: all about one run, or the average precision of several side by side."""
    first = found[0].scores.labels
    few = len(first) <= EVERY_CLASS
    chosen = first if few else sorted(first, key=lambda one: (one.average_precision or 0, one.name))[:WORST]
    title = "by label" if few else f"the {WORST} worst of {len(first)} labels"
    table = Table(title=f"{title}{'' if len(found) == 1 else ', average precision'}")
    table.add_column("label", overflow="fold")
    table.add_column("rows", justify="right")
    if len(found) == 1:
        for column in ("given", "precision", "recall", "F1", "AP", "AUC"):
            table.add_column(column, justify="right")
        for one in chosen:
            scores = one.precision, one.recall, one.f1, one.average_precision, one.auc
            table.add_row(escape(one.name), f"{one.rows:,}", f"{one.answered:,}", *(figure("", s) for s in scores))
        return table
    columns = [{one.name: one.average_precision for one in run.scores.labels} for run in found]
    for run in found:
        table.add_column(escape(run.run), justify="right", overflow="fold")
    for one in chosen:
        table.add_row(escape(one.name), f"{one.rows:,}", *(figure("", column.get(one.name)) for column in columns))
    return table


def against_first(first: Fused, differences: Sequence[Compared]) -> Table:
    """Paired: only rows on which two runs differ tell them apart."""
    table = Table(title=f"against {escape(first.run)}, row by row", caption=_unit(first))
    table.add_column("run", overflow="fold")
    for column in ("rows", "change", "95 %", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in differences:
        table.add_row(escape(one.run), f"{one.difference.rows:,}", *change(first.schema, one.difference))
    return table


def without_streams(one: Fused) -> Table:
    """What each stream is worth: the same rows without it, and with it alone."""
    rows, whole = one.masked[0].change.rows, chief(one.schema, one.whole)
    table = Table(title=f"without a stream, {rows:,} rows", caption=f"{escape(one.run)}; {_unit(one)}")
    table.add_column("", overflow="fold")
    for column in (*whole, "change", "95 %", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("all streams", *(figure(name, value) for name, value in whole.items()), "", "", "")
    for masked in one.masked:
        values = chief(one.schema, masked.measured)
        cells = [figure(name, value) for name, value in values.items()]
        table.add_row(escape(masked_name(masked)), *cells, *change(one.schema, masked.change))
    return table


def by_lacking(one: Fused) -> Table:
    """Rows by the streams that they lack themselves."""
    table = Table(title="rows by what they lack", caption=escape(one.run))
    table.add_column("without", overflow="fold")
    for column in ("rows", outcome(one.schema), "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in one.groups[:GROUPS]:
        told = level(one.schema, group.outcome, group.interval)
        table.add_row(escape(group_name(group)), f"{group.rows:,}", *told)
    return table


def remarks(one: Fused) -> list[str]:
    """What the numbers leave out: intervals, speed, classes without a row, unseen categories, what was set aside."""
    mean, span = level(one.schema, *one.level)
    lines = [f"{one.run}: {outcome(one.schema)} {mean} (95 %: {span}); {one.rate:,.0f} rows/s"]
    if one.scores.absent:
        absent = one.scores.absent
        told = f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}"
        lines.append(f"{one.run}: {len(absent)} of its {one.schema.task} have no row here and count nowhere: {told}")
    if one.unseen:
        lines.append(f"{one.run}: cells of categories never seen in training, read as unknown: {unseen(one.unseen)}")
    if len(one.groups) > GROUPS:
        lines.append(f"{one.run}: {len(one.groups) - GROUPS} rarer kinds of rows by what they lack are not shown")
    return [*lines, *set_aside(one.run, one.quarantine)]


def _unit(one: Fused) -> str:
    if one.schema.task == "numbers":
        return f"change of {outcome(one.schema)}; less is better"
    return f"change of {outcome(one.schema)} in points"
