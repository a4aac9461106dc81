"""Classification: the task: labelled images and a recipe in, a run folder with a classifier out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tessella.data.albums import PictureColumns
from tessella.data.layouts import SPLIT_OF
from tessella.data.picture_batches import PictureData, Source, in_order, source_of, stream
from tessella.data.pictures import Pictures, held_out, read_pictures, splits, verify
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.models import Model
from tessella.objectives import Distill
from tessella.predict import opened, plain_classifier
from tessella.processes import launch, seed_all
from tessella.recipes.named import to_yaml
from tessella.recipes.vision import Classification
from tessella.runs import RunFolder
from tessella.sitting import Sitting
from tessella.teacher import Remembered, Taught, Teacher
from tessella.transfer import freeze, transfer


@dataclass(frozen=True)
class Images:
    """What is learned from and what is validated on."""

    training: Pictures
    validation: Pictures

    def told(self, set_aside: int) -> Iterator[str]:
        """How many there are, the classes in their order, and those that validation cannot tell about."""
        classes = self.training.classes
        yield (
            f"{len(self.training):,} images to learn from, {len(self.validation):,} to validate, "
            f"{set_aside:,} set aside; {len(classes)} classes: {_some(classes)}"
        )
        lacking = [name for name, count in zip(classes, self.validation.counts, strict=True) if not count]
        if lacking:
            yield f"no image to validate, so that no score tells of it: {_some(lacking)}"


def train(
    recipe: Classification, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a folder, table or IDX files, see `LabelledImages`. Returns the metric reached: {"metric", "best", "step"}.
    Raises InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    if isinstance(recipe.objective, Distill) and recipe.teacher is None:
        raise InputError("there is no teacher to learn from; name one with --teacher RUN")
    sitting = Sitting(launch(recipe.loop), out, resume, say)
    say = sitting.say
    quarantine = Quarantine()
    images = read_images(recipe, data, quarantine)
    if sitting.first and resume:
        _same_images(RunFolder.resume(out), images, data)
    for line in images.told(len(quarantine)):
        say(line)
    seed_all(recipe.loop.seed, 0)
    model = with_classes(recipe.model, len(images.training.classes)).build()
    if recipe.start and not resume:
        transfer(model, opened(recipe.start)[0].weights(), say)
    if recipe.freeze:
        freeze(model)
    begin = partial(_begin, recipe=recipe, images=images, quarantine=quarantine, data=data)
    return sitting.learned(lesson_of(recipe, model, images), recipe, len(images.training), begin)


def lesson_of(recipe: Classification, model: nn.Module, images: Images) -> Lesson:
    """What the training loop has to know of this task."""
    held = source_of(images.training, recipe.image, recipe.augment.crop != "resized")
    data = PictureData(held, recipe.image, recipe.augment, recipe.loop.seed)
    validation = source_of(images.validation, recipe.image)
    return Lesson(
        model=model,
        objective=_taught(recipe, images.training.classes, held),
        batches=partial(stream, data, recipe.batch, workers=recipe.loop.workers),
        validate=partial(validate, validation, recipe),
    )


def validate(source: Source, recipe: Classification, model: nn.Module) -> dict[str, float]:
    """Cross-entropy in nats, and percent of right classes, first and among the first five; every image once."""
    device = next(model.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in in_order(source, recipe.image, 2 * recipe.batch, recipe.loop.workers):
        logits, label = model(batch["image"].to(device)).float().cpu(), batch["label"]
        ranks = (logits > logits.gather(1, label[:, None])).sum(dim=1)
        loss = F.cross_entropy(logits, label, reduction="sum")
        sums += torch.stack([loss, (ranks < 1).sum(), (ranks < 5).sum()]).double()
    loss, first, five = (sums / len(source.labels)).tolist()
    return {"loss": loss, "accuracy": 100 * first, "top5": 100 * five}


def read_images(recipe: Classification, data: Path, quarantine: Quarantine) -> Images:
    """The data as the recipe wants it; pictures that cannot be used are set aside and named."""
    what = recipe.data
    columns = PictureColumns(image=what.image, label=what.label)
    training = read_pictures(data, what.train, columns, what.classes or None, quarantine)
    if SPLIT_OF.get(what.validation.lower(), what.validation) in splits(data):
        validation = read_pictures(data, what.validation, columns, training.classes, quarantine)
    else:
        training, validation = held_out(training, what.held_out, recipe.loop.seed)
    if what.limit:
        training = limited(training, what.limit, recipe.loop.seed)
    patch = getattr(getattr(recipe.model, "stem", None), "patch", 1)
    training = verify(training, quarantine, (patch, patch))
    validation = verify(validation, quarantine, (patch, patch))
    quarantine.refuse_if_too_many(len(training) + len(validation) + len(quarantine), what.bad_share)
    return Images(training, validation)


def limited(pictures: Pictures, count: int, seed: int) -> Pictures:
    """So many pictures, the same share of each class, drawn by the seed; a smaller draw is part of a larger one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pictures))
    labels = np.asarray(pictures.labels)[order]
    place = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return pictures.take(np.sort(order[np.argsort(place, kind="stable")[:count]]))


def with_classes(model: Model, classes: int) -> Model:
    """The spec with a head for so many classes."""
    head = getattr(model, "head", None)
    if head is None or not hasattr(head, "classes"):
        raise InputError(f"'{model.kind}' has no head of classes; a classifier is an 'encoder' with one")
    return model.replace(head=head.replace(classes=classes))


def _taught(recipe: Classification, classes: Sequence[str], held: Source) -> Callable[..., Any]:
    """The objective, with its teacher beside it if there is one."""
    if recipe.teacher is None:
        return recipe.objective
    run, taught = opened(recipe.teacher.run)
    if not isinstance(taught, Classification):
        raise InputError(f"{run.path} is a '{taught.kind}' run, which cannot teach a classifier")
    teacher = Teacher(plain_classifier(run, taught), recipe.image, classes)
    if recipe.teacher.answers == "live":
        return Taught(recipe.objective, teacher)
    answers = [teacher(batch["image"]) for batch in in_order(held, recipe.image, 2 * recipe.batch)]
    return Remembered(recipe.objective, torch.cat(answers))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:12])}{' …' if len(names) > 12 else ''}"


def _same_images(run: RunFolder, images: Images, data: Path) -> None:
    before = run.manifest.get("data", {})
    if before.get("sha256") != images.training.fingerprint():
        raise InputError(f"the images in {data} are not those the run was begun with ({before.get('path')})")


def _begin(run: RunFolder, recipe: Classification, images: Images, quarantine: Quarantine, data: Path) -> None:
    """Writes what a run holds before its first step."""
    classes = images.training.classes
    run.write_text("labels.json", json.dumps(classes, ensure_ascii=False, indent=0))
    run.write_text("recipe.yaml", to_yaml(recipe.replace(model=with_classes(recipe.model, len(classes)))))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data={"path": str(data), "sha256": images.training.fingerprint()})
