"""Answers: what a search found and what an index holds, for people and for machines."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tessella.retrieval.approximate import TOP, Plan
from tessella.retrieval.pending import Done
from tessella.retrieval.scan import Aside
from tessella.retrieval.search import Hit, Search
from tessella.retrieval.sheets import short

WIDE = 80
"""Columns of a terminal that nobody asked."""


def show_hits(hits: Sequence[Hit]) -> None:
    """Prints a table: rank, cosine, path, and when and with what words the picture was taken."""
    table = Table()
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    table.add_column("picture", overflow="fold")
    table.add_column("date")
    captions = any(hit.columns.get("caption") for hit in hits)
    if captions:
        table.add_column("caption", overflow="fold")
    for hit in hits:
        date = hit.columns.get("date")
        cells = [str(hit.rank), f"{hit.score:.3f}", hit.path, date.strftime("%Y-%m-%d") if date else ""]
        table.add_row(*cells, *([short(hit.columns.get("caption") or "")] if captions else []))
    Console(markup=False).print(table)


def json_line(hit: Hit, folder: Path) -> str:
    """A hit as one JSON object: rank, score, path in the folder, the file, and every column."""
    told = {"rank": hit.rank, "score": round(hit.score, 6), "path": hit.path, "file": str(folder / hit.path)}
    return json.dumps({**told, **hit.columns}, ensure_ascii=False, default=_plain)


def show_state(search: Search) -> None:
    """Prints what is in an index and how it is searched."""
    store, facts, plan = search.store, search.store.facts, search.plan
    state = store.state()
    recall = f", recall@{TOP} {plan.recall:.3f} of {plan.asked} queries" if plan.recall is not None else ""
    aside = len(Aside(store.path).marks)
    own = [name for name in store.columns if name not in ("vector", "content")]
    for name, value in {
        "pictures": f"{state.rows:,} of {facts.folder}",
        "set aside": f"{aside:,} (quarantine.jsonl)" if aside else "none",
        "model": f"{facts.model}, {facts.dim} numbers a vector, fingerprint {facts.fingerprint[:12]}",
        "columns": ", ".join(own),
        "search": f"{plan}{recall}",
        "fragments": f"{state.pieces:,}",
        "versions": f"{state.versions:,}",
        "size": size(state.size),
    }.items():
        Console(markup=False, highlight=False).print(f"{name:10} {value}", soft_wrap=True)


def lines_of(done: Done, plan: Plan) -> list[str]:
    """What a run did, in a few lines."""
    counts = {
        "new": done.new,
        "changed": done.changed,
        "moved, copied or touched": done.again,
        "with other metadata": done.described,
        "deleted": done.gone,
        "unchanged": done.same,
        "unreadable": done.unreadable,
        "still unreadable": done.still_unreadable,
    }
    always = ("new", "changed", "deleted", "unchanged")
    lines = [", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name in always)]
    if done.embedded:
        rate = done.embedded / max(done.seconds, 1e-9)
        lines.append(f"{done.embedded:,} embedded in {done.seconds:,.1f} s, {rate:,.1f} a second")
    if done.unreadable:
        lines.append("what could not be read is named in quarantine.jsonl, and tried again when it changes")
    if done.before and done.after:
        lines.append(
            f"{done.after.rows:,} pictures, {size(done.after.size)}; tidied from {done.before.pieces:,} fragments and "
            f"{done.before.versions:,} versions to {done.after.pieces:,} and {done.after.versions:,}; search: {plan}"
        )
    return lines


def size(count: int) -> str:
    """Bytes for people."""
    number, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def _plain(value: Any) -> str:
    assert isinstance(value, dt.datetime)
    return value.isoformat()
