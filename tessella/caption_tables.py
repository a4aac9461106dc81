"""Caption tables: scores of captioners for a person to read in a terminal, with their best captions and their worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessella.caption_evaluate import Example, Told

SET_ASIDE = 5


def show_told(found: Sequence[Told], split: str | None) -> None:
    """Prints the scores with their signatures, examples of the first run, and what was set aside."""
    console = Console()
    console.print(scores(found, split))
    for score in found[0].scores.scores:
        console.print(f"[dim]{score.metric}: {score.signature}[/dim]", highlight=False)
    for title, rows in zip(("best by CIDEr", "worst by CIDEr"), found[0].examples(), strict=True):
        console.print(examples(rows, f"{found[0].run}: {title}" if len(found) > 1 else title))
    for one in found:
        for line in remarks(one):
            console.print(line, highlight=False, markup=False, style="yellow" if "set aside" in line else "dim")


def scores(found: Sequence[Told], split: str | None) -> Table:
    """A row a run."""
    first = found[0].scores
    told = f"{first.pictures:,} images, {first.references:,} captions by people{f' of {split}' if split else ''}"
    table = Table(title=told)
    table.add_column("run", overflow="fold")
    for column in ("BLEU-4", "chrF", "CIDEr", "distinct", "degenerate", "words"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        s = one.scores
        values = (f"{s.value('bleu-4'):.2f}", f"{s.value('chrf'):.2f}", f"{s.value('cider'):.3f}")
        table.add_row(escape(one.run), *values, f"{s.distinct:,}", f"{s.degenerate:.1f} %", f"{s.words:.1f}")
    return table


def examples(rows: Sequence[Example], title: str) -> Table:
    """What is said by the run, and by people."""
    table = Table(title=title)
    table.add_column("image", overflow="fold", ratio=2)
    table.add_column("caption", ratio=3)
    table.add_column("most like it, by people", ratio=3)
    table.add_column("CIDEr", justify="right", no_wrap=True)
    for row in rows:
        name = Path(row.name).name
        table.add_row(escape(name), escape(row.caption), escape(row.reference), f"{row.cider:.2f}")
    return table


def remarks(one: Told) -> list[str]:
    """What the numbers leave out."""
    lines = [f"{one.run}: {one.rate:,.1f} images/s, beam {one.decoding.beam}"]
    if one.cut:
        lines.append(f"{one.run}: {one.cut:,} captions were cut off at {one.decoding.extra} pieces")
    for reason, count in one.quarantine.reasons().items():
        lines.append(f"{one.run}: {count:,} set aside: {reason}")
    for item in list(one.quarantine)[:SET_ASIDE]:
        lines.append(f"  set aside: {item.where}{f' row {item.line}' if item.line else ''}: {item.reason}")
    return lines
