"""Matching recipes: two towers for captioned images of one's own, and those of the results."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tessella.contrast import Contrast
from tessella.data.augment import Augment
from tessella.data.captions import CaptionColumns
from tessella.data.pixels import Preprocess
from tessella.data.randaugment import RandAugment
from tessella.errors import InputError
from tessella.heads import Embed
from tessella.loop import LoopSpec
from tessella.models import Encoder, Model
from tessella.objectives import Objective
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.recipe import Chosen, Recipe
from tessella.recipes.vision import Classification
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, Spec, spec
from tessella.text import CodecSpec
from tessella.zoo.catalog import CARDS, full_name, model_spec


@spec("captioned-images")
class CaptionedImages(Spec):
    """Where images and their captions are found in the folder or file given as data.

    A folder holds tables named after the splits, or webdataset shards; a table has the columns `image` and `caption`
    (one text or several), perhaps `negative` (texts that do not belong to the image).
    """

    image: str = "image"
    caption: str = "caption"
    negative: str | None = None
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.05, gt=0, lt=0.5)
    """The share of the images that is kept for validation where the data has no split of that name."""
    limit: int | None = Field(None, ge=2)
    """Learn from so many images only."""
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable rows up to which a training goes on without them."""

    @property
    def columns(self) -> CaptionColumns:
        """What readers of tables want to know."""
        return CaptionColumns(image=self.image, caption=self.caption, negative=self.negative)


@spec("matching")
class Matching(Recipe):
    """Images and texts into one space. The vocabulary of `model` is filled in from the data."""

    data: CaptionedImages = CaptionedImages()
    image: Preprocess = Preprocess()
    augment: Augment = Augment()
    codec: CodecSpec = CodecSpec(size=8000, lowercase=True)
    length: int = Field(32, ge=2)
    """Ids of a text, its end included; longer ones are cut."""
    begin: int | None = Field(None, ge=0)
    """An id in front of every text."""
    model: Part[Model]
    objective: Part[Objective] = Contrast()
    start: str | None = None
    """A run folder or hf://owner/name whose weights are the beginning: another matching run, or the image tower's."""
    freeze: Literal["none", "image", "text"] = "none"
    """A tower of which only the head learns (Zhai et al. 2022, LiT)."""
    optimizer: Part[OptimizerSpec] = AdamW(beta2=0.98, decay=0.1)
    schedule: Part[Schedule] = Cosine(peak=1e-3, warmup=500, final=1e-5)
    loop: LoopSpec = LoopSpec(steps=10_000, metric="recall@10")
    batch: int = Field(256, ge=2)

    @model_validator(mode="after")
    def _towers(self):
        towers = (getattr(self.model, name, None) for name in ("image", "text"))
        if not all(isinstance(tower, Encoder) for tower in towers):
            raise InputError(f"'{self.model.kind}' has not an encoder for images and one for texts; 'towers' has")
        if self.augment.mixes:
            raise InputError("mixed images have no caption; set augment.mixup=0 and augment.cutmix=0")
        if self.augment.repeats > 1:
            raise InputError("an image that comes twice would be told from itself; set augment.repeats=1")
        if not isinstance(self.objective, Contrast):
            raise InputError(f"'{self.objective.kind}' learns nothing from captions; the objective 'contrast' does")
        places = getattr(getattr(text_stem(self.model), "positions", None), "length", None)
        if places is not None and places < self.length:
            raise InputError(f"length is {self.length}, more than the {places} positions of the text tower")
        return self


def text_stem(model: Model) -> Any:
    """The stem of the text tower: `Words`."""
    return text_tower(model).stem


def text_tower(model: Model) -> Any:
    """The encoder of texts; `Matching` has checked that there is one."""
    return getattr(model, "text")  # noqa: B009  # a field of 'towers', not of every model


def image_tower(model: Model) -> Any:
    """The encoder of images."""
    return getattr(model, "image")  # noqa: B009  # as above


def with_text(model: Model, vocab: int, pad: int, end: int | None = None) -> Model:
    """The towers with a text tower of this vocabulary and padding; end: the id that ends a text."""
    tower = text_tower(model)
    return model.replace(text=tower.replace(stem=tower.stem.replace(vocab=vocab, pad=pad, end=end)))


def chosen(recipe: Matching, options: Chosen) -> Matching:
    """The recipe with these options; freeze locks the image tower. Raises InputError for a model that has no towers."""
    if options.teacher is not None:
        raise InputError("towers learn from captions; there is no --teacher for them")
    made = recipe.replace(start=options.start or recipe.start, freeze="image" if options.freeze else recipe.freeze)
    if options.model is not None:
        return with_model(made, options.model, options.image_size)
    return made if options.image_size is None else resized(made, options.image_size)


