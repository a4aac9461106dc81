"""Fusion recipes: rows of mixed data into a class, numbers or labels, and those of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tessella.data.augment import Augment
from tessella.data.clips import Watching
from tessella.data.columns import Schema
from tessella.data.pixels import Preprocess
from tessella.data.sound_augment import SoundAugment
from tessella.data.sounds import Hearing
from tessella.errors import InputError
from tessella.heads import Classes
from tessella.loop import LoopSpec
from tessella.models import Encoder, Model
from tessella.objectives import Classify, Objective
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.design import Design, scheme_named
from tessella.recipes.recipe import Chosen, Recipe
from tessella.recipes.vision import Classification
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, Spec, spec
from tessella.stems.frames import Spectrogram
from tessella.stems.patches import Pixels
from tessella.text import CodecSpec
from tessella.trunks.convnet import Entry, ResNet
from tessella.zoo.catalog import CLASSIFIERS, full_name


@spec("mixed-rows")
class MixedRows(Spec):
    """Where rows and their labels are found in the folder or table given as data.

    A folder holds tables named after the splits.
    """

    label: str = "label"
    """A column; of several numbers at once, their columns with commas between them."""
    task: Literal["auto", "classes", "numbers", "labels"] = "auto"
    """What the label is: one of some classes, numbers, or any of some labels; "auto": what its column looks like."""
    kinds: dict[str, str] = Field(default_factory=dict)
    """Column -> image, sound, video, text, category, number or ignore, where it is not what it looks like."""
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.1, gt=0, lt=0.5)
    """The share of the rows that is kept for validation where the data has no split of that name."""
    limit: int | None = Field(None, ge=2)
    """Learn from so many rows only."""
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable rows up to which a training goes on without them."""


@spec("fusion")
class Fusion(Recipe):
    """Streams of a row into one answer. `columns` and `model` are filled in from the data, the latter by `design`."""

    data: MixedRows = MixedRows()
    columns: Schema | None = None
    image: Preprocess = Preprocess(size=(64, 64), crop=1.0)
    augment: Augment = Augment(crop="none")
    sound: Hearing = Hearing(rate=16_000, seconds=4.0)
    sound_augment: SoundAugment = SoundAugment()
    clip: Watching = Watching()
    codec: CodecSpec = CodecSpec(size=8000, lowercase=True)
    length: int = Field(128, ge=2)
    """Ids of all the text of a row, ends included; what is longer is cut."""
    begin: int | None = Field(None, ge=0)
    """An id in front of every text, as a language model that it starts from may want it."""
    design: Design = Design()
    model: Part[Model] | None = None
    objective: Part[Objective] = Classify(smoothing=0.0)
    """Where the label is no class, "regress" or "tag" takes the place of "classify"."""
    start: str | None = None
    """A run whose weights are the beginning: a fusion's, a classifier's of images, or a language model's."""
    freeze: bool = False
    """What comes from `start` does not learn."""
    optimizer: Part[OptimizerSpec] = AdamW(beta2=0.99, decay=0.05)
    schedule: Part[Schedule] = Cosine(peak=1e-3, warmup=200, final=1e-5)
    loop: LoopSpec = LoopSpec(epochs=10, metric="accuracy")
    batch: int = Field(64, ge=1)


def chosen(recipe: Fusion, options: Chosen) -> Fusion:
    """The recipe with these options; a model is the eye that reads the images. Raises InputError for a teacher."""
    if options.teacher is not None:
        raise InputError("a fusion learns from labels; there is no --teacher for it")
    data = recipe.data.replace(
        label=options.label or recipe.data.label, kinds={**recipe.data.kinds, **kinds_named(options.kinds)}
    )
    design = recipe.design.replace(scheme=scheme_named(options.scheme or recipe.design.scheme))
    made = recipe.replace(
        data=data, design=design, start=options.start or recipe.start, freeze=options.freeze or recipe.freeze
    )
    if options.model is not None:
        name = full_name(options.model, CLASSIFIERS)
        card = CLASSIFIERS[name]
        side = options.image_size or card.size
        image = made.image.replace(size=(side, side), mean=card.mean, std=card.std, interpolation=card.interpolation)
        given = {stream: encoder for stream, encoder in made.design.given.items() if stream != "image"}
        return made.replace(image=image, design=made.design.replace(eye=name, given=given))
    if options.image_size is not None:
        made = made.replace(image=made.image.replace(size=(options.image_size, options.image_size)))
    return made


