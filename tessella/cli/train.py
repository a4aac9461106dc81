"""Cli, training: check data, train on it, and list and read what there is to train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tessella.cli import options as option
from tessella.cli.options import Size, Threads, say, use_threads
from tessella.errors import InputError


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A task, a recipe's name or a .yaml file; see `tessella recipes`.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or table with the training data.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run, exactly where it stopped.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Go through the data so many times.", min=1)] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set model.encoder.depth=4. May be repeated.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Processes to train with, one device each.", min=1)] = None,
    threads: Threads = None,
    model: option.Named = None,
    start: option.Start = None,
    freeze: option.Freeze = False,
    teacher: option.Taught = None,
    image_size: Size = None,
    batch: option.Step = None,
    label: option.Predicted = None,
    scheme: option.SchemeName = None,
    kinds: option.Kinds = None,
) -> None:
    """Train a model by a recipe, with progress, validation and checkpoints; Ctrl-C stops it safely."""
    from tessella import tasks
    from tessella.recipes.recipe import Chosen

    use_threads(threads)
    wanted = [f"batch={batch}"] if batch else []
    wanted += [f"loop.epochs={epochs}", "loop.steps=null"] if epochs else []
    wanted += [*(changes or []), *([f"loop.devices={devices}"] if devices else [])]
    options = Chosen(model, image_size, start, freeze, teacher, label, scheme, tuple(kinds or ()))
    if resume is not None:
        if recipe or out or options != Chosen() or batch:
            raise InputError("--resume takes recipe, model and output folder from the run; leave them out")
        tasks.resume(resume, data, wanted, say)
    else:
        if recipe is None or data is None or out is None:
            raise InputError("train needs a recipe, --data and --out (or --resume RUN); see `tessella recipes`")
        tasks.train(recipe, data, out, wanted, say, options)


def check(
    data: Annotated[
        Path, typer.Argument(help="A folder of class folders, tables, tar shards, or IDX files.", show_default=False)
    ],
    image: Annotated[str | None, typer.Option(help="Of a table of pictures: their column (image).")] = None,
    label: Annotated[
        str | None, typer.Option(help="Of a table: the column of classes, or of what else is predicted (label).")
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help="Of a table: its column of captions, where there is one of classes, too.")
    ] = None,
    words: Annotated[int, typer.Option(help="Tell of captions of more words.", min=1)] = 25,
    smallest: Annotated[int, typer.Option(help="Pictures of fewer rows or columns cannot be used.", min=1)] = 1,
    kinds: option.Kinds = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with every name.")] = False,
) -> None:
    """List all that is wrong with pictures, captions or rows; exit code 1 if training would refuse them."""
    from tessella.data.albums import PictureColumns
    from tessella.data.caption_preflight import caption_preflight, has_captions
    from tessella.data.captions import CaptionColumns
    from tessella.data.preflight import preflight
    from tessella.data.record_preflight import has_rows, record_preflight
    from tessella.recipes.fusing import kinds_named

    named = PictureColumns(image=image or "image", label=label or "label")
    minimum, captions = (smallest, smallest), CaptionColumns(image=named.image, caption=caption or "caption")
    found: Any
    if kinds or (image is None and caption is None and has_rows(data, label)):
        found = record_preflight(data, named.label, kinds_named(kinds or []))
    elif caption or has_captions(data, captions, named.label):
        found = caption_preflight(data, captions, minimum, words)
    else:
        found = preflight(data, named, minimum=minimum)
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, indent=1) if as_json else found.render())
    if found.fatal:
        raise typer.Exit(1)


def recipes() -> None:
    """List what can be trained, one line each."""
    from tessella.recipes.named import RECIPES, about

    width = max(map(len, RECIPES))
    for name in RECIPES:
        typer.echo(f"{name:<{width}}  {about(name)}")


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the models of the zoo: parameters, multiply-adds, published accuracy, licence of the published weights."""
    from tessella.zoo.catalog import MODELS, VOCAB, is_translator, listing

    named = [name for name in MODELS if pattern in name]
    if not named:
        raise InputError(f"no model's name contains '{pattern}'")
    width, pairs = max(map(len, named)), any(name.startswith("clip") for name in named)
    work = 15 if pairs else 8
    typer.echo(f"{'name':<{width}}  {'parameters':>11}   {'MACs':>{work}}  {'top-1':<10}  licence of weights")
    sources: list[str] = []
    text = False
    for row in listing(pattern):
        card, macs, top1 = row.card, f"{row.macs / 1e9:.2f} G" if row.macs else "–", "–"
        macs = f"{(row.macs or 0) / 1e9:.2f} + {row.text_macs / 1e9:.2f} G" if row.text_macs else macs
        joint = is_translator(row.name)
        text |= joint
        if card and card.top1:
            sources += [] if card.source in sources else [card.source]
            top1 = f"{card.top1:.2f} [{sources.index(card.source) + 1}]"
        line = f"{row.name:<{width}}  {row.parameters:>11,}{'*' if joint else ' '}  {macs:>{work}}  {top1:<10}"
        typer.echo(f"{line}  {(card and card.licence) or '–'}")
    if sources:
        of = "one image and of one text" if pairs else "one image"
        typer.echo(f"MACs: multiply-adds of {of}. top-1: ImageNet-1k, percent, as published by")
    for number, source in enumerate(sources, 1):
        typer.echo(f"  [{number}] {source}")
    if text:
        typer.echo(f"* with one joint vocabulary of {VOCAB:,} pieces")


def story(name: Annotated[str, typer.Argument(help="A model of the zoo; see `tessella models`.")]) -> None:
    """Print a whole model's source on one page, lowest part first."""
    from tessella.story import story as told

    typer.echo(told(name))


def demo(
    chapter: Annotated[str | None, typer.Argument(help="One chapter; all of them if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs and report go.")] = Path("runs/demo"),
    threads: Threads = None,
) -> None:
    """Train, score, use and draw small models on data that comes along, offline; writes OUT/report.html."""
    from tessella.demo.chapters import tell

    use_threads(threads)
    tell(chapter, out, say)
