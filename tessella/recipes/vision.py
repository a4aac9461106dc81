"""Vision recipes: classifiers for images of one's own, and those of the results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tessella.data.augment import DEIT, Augment
from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.models import Model
from tessella.objectives import Classify, Distill, Hard, Objective, Soft, Teaching
from tessella.optimizers import AdamW, OptimizerSpec, Sgd
from tessella.recipes.recipe import Chosen, Recipe
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, Spec, spec
from tessella.zoo.catalog import CLASSIFIERS, full_name, model_spec


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
            raise InputError(
                f"a teacher needs the objective 'distill', not '{self.objective.kind}'; see the recipe 'distill'"
            )
        return self


def chosen(recipe: Classification, options: Chosen) -> Classification:
    """The recipe with these options. Raises InputError for a model that is no classifier or a size it cannot take."""
    model, image = recipe.model, recipe.image
    if options.model is not None:
        card = CLASSIFIERS[full_name(options.model, CLASSIFIERS)]
        size = options.image_size or card.size
        model = model_spec(options.model, {"image_size": size, "channels": image.channels})
        image = image.replace(size=(size, size), crop=1.0 if size <= SMALL else card.crop)
        if image.channels == len(card.mean):
            image = image.replace(mean=card.mean, std=card.std, interpolation=card.interpolation)
    elif options.image_size is not None:
        size = (options.image_size, options.image_size)
        image = image.replace(size=size)
        stem = getattr(model, "stem", None)
        if stem is not None and hasattr(stem, "size"):
            model = model.replace(stem=stem.replace(size=size))
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


def begun(recipe: Classification, theirs: Recipe) -> Classification:
    """The recipe with model and preparation of a run to begin with. Raises InputError where that is no classifier."""
    if not isinstance(theirs, Classification):
        raise InputError(f"a '{theirs.kind}' run is no start for a classifier, which begins with another one")
    return recipe.replace(model=theirs.model, image=theirs.image)


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


def cifar10_resnet() -> Classification:
    """CIFAR-10 with a small ResNet: the teacher of the students below."""
    return _cifar10("resnet_small", steps=5_600, peak=0.2).replace(optimizer=Sgd())


def cifar10_vit() -> Classification:
    """CIFAR-10 with a small ViT; it is also the DeiT that has no teacher."""
    return _cifar10("vit_micro_patch4_32", steps=2_800, peak=1.5e-3)


def cifar10_deit_soft() -> Classification:
    """The same ViT with a teacher's probabilities (--teacher RUN)."""
    return _student("vit_micro_patch4_32", Soft(weight=0.5, tau=3.0))


def cifar10_deit_hard() -> Classification:
    """The same ViT with a teacher's decisions (--teacher RUN)."""
    return _student("vit_micro_patch4_32", Hard())


def cifar10_deit_token() -> Classification:
    """The same with a distillation token, which alone learns the teacher's decisions (--teacher RUN)."""
    return _student("deit_micro_distilled_patch4_32", Hard())


def cifar10_swin() -> Classification:
    """CIFAR-10 with a small Swin."""
    return _cifar10("swin_pico_patch2_window4_32", steps=5_600, peak=1.5e-3)


def cifar10_cvt() -> Classification:
    """CIFAR-10 with a small CvT."""
    return _cifar10("cvt_micro", steps=2_000, peak=1.5e-3)


def fashion_mnist() -> Classification:
    """Fashion-MNIST (IDX files) with a small CvT."""
    base = _cifar10("cvt_nano", steps=14_000, peak=1.5e-3, channels=1)
    image = Preprocess(size=(28, 28), channels=1, mean=(0.286,), std=(0.353,), crop=1.0)
    return base.replace(
        image=image,
        augment=base.augment.replace(padding=2),
        data=LabelledImages(held_out=0.04, classes=FASHION),
        loop=base.loop.replace(ema=0.999),
    )


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _cifar10(model: str, steps: int, peak: float, channels: int = 3) -> Classification:
    """Every family learns alike: shifted by up to 4 pixels and mirrored, batches of 128, a cosine down to zero."""
    return Classification(
        data=LabelledImages(held_out=0.04, classes=CIFAR10),
        image=Preprocess(size=(32, 32), mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262), crop=1.0),
        augment=Augment(crop="pad", flip=0.5),
        model=model_spec(model, {"classes": 10, "channels": channels}),
        schedule=Cosine(peak=peak, warmup=steps // 10),
        loop=LoopSpec(steps=steps, metric="accuracy", validate_every=1_000, checkpoint_every=1_000, clip=None),
    )


def _student(model: str, teaching: Teaching) -> Classification:
    """As `cifar10_vit`, in as much time: asking the teacher takes some of it."""
    return _cifar10(model, steps=2_400, peak=1.5e-3).replace(objective=Distill(teaching=teaching))


RECIPES = (
    classify,
    distill,
    cifar10_resnet,
    cifar10_vit,
    cifar10_deit_soft,
    cifar10_deit_hard,
    cifar10_deit_token,
    cifar10_swin,
    cifar10_cvt,
    fashion_mnist,
)
