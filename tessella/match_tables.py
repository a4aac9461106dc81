"""Match tables: recalls of matchers for a person to read in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessella.match_evaluate import Matched
from tessella.match_scores import TOPS

SET_ASIDE = 5


def show_matched(found: Sequence[Matched], split: str | None) -> None:
    """Prints recall both ways beside chance, and what was set aside."""
    console = Console()
    console.print(recalls(found, split))
    for one in found:
        for line in remarks(one):
            console.print(line, highlight=False, markup=False, style="yellow" if "set aside" in line else "dim")


def recalls(found: Sequence[Matched], split: str | None) -> Table:
    """Two rows a run."""
    first = found[0]
    told = f"{len(first.images):,} images, {len(first.texts):,} captions{f' of {split}' if split else ''}"
    table = Table(title=told)
    table.add_column("run", overflow="fold")
    table.add_column("way", no_wrap=True)
    for column in (*(f"R@{k}" for k in TOPS), "median rank", "MRR"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        for way, recall in (("text to image", one.by_text), ("image to text", one.by_image)):
            shares = [f"{recall.at(k):.1%}" for k in TOPS]
            table.add_row(escape(one.run), way, *shares, f"{recall.median:g}", f"{recall.mean_reciprocal:.3f}")
    for way, recall in (("text to image", first.by_text), ("image to text", first.by_image)):
        table.add_row("[dim]chance[/dim]", way, *(f"{recall.chance(k):.1%}" for k in TOPS), "", "", style="dim")
    return table


def remarks(one: Matched) -> list[str]:
    """What the numbers leave out."""
    lines = [f"{one.run}: {one.rate:,.0f} images/s"]
    if one.cut:
        lines.append(f"{one.run}: {one.cut:,} captions are longer than it reads, and were cut")
    for reason, count in one.quarantine.reasons().items():
        lines.append(f"{one.run}: {count:,} set aside: {reason}")
    for item in list(one.quarantine)[:SET_ASIDE]:
        lines.append(f"  set aside: {item.where}{f' row {item.line}' if item.line else ''}: {item.reason}")
    return lines
