"""Cli, use: translate, classify and show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessella.cli import options as option
from tessella.cli.options import Alpha, Batch, Beam, Device, Dtype, ImageSize, Run, Threads, say, use_threads, warn
from tessella.errors import InputError

if TYPE_CHECKING:
    from tessella.decode import Decoding


def translate(
    run: Run,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Sentences; without any, standard input line by line.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Translate this file, line by line.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the translations there instead of printing them.")] = None,
    beam: Beam = None,
    nbest: Annotated[int, typer.Option(help="Answers for each sentence.", min=1)] = 1,
    alpha: Alpha = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with scores.")] = False,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Translate sentences, a file, or standard input."""
    from tessella.lines import Lines, translate_lines
    from tessella.predict import load

    use_threads(threads)
    if texts and file:
        raise InputError("give sentences or --file, not both")
    lines = Lines.of_texts(texts) if texts else Lines.of_file(file) if file else Lines.of_stdin()
    expect("translation", run, "translate")
    translator = load(run, device, dtype)
    failed = translate_lines(translator, lines, decoding(translator.decoding, beam, nbest, alpha), out, as_json, warn)
    if failed:
        raise typer.Exit(1)


def classify(
    run: Run,
    pictures: Annotated[
        list[str],
        typer.Argument(help="Picture files, folders of them, or - for paths on standard input.", show_default=False),
    ],
    top: Annotated[int, typer.Option(help="Classes for each picture, the likeliest first.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the answers there instead of printing them.")] = None,
    image_size: ImageSize = None,
    batch: Batch = 32,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
    labels: option.Names = None,
    template: option.Templates = None,
    prototypes: option.Prototypes = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the classes there, for --classes.", rich_help_panel=option.MATCHERS)
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help='Labelled pictures by which to tell "none of these".', rich_help_panel=option.MATCHERS),
    ] = None,
) -> None:
    """Say what pictures show, with probabilities; exit code 1 if a picture could not be read."""
    from tessella.picture_lines import classify_lines, picture_paths
    from tessella.predict import kind_of, load

    use_threads(threads)
    if kind_of(run) == "matching":
        classifier = named_classes(load(run, device, dtype), labels, template, prototypes, save, calibrate)
    else:
        expect("classification", run, "classify")
        named = {"labels": labels, "template": template, "classes": prototypes, "save": save, "calibrate": calibrate}
        without(named, run, "a classifier with classes of its own")
        classifier = load(run, device, dtype)
    classifier = classifier.resized(image_size) if image_size else classifier
    if classify_lines(classifier, picture_paths(pictures), out, as_json, warn, top, batch):
        raise typer.Exit(1)


def show(
    run: Run,
    what: Annotated[str, typer.Argument(help="A sentence, a picture, or a mixed table.", show_default=False)],
    question: Annotated[
        str | None, typer.Argument(help="What is asked about the picture, of a run that answers.", show_default=False)
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The picture: .png, or .html for one page with every layer and head.")],
    layer: Annotated[
        int | None, typer.Option(help="One layer from 0; all of them (a picture's heads: the last) if left out.")
    ] = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(help="What the picture may show; two or more.", rich_help_panel=option.MATCHERS),
    ] = None,
    row: Annotated[
        int | None, typer.Option(help="Which row of the table, from 1.", min=1, rich_help_panel=option.FUSIONS)
    ] = None,
) -> None:
    """Draw where a model looked: which word at which word, where in a picture, or what of a row an answer rests on."""
    from tessella.predict import kind_of, load

    kind = kind_of(run)
    if kind == "fusion":
        from tessella.cli.rows import show_row

        without({"layer": layer, "image-size": image_size, "text": text}, run, option.TELLS[kind])
        show_row(run, Path(what), question, row, out, device)
        return
    if kind in ("language", "answering"):
        expect("translation", run, "show")
    without({"row": row, "question": question}, run, option.TELLS.get(kind, kind))
    if kind != "matching":
        without({"text": text}, run, option.TELLS.get(kind, kind))
    elif len(text or ()) < 2:
        raise InputError(f'{run} tells texts apart; give two or more: --text "a dog" --text "a cat"')
    if kind == "translation":
        if image_size is not None:
            raise InputError(f"--image-size is not for {run}, which is a translator")
        from tessella.look import draw

        typer.echo(draw(load(run, device), what, out, layer))
        return
    if kind == "captioning":
        from tessella.look_captions import draw_caption

        captioner = load(run, device)
        captioner = captioner.resized(image_size) if image_size else captioner
        typer.echo(draw_caption(captioner, Path(what), out, layer))
        return
    classifier = load(run, device)
    if kind == "matching":
        from tessella import zero_shot

        classifier = zero_shot.zero_shot(classifier, zero_shot.prototypes(classifier, text or []))
    _show_picture(classifier.resized(image_size) if image_size else classifier, Path(what), out, layer)


def _show_picture(classifier: Any, picture: Path, out: Path, layer: int | None) -> None:
    """Draws where a classifier looked, and says what it saw."""
    from tessella.look_pictures import draw_picture

    found = draw_picture(classifier, picture, out, layer)
    typer.echo(", ".join(f"{name} {share:.1%}" for name, share in found.answers))
    if not found.layers:
        say("a convnet has no attention; drawn is its class activation map")


def named_classes(
    matcher: Any,
    labels: str | None,
    templates: list[str] | None,
    kept: Path | None,
    save: Path | None = None,
    calibrate: Path | None = None,
) -> Any:
    """A matcher as a classifier of classes named on the command line, or kept in a file."""
    from tessella import zero_shot

    if (labels is None) == (kept is None):
        raise InputError("a model of images and texts classifies by names; give --labels, or --classes FILE")
    if kept is not None:
        if templates:
            raise InputError(f"{kept} has its templates already; leave out --template")
        made = zero_shot.Prototypes.load(kept)
    else:
        made = zero_shot.prototypes(matcher, names(labels or ""), templates or [zero_shot.BARE])
    if calibrate is not None:
        made, told = zero_shot.calibrated(matcher, made, calibrate)
        say(told)
    if save is not None:
        made.save(save)
    return zero_shot.zero_shot(matcher, made)


def names(given: str) -> list[str]:
    """Class names: separated by commas, or a text file with one a line."""
    if Path(given).suffix == ".txt":
        if not Path(given).is_file():
            raise InputError(f"no file {given}; give names separated by commas, or a .txt file with one a line")
        lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    return [name.strip() for name in given.split(",")]


def without(options: dict[str, Any], run: str, told: str) -> None:
    """Refuses options that mean nothing for a run."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name} is not for {run}, which is {told}")


def expect(kind: str | tuple[str, ...], run: str, verb: str) -> None:
    """Refuses a run that this verb is not for, and says which is."""
    from tessella.predict import kind_of

    found = kind_of(run)
    if found not in ((kind,) if isinstance(kind, str) else kind):
        other = option.VERBS.get(found, "evaluate")
        raise InputError(f"{run} is {option.TELLS.get(found, found)}; use `tessella {other}`, not `tessella {verb}`")


def decoding(usual: Decoding, beam: int | None, nbest: int, alpha: float | None) -> Decoding:
    """A translator's usual search with what was asked for instead."""
    wide = max(beam or usual.beam, nbest) if beam is None else beam
    return usual.replace(beam=wide, nbest=nbest, alpha=usual.alpha if alpha is None else alpha)
