"""Translation recipes: translators for sentence pairs of one's own, and those of the results."""

from __future__ import annotations

from pydantic import Field

from tessella.decode import Decoding
from tessella.loop import LoopSpec
from tessella.models import Model
from tessella.objectives import Objective, Translate
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.recipe import Recipe
from tessella.schedules import Cosine, InverseSqrt, Schedule
from tessella.spec import Part, Spec, spec
from tessella.text import CodecSpec
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import transformer


@spec("parallel-text")
class ParallelText(Spec):
    """Where sentence pairs are found in the folder or file given as data.

    A folder holds files named ``{train}.{source}`` and ``{train}.{target}``, or tables (``train: pairs.tsv``) with
    columns `source` and `target`. A single table file is training data, of which a share is held out for validation.
    """

    source: str = "source"
    target: str = "target"
    domain: str | None = None
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.05, gt=0, lt=0.5)
    max_words: int = Field(250, ge=1)
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable pairs up to which a training goes on without them."""


@spec("translation")
class Translation(Recipe):
    """A translator. The vocabulary sizes and special ids in `model` are filled in from the codec."""

    data: ParallelText = ParallelText()
    codec: CodecSpec = CodecSpec()
    model: Part[Model]
    objective: Part[Objective] = Translate()
    optimizer: Part[OptimizerSpec] = AdamW()
    schedule: Part[Schedule] = InverseSqrt()
    loop: LoopSpec = LoopSpec(epochs=30)
    batch_tokens: int = Field(4096, ge=16)
    """The most tokens of a batch, padding included, source and target together."""
    decoding: Decoding = Decoding()
    """How answers are searched, unless asked otherwise; validation searches greedily."""


def translate() -> Translation:
    """A translator for one's own sentence pairs: small Transformer, joint BPE vocabulary."""
    return Translation(
        model=transformer("small", vocab=0, norm="pre", dropout=0.3),
        codec=CodecSpec(size=8000),
        schedule=InverseSqrt(peak=2e-3, warmup=800),
        loop=LoopSpec(epochs=30, patience=8, average=5),
    )


def multi30k_de_en() -> Translation:
    """German to English image descriptions (Multi30k) with a small Transformer."""
    model = transformer("small", vocab=0, norm="pre", dropout=0.3)
    return _by_steps("de", "en", model, steps=4500, peak=1.5e-3)


def multi30k_de_en_additive() -> Translation:
    """The same with a recurrent network and Bahdanau's attention."""
    return _recurrent(seq2seq(0, "additive", dim=256, hidden=256, dropout=0.35))


def multi30k_de_en_seq2seq() -> Translation:
    """The same with a recurrent network that squeezes the sentence into one fixed vector."""
    return _recurrent(seq2seq(0, "none", dim=256, hidden=256, dropout=0.35))


def multi30k_en_de() -> Translation:
    """English to German image descriptions (Multi30k) with the tiny Transformer of Wu et al. 2021."""
    model = transformer("tiny", vocab=0, norm="pre", dropout=0.2)
    return _by_steps("en", "de", model, steps=6000, peak=4e-3)


def ko_en() -> Translation:
    """Korean to English sentences (Tatoeba, Python documentation) with a small Transformer."""
    model = transformer("small", vocab=0, norm="pre", dropout=0.2)
    base = _by_steps("ko", "en", model, steps=1500, peak=2e-3)
    return base.replace(
        data=ParallelText(source="ko", target="en", validation="dev"), codec=CodecSpec(size=12000), batch_tokens=8192
    )


def _by_steps(source: str, target: str, model: Model, steps: int, peak: float) -> Translation:
    """A Transformer on a small set: a cosine down to zero gets more out of a short training than slow decay."""
    return Translation(
        data=ParallelText(source=source, target=target),
        codec=CodecSpec(size=8000),
        model=model,
        schedule=Cosine(peak=peak, warmup=steps // 10),
        loop=LoopSpec(steps=steps, validate_every=500, checkpoint_every=500, average=3),
    )


def _recurrent(model: Model) -> Translation:
    return Translation(
        data=ParallelText(source="de", target="en"),
        codec=CodecSpec(size=8000),
        model=model,
        schedule=InverseSqrt(peak=1.5e-3, warmup=500),
        loop=LoopSpec(epochs=8, average=3),
    )


RECIPES = (
    translate,
    multi30k_de_en,
    multi30k_de_en_additive,
    multi30k_de_en_seq2seq,
    multi30k_en_de,
    ko_en,
)
