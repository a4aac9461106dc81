"""Importing, language: a BERT or GPT2 in the layout of transformers, as a run that is not yet written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessella.data.exercises import Exercise, MaskedWords, NextWords
from tessella.errors import InputError
from tessella.importing.imported import Imported, fitted_weights
from tessella.importing.language_tokenizers import Read, read_bert, read_gpt2
from tessella.importing.vision import built
from tessella.models import Model
from tessella.recipes.reading import Pretraining
from tessella.text import Codec
from tessella.weights import Rule
from tessella.zoo import bert, gpt2

BERTS = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
GPTS = ("GPT2LMHeadModel", "GPT2Model")


def import_bert(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A BERT of `transformers`: one that says what is hidden where its file can, else one that gives a vector."""
    _of(folder, config, BERTS)
    hidden = bert.HIDDEN in weights
    model = built("config.json", lambda: bert.from_config(config, hidden))
    rules = bert.rules(model, _prefix(bert.PREFIX, weights))
    notes = [] if hidden else ["it gives a vector for a text and names no hidden word; --from it trains one that does"]
    if hidden and f"{_prefix(bert.PREFIX, weights)}pooler.dense.weight" in weights:
        notes.append(f"left out: what says {bert.PAIRS}")
    read = read_bert(folder)
    return _imported(model, read, MaskedWords(), fitted_weights(model, weights, rules), notes, ("cls", "mask"))


def import_gpt2(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A GPT-2 of `transformers`, with the head for the next word or without: its weight is the embedding."""
    _of(folder, config, GPTS)
    model = built("config.json", lambda: gpt2.from_config(config))
    rules: tuple[Rule, ...] = gpt2.rules(_prefix(gpt2.PREFIX, weights))
    return _imported(model, read_gpt2(folder), NextWords(), fitted_weights(model, weights, rules), [], ("bos", None))


def _imported(
    model: Any,
    read: Read,
    exercise: Exercise,
    weights: dict[str, Tensor],
    notes: list[str],
    ids: tuple[str, str | None],
) -> Imported:
    """The run that these make; ids: what stands in front of every text, and the blank, as the tokenizer's files say."""
    tokenizer, words = read.tokenizer, model.stem
    if words.vocab != tokenizer.size:
        raise InputError(f"the tokenizer has {tokenizer.size} pieces, but the model's vocabulary {words.vocab}")
    recipe = Pretraining(
        length=words.positions.length,
        begin=read.ids[ids[0]],
        mask=None if ids[1] is None else read.ids[ids[1]],
        exercise=exercise,
        model=_padded(model, tokenizer.pad),
    )
    return Imported(recipe, weights, {"codec.json": Codec(tokenizer).save}, notes)


def _padded(model: Any, pad: int) -> Model:
    return model.replace(stem=model.stem.replace(pad=pad))


def _prefix(usual: str, weights: Mapping[str, Tensor]) -> str:
    """What stands before the names of stem and trunk in a file."""
    return usual if any(name.startswith(usual) for name in weights) else ""


def _of(folder: Path, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in config.get("architectures") or []:
        if name not in known:
            raise InputError(f"{folder} holds a '{name}'; of its kind, {', '.join(known)} can be imported")
