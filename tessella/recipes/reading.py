"""Reading recipes: language models for texts of one's own, which other models begin with."""

from __future__ import annotations

from pydantic import Field, model_validator

from tessella.data.exercises import Exercise, MaskedWords, NextWords
from tessella.errors import InputError
from tessella.heads import Head, NextWord
from tessella.loop import LoopSpec
from tessella.models import Encoder, Language, Model
from tessella.objectives import Objective, PredictWords
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.recipes.recipe import Chosen, Recipe
from tessella.schedules import Cosine, Schedule
from tessella.spec import Part, Spec, spec
from tessella.text import CodecSpec, Tokenizer
from tessella.trunks.plain import Causal
from tessella.word_heads import MaskedWord, Pooler
from tessella.zoo.catalog import LANGUAGE, full_name, model_spec


@spec("language-texts")
class LanguageTexts(Spec):
    """Where texts are found in the folder or file given as data.

    A folder holds files named after the splits: plain ones with a text a line, or tables with the columns `text`; a
    row of several such columns is one text of several lines.
    """

    text: str | tuple[str, ...] = "text"
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.05, gt=0, lt=0.5)
    """The share of the texts that is kept for validation where the data has no split of that name."""
    limit: int | None = Field(None, ge=2)
    """Learn from so many texts only."""
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable texts up to which a training goes on without them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a table."""
        return (self.text,) if isinstance(self.text, str) else self.text


@spec("language")
class Pretraining(Recipe):
    """A model of texts alone. The vocabulary of `model` is filled in from the codec.

    An imported model may give one vector a text instead ("pooler"): a start for others, which cannot be trained itself.
    """

    data: LanguageTexts = LanguageTexts()
    codec: CodecSpec = CodecSpec(size=8000)
    length: int = Field(128, ge=3)
    """Ids of a row at most, ends included; longer texts become several rows."""
    begin: int | None = Field(1, ge=0)
    """The id in front of every text."""
    mask: int | None = Field(None, ge=0)
    """The id of the blank for hidden words; null: that of unknown pieces, which codecs learned here never use."""
    exercise: Part[Exercise]
    model: Part[Model]
    objective: Part[Objective] = PredictWords()
    start: str | None = None
    """A run folder or hf://owner/name of a language model whose weights and codec are the beginning."""
    optimizer: Part[OptimizerSpec] = AdamW(beta2=0.98, decay=0.01)
    schedule: Part[Schedule] = Cosine(peak=1e-3, warmup=500, final=1e-5)
    loop: LoopSpec = LoopSpec(epochs=10, metric="perplexity", mode="min")
    batch: int = Field(4096, ge=16)
    """The most ids of a batch, padding included."""

    @model_validator(mode="after")
    def _fits_the_exercise(self):
        model, kind = self.model, self.exercise.kind
        if isinstance(model, Encoder) and isinstance(model.head, Pooler):
            return self
        if not isinstance(model, Language):
            raise InputError(f"'{model.kind}' is no model of texts alone; 'language-model' is")
        head, once, name = NEEDS[kind]
        if not isinstance(model.head, head):
            raise InputError(f"'{kind}' needs the head '{head.kind}', but the model has '{model.head.kind}'")
        if (model.trunk.kind == Causal.kind) != once:
            told = "would see the words it is asked for" if once else "would see only what stands before"
            raise InputError(f"'{kind}' with a trunk '{model.trunk.kind}' {told}; see the recipe '{name}'")
        places = getattr(model.stem.positions, "length", None)
        if places is not None and places < self.length:
            raise InputError(f"length is {self.length}, more than the {places} positions of the model")
        return self


NEEDS: dict[str, tuple[type[Head], bool, str]] = {
    MaskedWords.kind: (MaskedWord, False, "masked_words"),
    NextWords.kind: (NextWord, True, "next_words"),
}
"""Kind of exercise -> the head for it, whether it reads once from left to right, and its recipe."""


def with_vocabulary(model: Model, tokenizer: Tokenizer) -> Model:
    """The model with the vocabulary and padding of a tokenizer."""
    stem, head = model.stem, model.head  # pyright: ignore[reportAttributeAccessIssue]  # `Pretraining` has checked it
    vocab = {"vocab": tokenizer.size}
    head = head.replace(**vocab) if hasattr(head, "vocab") else head
    # Both at once: each alone would contradict the other.
    return model.replace(stem=stem.replace(**vocab, pad=tokenizer.pad), head=head)


def begun(recipe: Pretraining, theirs: Recipe) -> Pretraining:
    """The recipe for a model that begins with a run of its kind: its model, and how it reads.

    A model that gives vectors gets a fresh head for hidden words. Raises InputError for a run of another kind, or of
    another exercise.
    """
    if not isinstance(theirs, Pretraining):
        raise InputError(f"a '{theirs.kind}' run is no start for a language model, which begins with another one")
    model = theirs.model
    if isinstance(model, Encoder) and isinstance(recipe.exercise, MaskedWords):
        vocab = model.stem.vocab  # pyright: ignore[reportAttributeAccessIssue]  # `Pretraining` has checked it
        trunk = model.trunk
        head = MaskedWord(dim=trunk.width, vocab=vocab, eps=getattr(trunk, "eps", 1e-12))
        model = Language(stem=model.stem, trunk=trunk, head=head)  # pyright: ignore[reportArgumentType]  # likewise
    same = {name: getattr(theirs, name) for name in ("codec", "begin", "mask")}
    return recipe.replace(model=model, length=min(theirs.length, recipe.length), **same)


def chosen(recipe: Pretraining, options: Chosen) -> Pretraining:
    """The recipe with these options. Raises InputError for those that mean nothing to a model of texts."""
    given = options._replace(model=None, start=None)
    odd = next((name for name, value in given._asdict().items() if value), None)
    if odd is not None:
        raise InputError(f"a model of texts has no use for --{odd.replace('_', '-')}; it takes --model or --from")
    made = recipe.replace(start=options.start or recipe.start)
    if options.model is None:
        return made
    if options.start:
        raise InputError("the model is that of the run to begin with; leave out --model or --from")
    model = model_spec(full_name(options.model, LANGUAGE), {})
    places = getattr(getattr(getattr(model, "stem", None), "positions", None), "length", recipe.length)
    return made.replace(model=model, length=min(recipe.length, places))


def masked_words() -> Pretraining:
    """A model that learns texts of one's own by words hidden in them, as BERT does: a start for models that read."""
    return Pretraining(
        codec=CodecSpec(size=8000, lowercase=True), exercise=MaskedWords(), model=model_spec("words_small", {})
    )


def next_words() -> Pretraining:
    """A model that learns texts of one's own by the next word, as GPT does: a start for models that write."""
    return Pretraining(exercise=NextWords(), model=model_spec("next_small", {}))


RECIPES = (masked_words, next_words)
