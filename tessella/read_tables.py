"""Read tables: what language models foresaw, for a person to read in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessella.read_evaluate import ReadTexts, ReadThrough

SET_ASIDE = 5


def show_read(found: Sequence[ReadThrough], read: ReadTexts) -> None:
    """Prints a row a run, and what was set aside."""
    console = Console()
    console.print(foreseen(found, read.split))
    if len({one.foreseen.asked for one in found}) > 1:
        console.print("their pieces differ, so their perplexities cannot be compared; bits can", style="yellow")
    for reason, count in read.quarantine.reasons().items():
        console.print(f"{count:,} set aside: {reason}", highlight=False, markup=False, style="yellow")
    for item in list(read.quarantine)[:SET_ASIDE]:
        console.print(f"  {item.where} row {item.line}: {item.reason}", highlight=False, markup=False, style="yellow")


def foreseen(found: Sequence[ReadThrough], split: str | None) -> Table:
    """Accuracy, perplexity and, of next words, bits a byte and a character."""
    first = found[0].foreseen
    asked = "next" if first.every else "hidden"
    table = Table(title=f"{first.texts:,} texts{f' of {split}' if split else ''}: {asked} words")
    table.add_column("run", overflow="fold")
    names = ["pieces", "accuracy", "perplexity", *(["bits/byte", "bits/character"] if first.every else [])]
    for name in (*names, "texts/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        told = one.foreseen.to_dict()
        cells = [f"{one.foreseen.asked:,}", f"{told['accuracy']:.2f}%", f"{told['perplexity']:.2f}"]
        cells += [f"{told[f'bits per {what}']:.3f}" for what in ("byte", "character") if first.every]
        table.add_row(escape(one.run), *cells, f"{one.foreseen.texts / max(one.seconds, 1e-9):,.0f}")
    return table
