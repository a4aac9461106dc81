"""Design: how a model is put together for the streams that a table turns out to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from tessella.data.clips import Watching
from tessella.data.pixels import Preprocess
from tessella.data.sounds import Hearing
from tessella.errors import InputError, did_you_mean
from tessella.fusion import (
    BottleneckFusion,
    CrossAttention,
    CrossToConcat,
    EarlyConcat,
    EarlySum,
    ManyToOne,
    OneToMany,
    Scheme,
    Stretch,
)
from tessella.heads import Classes, Head, Values
from tessella.models import Encoder, Model
from tessella.positions import Sinusoidal
from tessella.spec import Part, Spec, spec
from tessella.stems.bag import Bag
from tessella.stems.clips import Clips
from tessella.stems.columns import Columns
from tessella.stems.encoded import Encoded
from tessella.stems.frames import Frames
from tessella.stems.patches import Patches
from tessella.stems.streams import Streams
from tessella.stems.words import Stem, Words
from tessella.trunks.plain import Plain
from tessella.zoo.catalog import CLASSIFIERS, full_name, model_spec

SCHEMES = (EarlySum, EarlyConcat, ManyToOne, OneToMany, CrossAttention, CrossToConcat, BottleneckFusion)
SchemeName = Literal[
    "early-sum", "early-concat", "many-to-one", "one-to-many", "cross", "cross-to-concat", "bottleneck"
]


@spec("design")
class Design(Spec):
    """Streams of tokens of width `dim`, a fusion scheme over them, and a head.

    depth: blocks that a token passes through. Where streams have trunks of their own before or after a joint one, half
    of the blocks are their own; `own` and `joint` say it otherwise.
    """

    scheme: SchemeName = "early-concat"
    dim: int = Field(128, ge=2)
    depth: int = Field(4, ge=1)
    own: int | None = Field(None, ge=0)
    """Blocks in each stream's own trunk."""
    joint: int | None = Field(None, ge=0)
    """Blocks in the trunk over all streams; of "bottleneck", those in which the streams meet."""
    heads: int = Field(4, ge=1)
    hidden: int = Field(512, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    drop: float = Field(0.1, ge=0, lt=1)
    """Modality dropout: how often a stream is taken away in training."""
    head_dropout: float = Field(0.0, ge=0, lt=1)
    bottlenecks: int = Field(4, ge=1)
    """Tokens through which streams meet in "bottleneck"."""
    stretch: Stretch | None = "linear"
    """How "early-sum" makes streams equally long; null refuses what is not."""
    patch: int = Field(16, ge=1)
    """Rows and columns of an image's patches."""
    eye: str | None = None
    """A model of `tessella models` whose trunk reads the images first; null: patches alone."""
    sound_patch: tuple[int, int] = (16, 16)
    """Moments and mel bands of a sound's patches."""
    tubelet: tuple[int, int, int] = (2, 16, 16)
    """Frames, rows and columns of a video's tubelets."""
    norm: Literal["pre", "pre+open"] = "pre"
    """Of the trunks, see `trunks.plain.Stack`."""
    bag: int = Field(0, ge=0)
    """A text is one token, see `stems.bag`, with so many vectors for pairs of words; 0: a token a word."""
    forget: float = Field(0.0, ge=0, lt=1)
    """How often a word (of a bag: or a pair of words) is left out in training."""
    given: dict[Literal["image", "sound", "text"], Part[Model]] = Field(default_factory=dict)
    """Encoders of a run to start from: their stem and trunk read the streams of that kind first."""

    def stack(self, depth: int) -> Plain:
        """A pre-norm stack of so many blocks."""
        return Plain(
            dim=self.dim,
            depth=depth,
            heads=self.heads,
            hidden=self.hidden,
            dropout=self.dropout,
            activation="gelu",
            norm=self.norm,
            drop_path=self.drop_path if depth else 0.0,
        )

    def trunk(self, streams: tuple[str, ...]) -> Scheme:
        """The scheme over these streams."""
        half = -(-self.depth // 2)
        own = self.stack(half if self.own is None else self.own)
        joint = self.stack(max(1, self.depth - half) if self.joint is None else self.joint)
        whole = self.stack(self.depth if self.joint is None else self.joint)
        all_own = self.stack(self.depth if self.own is None else self.own)
        both: dict[str, Any] = {"dim": self.dim, "streams": streams}
        make: dict[str, Callable[[], Scheme]] = {
            "early-sum": lambda: EarlySum(**both, joint=whole, stretch=self.stretch),
            "early-concat": lambda: EarlyConcat(**both, joint=whole),
            "many-to-one": lambda: ManyToOne(**both, own=own, joint=joint),
            "one-to-many": lambda: OneToMany(**both, joint=joint, own=own),
            "cross": lambda: CrossAttention(**both, own=all_own),
            "cross-to-concat": lambda: CrossToConcat(**both, own=own, joint=joint),
            "bottleneck": lambda: BottleneckFusion(**both, own=own, after=joint, tokens=self.bottlenecks),
        }
        return make[self.scheme]()

    def image_stem(self, image: Preprocess) -> Stem:
        """What makes tokens of images prepared like this."""
        if "image" in self.given:
            return self.encoded(self.given["image"])
        if self.eye is None:
            return Patches(
                dim=self.dim,
                patch=self.patch,
                size=image.size,
                channels=image.channels,
                special=0,
                dropout=self.dropout,
            )
        if image.size[0] != image.size[1]:
            raise InputError(
                f"design.eye takes square images, not {image.size[0]} x {image.size[1]}; set image.size=64"
            )
        options = {"classes": 0, "image_size": image.size[0], "channels": image.channels}
        return self.encoded(model_spec(full_name(self.eye, CLASSIFIERS), options))

    def encoded(self, encoder: Any) -> Stem:
        """What makes tokens of what an encoder's stem and trunk saw."""
        return Encoded(dim=self.dim, stem=encoder.stem, trunk=encoder.trunk)

    def sound_stem(self, sound: Hearing) -> Stem:
        """What makes tokens of sounds prepared like this."""
        if "sound" in self.given:
            return self.encoded(self.given["sound"])
        moments = max(1, round(1000 * sound.seconds / sound.hop_ms))
        return Frames(dim=self.dim, mels=sound.mels, patch=self.sound_patch, length=moments, dropout=self.dropout)

    def clip_stem(self, clip: Watching) -> Stem:
        """What makes tokens of videos prepared like this."""
        return Clips(
            dim=self.dim,
            tubelet=self.tubelet,
            size=clip.size,
            frames=clip.frames,
            channels=clip.channels,
            dropout=self.dropout,
        )

    def text_stem(self, vocab: int, pad: int) -> Stem:
        """What makes tokens of ids of such a vocabulary."""
        if "text" in self.given:
            return self.encoded(self.given["text"])
        own: dict[str, Any] = {"dropout": self.dropout, "forget": self.forget, "pad": pad}
        if self.bag:
            return Bag(vocab=vocab, dim=self.dim, buckets=self.bag, **own)
        return Words(vocab=vocab, dim=self.dim, positions=Sinusoidal(), **own)

    def table_stem(self, sizes: tuple[int, ...]) -> Stem:
        """What makes tokens of numbers (size 0) and of categories of so many values."""
        return Columns(dim=self.dim, sizes=sizes, dropout=self.dropout)

    def model(self, stems: Mapping[str, Stem], head: Head) -> Encoder:
        """The whole, over these streams."""
        stem = Streams(dim=self.dim, stems=dict(stems), drop=self.drop if len(stems) > 1 else 0.0)
        return Encoder(stem=stem, trunk=self.trunk(stem.streams), head=head)

    def head(self, task: str, outputs: int) -> Head:
        """Scores of so many classes or labels, or so many numbers."""
        if task == "numbers":
            return Values(dim=self.dim, targets=outputs, dropout=self.head_dropout)
        return Classes(dim=self.dim, classes=outputs, pool="streams", dropout=self.head_dropout)


def scheme_named(name: str) -> SchemeName:
    """The name of a scheme, checked."""
    known = [scheme.kind for scheme in SCHEMES]
    if name not in known:
        raise InputError(f"no scheme called '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}")
    return name  # pyright: ignore[reportReturnType]  # it was checked
