"""Tables: scores for a person to read in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tessella.data.parallel import Columns
from tessella.errors import InputError
from tessella.evaluate import Evaluation, TestSet


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """A bar that vanishes when done; the callable is told how many more are done. Silent where nobody looks.

    total: None where it is not known.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


def columns(names: str | None) -> Columns | None:
    """``"de,en"`` or ``"de,en,domain"`` as typed on the command line."""
    if names is None:
        return None
    parts = [name.strip() for name in names.split(",")]
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"--columns takes SOURCE,TARGET or SOURCE,TARGET,DOMAIN, got '{names}'")
    return Columns(source=parts[0], target=parts[1], domain=parts[2] if len(parts) == 3 else None)


def show_evaluations(found: Sequence[Evaluation], differences: list[dict[str, Any]], test: TestSet) -> None:
    """Prints scores, their parts, the bootstrap, and what was set aside, to standard output."""
    console = Console()
    first = found[0].report
    table = Table(title=f"{first.sentences:,} sentences")
    table.add_column("run")
    for score in first.scores:
        table.add_column(score.metric, justify="right")
    table.add_column("exact", justify="right")
    for one in found:
        table.add_row(one.run, *(f"{s.value:.2f}" for s in one.report.scores), f"{one.report.exact:.1%}")
    console.print(table)
    for group in first.groups:
        console.print(_group(group, found))
    if differences:
        console.print(_differences(differences))
    for score in first.scores:
        console.print(f"[dim]{score.metric}: {score.signature}[/dim]", highlight=False)
    for one in found:
        if one.report.skipped:
            console.print(f"{one.run}: {one.report.skipped} inputs were set aside or not translated")
    for item in list(test.quarantine)[:10]:
        console.print(f"[yellow]set aside[/yellow] {item.where}:{item.line} {item.reason}", highlight=False)


def _group(name: str, found: Sequence[Evaluation]) -> Table:
    """One row a part, one column a run: BLEU in lower case."""
    table = Table(title=f"bleu-lc by {name}")
    table.add_column(name)
    table.add_column("sentences", justify="right")
    for one in found:
        table.add_column(one.run, justify="right")
    for part, numbers in found[0].report.groups[name].items():
        values = [f"{one.report.groups[name][part]['bleu-lc']:.2f}" for one in found]
        table.add_row(part, f"{numbers['sentences']:,.0f}", *values)
    return table


def _differences(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"paired bootstrap, {rows[0]['metric']}, against the first")
    for column in ("run", "score", "95 % interval", "p"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for row in rows:
        p = "–" if row["p"] is None else f"{row['p']:.3f}"
        table.add_row(row["system"], f"{row['score']:.2f}", f"{row['mean']:.2f} ± {row['ci']:.2f}", p)
    return table
