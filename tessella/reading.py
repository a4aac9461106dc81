"""Reading: the task: texts and a recipe in, a run folder with a language model out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from tessella.data.exercises import TextData
from tessella.data.picture_batches import stream
from tessella.data.quarantine import Quarantine
from tessella.data.texts import Texts, has_split, read_split, text_splits
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.models import Language
from tessella.predict import opened
from tessella.processes import launch, seed_all
from tessella.reader import Manner, Reader
from tessella.recipes.named import to_yaml
from tessella.recipes.reading import Pretraining, with_vocabulary
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.text import Codec, train_codec
from tessella.transfer import transfer


class Split(NamedTuple):
    """What is learned from and what is validated on."""

    training: Texts
    validation: Texts


def train(
    recipe: Pretraining, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a folder, table or text file, see `LanguageTexts`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    if not isinstance(recipe.model, Language):
        raise InputError("a model that gives vectors foresees no words; begin masked_words with its run (--from)")
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    quarantine = Quarantine()
    split = read_data(recipe, data, quarantine)
    fingerprint = _fingerprint(split.training)
    if sitting.first and resume:
        before = RunFolder.resume(out).manifest.get("data", {})
        if before.get("sha256") != fingerprint:
            raise InputError(f"the texts in {data} are not those the run was begun with ({before.get('path')})")
    codec = Codec.load(out / "codec.json") if resume else codec_of(recipe, split)  # each process learns the same one
    recipe = recipe.replace(model=with_vocabulary(recipe.model, codec.source))
    manner = manner_of(recipe, codec)
    held = manner.data(split.training.texts, recipe.loop.seed)
    _tell(sitting.say, split, held, len(quarantine), codec)
    seed_all(recipe.loop.seed, 0)
    model = recipe.model.build()
    if recipe.start and not resume:
        begin(model, recipe.start, sitting.say)

    def prepare(run: RunFolder) -> None:
        run.write("codec.json", codec.save)
        run.write_text("recipe.yaml", to_yaml(recipe))
        run.write("quarantine.jsonl", quarantine.save)
        run.note(data={"path": str(data), "sha256": fingerprint})

    ids = len(held.epoch(0, recipe.batch)) * recipe.batch
    return sitting.learned(lesson_of(recipe, model, held, manner, split.validation), recipe, ids, prepare)


def lesson_of(recipe: Pretraining, model: nn.Module, held: TextData, manner: Manner, validation: Texts) -> Lesson:
    """What the training loop has to know of this task."""
    data = manner.data(validation.texts)
    return Lesson(
        model=model,
        objective=recipe.objective,
        batches=partial(stream, held, recipe.batch, workers=recipe.loop.workers),
        validate=lambda model: Reader(model, manner).foreseen(data, validation.texts).to_dict(),
    )


def manner_of(recipe: Pretraining, codec: Codec) -> Manner:
    """How the recipe's model reads."""
    return Manner(codec.source, recipe.length, recipe.begin, recipe.exercise, recipe.mask)


def begin(model: nn.Module, start: str, say: Callable[[str], None]) -> None:
    """Fills a model with the weights of a language run of the same vocabulary; a head of another kind stays fresh."""
    weights = opened(start)[0].weights()
    transfer(model, {**weights, "head.weight": weights["stem.embedding.weight"]}, say, "it answers something else")


def codec_of(recipe: Pretraining, split: Split) -> Codec:
    """That of the model to start from, else one learned from the texts to learn from."""
    if recipe.start:
        return Codec.load(opened(recipe.start)[0].path / "codec.json")
    return train_codec(recipe.codec.replace(shared=True), split.training.texts, split.training.texts)


def read_data(recipe: Pretraining, data: Path, quarantine: Quarantine) -> Split:
    """The data as the recipe wants it; texts that cannot be used are set aside and named."""
    what = recipe.data
    training = read_split(data, what.train, what.columns, quarantine)
    if has_split(text_splits(data), what.validation):
        validation = read_split(data, what.validation, what.columns, quarantine)
    else:
        training, validation = training.held_out(what.held_out, recipe.loop.seed)
    quarantine.refuse_if_too_many(len(training) + len(validation) + len(quarantine), what.bad_share, "texts")
    if what.limit and what.limit < len(training):
        order = np.random.default_rng(recipe.loop.seed).permutation(len(training))[: what.limit]
        training = Texts([training.texts[i] for i in np.sort(order)], training.blank)
    return Split(training, validation)


def _tell(say: Callable[[str], None], split: Split, held: TextData, aside: int, codec: Codec) -> None:
    blank = split.training.blank + split.validation.blank
    say(
        f"{len(split.training):,} texts ({int(held.rows.lengths.sum()):,} ids in {len(held):,} rows) to learn from, "
        f"{len(split.validation):,} to validate, {aside:,} set aside{f', {blank:,} blank lines' if blank else ''}; "
        f"{codec.source.size:,} pieces"
    )


def _fingerprint(texts: Texts) -> str:
    digest = hashlib.sha256()
    for text in texts.texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
