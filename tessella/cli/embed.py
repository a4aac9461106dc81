"""Cli, embed: vectors of pictures or texts into a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessella.cli.options import TELLS, Batch, Device, Dtype, ImageColumn, Run, Threads, say, use_threads, warn
from tessella.errors import InputError

if TYPE_CHECKING:
    from tessella.embedding import Embedded


def embed(
    run: Run,
    out: Annotated[Path, typer.Option(help="What to write: .parquet, or .lance; with --ray a folder.")],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(help="Picture files, folders of them, or tables with a column of them.", show_default=False),
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="Texts instead: a file of one a line, or a table.")] = None,
    image: ImageColumn = "image",
    text: Annotated[str, typer.Option(help="Of a table: the column of the texts.")] = "caption",
    batch: Batch = 32,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Do it with Ray Data: on the cluster of RAY_ADDRESS, or this machine.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: processes; one a GPU or a processor if left out.", min=1)
    ] = None,
) -> None:
    """Write the vectors of pictures or texts to a file; exit code 1 if some have none."""
    from tessella.embedding import Embedded, Space, aside
    from tessella.embedding import embed as write_vectors
    from tessella.features import embedder
    from tessella.portions import counted, picture_portions, text_portions
    from tessella.predict import kind_of
    from tessella.tables import progress

    use_threads(threads)
    if bool(pictures) == (texts is not None):
        raise InputError("say what to embed: pictures, or --texts FILE")
    if workers and not ray:
        raise InputError("--workers is for --ray")
    if not ray and out.suffix not in (".parquet", ".lance"):
        raise InputError(f"vectors are written as .parquet or .lance, not as '{out.name}'")
    kind = kind_of(run)
    if texts and kind != "matching":
        raise InputError(f"{run} is {TELLS.get(kind, kind)}; vectors of texts are made by {TELLS['matching']}")
    model = embedder(run, "cpu" if ray else device, dtype)
    space = Space.by(model, run, "texts" if texts else "pictures")
    found, began = Embedded(), time.monotonic()
    refuse = found.quarantine.add
    portions = text_portions(texts, text, refuse) if texts else picture_portions(pictures or [], image, refuse)
    if ray:
        from tessella.embedding_cluster import Plan, embed_on_ray

        embed_on_ray(space, portions, found, out, Plan(run, device, dtype, batch, threads or 1, workers))
    else:
        with progress(None if texts else counted(pictures or []), "embedding") as done:
            write_vectors(model, space, portions, found, out, batch, done)
    _tell(found, space.of, out, time.monotonic() - began)
    if len(found.quarantine):
        warn(f"{len(found.quarantine):,} {space.of} have no vector; they are listed in {aside(out)}")
        raise typer.Exit(1)


def _tell(found: Embedded, of: str, out: Path, seconds: float) -> None:
    """How many, how quickly, and what went wrong with how many."""
    say(f"{found.rows:,} {of} in {seconds:,.1f} s ({found.rows / max(seconds, 1e-9):,.0f}/s): {out}")
    if found.cut:
        say(f"{found.cut:,} texts are longer than the model reads, and were cut")
    for reason, count in found.quarantine.reasons().items():
        say(f"{count:,} set aside: {reason}")
