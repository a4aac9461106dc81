"""Answering: the task: rows with answers in words and a recipe in, a run folder that writes such answers out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tessella.data.answers import answers_of
from tessella.data.columns import told
from tessella.data.ids import Ids, Reading
from tessella.data.picture_batches import stream
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import Prepared, RecordData, in_order, prepared
from tessella.errors import InputError
from tessella.fusing import Rows, preparation_of, read_rows, stems_of, with_columns
from tessella.lesson import Lesson
from tessella.predict import opened
from tessella.processes import launch, seed_all
from tessella.recipes.answering import Answering, writing
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.start import begin
from tessella.text import Codec, Tokenizer, train_codec
from tessella.writer import Writer


def train(
    recipe: Answering, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a table or a folder of tables, see `MixedRows`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    say = sitting.say
    quarantine = Quarantine()
    rows = read_rows(recipe, data, quarantine, "words")
    if sitting.first and resume:
        before = RunFolder.resume(out).manifest.get("data", {})
        if before.get("sha256") != fingerprint(rows):
            raise InputError(f"the rows in {data} are not those the run was begun with ({before.get('path')})")
    for line in told(rows.schema):
        say(line)
    codec = Codec.load(out / "codec.json") if resume else _codec(recipe, rows)  # each process learns the same one
    if recipe.model is None:
        recipe = with_columns(recipe, rows)
        stems = stems_of(recipe, rows.schema, codec)
        recipe = recipe.replace(model=writing(recipe.design, stems, codec.target, recipe.writes))
    preparation = preparation_of(recipe, codec)
    training, validation = (prepared(records, preparation, quarantine) for records in rows[1:])
    quarantine.refuse_if_too_many(len(training) + len(validation) + len(quarantine), recipe.data.bad_share, "rows")
    say(f"{len(training):,} rows to learn from, {len(validation):,} to validate, {len(quarantine):,} set aside")
    seed_all(recipe.loop.seed, 0)
    assert recipe.model is not None
    model = recipe.model.build()
    begin(model, recipe.start, recipe.freeze, rows.schema, say, resume)
    start = partial(_begin, recipe=recipe, rows=rows, codec=codec, quarantine=quarantine, data=data)
    lesson = lesson_of(recipe, model, training, validation, codec.target)
    return sitting.learned(lesson, recipe, len(training), start)


def lesson_of(
    recipe: Answering, model: nn.Module, training: Prepared, validation: Prepared, words: Tokenizer
) -> Lesson:
    """What the training loop has to know of this task."""
    reading = Reading(words, recipe.answer + 1, words.bos)
    rows = RecordData(training, recipe.augment, recipe.sound_augment, recipe.loop.seed)
    data = Answered(rows, reading(answers_of(training.records)))
    return Lesson(
        model=model,
        objective=recipe.objective,
        batches=partial(stream, data, recipe.batch, workers=recipe.loop.workers),
        validate=partial(validate, validation, answers_of(validation.records), reading, recipe),
    )


@dataclass(frozen=True, eq=False)
class Answered:
    """Rows with what is to be written of each: {"source": streams, "target": long b m (bos ... eos), "index"}."""

    rows: RecordData
    answers: Ids

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """The rows of each batch of an epoch; see ``RecordData.epoch``."""
        return self.rows.epoch(number, size)

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> dict[str, Any]:
        """One batch. Raises InputError that names a row whose file cannot be read."""
        batch = self.rows.batch(epoch, number, indices)
        target = self.answers.padded(np.asarray(indices, np.int64))
        return {"source": batch["source"], "target": target, "index": batch["index"]}


def validate(
    rows: Prepared, answers: Sequence[str], reading: Reading, recipe: Answering, model: nn.Module
) -> dict[str, float]:
    """Loss a piece of the answers that rows have, and percent of rows whose answer is written to the letter."""
    device = next(model.parameters()).device
    writer, ids = Writer(model, reading.tokenizer, recipe.decoding), reading(answers)
    total, pieces, right = 0.0, 0, 0
    for batch in in_order(rows, 2 * recipe.batch, recipe.loop.workers):
        source = {name: tensor.to(device) for name, tensor in batch["source"].items()}
        numbers = batch["index"].numpy()
        losses = recipe.objective(model, {"source": source, "target": ids.padded(numbers).to(device)})  # pyright: ignore
        total += float(losses["loss"].detach()) * int(losses["weight"])
        pieces += int(losses["weight"])
        written = [one.text for one in writer.write(source)]
        right += sum(same(text, answers[n]) for text, n in zip(written, numbers.tolist(), strict=True))
    return {"loss": total / max(pieces, 1), "exact": 100 * right / len(rows)}


def same(written: str, answer: str) -> bool:
    """Whether two answers are the same but for upper case and white space."""
    return written.casefold().split() == answer.casefold().split()


def fingerprint(rows: Rows) -> str:
    """SHA-256 of the rows to learn from, and of their answers."""
    told = json.dumps([rows.training.fingerprint(), answers_of(rows.training)])
    return hashlib.sha256(told.encode()).hexdigest()


def _codec(recipe: Answering, rows: Rows) -> Codec:
    """That of the run to start from, if it has one; else one learned from the texts and answers of the rows."""
    if recipe.start:
        run, theirs = opened(recipe.start)
        if theirs.kind in ("answering", "language"):
            return Codec.load(run.path / "codec.json")
    records = rows.training
    questions = [records.text(number) for number in range(len(records))] if rows.schema.texts else []
    answers = answers_of(records)
    return train_codec(recipe.codec.replace(shared=True), [*questions, *answers], answers)


def _begin(run: RunFolder, recipe: Answering, rows: Rows, codec: Codec, quarantine: Quarantine, data: Path) -> None:
    """Writes what a run holds before its first step."""
    run.write("codec.json", codec.save)
    run.write_text("recipe.yaml", to_yaml(recipe))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data={"path": str(data), "sha256": fingerprint(rows)})
