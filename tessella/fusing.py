"""Fusing: the task: rows of mixed data and a recipe in, a run folder with a fusion model out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.data.columns import Schema, read_schema, told
from tessella.data.ids import Reading
from tessella.data.layouts import SPLIT_OF, find_files
from tessella.data.picture_batches import stream
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import Preparation, Prepared, RecordData, in_order, prepared
from tessella.data.records import Records, read_records
from tessella.data.sheets import SUFFIXES
from tessella.data.sounds import tuned
from tessella.data.targets import Task, divided
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.objectives import Classify, Objective, Regress, Tag
from tessella.predict import opened
from tessella.processes import launch, seed_all
from tessella.rank_scores import Ranks, odds_of_classes
from tessella.recipes.fusing import Fusion
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.start import begin
from tessella.text import Codec, train_codec

R = TypeVar("R", bound=Fusion)
HEARD = 1000
"""Sounds by which the usual rate, length and loudness are found."""


class Rows(NamedTuple):
    """What is learned from and what is validated on."""

    schema: Schema
    training: Records
    validation: Records


def train(
    recipe: Fusion, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a table or a folder of tables, see `MixedRows`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    say = sitting.say
    quarantine = Quarantine()
    rows = read_rows(recipe, data, quarantine)
    if sitting.first and resume:
        _same_rows(RunFolder.resume(out), rows, data)
    for line in told(rows.schema):
        say(line)
    codec = codec_of(recipe, rows, out if resume else None)  # each process learns the same one
    if recipe.model is None:
        recipe = filled(recipe, rows, codec)
    preparation = preparation_of(recipe, codec)
    training, validation = (prepared(records, preparation, quarantine) for records in rows[1:])
    quarantine.refuse_if_too_many(len(training) + len(validation) + len(quarantine), recipe.data.bad_share, "rows")
    say(
        f"{len(training):,} rows to learn from, {len(validation):,} to validate, {len(quarantine):,} set aside; "
        f"streams: {_streams(rows.schema)}"
    )
    seed_all(recipe.loop.seed, 0)
    assert recipe.model is not None
    model = recipe.model.build()
    begin(model, recipe.start, recipe.freeze, rows.schema, say, resume)
    lesson = lesson_of(recipe, model, training, validation)
    start = partial(begun_run, recipe=recipe, rows=rows, codec=codec, quarantine=quarantine, data=data)
    return sitting.learned(lesson, recipe, len(training), start)


def read_rows(recipe: Fusion, data: Path, quarantine: Quarantine, task: Task | None = None) -> Rows:
    """The data as the recipe wants it; rows that cannot be used are set aside and named.

    What columns hold is told by the recipe, if it goes on with a run, else by the rows to learn from. task: what the
    label is, whatever the recipe says of it.
    """
    what = recipe.data
    splits = find_files(data, SUFFIXES)
    name = SPLIT_OF.get(what.train.lower(), what.train)
    if name not in splits and "" not in splits:
        raise InputError(f"{data} has no split '{what.train}', only {', '.join(splits)}; --set data.train=NAME")
    paths = splits.get(name) or splits[""]
    validation = splits.get(SPLIT_OF.get(what.validation.lower(), what.validation))
    own, others = (None, None) if validation else divided(paths, what.label, what.held_out, recipe.loop.seed)
    schema = recipe.columns
    if schema is None:
        task = task or (None if what.task == "auto" else what.task)
        schema = read_schema(paths, what.label, what.kinds, task, own)
    training = read_records(paths, schema, quarantine, own)
    held = read_records(validation or paths, schema, quarantine, others)
    if what.limit and what.limit < len(training):
        order = np.random.default_rng(recipe.loop.seed).permutation(len(training))
        training = training.take(np.sort(order[: what.limit]))
    return Rows(schema, training, held)


def filled(recipe: Fusion, rows: Rows, codec: Codec | None) -> Fusion:
    """The recipe with what only the data can say: columns, the usual sound, model, objective and metric."""
    schema, recipe = rows.schema, with_columns(recipe, rows)
    recipe = recipe.replace(
        objective=objective_of(recipe.objective, schema, rows.training), loop=judged(recipe.loop, schema)
    )
    head = recipe.design.head(schema.task, len(schema.names))
    return recipe.replace(model=recipe.design.model(stems_of(recipe, schema, codec), head))


def with_columns(recipe: R, rows: Rows) -> R:
    """The recipe with what the columns hold, and with the usual rate, length and loudness of the sounds in them."""
    schema, sound = rows.schema, recipe.sound
    ears = [stream for stream, holds in schema.streams.items() if holds == "sound"]
    if ears:
        sample = np.random.default_rng(recipe.loop.seed).permutation(len(rows.training))[:HEARD].tolist()
        found = (rows.training.read(stream, number) for number in sample for stream in ears)
        sound = tuned((one for one in found if one is not None), sound)
    return recipe.replace(columns=schema, sound=sound)


def stems_of(recipe: Fusion, schema: Schema, codec: Codec | None) -> dict[str, Any]:
    """What makes tokens of each stream."""
    design = recipe.design
    makers: dict[str, Callable[[], Any]] = {
        "image": lambda: design.image_stem(recipe.image),
        "sound": lambda: design.sound_stem(recipe.sound),
        "video": lambda: design.clip_stem(recipe.clip),
        "text": lambda: design.text_stem(*_vocabulary(codec)),
        "table": lambda: design.table_stem(schema.sizes),
    }
    return {stream: makers[holds]() for stream, holds in schema.streams.items()}


def objective_of(given: Objective, schema: Schema, training: Records) -> Objective:
    """The objective for what is predicted, with "balanced" weights in numbers."""
    weights = getattr(given, "weights", None)
    if schema.task == "numbers":
        return given if isinstance(given, Regress) else Regress()
    if schema.task == "labels":
        marks = np.asarray(training.labels, np.float64)
        made = given if isinstance(given, Tag) else Tag(weights=weights)
        if made.weights == "balanced":
            have = np.maximum(marks.sum(axis=0), 1)
            made = made.replace(weights=tuple(((len(marks) - have) / have).clip(0.01, 100).round(4).tolist()))
        return _as_many(made, made.weights, schema)
    if not isinstance(given, Classify):
        raise InputError(f"'{given.kind}' learns no classes, which '{', '.join(schema.label)}' has; 'classify' does")
    if weights == "balanced":
        counts = np.bincount(np.asarray(training.labels), minlength=len(schema.names))
        each = len(training) / (len(counts) * np.maximum(counts, 1))
        return given.replace(weights=tuple(each.round(4).tolist()))
    return _as_many(given, weights, schema)


def judged(loop: LoopSpec, schema: Schema) -> LoopSpec:
    """The loop with a metric that what is predicted has."""
    if loop.metric != "accuracy" or schema.task == "classes":
        return loop
    return loop.replace(metric="f1") if schema.task == "labels" else loop.replace(metric="error", mode="min")


def preparation_of(recipe: Fusion, codec: Codec | None) -> Preparation:
    """How the cells of rows become what the model reads."""
    assert recipe.columns is not None
    reading = None if codec is None else Reading(codec.source, recipe.length, recipe.begin)
    return Preparation(recipe.columns, recipe.image, recipe.sound, recipe.clip, reading)


def lesson_of(recipe: Fusion, model: nn.Module, training: Prepared, validation: Prepared) -> Lesson:
    """What the training loop has to know of this task."""
    data = RecordData(training, recipe.augment, recipe.sound_augment, recipe.loop.seed)
    return Lesson(
        model=model,
        objective=recipe.objective,
        batches=partial(stream, data, recipe.batch, workers=recipe.loop.workers),
        validate=partial(validate, validation, recipe),
    )


def validate(rows: Prepared, recipe: Fusion, model: nn.Module) -> dict[str, float]:
    """Of classes: cross-entropy in nats, percent right and, of two, the area under the ROC curve in percent.

    Of numbers: the mean error in deviations (always the mean gives about 0.8) and R² in percent; of several labels:
    F1 over all of them and rows whose every label is right, in percent. Every row counts once.
    """
    assert recipe.columns is not None
    device = next(model.parameters()).device
    logits, labels = [], []
    for batch in in_order(rows, 2 * recipe.batch, recipe.loop.workers):
        logits.append(model(_moved(batch["source"], device)).float().cpu())
        labels.append(batch["label"])
    return SCORES[recipe.columns.task](torch.cat(logits), torch.cat(labels))


def _of_classes(logits: Tensor, label: Tensor) -> dict[str, float]:
    right = (logits.argmax(dim=-1) == label).float().mean()
    scores = {"loss": float(F.cross_entropy(logits, label)), "accuracy": 100 * float(right)}
    if logits.shape[1] == 2:
        ranks = Ranks(1)
        ranks.add(odds_of_classes(logits.numpy())[:, 1:], label.numpy()[:, None] > 0)
        scores["auc"] = 100 * float(ranks.auc()[0])
    return scores


def _of_numbers(answers: Tensor, label: Tensor) -> dict[str, float]:
    apart = (answers - label).double()
    spread = (label - label.mean(dim=0)).double().square().sum().clamp(min=1e-12)
    return {"error": float(apart.abs().mean()), "r2": 100 * float(1 - apart.square().sum() / spread)}


def _of_labels(logits: Tensor, label: Tensor) -> dict[str, float]:
    said, true = logits > 0, label > 0.5
    both = (said & true).sum()
    f1 = 2 * both / (said.sum() + true.sum()).clamp(min=1)
    return {"f1": 100 * float(f1), "exact": 100 * float((said == true).all(dim=1).float().mean())}


SCORES: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "classes": _of_classes,
    "numbers": _of_numbers,
    "labels": _of_labels,
}
"""Task -> what validation tells of all answers and labels."""


def _streams(schema: Schema) -> str:
    return ", ".join(name if name == holds else f"{name} ({holds})" for name, holds in schema.streams.items())


def _moved(source: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in source.items()}


def _as_many(made: Objective, weights: Any, schema: Schema) -> Objective:
    if weights is not None and len(weights) != len(schema.names):
        raise InputError(f"objective.weights has {len(weights)} numbers for {len(schema.names)} {schema.task}")
    return made


def _vocabulary(codec: Codec | None) -> tuple[int, int]:
    assert codec is not None
    return codec.source.size, codec.source.pad


def codec_of(recipe: Fusion, rows: Rows, before: Path | None) -> Codec | None:
    """That of the run that goes on, or of the one to start from if it has any; else one learned from the texts."""
    if not rows.schema.texts:
        return None
    if before is not None:
        return Codec.load(before / "codec.json")
    if recipe.start:
        run, theirs = opened(recipe.start)
        if theirs.kind in ("fusion", "language") and (run.path / "codec.json").is_file():
            return Codec.load(run.path / "codec.json")
    texts = [rows.training.text(number) for number in range(len(rows.training))]
    return train_codec(recipe.codec.replace(shared=True), texts, texts)


def _same_rows(run: RunFolder, rows: Rows, data: Path) -> None:
    before = run.manifest.get("data", {})
    if before.get("sha256") != rows.training.fingerprint():
        raise InputError(f"the rows in {data} are not those the run was begun with ({before.get('path')})")


def begun_run(
    run: RunFolder, recipe: Fusion, rows: Rows, codec: Codec | None, quarantine: Quarantine, data: Path
) -> None:
    """Writes what a run holds before its first step."""
    if codec is not None:
        run.write("codec.json", codec.save)
    run.write_text("recipe.yaml", to_yaml(recipe))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data={"path": str(data), "sha256": rows.training.fingerprint()})
