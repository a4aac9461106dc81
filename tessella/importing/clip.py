"""Importing, CLIP: two towers of transformers, OpenAI or open_clip, as a run that is not yet written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tessella import files
from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.importing.clip_tokenizer import Texts, is_clip, read_openai, read_tokenizer
from tessella.importing.imported import Imported, fitted_weights
from tessella.importing.preprocessors import FILE, from_transformers
from tessella.importing.vision import built
from tessella.models import Encoder, Towers
from tessella.recipes.matching import Matching
from tessella.stems.words import Words
from tessella.text import Codec
from tessella.zoo.catalog import CARDS, channels, model_spec
from tessella.zoo.clip_layouts import from_config, rules

TOGETHER = "processor_config.json"
"""Where newer versions of transformers write the preparation of images."""


def import_clip(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A CLIPModel of `transformers`: config.json, how images are prepared, the tokenizer, and model.safetensors."""
    for name in config.get("architectures") or []:
        if name != "CLIPModel":
            raise InputError(f"{folder} holds a '{name}'; both towers are needed, a CLIPModel")
    model = built("config.json", lambda: from_config(config))
    read = from_transformers(_prepared(folder), "clip", channels(model.image))
    made = _imported(model, read.image, read_tokenizer(folder), weights, "hf")
    return replace(made, notes=[read.note] if read.note else [])


def import_clip_layout(name: str, layout: str, weights: Mapping[str, Tensor], codec: Path | None) -> Imported:
    """Weights alone, of towers of the catalog, in the layout of OpenAI and open_clip ("openai") or "hf".

    codec: where the tokenizer is, see `_texts`. Images are prepared as the model's card says.
    """
    usual = built(f"'{name}'", lambda: model_spec(name, {}))
    tables = {rule.ours[0]: rule.theirs[0] for rule in rules(usual, layout) if rule.ours}
    if codec is None:
        raise InputError(f"a file of weights has no tokenizer; say with --codec where it is: {CODECS}")
    sizes = {}
    for option, ours in {"vocab": "text.stem.embedding.weight", "length": "text.stem.positions.table"}.items():
        if tables[ours] not in weights:
            raise InputError(f"the file has no '{tables[ours]}'; is it of the layout '{layout}'?")
        sizes[option] = len(weights[tables[ours]])
    card, model = CARDS[name], built(f"'{name}'", lambda: model_spec(name, sizes))
    image = Preprocess(
        size=(card.size, card.size),
        mean=card.mean,
        std=card.std,
        crop=card.crop,
        interpolation=card.interpolation,  # pyright: ignore[reportArgumentType]  # checked by Preprocess
    )
    made = _imported(model, image, _texts(codec, sizes["vocab"]), weights, layout)
    return replace(made, facts={"licence": card.licence or None})


CODECS = (
    "the codec.json of a run, a folder with tokenizer.json or vocab.json and merges.txt, or OpenAI's list of merges"
)


def _texts(codec: Path, vocab: int) -> Texts:
    """The tokenizer of a codec.json, of a folder in the layout of transformers, or of OpenAI's file of merges."""
    if codec.is_dir():
        return read_tokenizer(codec)
    if codec.suffix == ".json":
        tokenizer = Codec.load(codec).source
        return Texts(tokenizer, tokenizer.bos if is_clip(tokenizer) else None)
    return read_openai(codec, vocab)


def _imported(model: Towers, image: Preprocess, texts: Texts, weights: Mapping[str, Tensor], layout: str) -> Imported:
    """The run that these make."""
    assert isinstance(model.text, Encoder) and isinstance(model.text.stem, Words)
    words, tokenizer = model.text.stem, texts.tokenizer
    if words.vocab != tokenizer.size:
        raise InputError(f"the tokenizer has {tokenizer.size} pieces, but the model's vocabulary {words.vocab}")
    if words.end not in (None, tokenizer.eos):
        raise InputError(f"texts end with id {tokenizer.eos} in the tokenizer, but with {words.end} in the model")
    made = getattr(getattr(model.image, "stem", None), "size", image.size)
    if tuple(made) != tuple(image.size):
        raise InputError(f"images are prepared as {image.size}, but the model is made for {tuple(made)} pixels")
    fitted = fitted_weights(model, weights, rules(model, layout))
    stem = words.replace(pad=tokenizer.pad, end=tokenizer.eos)
    recipe = Matching(
        image=image,
        length=getattr(words.positions, "length", 77),
        begin=texts.begin,
        model=model.replace(text=model.text.replace(stem=stem)),
    )
    return Imported(recipe, fitted, {"codec.json": Codec(tokenizer).save})


def _prepared(folder: Path) -> Mapping[str, Any]:
    """How images are prepared."""
    if (folder / FILE).is_file():
        return files.read_json(folder / FILE)
    if not (folder / TOGETHER).is_file():
        raise InputError(f"{folder} has neither {FILE} nor {TOGETHER}, which say how images are prepared")
    said = files.read_json(folder / TOGETHER).get("image_processor")
    if not isinstance(said, Mapping):
        raise InputError(f"{folder / TOGETHER}: 'image_processor' must be a mapping, got {said!r}")
    return said