def begun(recipe: Fusion, theirs: Recipe) -> Fusion:
    """The recipe for a model that begins with a run: a fusion's whole, a classifier's eye, a language model's reader.

    Raises InputError for a run of another kind.
    """
    if isinstance(theirs, Fusion):
        same: dict[str, Any] = {
            name: getattr(theirs, name) for name in ("image", "sound", "clip", "codec", "length", "begin", "design")
        }
        return recipe.replace(**same)
    if isinstance(theirs, Classification) and isinstance(theirs.model, Encoder):
        design = recipe.design.replace(given={**recipe.design.given, "image": theirs.model})
        return recipe.replace(image=theirs.image, design=design)
    if theirs.kind == "language":
        of: Any = theirs
        design = recipe.design.replace(given={**recipe.design.given, "text": of.model})
        return recipe.replace(design=design, length=min(recipe.length, of.length), begin=of.begin)
    raise InputError(f"a '{theirs.kind}' run is no start for a fusion; fusions, classifiers and language models are")


def kinds_named(given: Sequence[str]) -> dict[str, str]:
    """What columns hold, of NAME=KIND each; both are checked against the data later."""
    for one in given:
        if "=" not in one:
            raise InputError(f"'{one}' says of no column what it holds; write NAME=KIND, such as Age=number")
    return {name.strip(): kind.strip() for name, _, kind in (one.rpartition("=") for one in given)}


def fuse() -> Fusion:
    """Rows of mixed columns (text, images, sounds, videos, numbers, categories) into a class, numbers or labels."""
    return Fusion(loop=LoopSpec(epochs=10, metric="accuracy", ema=0.99, validate_every="epoch"))


def answer() -> Fusion:
    """Questions about images into one of the answers seen in training (columns image, question, answer)."""
    base = fuse()
    trunk = ResNet(
        dim=3, entry=Entry(width=16, size=3, stride=2, pool="none"), depths=(1, 1, 1), widths=(16, 32, 64), first=2
    )
    eye = Encoder(stem=Pixels(dim=3), trunk=trunk, head=Classes(dim=64, classes=0, pool="mean"))
    return base.replace(
        data=MixedRows(label="answer", kinds={"question": "text"}),
        codec=CodecSpec(size=2000, lowercase=True),
        length=32,
        design=Design(dim=64, joint=2, heads=4, hidden=128, drop=0.0, given={"image": eye}),
        schedule=Cosine(peak=2e-3, warmup=200, final=1e-5),
        loop=base.loop.replace(epochs=8, precision="32"),
    )


def sounds() -> Fusion:
    """Short sounds into a class, such as words of speakers who were never heard (columns audio, label)."""
    base = fuse()
    trunk = ResNet(
        dim=1, entry=Entry(width=16, size=3, stride=2, pool="none"), depths=(1, 1, 1), widths=(32, 64, 128), first=2
    )
    ear = Encoder(stem=Spectrogram(length=96), trunk=trunk, head=Classes(dim=128, classes=0, pool="mean"))
    return base.replace(
        data=MixedRows(task="classes"),
        sound=Hearing(rate=16_000, seconds=4.0, mels=40),
        sound_augment=SoundAugment(
            tempo=0.25,
            pitch=0.25,
            shift=6,
            gain=0.5,
            colour=0.3,
            mel_masks=1,
            mel_width=8,
            time_masks=1,
            time_width=0.15,
        ),
        design=Design(dim=64, joint=1, heads=4, hidden=128, dropout=0.2, given={"sound": ear}),
        objective=Classify(smoothing=0.1),
        schedule=Cosine(peak=2e-3, warmup=100, final=1e-5),
        loop=base.loop.replace(epochs=20, precision="32"),
    )


def reviews() -> Fusion:
    """Reviews of clothes, a text and a table, into whether it is recommended: words and their pairs, little else."""
    base = fuse()
    return base.replace(
        data=MixedRows(label="Recommended IND", kinds={"Rating": "ignore"}),
        length=160,
        design=Design(dim=32, joint=0, heads=2, norm="pre+open", dropout=0.5, bag=2**17, forget=0.5, drop=0.0),
        objective=Classify(smoothing=0.05),
        schedule=Cosine(peak=2e-3, warmup=200, final=1e-5),
        loop=base.loop.replace(epochs=8, metric="auc", precision="32"),
    )


RECIPES = (fuse, answer, sounds, reviews)
