"""Cli, judge: evaluate runs on test sets, whatever the runs are for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tessella.cli import judge_rows
from tessella.cli import options as option
from tessella.cli.options import TELLS, Device, Dtype, Threads, use_threads
from tessella.cli.use import decoding, named_classes, without
from tessella.errors import InputError


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
    caption: option.Captions = None,
    labels: option.Names = None,
    template: option.Templates = None,
    prototypes: option.Prototypes = None,
    mask: option.Masked = None,
) -> None:
    """Score runs on a test set, and compare several image by image, sentence by sentence or row by row."""
    use_threads(threads)
    kind = _one_kind(runs)
    pictures = {"data": data, "split": split, "csv": csv, "html": html, "image": image, "label": label,
                "image-size": image_size, "batch": batch, "temperature": temperature or None}  # fmt: skip
    searching = {"beam": beam, "alpha": alpha}
    sentences = {"source": source, "target": target, "domain": domain, "columns": columns}
    named = {"labels": labels, "template": template, "classes": prototypes}
    given = _Given(pictures, searching, sentences, named, {"caption": caption}, {"mask": mask})
    _judged(kind, runs, given, out, device, dtype)


class _Given(NamedTuple):
    """The options by what they are about."""

    pictures: dict[str, Any]
    searching: dict[str, Any]
    sentences: dict[str, Any]
    named: dict[str, Any]
    captions: dict[str, Any]
    masks: dict[str, Any]


def _one_kind(runs: list[str]) -> str:
    """What all runs are for."""
    from tessella.predict import kind_of

    kinds = {run: kind_of(run) for run in runs}
    if len(kinds) < len(runs):
        raise InputError("the same run is named twice; a comparison needs different ones")
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{run} is {TELLS.get(kind, kind)}" for run, kind in kinds.items())
        raise InputError(f"only runs of one kind can be compared: {told}")
    return kinds[runs[0]]


def _judged(kind: str, runs: list[str], given: _Given, out: Path | None, device: str, dtype: str) -> None:
    """Refuses options that mean nothing for these runs, and scores them."""
    pictures, searching, sentences, named, captions, masks = given
    if kind in ("fusion", "answering"):
        of_pictures = {name: pictures.pop(name) for name in ("image", "label", "image-size", "temperature")}
        wrong = {**sentences, **searching, **named, **of_pictures, **captions}
        without(wrong, runs[0], f"{option.TELLS[kind]}; its columns and label are the run's own, and it takes --data")
        if kind == "answering":
            own = {name: pictures.pop(name) for name in ("data", "split", "csv")}
            without({**pictures, **masks}, runs[0], f"{option.TELLS[kind]}; its answers are compared to the letter")
            _answering(runs, own, out, device, dtype)
        else:
            judge_rows.fusion(runs, {**pictures, **masks}, out, device, dtype)
        return
    without(masks, runs[0], f"{option.TELLS.get(kind, kind)}, which has no streams to mask")
    if kind == "translation":
        without({**pictures, **named, **captions}, runs[0], "a translator; it takes --source and --target")
        _translation(runs, {**sentences, **searching}, out, device, dtype)
        return
    if kind == "captioning":
        wrong = {**sentences, **named, **{name: pictures[name] for name in ("label", "html", "temperature")}}
        without(wrong, runs[0], f"{option.TELLS[kind]}; it takes --data")
        _captioning(runs, {**pictures, **searching, **captions}, out, device, dtype)
        return
    if kind == "language":
        own = {name: pictures[name] for name in ("data", "split")}
        wrong = {**pictures, **sentences, **searching, **named, **captions}
        without({n: v for n, v in wrong.items() if n not in {*own, "columns"}}, runs[0], "a model of texts")
        _language(runs, {**own, "columns": sentences["columns"]}, out, device, dtype)
        return
    without({**sentences, **searching}, runs[0], f"{option.TELLS[kind]}; it takes --data")
    if kind == "classification":
        without({**named, **captions}, runs[0], "a classifier with classes of its own")
        _classification(runs, pictures, out, device, dtype)
    elif pictures["label"] or any(value is not None for value in named.values()):
        without(captions, runs[0], "evaluated by classes here")
        _classification(runs, pictures, out, device, dtype, named)
    else:
        _matching(runs, {**pictures, **captions}, out, device, dtype)


def _classification(
    runs: list[str],
    given: dict[str, Any],
    out: Path | None,
    device: str,
    dtype: str,
    named: dict[str, Any] | None = None,
) -> None:
    """named: of matchers, which become classifiers by names: labels (those of the data if None), template, classes."""
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
        if named is not None:
            labels = named["labels"] if named["classes"] else named["labels"] or found_names(data, columns)
            classifier = named_classes(classifier, labels, named["template"], named["classes"])
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
        save_page(found, differences, f"{data}, {split}" if split else str(data), html)


def _language(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import read_evaluate as judge
    from tessella.predict import load, opened
    from tessella.read_tables import show_read
    from tessella.tables import progress

    data, columns = given["data"], given["columns"]
    if data is None:
        raise InputError("a model of texts is evaluated on texts; give --data (and --columns of a table)")
    own = opened(runs[0])[1].data.columns  # pyright: ignore[reportAttributeAccessIssue]  # of a language run
    read = judge.texts_of(data, given["split"], columns.split(",") if columns else own)
    found = []
    for run in runs:
        with progress(None, "reading") as done:
            found.append(judge.read_through(run, load(run, device, dtype), read.texts, done))
    judge.one_exercise(found)
    show_read(found, read)
    if out:
        judge.save(found, read, data, out)


def _translation(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import evaluate as judge
    from tessella import tables

    if given["source"] is None:
        raise InputError("a translator is evaluated on sentences; give --source and --target, or a table")
    test = judge.read_test_set(given["source"], given["target"], tables.columns(given["columns"]), given["domain"])
    with tables.progress(len(test.pairs) * len(runs), "translating") as done:
        found, differences = judge.evaluate_runs(
            runs, test, lambda usual: decoding(usual, given["beam"], 1, given["alpha"]), done, device, dtype
        )
    tables.show_evaluations(found, differences, test)
    if out:
        judge.save(found, differences, test, out)


def _matching(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import match_evaluate as judge
    from tessella.data.captions import CaptionColumns
    from tessella.match_tables import show_matched
    from tessella.predict import load
    from tessella.tables import progress

    data = given["data"]
    if data is None:
        raise InputError("a model of images and texts is evaluated on captioned or labelled pictures; give --data")
    without(
        {name: given[name] for name in ("csv", "html", "image-size", "temperature")}, runs[0], "not scored by class"
    )
    try:
        split = judge.chosen_split(data, given["split"])
    except InputError as error:
        raise InputError(f"{error}{'; for folders of classes give --template or --labels' * data.is_dir()}") from None
    usual = CaptionColumns()
    columns = CaptionColumns(image=given["image"] or usual.image, caption=given["caption"] or usual.caption)
    found = []
    for run in runs:
        matcher = load(run, device, dtype)
        with progress(None, "embedding") as done:
            found.append(judge.match_scores(run, matcher, data, split, columns, given["batch"] or 32, done))
    show_matched(found, split)
    if out:
        judge.save(found, data, split, out)


def _answering(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import answer_evaluate as judge
    from tessella.predict import load
    from tessella.tables import progress

    if given["data"] is None:
        raise InputError("a model that answers is evaluated on a table with answers; give --data")
    found = []
    for run in runs:
        with progress(None, "answering") as done:
            found.append(judge.judge(run, load(run, device, dtype), given["data"], given["split"], done))
    for line in judge.told(found):
        typer.echo(line)
    if out:
        judge.save(found, out)
    if given["csv"]:
        judge.save_answers(found, given["csv"])


def _captioning(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    from tessella import caption_evaluate as judge
    from tessella.caption_tables import show_told
    from tessella.data.captions import CaptionColumns
    from tessella.match_evaluate import chosen_split
    from tessella.predict import load
    from tessella.tables import progress

    data = given["data"]
    if data is None:
        raise InputError("a captioner is evaluated on captioned pictures; give --data")
    split, usual = chosen_split(data, given["split"]), CaptionColumns()
    columns = CaptionColumns(image=given["image"] or usual.image, caption=given["caption"] or usual.caption)
    found = []
    for run in runs:
        captioner = load(run, device, dtype)
        captioner = captioner.resized(given["image-size"]) if given["image-size"] else captioner
        how = decoding(captioner.decoding, given["beam"], 1, given["alpha"])
        how = how.replace(nbest=min(how.beam, judge.NBEST)) if given["csv"] else how
        with progress(None, "describing") as done:
            found.append(judge.caption_run(run, captioner, data, split, columns, how, done))
    show_told(found, split)
    if out:
        judge.save(found, data, split, out)
    if given["csv"]:
        judge.save_captions(found, given["csv"])


def found_names(data: Path, columns: Any) -> str:
    """The classes of labelled pictures, as they would be typed."""
    from tessella.data.layouts import numbering

    return ",".join(numbering(data, columns).classes)
