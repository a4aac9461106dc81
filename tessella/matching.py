"""Matching: the task: captioned images and a recipe in, a run folder with two towers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tessella.contrast import Contrast
from tessella.data.caption_batches import CaptionData
from tessella.data.captioned import Captioned, captioned_splits, read_captioned
from tessella.data.ids import Reading, Sayings
from tessella.data.layouts import SPLIT_OF
from tessella.data.picture_batches import PictureData, Source, in_order, source_of, stream
from tessella.data.pixels import normalised
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.match_scores import TOPS, retrieval
from tessella.predict import opened
from tessella.processes import launch, seed_all
from tessella.recipes.matching import CaptionedImages, Matching, image_tower, with_text
from tessella.recipes.named import to_yaml
from tessella.recipes.vision import Classification
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.text import Codec, train_codec
from tessella.transfer import freeze, transfer


class Pairs(NamedTuple):
    """What is learned from and what is validated on."""

    training: Captioned
    validation: Captioned


def train(
    recipe: Matching, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a folder, table or shards, see `CaptionedImages`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    say = sitting.say
    quarantine = Quarantine()
    pairs = read_pairs(recipe, data, quarantine)
    if sitting.first and resume:
        same_pairs(RunFolder.resume(out), pairs, data)
    codec = Codec.load(out / "codec.json") if resume else _codec(recipe, pairs)  # each process learns the same one
    reading = Reading(codec.source, recipe.length, recipe.begin)
    captions = Sayings.of(pairs.training.captions, reading)
    cut = captions.ids.cut
    say(
        f"{len(captions):,} images with {len(captions.ids):,} captions to learn from, {len(pairs.validation):,} "
        f"images to validate, {len(quarantine):,} set aside; {codec.source.size:,} pieces"
        f"{f'; {cut:,} captions are cut to {recipe.length} ids' if cut else ''}"
    )
    seed_all(recipe.loop.seed, 0)
    model = with_text(recipe.model, codec.source.size, codec.source.pad, codec.source.eos).build()
    begin(model, recipe, say, resume)
    if isinstance(recipe.objective, Contrast):
        recipe.objective.fits(model, recipe.batch)
    lesson = lesson_of(recipe, model, captions, pairs, reading)
    start = partial(_begin, recipe=recipe, pairs=pairs, codec=codec, quarantine=quarantine, data=data)
    return sitting.learned(lesson, recipe, len(pairs.training), start)


def begin(model: nn.Module, recipe: Matching, say: Callable[[str], None], resume: bool) -> None:
    """The weights to start from, and what of the model does not learn."""
    if recipe.start and not resume:
        run, theirs = opened(recipe.start)
        if isinstance(theirs, Matching):
            transfer(model, run.weights(), say)
        elif isinstance(theirs, Classification):
            transfer(model.image, run.weights(), say, "it gives vectors, not classes")
        else:
            raise InputError(f"{recipe.start} is a '{theirs.kind}' run; towers begin with towers or with a classifier")
    if recipe.freeze != "none":
        freeze(getattr(model, recipe.freeze))


def lesson_of(recipe: Matching, model: nn.Module, captions: Sayings, pairs: Pairs, reading: Reading) -> Lesson:
    """What the training loop has to know of this task.

    Where the objective computes a batch in chunks, images wait as bytes.
    """
    image, augment = recipe.image, recipe.augment
    held = source_of(pairs.training.pictures, image, augment.crop != "resized")
    wrong = pairs.training.negatives
    objective: Any = recipe.objective
    chunked = isinstance(objective, Contrast) and objective.chunk is not None and not augment.erasing
    data = CaptionData(
        PictureData(held, image, augment, recipe.loop.seed),
        captions,
        None if wrong is None else Sayings.of(wrong, reading),
        as_bytes=chunked,
    )
    if chunked:
        objective = partial(objective, prepare=partial(normalised, preprocess=image))
    validation = source_of(pairs.validation.pictures, image), Sayings.of(pairs.validation.captions, reading)
    return Lesson(
        model=model,
        objective=objective,
        batches=partial(stream, data, recipe.batch, workers=recipe.loop.workers),
        validate=partial(validate, *validation, recipe),
    )


AT_ONCE = 128
"""Images, and texts, embedded at once in validation."""


def validate(source: Source, captions: Sayings, recipe: Matching, model: nn.Module) -> dict[str, float]:
    """Percent of captions whose image is among the first 1, 5, 10 of all, and of images whose caption is; median ranks.

    Every validation image counts once, every caption of it too.
    """
    device = next(model.parameters()).device
    pictures = in_order(source, recipe.image, AT_ONCE, recipe.loop.workers)
    seen = [model.embed_image(batch["image"].to(device)).cpu() for batch in pictures]
    told = [model.embed_text(ids.to(device)).cpu() for ids, _ in captions.in_order(AT_ONCE)]
    by_text, by_image = retrieval(torch.cat(seen).numpy(), torch.cat(told).numpy(), captions.picture)
    scores = {f"recall@{k}": 100 * by_text.at(k) for k in TOPS}
    scores |= {f"texts@{k}": 100 * by_image.at(k) for k in TOPS}
    return {**scores, "median": by_text.median, "texts median": by_image.median, "scale": float(model.scale)}


def read_pairs(recipe: Matching, data: Path, quarantine: Quarantine) -> Pairs:
    """The data as the recipe wants it; pictures and captions that cannot be used are set aside and named."""
    patch = getattr(image_tower(recipe.model).stem, "patch", 1)
    return pairs_of(recipe.data, data, quarantine, recipe.loop.seed, patch)


def pairs_of(what: CaptionedImages, data: Path, quarantine: Quarantine, seed: int, smallest: int) -> Pairs:
    """The same, by what is to be read; pictures of fewer rows or columns than `smallest` cannot be used."""
    training = read_captioned(data, what.train, what.columns, quarantine)
    if SPLIT_OF.get(what.validation.lower(), what.validation) in captioned_splits(data):
        validation = read_captioned(data, what.validation, what.columns, quarantine)
    else:
        training, validation = training.held_out(what.held_out, seed)
    if what.limit and what.limit < len(training):
        order = np.random.default_rng(seed).permutation(len(training))
        training = training.take(np.sort(order[: what.limit]))
    training = training.verified(quarantine, (smallest, smallest))
    validation = validation.verified(quarantine, (smallest, smallest))
    quarantine.refuse_if_too_many(len(training) + len(validation) + len(quarantine), what.bad_share)
    return Pairs(training, validation)


def same_pairs(run: RunFolder, pairs: Pairs, data: Path) -> None:
    """Refuses pairs that are not those a run was begun with."""
    before = run.manifest.get("data", {})
    if before.get("sha256") != pairs.training.fingerprint():
        raise InputError(f"the pairs in {data} are not those the run was begun with ({before.get('path')})")


def _begin(run: RunFolder, recipe: Matching, pairs: Pairs, codec: Codec, quarantine: Quarantine, data: Path) -> None:
    """Writes what a run holds before its first step."""
    run.write("codec.json", codec.save)
    model = with_text(recipe.model, codec.source.size, codec.source.pad, codec.source.eos)
    run.write_text("recipe.yaml", to_yaml(recipe.replace(model=model)))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data={"path": str(data), "sha256": pairs.training.fingerprint()})


def _codec(recipe: Matching, pairs: Pairs) -> Codec:
    """That of the towers to start from, else one learned from the captions."""
    if recipe.start:
        run, theirs = opened(recipe.start)
        if isinstance(theirs, Matching):
            return Codec.load(run.path / "codec.json")
    captions = [text for several in pairs.training.captions for text in several]
    return train_codec(recipe.codec.replace(shared=True), captions, captions)
