"""Answering recipes: rows of mixed data into an answer that is written word by word, such as to a question."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.models import Encoder, EncoderDecoder
from tessella.objectives import Objective, Translate
from tessella.recipes import fusing
from tessella.recipes.design import Design
from tessella.recipes.fusing import Fusion, MixedRows
from tessella.recipes.recipe import Chosen, Recipe
from tessella.spec import Part, spec
from tessella.stems.words import Words
from tessella.text import CodecSpec, Tokenizer
from tessella.trunks.plain import PlainDecoder


@spec("answering")
class Answering(Fusion):
    """A fusion whose label is a text and is written: any text may be the answer, also one that no row has.

    Questions and answers have one vocabulary. `columns` and `model` are filled in from the data.
    """

    codec: CodecSpec = CodecSpec(size=2000, lowercase=True)
    objective: Part[Objective] = Translate(smoothing=0.0)
    answer: int = Field(16, ge=2)
    """Ids of an answer that is learned, its end included; longer ones are cut."""
    writes: int = Field(2, ge=1)
    """Blocks of the decoder."""
    decoding: Decoding = Decoding(beam=3, alpha=0.0, ratio=0.0, extra=16)
    """How answers are searched, in validation as well."""

    @model_validator(mode="after")
    def _writes(self):
        if not isinstance(self.objective, Translate):
            raise InputError(f"'{self.objective.kind}' learns no answers in words; the objective 'translate' does")
        return self


def writing(design: Design, stems: dict[str, Any], words: Tokenizer, blocks: int) -> EncoderDecoder:
    """A design's streams and scheme, and a decoder that looks at all of their tokens."""
    encoder: Encoder = design.model(stems, design.head("numbers", 1))
    stack = {name: getattr(design, name) for name in ("dim", "heads", "hidden", "dropout")}
    return EncoderDecoder(
        source=encoder.stem,
        encoder=encoder.trunk,
        target=Words(vocab=words.size, dim=design.dim, dropout=design.dropout, pad=words.pad),
        decoder=PlainDecoder(**stack, depth=blocks, activation="gelu", norm="pre", memory=encoder.trunk.width),
        tie="target",
    )


def chosen(recipe: Answering, options: Chosen) -> Answering:
    """The recipe with these options; see `fusing.chosen`."""
    return fusing.chosen(recipe, options)  # pyright: ignore[reportReturnType]  # it gives what it gets, changed


def begun(recipe: Answering, theirs: Recipe) -> Answering:
    """The recipe for a model that begins with a run: another one of its kind, or see `fusing.begun`."""
    if isinstance(theirs, Answering):
        recipe = recipe.replace(answer=theirs.answer, writes=theirs.writes)
    elif isinstance(theirs, Fusion):
        raise InputError("a fusion writes no answers; begin with another answer_open, a classifier or a language model")
    return fusing.begun(recipe, theirs)  # pyright: ignore[reportReturnType]  # likewise


def answer_open() -> Answering:
    """Questions about images, answered in words that are written one by one (columns image, question, answer)."""
    return Answering(
        data=MixedRows(label="answer", kinds={"question": "text"}),
        length=32,
        design=Design(eye="cvt_nano", depth=4, drop=0.0),
        loop=LoopSpec(epochs=10, metric="exact", ema=0.99, validate_every="epoch"),
    )


RECIPES = (answer_open,)
