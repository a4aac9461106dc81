"""Cli, exchange: checkpoints in from elsewhere, and out to there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessella.cli.options import Run, say


def import_(
    source: Annotated[
        str,
        typer.Argument(help="hf://owner/name, a folder in that layout, or one file of weights.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin and .pth weights too (in a process of its own).")
    ] = False,
    layout: Annotated[
        str | None, typer.Option(help="Of one file: whose names it has: timm, torchvision, microsoft, openai or hf.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of one file: which model it is; see `tessella models`.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of class names, one a line, in their order.")] = None,
    codec: Annotated[
        Path | None,
        typer.Option(help="Of one file of two towers: its tokenizer: codec.json, a folder, or OpenAI's merges (.gz)."),
    ] = None,
) -> None:
    """Turn a public checkpoint into a run folder."""
    from tessella.importing.checkpoint import import_run

    import_run(source, out, allow_pickle, labels, layout, model, codec, say)
    say(f"done: {out}")


def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            help="onnx, hf, timm, torchvision or microsoft for classifiers; onnx, hf or openai for matchers; "
            "ctranslate2 or hf for translators."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; for onnx the file.")],
) -> None:
    """Write a run in another library's format."""
    from tessella.exporting.run import export_run

    export_run(run, to, out, say)
    say(f"done: {out}")
