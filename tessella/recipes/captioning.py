"""Captioning recipes: images of one's own in, sentences about them out, and those of the results."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tessella.data.augment import Augment
from tessella.data.pixels import Preprocess
from tessella.data.randaugment import RandAugment
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.models import Encoder, EncoderDecoder, Language, Model
from tessella.objectives import Objective, Translate
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.matching import CaptionedImages, Matching, image_tower
from tessella.recipes.reading import Pretraining
from tessella.recipes.recipe import Chosen, Recipe
from tessella.recipes.vision import Classification
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, spec
from tessella.stems.patches import Pixels
from tessella.stems.words import Words
from tessella.text import CodecSpec
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Causal, PlainDecoder, Stack, Trunk
from tessella.zoo.catalog import CARDS, full_name, model_spec


@spec("captioning")
class Captioning(Recipe):
    """Images into words. The vocabulary of `model` is filled in from the captions."""

    data: CaptionedImages = CaptionedImages()
    image: Preprocess = Preprocess()
    augment: Augment = Augment()
    codec: CodecSpec = CodecSpec(size=4000, lowercase=True)
    length: int = Field(40, ge=2)
    """Ids of a caption that is learned, its end included; longer ones are cut."""
    model: Part[Model]
    objective: Part[Objective] = Translate()
    start: str | None = None
    """A run folder or hf://owner/name whose weights are the beginning: another captioner's, or those of what sees
    (a classifier's, an image tower's) or of what writes (a language model's)."""
    freeze: bool = False
    """What sees images does not learn."""
    optimizer: Part[OptimizerSpec] = AdamW(beta2=0.98, decay=0.05)
    schedule: Part[Schedule] = Cosine(peak=1e-3, warmup=500, final=1e-5)
    loop: LoopSpec = LoopSpec(steps=10_000, metric="bleu-4")
    batch: int = Field(64, ge=1)
    decoding: Decoding = Decoding(beam=5, ratio=0.0, extra=40, no_repeat=3)
    """How captions are searched, in validation as well."""
    judged: int = Field(300, ge=1)
    """Validation images that are described at each validation; the loss is that of all of them."""

    @model_validator(mode="after")
    def _describes(self):
        if not isinstance(self.model, EncoderDecoder):
            raise InputError(f"'{self.model.kind}' writes no words; an 'encoder-decoder' does")
        if self.augment.mixes:
            raise InputError("mixed images have no caption; set augment.mixup=0 and augment.cutmix=0")
        if not isinstance(self.objective, Translate):
            raise InputError(f"'{self.objective.kind}' learns no captions; the objective 'translate' does")
        if self.freeze and not self.start:
            raise InputError("what sees can stay as it is only where it comes from a run; give --from")
        return self


def seeing(model: Any, encoder: Encoder) -> EncoderDecoder:
    """The captioner with the stem and trunk of a model of images in the place of what it sees with."""
    memory = encoder.trunk.width
    return model.replace(source=encoder.stem, encoder=encoder.trunk, decoder=model.decoder.replace(memory=memory))


def writing(model: Any, language: Language) -> EncoderDecoder:
    """The captioner with the stem and trunk of a language model in the place of what it writes with."""
    stack = {name: getattr(language.trunk, name) for name in Stack.model_fields}
    return model.replace(target=language.stem, decoder=PlainDecoder(**stack, memory=model.encoder.width))


def with_words(model: Any, vocab: int, pad: int) -> EncoderDecoder:
    """The captioner with a vocabulary of this size and padding."""
    return model.replace(target=model.target.replace(vocab=vocab, pad=pad))


def chosen(recipe: Captioning, options: Chosen) -> Captioning:
    """The recipe with these options. Raises InputError for a model that reads no images, and for a teacher."""
    if options.teacher is not None:
        raise InputError("a captioner learns from captions; there is no --teacher for it")
    made = recipe.replace(start=options.start or recipe.start, freeze=options.freeze or recipe.freeze)
    if options.model is not None:
        return with_eye(made, options.model, options.image_size)
    return made if options.image_size is None else resized(made, options.image_size)


def with_eye(recipe: Captioning, name: str, image_size: int | None) -> Captioning:
    """The recipe with a model of the zoo, or the image tower of a pair of it, to see with.

    Images are prepared as that model wants them.
    """
    card = CARDS[full_name(name, CARDS)]
    side = image_size or card.size
    model: Any = model_spec(name, {"image_size": side})
    image = recipe.image.replace(
        size=(side, side), crop=card.crop, mean=card.mean, std=card.std, interpolation=card.interpolation
    )
    return recipe.replace(model=seeing(recipe.model, getattr(model, "image", model)), image=image)


def resized(recipe: Captioning, side: int) -> Captioning:
    """The recipe for square images of another size."""
    model: Any = recipe.model
    if hasattr(model.source, "size"):
        model = model.replace(source=model.source.replace(size=(side, side)))
    return recipe.replace(image=recipe.image.replace(size=(side, side)), model=model)


def begun(recipe: Captioning, theirs: Recipe) -> Captioning:
    """The recipe for a captioner that begins with a run: with all of another one, or with a part of others.

    Raises InputError for a run of another kind.
    """
    if isinstance(theirs, Captioning):
        return recipe.replace(**{name: getattr(theirs, name) for name in ("model", "image", "codec", "length")})
    words = theirs.model if isinstance(theirs, Pretraining) else None
    if isinstance(words, Language) and isinstance(words.trunk, Causal):
        return recipe.replace(model=writing(recipe.model, words), codec=theirs.codec)
    eye = image_tower(theirs.model) if isinstance(theirs, Matching) else getattr(theirs, "model", None)
    if not isinstance(theirs, Matching | Classification) or not isinstance(eye, Encoder):
        raise InputError(
            f"this '{theirs.kind}' run is no start for a captioner; another captioner is, a classifier of images, "
            "a model of images and texts, or a language model of next words"
        )
    return recipe.replace(model=seeing(recipe.model, eye), image=theirs.image)


def captioner(trunk: Trunk, dim: int = 256, depth: int = 3, heads: int = 4, dropout: float = 0.2) -> EncoderDecoder:
    """A trunk that reads pixels, and a small Transformer that writes about what it made of them."""
    decoder = PlainDecoder(
        dim=dim, depth=depth, heads=heads, hidden=4 * dim, dropout=dropout, norm="pre", memory=trunk.width
    )
    target = Words(vocab=0, dim=dim, dropout=dropout)
    return EncoderDecoder(source=Pixels(dim=trunk.dim), encoder=trunk, target=target, decoder=decoder, tie="target")


SMALL_EYE = ResNet(entry=Entry(width=32), widths=(32, 64, 128, 256), blocks="basic", drop_path=0.1)
"""Learns to see from thousands of images; one of 112 x 112 pixels becomes 4 x 4 tokens."""


def caption() -> Captioning:
    """Sentences about one's own images: a small ResNet and a Transformer; --model NAME for any other of the zoo."""
    return Captioning(
        image=Preprocess(size=(112, 112), crop=1.0),
        augment=Augment(crop="resized", scale=(0.4, 1.0), flip=0.5),
        model=captioner(SMALL_EYE),
        loop=LoopSpec(steps=10_000, metric="bleu-4", ema=0.999, validate_every="epoch", workers=1),
    )


def flickr8k_captions() -> Captioning:
    """Flickr8k, photos with five captions each, from scratch."""
    base = caption()
    return base.replace(
        model=captioner(SMALL_EYE, dropout=0.3),
        augment=base.augment.replace(scale=(0.35, 1.0), randaugment=RandAugment(magnitude=6)),
        loop=base.loop.replace(steps=9_600, validate_every=800, checkpoint_every=400, workers=0),
    )


RECIPES = (caption, flickr8k_captions)
