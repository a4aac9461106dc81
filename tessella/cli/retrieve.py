"""Cli, retrieve: index and search."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessella.cli.options import Batch, Device, Dtype, Threads, say, use_threads
from tessella.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from tessella.retrieval.search import Search

Model = Annotated[
    str | None,
    typer.Option(help="A run of train match, or hf://owner/name; the index remembers it.", show_default=False),
]


def index(
    photos: Annotated[Path, typer.Argument(help="A folder of pictures, with folders in it.", show_default=False)],
    db: Annotated[Path, typer.Option(help="The index: a folder, made if it is not there.")],
    model: Model = None,
    metadata: Annotated[
        Path | None, typer.Option(help="A table with a column `path` and further ones (CSV, JSONL, Parquet).")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="The column of that table that is the caption.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Start over, with another model.")] = False,
    batch: Batch = 32,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Make pictures searchable, or bring that up to date: only what is new, changed or gone is touched."""
    from tessella.retrieval.answers import lines_of
    from tessella.retrieval.approximate import Plan
    from tessella.retrieval.indexing import Task
    from tessella.retrieval.indexing import index as bring_up_to_date
    from tessella.retrieval.metadata import read_metadata
    from tessella.retrieval.store import FACTS, Facts, lancedb

    use_threads(threads)
    lancedb()
    if not photos.is_dir():
        raise InputError(f"no folder {photos}; give one that holds pictures")
    if caption and not metadata:
        raise InputError("--caption names a column of a table; give --metadata")
    if model is None and not (db / FACTS).is_file():
        raise InputError("a new index needs a model; give --model")
    told = read_metadata(metadata, caption) if metadata else None
    if told and told.twice:
        say(f"{metadata}: {told.twice:,} rows name a picture again; the first one counts")
    run = model or Facts.read(db).model
    task = Task(photos, db, _kept(run), matcher(run, device, dtype), told, rebuild, batch)
    with _watched() as watcher:
        done = bring_up_to_date(task, watcher)
    for line in lines_of(done, Plan.of(Facts.read(db).search)):
        typer.echo(line)


def search(
    db: Annotated[Path, typer.Argument(help="An index made by `tessella index`.", show_default=False)],
    query: Annotated[
        str | None, typer.Argument(help="What to look for, in words; or a picture's file.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this picture.")] = None,
    top: Annotated[int, typer.Option(help="Pictures to find.", min=1)] = 20,
    where: Annotated[
        str | None, typer.Option(help="A condition, such as \"year = 2024 and caption contains 'dog'\".")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page of thumbnails there.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture of thumbnails there.")] = None,
    model: Model = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say what the index holds instead.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write all of it there as Parquet instead.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Find pictures by words, or by a picture they should be like."""
    from tessella.retrieval.answers import json_line, show_hits, show_state
    from tessella.retrieval.search import Search
    from tessella.retrieval.sheets import save_page, save_sheet

    use_threads(threads)
    if png and png.suffix.lower() != ".png":
        raise InputError(f"--png is written as .png, not as '{png.name}'")
    found = Search(db)
    if stats:
        show_state(found)
        return
    if export:
        say(f"{found.store.export(export):,} pictures written to {export}")
        return
    if query is not None and image is not None:
        raise InputError("give words or --image, not both")
    if query is None and image is None:
        raise InputError("say what to look for: words, or --image FILE")
    condition = found.condition(where)
    if found.store.rows == 0:
        raise InputError(f"{db} is empty; fill it with: tessella index {found.folder} --db {db}")
    if query is not None and os.path.isfile(query):
        say(f"{query} is a file; looking for pictures like it")
        query, image = None, Path(query)
    vector = _vector(found, query, image, model or found.store.facts.model, device, dtype)
    hits = found.nearest(vector, top, condition)
    if not hits:
        say(f"none of {found.store.rows:,} pictures passes --where {where}")
    title = query if query is not None else f"like {image}"
    if as_json:
        for hit in hits:
            typer.echo(json_line(hit, found.folder))
    elif hits:
        show_hits(hits)
    if html:
        told = f"{found.store.rows:,} pictures of {found.folder}" + (f", where {where}" if where else "")
        save_page(hits, found.folder, title, told, html)
    if png and hits:
        save_sheet(hits, found.folder, title, png)


def matcher(run: str, device: str, dtype: str) -> Any:
    """The Matcher of a run. Raises InputError for runs of other kinds."""
    from tessella.predict import kind_of, load

    kind = kind_of(run)
    if kind != "matching":
        raise InputError(f"{run} is a '{kind}' run; pictures are searched with one of `tessella train match`")
    return load(run, device, dtype)


def _vector(found: Search, query: str | None, image: Path | None, run: str, device: str, dtype: str) -> np.ndarray:
    """The query as a vector of the index's model."""
    from tessella.retrieval.search import fits

    if query is not None and not query.strip():
        raise InputError("the words to look for are empty")
    embedder = matcher(run, device, dtype)
    fits(found, embedder.fingerprint, run)
    if image is not None:
        (vector,) = embedder.images([image])
        if isinstance(vector, InputError):
            raise vector
        return vector
    _known(embedder, query or "", run)
    if embedder.text([query]).cut:
        say(f"{run} reads up to {embedder.text.length} pieces; the end of these words is not looked at")
    return embedder.texts([query])[0]


def _known(embedder: Any, query: str, run: str) -> None:
    """Refuses words of which the model knows no piece, and says so where it knows only their bytes."""
    tokenizer = embedder.text.tokenizer
    pieces = tokenizer.encode([query])[0][:-1]
    if all(piece == tokenizer.unk for piece in pieces):
        raise InputError(f"{run} knows no piece of '{query}': its texts were in another script")
    names = tokenizer.vocabulary
    if all(piece == tokenizer.unk or names[piece] == "▁" or names[piece].startswith("<0x") for piece in pieces):
        say(f"{run} can only spell '{query}' byte by byte: it has hardly seen this script, so expect little")


class _Terminal:
    """A bar that is shown where somebody looks, and lines on standard error."""

    def __init__(self, bar: Any):
        self.bar, self.done, self.began = bar, 0, time.monotonic()
        self.task = None

    def say(self, line: str) -> None:
        self.bar.console.print(f"tessella: {line}", markup=False, highlight=False, soft_wrap=True)

    def begin(self, pictures: int) -> None:
        self.began = time.monotonic()
        self.task = self.bar.add_task("embedding", total=pictures, rate="")

    def advance(self, pictures: int) -> None:
        self.done += pictures
        rate = f"{self.done / max(time.monotonic() - self.began, 1e-3):,.1f}/s"
        self.bar.update(self.task, advance=pictures, rate=rate)


@contextmanager
def _watched() -> Iterator[_Terminal]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    told = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(
        *told, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield _Terminal(bar)


def _kept(run: str) -> str:
    """How an index remembers a model: public ones by name, folders by their absolute path."""
    return run if run.startswith("hf://") else os.path.abspath(run)
