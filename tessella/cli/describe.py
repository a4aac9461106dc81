"""Cli, describe: what pictures show, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessella.cli.options import Alpha, Batch, Beam, Device, Dtype, ImageSize, Run, Threads, use_threads, warn
from tessella.cli.use import expect


def caption(
    run: Run,
    pictures: Annotated[
        list[str],
        typer.Argument(help="Picture files, folders of them, or - for paths on standard input.", show_default=False),
    ],
    beam: Beam = None,
    nbest: Annotated[int, typer.Option(help="Captions for each picture.", min=1)] = 1,
    alpha: Alpha = None,
    no_repeat: Annotated[
        int | None,
        typer.Option(help="Pieces in a row that no caption has twice; 0 for no such rule, the run's own if left out.",
                     min=0),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with scores.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the captions there instead of printing them.")] = None,
    image_size: ImageSize = None,
    batch: Batch = 32,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:  # fmt: skip
    """Say in a sentence what pictures show; exit code 1 if a picture could not be read."""
    from tessella.caption_lines import caption_lines
    from tessella.cli.use import decoding
    from tessella.picture_lines import picture_paths
    from tessella.predict import load

    use_threads(threads)
    expect("captioning", run, "caption")
    captioner = load(run, device, dtype)
    captioner = captioner.resized(image_size) if image_size else captioner
    how = decoding(captioner.decoding, beam, nbest, alpha)
    how = how if no_repeat is None else how.replace(no_repeat=no_repeat)
    if caption_lines(captioner, picture_paths(pictures), how, out, as_json, warn, batch):
        raise typer.Exit(1)
