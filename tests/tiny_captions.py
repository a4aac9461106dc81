"""Tiny captioners: the coloured shapes of tiny_matching, described by a model that learns it in seconds."""

from __future__ import annotations

import functools
from pathlib import Path

import tiny_matching as tiny

from tessella.captioning import train
from tessella.data.augment import Augment
from tessella.data.pixels import Preprocess
from tessella.decode import Decoding
from tessella.loop import LoopSpec
from tessella.models import EncoderDecoder
from tessella.objectives import Translate
from tessella.optimizers import AdamW
from tessella.recipes.captioning import Captioning
from tessella.recipes.matching import CaptionedImages
from tessella.schedules import Cosine
from tessella.stems.words import Words
from tessella.text import CodecSpec
from tessella.trunks.plain import PlainDecoder


def model() -> EncoderDecoder:
    """The image tower of tiny_matching, and a decoder of one block."""
    eye = tiny.vit()
    decoder = PlainDecoder(dim=32, depth=1, heads=2, hidden=64, dropout=0.0, norm="pre", memory=eye.trunk.width)
    words = Words(vocab=0, dim=32, dropout=0.0)
    return EncoderDecoder(source=eye.stem, encoder=eye.trunk, target=words, decoder=decoder, tie="target")


def recipe(**changes) -> Captioning:
    """Two hundred quick steps."""
    made = Captioning(
        image=Preprocess(size=tiny.SIDE, crop=1.0),
        augment=Augment(crop="pad", padding=1),
        data=CaptionedImages(held_out=0.25),
        codec=CodecSpec(size=400, lowercase=True),
        length=tiny.LENGTH,
        model=model(),
        objective=Translate(smoothing=0.0),
        optimizer=AdamW(beta2=0.99),
        schedule=Cosine(peak=1e-2, warmup=5),
        loop=LoopSpec(steps=200, metric="bleu-4", validate_every=100, checkpoint_every=100, log_every=50),
        batch=24,
        decoding=Decoding(beam=3, ratio=0.0, extra=16, no_repeat=3),
        judged=10,
    )
    return made.replace(**changes)


def brief(steps: int = 3, **changes) -> LoopSpec:
    """A training that is over at once."""
    return LoopSpec(steps=steps, metric="bleu-4", validate_every=steps, checkpoint_every=steps, log_every=1, **changes)


@functools.cache
def trained(base: Path) -> Path:
    """The run that all tests of a process share."""
    train(recipe(), tiny.pairs(base), base / "tiny captions", say=lambda line: None)
    return base / "tiny captions"
