"""Cli, use: translate, classify, evaluate and show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessella.cli import options as option
from tessella.cli.options import Alpha, Batch, Beam, Device, Dtype, ImageSize, Run, Threads, say, use_threads, warn
from tessella.errors import InputError

if TYPE_CHECKING:
    from tessella.decode import Decoding

TELLS = {"classification": "a classifier of images", "translation": "a translator"}
"""Kind of a run -> what people call it."""


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
    _expect("translation", run, "translate")
    translator = load(run, device, dtype)
    failed = translate_lines(translator, lines, _decoding(translator.decoding, beam, nbest, alpha), out, as_json, warn)
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
) -> None:
    """Say what pictures show, with probabilities; exit code 1 if a picture could not be read."""
    from tessella.picture_lines import classify_lines, picture_paths
    from tessella.predict import load

    use_threads(threads)
    _expect("classification", run, "classify")
    classifier = load(run, device, dtype)
    classifier = classifier.resized(image_size) if image_size else classifier
    if classify_lines(classifier, picture_paths(pictures), out, as_json, warn, top, batch):
        raise typer.Exit(1)


def evaluate(
    runs: Annotated[list[str], typer.Argument(help="One run, or several to compare.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write all numbers there, as JSON.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
    data: option.Labelled = None,
    split: option.Split = None,
    csv: option.Predictions = None,
    html: option.Page = None,
    image: option.Pictures = None,
    label: option.Labels = None,
    image_size: option.Size = None,
    batch: option.AtOnce = None,
    temperature: option.Temperature = False,
    source: option.Sentences = None,
    target: option.References = None,
    domain: option.Domains = None,
    columns: option.Columns = None,
    beam: option.Hypotheses = None,
    alpha: option.Penalty = None,
) -> None:
    """Score runs on a test set, and compare several image by image or sentence by sentence."""
    from tessella.predict import kind_of

    use_threads(threads)
    kinds = {run: kind_of(run) for run in runs}
    if len(kinds) < len(runs):
        raise InputError("the same run is named twice; a comparison needs different ones")
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{run} is {TELLS.get(kind, kind)}" for run, kind in kinds.items())
        raise InputError(f"only runs of one kind can be compared: {told}")
    pictures = {"data": data, "split": split, "csv": csv, "html": html, "image": image, "label": label,
                "image-size": image_size, "batch": batch, "temperature": temperature or None}  # fmt: skip
    sentences = {"source": source, "target": target, "domain": domain, "columns": columns, "beam": beam, "alpha": alpha}
    if kinds[runs[0]] == "classification":
        _without(sentences, runs[0], "a classifier of images; it takes --data")
        _classification(runs, pictures, out, device, dtype)
    else:
        _without(pictures, runs[0], "a translator; it takes --source and --target")
        _translation(runs, sentences, out, device, dtype)


def show(
    run: Run,
    what: Annotated[str, typer.Argument(help="A sentence to translate, or a picture to classify.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The picture: .png, or .html for one page with every layer and head.")],
    layer: Annotated[
        int | None, typer.Option(help="One layer from 0; all of them (a picture's heads: the last) if left out.")
    ] = None,
    image_size: ImageSize = None,
    device: Device = "auto",
) -> None:
    """Draw where a model looked: which word at which word, or where in a picture."""
    from tessella.predict import kind_of, load

    if kind_of(run) != "classification":
        if image_size is not None:
            raise InputError(f"--image-size is not for {run}, which is a translator")
        from tessella.look import draw

        typer.echo(draw(load(run, device), what, out, layer))
        return
    from tessella.look_pictures import draw_picture

    classifier = load(run, device)
    found = draw_picture(classifier.resized(image_size) if image_size else classifier, Path(what), out, layer)
    typer.echo(", ".join(f"{name} {share:.1%}" for name, share in found.answers))
    if not found.layers:
        say("a convnet has no attention; drawn is its class activation map")


def _classification(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import class_evaluate as judge
    from tessella.class_page import save_page
    from tessella.class_tables import show_judged
    from tessella.data.albums import PictureColumns
    from tessella.predict import load
    from tessella.tables import progress

    data, csv, html = given["data"], given["csv"], given["html"]
    if data is None:
        raise InputError("a classifier is evaluated on labelled pictures; give --data")
    split = judge.chosen_split(data, given["split"])
    columns = PictureColumns(image=given["image"] or "image", label=given["label"] or "label")
    found = []
    for run in runs:
        classifier = load(run, device, dtype)
        classifier = classifier.resized(given["image-size"]) if given["image-size"] else classifier
        with progress(None, "classifying") as done:
            warm = bool(given["temperature"])
            found.append(judge.judge(run, classifier, data, split, columns, given["batch"] or 32, warm, done))
    differences = judge.compared(found)
    show_judged(found, differences, split)
    if out:
        judge.save(found, differences, data, split, out)
    if csv:
        judge.save_predictions(found, csv)
    if html:
        save_page(found, differences, data, html)


def _translation(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import evaluate as judge
    from tessella import tables

    if given["source"] is None:
        raise InputError("a translator is evaluated on sentences; give --source and --target, or a table")
    test = judge.read_test_set(given["source"], given["target"], tables.columns(given["columns"]), given["domain"])
    with tables.progress(len(test.pairs) * len(runs), "translating") as done:
        found, differences = judge.evaluate_runs(
            runs, test, lambda usual: _decoding(usual, given["beam"], 1, given["alpha"]), done, device, dtype
        )
    tables.show_evaluations(found, differences, test)
    if out:
        judge.save(found, differences, test, out)


def _expect(kind: str, run: str, verb: str) -> None:
    from tessella.predict import kind_of

    found = kind_of(run)
    if found != kind:
        other = {"translation": "translate", "classification": "classify"}.get(found, "evaluate")
        raise InputError(f"{run} is {TELLS.get(found, found)}; use `tessella {other}`, not `tessella {verb}`")


def _without(options: dict[str, Any], run: str, told: str) -> None:
    """Refuses options that mean nothing for a run."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name} is not for {run}, which is {told}")


def _decoding(usual: Decoding, beam: int | None, nbest: int, alpha: float | None) -> Decoding:
    wide = max(beam or usual.beam, nbest) if beam is None else beam
    return usual.replace(beam=wide, nbest=nbest, alpha=usual.alpha if alpha is None else alpha)
