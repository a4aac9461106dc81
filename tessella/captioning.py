"""Captioning: the task: captioned images and a recipe in, a run folder that describes others out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tessella.caption_scores import caption_scores
from tessella.captioner import Captioner
from tessella.data.caption_batches import CaptionData
from tessella.data.ids import Reading, Sayings
from tessella.data.picture_batches import Batch, PictureData, Source, in_order, source_of, stream
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.matching import Pairs, pairs_of, same_pairs
from tessella.predict import opened
from tessella.pretrained import fill, language_weights
from tessella.processes import launch, seed_all
from tessella.recipes.captioning import Captioning, with_words
from tessella.recipes.matching import Matching
from tessella.recipes.named import to_yaml
from tessella.recipes.reading import Pretraining
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.start import below
from tessella.text import Codec, train_codec
from tessella.transfer import still, transfer

AT_ONCE = 50
"""Images described at once in validation."""


def train(
    recipe: Captioning, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a folder, table or shards, see `CaptionedImages`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    say = sitting.say
    quarantine = Quarantine()
    source: Any = getattr(recipe.model, "source", None)
    pairs = pairs_of(recipe.data, data, quarantine, recipe.loop.seed, getattr(source, "patch", 1))
    if sitting.first and resume:
        same_pairs(RunFolder.resume(out), pairs, data)
    codec = Codec.load(out / "codec.json") if resume else _codec(recipe, pairs)  # each process learns the same one
    reading = Reading(codec.target, recipe.length + 1, codec.target.bos)
    captions = Sayings.of(pairs.training.captions, reading)
    cut = captions.ids.cut
    say(
        f"{len(captions):,} images with {len(captions.ids):,} captions to learn from, {len(pairs.validation):,} "
        f"images to validate, {len(quarantine):,} set aside; {codec.target.size:,} pieces"
        f"{f'; {cut:,} captions are cut to {recipe.length} ids' if cut else ''}"
    )
    seed_all(recipe.loop.seed, 0)
    recipe = recipe.replace(model=with_words(recipe.model, codec.target.size, codec.target.pad))
    model = recipe.model.build()
    begin(model, recipe, say, resume)
    start = partial(_begin, recipe=recipe, pairs=pairs, codec=codec, quarantine=quarantine, data=data)
    return sitting.learned(lesson_of(recipe, model, captions, pairs, reading), recipe, len(pairs.training), start)


def begin(model: Any, recipe: Captioning, say: Callable[[str], None], resume: bool) -> None:
    """The weights to start from, and what of the model does not learn."""
    if recipe.start and not resume:
        run, theirs = opened(recipe.start)
        if isinstance(theirs, Captioning):
            transfer(model, run.weights(), say)
        elif isinstance(theirs, Pretraining):
            _writes(model, recipe, say)
        else:
            weights, tower = run.weights(), "image." if isinstance(theirs, Matching) else ""
            transfer(model.source, below(weights, f"{tower}stem."), say)
            transfer(model.encoder, below(weights, f"{tower}trunk."), say)
            say(f"it sees with the weights of {recipe.start}; what writes is fresh")
    if recipe.freeze:
        still(model.source)
        still(model.encoder)


def _writes(model: Any, recipe: Captioning, say: Callable[[str], None]) -> None:
    """What writes begins with a language model; its look at the image stays fresh, as what sees does."""
    if recipe.freeze:
        raise InputError(f"{recipe.start} is a language model, which sees nothing that could stay as it is")
    language = language_weights(recipe.start or "")
    words = language.codec.source
    if words.pad == words.eos:
        raise InputError(f"{recipe.start} pads with the id that ends a text, so that ends could not be learned")
    fill(model.target, language.named("", None))
    fill(model.decoder, language.named(None, ""))
    say(f"it writes with the weights of {recipe.start}; what sees is fresh")


def lesson_of(recipe: Captioning, model: nn.Module, captions: Sayings, pairs: Pairs, reading: Reading) -> Lesson:
    """What the training loop has to know of this task."""
    image, augment = recipe.image, recipe.augment
    held = source_of(pairs.training.pictures, image, augment.crop != "resized")
    data = Described(CaptionData(PictureData(held, image, augment, recipe.loop.seed), captions))
    return Lesson(
        model=model,
        objective=recipe.objective,
        batches=partial(stream, data, recipe.batch, workers=recipe.loop.workers),
        validate=partial(
            validate,
            source_of(pairs.validation.pictures, image),
            pairs.validation.captions,
            reading,
            recipe,
        ),
    )


@dataclass(frozen=True)
class Described:
    """Captioned pictures as source and target: {"source": float b v r c, "target": long b m (bos ... eos), "index"}."""

    data: CaptionData

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """The pictures of each batch of an epoch; see ``PictureData.epoch``."""
        return self.data.epoch(number, size)

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch. Raises InputError that names a picture which cannot be read."""
        batch = self.data.batch(epoch, number, indices)
        return {"source": batch["image"], "target": batch["text"], "index": batch["index"]}


def validate(
    source: Source, captions: Sequence[Sequence[str]], reading: Reading, recipe: Captioning, model: nn.Module
) -> dict[str, float]:
    """Loss a piece of every image's first caption, and how the captions found for `judged` of the images score.

    Those are spread evenly over all; each is compared with all that is said of it.
    """
    device = next(model.parameters()).device
    describes = Captioner(model, recipe.image, reading.tokenizer, recipe.decoding)
    judged = set(np.linspace(0, len(captions) - 1, min(recipe.judged, len(captions))).round().astype(int).tolist())
    firsts = reading([several[0] for several in captions])
    total, pieces, found = 0.0, 0, {}
    for batch in in_order(source, recipe.image, AT_ONCE, recipe.loop.workers):
        numbers, images = batch["index"].numpy(), batch["image"].to(device)
        losses = recipe.objective(model, {"source": images, "target": firsts.padded(numbers).to(device)})
        total += float(losses["loss"].detach()) * int(losses["weight"])
        pieces += int(losses["weight"])
        chosen = [place for place, number in enumerate(numbers.tolist()) if number in judged]
        if chosen:
            answers = describes.write(images[chosen])
            found |= {int(numbers[place]): one for place, one in zip(chosen, answers, strict=True)}
    order = sorted(found)
    scores = caption_scores([found[number].text for number in order], [captions[number] for number in order])
    told = {score.metric: score.value for score in scores.scores}
    distinct = 100 * scores.distinct / len(order)
    return {"loss": total / pieces, **told, "distinct": distinct, "degenerate": scores.degenerate}


def _begin(run: RunFolder, recipe: Captioning, pairs: Pairs, codec: Codec, quarantine: Quarantine, data: Path) -> None:
    """Writes what a run holds before its first step."""
    run.write("codec.json", codec.save)
    run.write_text("recipe.yaml", to_yaml(recipe))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data={"path": str(data), "sha256": pairs.training.fingerprint()})


def _codec(recipe: Captioning, pairs: Pairs) -> Codec:
    """That of the captioner or language model to start from, else one learned from the captions."""
    if recipe.start:
        run, theirs = opened(recipe.start)
        if isinstance(theirs, Captioning | Pretraining):
            return Codec.load(run.path / "codec.json")
    texts = [text for several in pairs.training.captions for text in several]
    return train_codec(recipe.codec.replace(shared=True), texts, texts)
