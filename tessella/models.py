"""Models: the shapes that parts are put together in."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella import fusion, vgg_head  # noqa: F401  all kinds must be known to read a model from a file
from tessella import word_heads as _word_heads  # noqa: F401  all kinds must be known to read a model from a file
from tessella.errors import InputError
from tessella.heads import Head, NextWord
from tessella.spec import Part, Spec, spec
from tessella.state import State
from tessella.stems import bag, clips, columns, encoded, frames, patches, streams  # noqa: F401  likewise
from tessella.stems.words import Stem, Words
from tessella.tokens import Tokens
from tessella.trunks import bit, clip_resnet, convnet, cvt, recurrent, regnet, swin, vgg  # noqa: F401  likewise
from tessella.trunks.plain import Trunk


class Model(Spec):
    """Role: builds a whole network."""

    def build(self) -> nn.Module:
        """The module, with fresh weights."""
        raise NotImplementedError


@spec("encoder")
class Encoder(Model):
    """Any input into one prediction: a classifier of images, of sounds, of rows of mixed data."""

    stem: Part[Stem]
    trunk: Part[Trunk]
    head: Part[Head]

    @model_validator(mode="after")
    def _widths_agree(self):
        same("stem.dim", self.stem.dim, "trunk.dim", self.trunk.dim)
        same("trunk's width", self.trunk.width, "head.dim", getattr(self.head, "dim", self.trunk.width))
        same_streams(self.stem, self.trunk)
        return self

    def build(self) -> EncoderModel:
        return EncoderModel(self)


class EncoderModel(nn.Module):
    """input -> [stem] -> [trunk] -> [head] -> prediction."""

    def __init__(self, s: Encoder):
        super().__init__()
        self.stem = s.stem.build()
        self.trunk = s.trunk.build()
        self.head = s.head.build()

    def features(self, x: Any) -> Tokens:
        """What the head reads, of an image b v r c (or whatever the stem takes)."""
        return self.trunk(self.stem(x))

    def forward(self, x: Any) -> Tensor:
        return self.head(self.features(x))


def same(left: str, a: int | None, right: str, b: int | None) -> None:
    """Refuses parts that do not fit together."""
    if a != b:
        raise InputError(f"{left} is {a} but {right} is {b}; they must be equal")


def same_streams(stem: Stem, trunk: Trunk) -> None:
    """Refuses a fusion scheme for other streams than the stem gives."""
    gives, takes = (getattr(part, "streams", None) for part in (stem, trunk))
    if takes is not None and gives != takes:
        told = "no streams" if gives is None else f"the streams {', '.join(gives)}"
        raise InputError(
            f"'{trunk.kind}' fuses the streams {', '.join(takes)}, but the stem '{stem.kind}' gives {told}"
        )


@spec("language-model")
class Language(Model):
    """Text into words of the same text: those that are hidden in it (BERT), or every next one (GPT).

    head: "masked-word" or "next-word"; its weight is the embedding of the stem (Press and Wolf 2017).
    """

    stem: Words
    trunk: Part[Trunk]
    head: Part[Head]

    @model_validator(mode="after")
    def _widths_agree(self):
        same("stem.dim", self.stem.dim, "trunk.dim", self.trunk.dim)
        same("trunk's width", self.trunk.width, "head.dim", getattr(self.head, "dim", None))
        same("stem.vocab", self.stem.vocab, "head.vocab", getattr(self.head, "vocab", None))
        return self

    def build(self) -> LanguageModel:
        return LanguageModel(self)


class LanguageModel(nn.Module):
    """ids -> [stem] -> [trunk] -> [head] -> a score for every word, at every place."""

    def __init__(self, s: Language):
        super().__init__()
        self.stem = s.stem.build()
        self.trunk = s.trunk.build()
        self.head = s.head.build(self.stem.embedding.weight)  # pyright: ignore[reportCallIssue]  # of a head of words

    def features(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """What the head reads: ids b n, and of which of several texts each is (or None) -> b n d."""
        return self.trunk(self.stem(ids, types=types)).x

    def forward(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """-> logits b n v."""
        return self.head(self.features(ids, types))


@spec("encoder-decoder")
class EncoderDecoder(Model):
    """Any input into words: translation from words, captions from patches.

    tie: which of source embedding, target embedding and output weight are one matrix: "all" three (Vaswani et al.
    2017, sec. 3.4; one joint vocabulary), "target" (the last two), or "none".
    """

    source: Part[Stem]
    encoder: Part[Trunk]
    target: Words
    decoder: Part[Trunk]
    tie: Literal["all", "target", "none"] = "all"
    bias: bool = False
    """A learned bias a word on the output scores."""

    @model_validator(mode="after")
    def _widths_agree(self):
        same("source.dim", self.source.dim, "encoder.dim", self.encoder.dim)
        same("encoder's width", self.encoder.width, "decoder.memory", getattr(self.decoder, "memory", None))
        same("target.dim", self.target.dim, "decoder.dim", self.decoder.dim)
        same_streams(self.source, self.encoder)
        if self.tie == "all" and getattr(self.source, "vocab", None) != self.target.vocab:
            raise InputError(
                f"tie 'all' needs one vocabulary, but source has {getattr(self.source, 'vocab', 'none')} and target "
                f"{self.target.vocab}; use tie 'target'"
            )
        return self

    def build(self) -> EncoderDecoderModel:
        return EncoderDecoderModel(self)


class EncoderDecoderModel(nn.Module):
    """p(target | source), word by word.

    source -> [stem] -> [encoder] -> memory
                                       |
    target -> [stem] ----------> [decoder] -> [head] -> a score for every next word
    """

    def __init__(self, s: EncoderDecoder):
        super().__init__()
        self.source = s.source.build()
        self.encoder = s.encoder.build()
        self.target = s.target.build()
        if s.tie == "all":
            self.target.embedding.weight = self.source.embedding.weight
        self.decoder = s.decoder.build()
        shared = None if s.tie == "none" else self.target.embedding.weight
        self.head = NextWord(dim=s.decoder.width, vocab=s.target.vocab, bias=s.bias).build(shared)

    def encode(self, source: Any) -> Tokens:
        """The memory: what the encoder makes of the source (ids b n, or whatever the stem takes)."""
        return self.encoder(self.source(source))

    def begin(self, memory: Tokens) -> State:
        """The decoder's state before the first word."""
        return self.decoder.begin(memory)

    def features(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Target ids b n, read after those the state has read -> b n d for the head, and the state after them."""
        tokens, state = self.decoder(self.target(ids, state.length), state)
        return tokens.x, state

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """ids b*w 1 -> logits b*w v of the next word, and the state after: what a search drives."""
        features, state = self.features(ids, state)
        return self.head(features[:, -1]), state

    def forward(self, source: Any, target: Tensor) -> Tensor:
        """Teacher forced: source b n, target b m beginning with bos -> logits b m v, row t predicting word t+1."""
        return self.head(self.features(target, self.begin(self.encode(source)))[0])


@spec("towers")
class Towers(Model):
    """Two inputs into one space, where what belongs together is close (Radford et al. 2021, fig. 3).

    image, text: encoders of any kind, each ending in a vector of the same width.
    scale: what cosines are multiplied by at first (1 / temperature); learned, and never above `largest` (sec. 2.5).
    bias: added to scaled cosines, learned from this value on (Zhai et al. 2023, SigLIP); None for none.
    """

    image: Part[Model]
    text: Part[Model]
    scale: float = Field(1 / 0.07, ge=1)
    largest: float = Field(100.0, ge=1)
    bias: float | None = None

    @model_validator(mode="after")
    def _one_space(self):
        left, right = (getattr(getattr(tower, "head", None), "width", None) for tower in (self.image, self.text))
        if left is None or right is None:
            raise InputError("a tower is an 'encoder' whose head gives a vector, such as 'embed'")
        same("image.head.width", left, "text.head.width", right)
        if self.scale > self.largest:
            raise InputError(f"scale is {self.scale:g}, above the largest allowed, {self.largest:g}")
        return self

    def build(self) -> TowersModel:
        return TowersModel(self)


class TowersModel(nn.Module):
    """image -> [image tower] -> normalised \\
                                            scale * cosine + bias
    text  -> [text tower]  -> normalised /
    """

    def __init__(self, s: Towers):
        super().__init__()
        self.image = s.image.build()
        self.text = s.text.build()
        self.largest = s.largest
        self.log_scale = nn.Parameter(torch.tensor(math.log(s.scale)))
        self.bias = None if s.bias is None else nn.Parameter(torch.tensor(float(s.bias)))

    def embed_image(self, image: Tensor) -> Tensor:
        """What the image tower takes (b v r c) -> b e, float32, of length 1."""
        return F.normalize(self.image(image).float(), dim=-1)

    def embed_text(self, ids: Tensor) -> Tensor:
        """long b n -> b e, float32, of length 1."""
        return F.normalize(self.text(ids).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, from 1 to `largest`."""
        return _Held.apply(self.log_scale.float(), 0.0, math.log(self.largest)).exp()

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Embeddings b e and m e -> b m."""
        scores = self.scale * image @ text.transpose(0, 1)
        return scores if self.bias is None else scores + self.bias

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Images b v r c and ids m n -> logits b m of every image with every text."""
        return self.logits(self.embed_image(image), self.embed_text(text))


class _Held(torch.autograd.Function):
    """A number held between bounds; at a bound, only a gradient that leads back inside passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        outward = ((x >= high) & (gradient < 0)) | ((x <= low) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None, None
