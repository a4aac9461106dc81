"""Vision recipes: classifiers for images of one's own, and those of the results."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from tessella.data.augment import DEIT, Augment
from tessella.data.pixels import Preprocess
from tessella.errors import InputError, did_you_mean
from tessella.loop import LoopSpec
from tessella.models import Model
from tessella.objectives import Classify, Distill, Objective
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.recipe import Recipe
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, Spec, spec
from tessella.zoo.catalog import CARDS, model_spec


@spec("labelled-images")
class LabelledImages(Spec):
    """Where images and their classes are found in the folder or file given as data.

    A folder holds class folders (perhaps in ``train/`` and ``val/``), or tables or IDX files named after the splits. A
    table has the columns `image` and `label`.
    """

    image: str = "image"
    label: str = "label"
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.1, gt=0, lt=0.5)
    """The share of each class that is kept for validation where the data has no split of that name."""
    classes: tuple[str, ...] = ()
    """Names in the order of the numbers in `label`; found in the data if left out."""
    limit: int | None = Field(None, ge=2)
    """Learn from so many images only, the same share of each class."""
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable images up to which a training goes on without them."""


@spec("teacher")
class Teacher(Spec):
    """Whose answers a student learns.

    run: a run folder, or hf://owner/name. answers: "live" asks it about every image as the student sees it; "cached"
    asks once about each image as it is, without augmentation, and mixes its answers where images are mixed.
    """

    run: str
    answers: Literal["live", "cached"] = "live"


@spec("classification")
class Classification(Recipe):
    """A classifier of images. The number of classes in `model` is filled in from the data."""

    data: LabelledImages = LabelledImages()
    image: Preprocess = Preprocess()
    augment: Augment = Augment()
    model: Part[Model]
    objective: Part[Objective] = Classify()
    teacher: Teacher | None = None
    start: str | None = None
    """A run folder or hf://owner/name whose weights are the beginning."""
    freeze: bool = False
    """Only the head learns."""
    optimizer: Part[OptimizerSpec] = AdamW(beta2=0.999, decay=0.05)
    schedule: Part[Schedule] = Cosine(peak=1e-3, warmup=500, final=1e-5)
    loop: LoopSpec = LoopSpec(steps=10_000, metric="accuracy")
    batch: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _teacher_is_heard(self):
        if self.teacher and not isinstance(self.objective, Distill):
            raise InputError(f"a teacher needs the objective 'distill', not '{self.objective.kind}'")
        return self


class ClassifierOptions(NamedTuple):
    """What one says in a word when training a classifier."""

    model: str | None = None
    """A name of the zoo; images are then prepared as its published weights want them."""
    image_size: int | None = None
    start: str | None = None
    freeze: bool = False
    teacher: str | None = None


def chosen(recipe: Classification, options: ClassifierOptions) -> Classification:
    """The recipe with these options; a start without a model takes the model of that run."""
    model, image = recipe.model, recipe.image
    if options.model is not None:
        if options.model not in CARDS:
            raise InputError(f"no classifier called '{options.model}'{did_you_mean(options.model, CARDS)}")
        card = CARDS[options.model]
        size = options.image_size or card.size
        model = model_spec(options.model, {"image_size": size, "channels": image.channels})
        image = image.replace(size=(size, size), crop=1.0 if size <= SMALL else card.crop)
        if image.channels == len(card.mean):
            image = image.replace(mean=card.mean, std=card.std, interpolation=card.interpolation)
    elif options.image_size is not None:
        image = image.replace(size=(options.image_size, options.image_size))
    teacher = Teacher(run=options.teacher) if options.teacher else recipe.teacher
    crop = "pad" if min(image.size) <= SMALL else "resized"
    augment = recipe.augment.replace(crop=crop) if recipe.augment.crop != "none" else recipe.augment
    return recipe.replace(
        model=model,
        image=image,
        augment=augment,
        teacher=teacher,
        start=options.start or recipe.start,
        freeze=options.freeze or recipe.freeze,
    )


SMALL = 64
"""Rows up to which images are shifted, not cropped and resized, and not cut at the borders when judged."""


def classify() -> Classification:
    """A classifier for one's own images: a small CvT by DeiT's recipe; --model NAME for any other of the zoo."""
    return Classification(
        model=model_spec("cvt_13", {"classes": 0}),
        augment=DEIT.replace(repeats=1),
        schedule=Cosine(peak=5e-4, warmup=300, final=1e-5),
        loop=LoopSpec(steps=10_000, metric="accuracy", ema=0.999, validate_every="epoch", workers=2),
        batch=64,
    )


def distill() -> Classification:
    """The same, learning from another run as well (--teacher RUN): a DeiT with a distillation token."""
    return classify().replace(model=model_spec("deit_small_distilled_patch16_224", {"classes": 0}), objective=Distill())


RECIPES = (classify, distill)
