"""Cli options: what several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CLASSIFIERS, TRANSLATORS = "Models of images", "Translators"
MATCHERS = "Models of images and texts"
FUSIONS = "Rows of mixed columns"
"""Panels of --help: options that only one kind of run has."""
TELLS = {
    "classification": "a classifier of images",
    "translation": "a translator",
    "matching": "a model of images and texts",
    "fusion": "a model of rows of mixed columns",
    "answering": "a model that answers in words",
    "captioning": "a captioner of images",
    "language": "a model of texts",
}
"""Kind of a run -> what people call it."""
VERBS = {
    "translation": "translate",
    "classification": "classify",
    "matching": "classify",
    "captioning": "caption",
    "fusion": "predict",
    "answering": "answer",
}
"""Kind of a run -> the verb that uses it; the others are evaluated."""

Run = Annotated[
    str, typer.Argument(help="A run folder, or hf://owner/name of a public checkpoint.", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32; bfloat16 or int8 for speed.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all cores if left out.", min=1)]
Batch = Annotated[int, typer.Option(help="Images computed at once.", min=1)]
ImageSize = Annotated[int | None, typer.Option(help="Rows and columns of images; the run's own if left out.", min=1)]
Beam = Annotated[
    int | None, typer.Option(help="Hypotheses kept; 1 is greedy. The run's own setting if left out.", min=1)
]
Alpha = Annotated[float | None, typer.Option(help="Length penalty; larger favours longer answers.", min=0)]
ImageColumn = Annotated[str, typer.Option("--image", help="Of a table: the column of the pictures.")]

Labelled = Annotated[
    Path | None,
    typer.Option(help="Labelled pictures, captions or rows: folders, tables, IDX.", rich_help_panel=CLASSIFIERS),
]
Split = Annotated[
    str | None, typer.Option(help="train, val or test; test if there is one.", rich_help_panel=CLASSIFIERS)
]
Predictions = Annotated[Path | None, typer.Option(help="Write every prediction there.", rich_help_panel=CLASSIFIERS)]
Page = Annotated[Path | None, typer.Option(help="Write a page about it.", rich_help_panel=CLASSIFIERS)]
Pictures = Annotated[
    str | None, typer.Option(help="Of a table: its column of pictures (image).", rich_help_panel=CLASSIFIERS)
]
Labels = Annotated[
    str | None, typer.Option(help="Of a table: its column of classes (label).", rich_help_panel=CLASSIFIERS)
]
Size = Annotated[int | None, typer.Option(help="Rows and columns of images.", min=1, rich_help_panel=CLASSIFIERS)]
AtOnce = Annotated[
    int | None, typer.Option(help="Images at once (32), or rows (64).", min=1, rich_help_panel=CLASSIFIERS)
]
Temperature = Annotated[
    bool,
    typer.Option("--temperature", help="Say what logits should be divided by, too.", rich_help_panel=CLASSIFIERS),
]
Sentences = Annotated[
    Path | None, typer.Option(help="Test sentences: a text file, or a table.", rich_help_panel=TRANSLATORS)
]
References = Annotated[Path | None, typer.Option(help="Their references, line by line.", rich_help_panel=TRANSLATORS)]
Domains = Annotated[Path | None, typer.Option(help="Their domains, line by line.", rich_help_panel=TRANSLATORS)]
Columns = Annotated[
    str | None, typer.Option(help="Of a table: SOURCE,TARGET or SOURCE,TARGET,DOMAIN.", rich_help_panel=TRANSLATORS)
]
Hypotheses = Annotated[int | None, typer.Option(help="Hypotheses kept.", min=1, rich_help_panel=TRANSLATORS)]
Penalty = Annotated[float | None, typer.Option(help="Length penalty.", min=0, rich_help_panel=TRANSLATORS)]
Captions = Annotated[
    str | None, typer.Option(help="Of a table: its column of captions (caption).", rich_help_panel=MATCHERS)
]
Names = Annotated[
    str | None,
    typer.Option(help="Class names, separated by commas, or a .txt file of them.", rich_help_panel=MATCHERS),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(help='What class names stand in: "a photo of a {}". May be repeated.', rich_help_panel=MATCHERS),
]
Prototypes = Annotated[
    Path | None, typer.Option("--classes", help="Classes kept by classify --save.", rich_help_panel=MATCHERS)
]

Masked = Annotated[
    int | None,
    typer.Option(
        "--mask", metavar="ROWS", help="Ask what each stream is worth of so many rows (5000); 0 for none.", min=0,
        rich_help_panel=FUSIONS,
    ),
]  # fmt: skip

Named = Annotated[str | None, typer.Option(help="A name of `tessella models`.", rich_help_panel=CLASSIFIERS)]
Start = Annotated[
    str | None,
    typer.Option(
        "--from", help="Begin with this run's weights; its head only if it fits.", metavar="RUN",
        rich_help_panel=CLASSIFIERS,
    ),
]  # fmt: skip
Freeze = Annotated[
    bool,
    typer.Option("--freeze", help="Only the head learns; of two towers, the texts'.", rich_help_panel=CLASSIFIERS),
]
Taught = Annotated[
    str | None, typer.Option("--teacher", help="Learn from this run, too.", metavar="RUN", rich_help_panel=CLASSIFIERS)
]
Step = Annotated[int | None, typer.Option(help="Images, or rows, a step.", min=1, rich_help_panel=CLASSIFIERS)]
Predicted = Annotated[
    str | None, typer.Option("--label", help="The column to predict; A,B for several numbers.", rich_help_panel=FUSIONS)
]
SchemeName = Annotated[
    str | None,
    typer.Option("--scheme", help="How streams are fused: early-concat, cross-to-concat …", rich_help_panel=FUSIONS),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--column", help="What a column holds: NAME=image, sound, video, text, category, number or ignore.",
        metavar="NAME=KIND", rich_help_panel=FUSIONS,
    ),
]  # fmt: skip


def use_threads(threads: int | None) -> None:
    """Bounds what torch uses; None leaves it all cores."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def say(line: str) -> None:
    """Progress, on standard error."""
    typer.echo(line, err=True)


def warn(line: str) -> None:
    """What went wrong but did not stop the rest, on standard error."""
    typer.echo(f"tessella: {line}", err=True)