def with_model(recipe: Matching, name: str, image_size: int | None) -> Matching:
    """The recipe with a pair of towers of the zoo, or with a classifier of it as the image tower beside its own texts.

    Images are prepared as that model wants them.
    """
    card = CARDS[full_name(name, CARDS)]
    side = image_size or card.size
    model = model_spec(name, {"image_size": side})
    image = recipe.image.replace(
        size=(side, side), crop=card.crop, mean=card.mean, std=card.std, interpolation=card.interpolation
    )
    if isinstance(model, Encoder):
        return recipe.replace(model=looking(recipe.model, model), image=image)
    places = getattr(getattr(text_stem(model), "positions", None), "length", recipe.length)
    return recipe.replace(model=model, image=image, length=min(recipe.length, places))


def resized(recipe: Matching, side: int) -> Matching:
    """The recipe for square images of another size."""
    tower: Any = image_tower(recipe.model)
    if hasattr(tower.stem, "size"):
        tower = tower.replace(stem=tower.stem.replace(size=(side, side)))
    return recipe.replace(image=recipe.image.replace(size=(side, side)), model=recipe.model.replace(image=tower))


def begun(recipe: Matching, theirs: Recipe) -> Matching:
    """The recipe for towers that begin with a run: its towers, or a classifier's trunk as the image tower.

    Raises InputError for a run of another kind.
    """
    if isinstance(theirs, Matching):
        same = {name: getattr(theirs, name) for name in ("model", "image", "codec", "length", "begin")}
        return recipe.replace(**same)
    if not isinstance(theirs, Classification) or not isinstance(theirs.model, Encoder):
        raise InputError(f"a '{theirs.kind}' run is no start for towers; theirs are towers, or a classifier of images")
    return recipe.replace(model=looking(recipe.model, theirs.model), image=theirs.image)


def looking(towers: Model, classifier: Encoder) -> Model:
    """The towers with the stem and trunk of a classifier as the image tower, pooled as it pools.

    Where its head does something else, that is the first token if it is there for that, or the mean.
    """
    pool = getattr(classifier.head, "pool", "first" if getattr(classifier.stem, "special", 0) else "mean")
    head = Embed(dim=classifier.trunk.width, width=text_tower(towers).head.width, pool=pool)
    return towers.replace(image=Encoder(stem=classifier.stem, trunk=classifier.trunk, head=head))


def match() -> Matching:
    """Two towers (CLIP) for one's own captioned images; --model NAME for others, or for any model of images as one."""
    return Matching(
        image=Preprocess(size=(96, 96), crop=1.0),
        augment=Augment(crop="resized", scale=(0.4, 1.0), flip=0.5),
        model=model_spec("clip_small", {"length": 32}),
        loop=LoopSpec(steps=10_000, metric="recall@10", ema=0.999, validate_every="epoch", workers=1),
    )


def flickr8k() -> Matching:
    """Flickr8k, photos with five captions each, from scratch: two small towers that see and read varied data."""
    base = match()
    return base.replace(
        augment=base.augment.replace(scale=(0.35, 1.0), randaugment=RandAugment(magnitude=6)),
        codec=CodecSpec(size=4000, lowercase=True),
        model=model_spec("clip_small", {"length": 32, "dropout": 0.2, "drop_path": 0.1}),
        schedule=Cosine(peak=1e-3, warmup=200, final=1e-5),
        loop=base.loop.replace(steps=3_000, validate_every=250, checkpoint_every=250, workers=0),
    )


def flickr8k_batch() -> Matching:
    """Flickr8k with smaller towers without batch norm, 64 at once in them however large the batch is."""
    return Matching(
        image=Preprocess(size=(64, 64), crop=1.0),
        augment=Augment(crop="resized", scale=(0.4, 1.0), flip=0.5),
        codec=CodecSpec(size=4000, lowercase=True),
        model=model_spec("clip_micro", {"length": 32, "image_size": 64, "norm": "layer"}),
        objective=Contrast(chunk=64),
        schedule=Cosine(peak=1e-3, warmup=100, final=1e-5),
        loop=LoopSpec(steps=1_875, metric="recall@10", checkpoint_every=500),
        batch=64,
    )


def openmoji() -> Matching:
    """Emoji with names and keywords in two languages (`benchmarks/emoji.py` makes the tables)."""
    return Matching(
        image=Preprocess(size=(48, 48), crop=1.0),
        augment=Augment(crop="pad", padding=4),
        codec=CodecSpec(size=6000, lowercase=True),
        length=16,
        model=model_spec("clip_micro", {"length": 16, "image_size": 48}),
        schedule=Cosine(peak=2e-3, warmup=100, final=1e-5),
        loop=LoopSpec(steps=1_500, metric="recall@10", ema=0.998, validate_every=250, checkpoint_every=250),
    )


RECIPES = (match, flickr8k, flickr8k_batch, openmoji)
