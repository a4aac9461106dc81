"""Predict: a run folder in, something that answers out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessella.answerer import Answerer
from tessella.captioner import Captioner
from tessella.classifier import Classifier
from tessella.data.ids import Reading
from tessella.data.record_batches import Preparation
from tessella.errors import InputError
from tessella.fuser import Fuser
from tessella.inference.prepare import prepare
from tessella.matcher import Matcher
from tessella.models import Model
from tessella.reader import Manner, Reader
from tessella.recipes.answering import Answering
from tessella.recipes.captioning import Captioning
from tessella.recipes.fusing import Fusion
from tessella.recipes.matching import Matching, text_stem
from tessella.recipes.named import from_yaml
from tessella.recipes.reading import Pretraining
from tessella.recipes.recipe import Recipe
from tessella.recipes.translation import Translation
from tessella.recipes.vision import Classification
from tessella.runs import RunFolder
from tessella.text import Codec, Tokenizer
from tessella.translator import Translator


def load(path: str | Path, device: str = "auto", dtype: str = "float32") -> Any:
    """A finished run, ready to answer: a `Translator`, a `Classifier` or a `Matcher`, by the kind of the run.

    path: a run folder, or ``hf://owner/name`` of a public checkpoint. device: "auto", "cpu" or "cuda". dtype:
    "float32"; "bfloat16" for speed where the hardware multiplies it faster; or "int8" for more of it on a processor,
    with a little less accuracy. Raises InputError where the folder is incomplete, was changed after it was saved, or
    does not fit together.
    """
    run, recipe = opened(path)
    if recipe.kind not in PREDICTORS:
        raise InputError(f"{run.path} is a '{recipe.kind}' run, which this version cannot use")
    return PREDICTORS[recipe.kind](run, recipe, _device(device), dtype)


def opened(path: str | Path) -> tuple[RunFolder, Recipe]:
    """The folder of a finished run, or of a public checkpoint (hf://owner/name), and its recipe."""
    if str(path).startswith("hf://"):
        from tessella.importing.checkpoint import import_cached

        path = import_cached(str(path))
    run = RunFolder.open(path)
    return run, from_yaml(run.read_text("recipe.yaml"), f"{run.path / 'recipe.yaml'}")


def kind_of(path: str | Path) -> str:
    """What a run is for, "translation", "classification" or "matching", by its recipe alone: no weights are read."""
    if str(path).startswith("hf://"):
        return opened(path)[1].kind
    run = RunFolder(path)
    if "recipe.yaml" not in run.manifest["files"]:
        raise InputError(f"{run.path} has no recipe.yaml, so it is not a whole run; give a folder written by train")
    return from_yaml(run.read_text("recipe.yaml"), f"{run.path / 'recipe.yaml'}").kind


def translator(run: RunFolder, recipe: Translation, device: torch.device, dtype: str) -> Translator:
    """The Translator of a run."""
    codec = Codec.load(run.path / "codec.json")
    fits(recipe.model, codec, str(run.path))
    model = prepare(filled(recipe.model, run).to(device), dtype)
    return Translator(model, codec, recipe.decoding)


def classifier(run: RunFolder, recipe: Classification, device: torch.device, dtype: str) -> Classifier:
    """The Classifier of a run."""
    plain = plain_classifier(run, recipe)
    return Classifier(prepare(plain.model.to(device), dtype), plain.image, plain.classes)


def plain_classifier(run: RunFolder, recipe: Classification) -> Classifier:
    """The same on the processor, with its model as it was trained: for a teacher, for export."""
    classes = json.loads(run.read_text("labels.json"))
    wanted = getattr(getattr(recipe.model, "head", None), "classes", None)
    if wanted != len(classes):
        raise InputError(f"{run.path}: labels.json has {len(classes)} classes, the model {wanted}; not of one run")
    return Classifier(filled(recipe.model, run), recipe.image, classes)


def matcher(run: RunFolder, recipe: Matching, device: torch.device, dtype: str) -> Matcher:
    """The Matcher of a run."""
    plain = plain_matcher(run, recipe)
    return Matcher(prepare(plain.model.to(device), dtype), plain.image, plain.text, plain.fingerprint)


def plain_matcher(run: RunFolder, recipe: Matching) -> Matcher:
    """The same on the processor, with its model as it was trained."""
    tokenizer, words = Codec.load(run.path / "codec.json").source, text_stem(recipe.model)
    fits_side("text", words, tokenizer, str(run.path))
    return Matcher(filled(recipe.model, run), recipe.image, Reading(tokenizer, recipe.length, recipe.begin))


def captioner(run: RunFolder, recipe: Captioning, device: torch.device, dtype: str) -> Captioner:
    """The Captioner of a run."""
    words, model = Codec.load(run.path / "codec.json").target, recipe.model
    fits_side("target", getattr(model, "target"), words, str(run.path))  # noqa: B009  # of every encoder-decoder
    return Captioner(prepare(filled(model, run).to(device), dtype), recipe.image, words, recipe.decoding)


def fuser(run: RunFolder, recipe: Fusion, device: torch.device, dtype: str) -> Fuser:
    """The Fuser of a run."""
    if recipe.model is None or recipe.columns is None:
        raise InputError(f"{run.path}: its recipe names no model and no columns, so it is not a whole run")
    reading = None
    if recipe.columns.texts:
        reading = Reading(Codec.load(run.path / "codec.json").source, recipe.length, recipe.begin)
    how = Preparation(recipe.columns, recipe.image, recipe.sound, recipe.clip, reading)
    return Fuser(prepare(filled(recipe.model, run).to(device), dtype), how)


def answerer(run: RunFolder, recipe: Answering, device: torch.device, dtype: str) -> Answerer:
    """The Answerer of a run."""
    if recipe.model is None or recipe.columns is None:
        raise InputError(f"{run.path}: its recipe names no model and no columns, so it is not a whole run")
    words = Codec.load(run.path / "codec.json").target
    fits_side("target", getattr(recipe.model, "target"), words, str(run.path))  # noqa: B009  # of an encoder-decoder
    reading = Reading(words, recipe.length, recipe.begin)
    how = Preparation(recipe.columns, recipe.image, recipe.sound, recipe.clip, reading)
    return Answerer(prepare(filled(recipe.model, run).to(device), dtype), how, words, recipe.decoding)


def reader(run: RunFolder, recipe: Pretraining, device: torch.device, dtype: str) -> Reader:
    """The Reader of a run."""
    tokenizer = Codec.load(run.path / "codec.json").source
    fits_side("text", getattr(recipe.model, "stem"), tokenizer, str(run.path))  # noqa: B009  # of every one of them
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"a language model reads in float32 or bfloat16, not in {dtype}")
    model = filled(recipe.model, run).to(device, getattr(torch, dtype))
    return Reader(model, Manner(tokenizer, recipe.length, recipe.begin, recipe.exercise, recipe.mask))


PREDICTORS: dict[str, Callable[[RunFolder, Any, torch.device, str], Any]] = {
    "translation": translator,
    "classification": classifier,
    "matching": matcher,
    "fusion": fuser,
    "answering": answerer,
    "captioning": captioner,
    "language": reader,
}
"""Kind of recipe -> what makes its predictor."""


def filled(model: Model, run: RunFolder) -> nn.Module:
    """The module of a spec with the run's weights: every name and shape on both sides must agree."""
    with torch.device("meta"):
        made = model.build()
    weights, own = run.weights(), made.state_dict()
    where = f"{run.path}/model.safetensors"
    odd = sorted(own.keys() ^ weights.keys())
    if odd:
        whose = "is missing from" if odd[0] in own else "is not in the recipe's model but in"
        raise InputError(
            f"'{odd[0]}' {whose} {where} ({len(odd)} such names); recipe and weights are of different models"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(own[name].shape)} in the recipe's model, {tuple(tensor.shape)} in {where}"
            raise InputError(f"'{name}' is {shapes}")
    made = model.build()
    for name, parameter in made.named_parameters():  # tied ones once, so that they stay tied
        parameter.data = weights.pop(name).to(parameter.dtype)  # not copied: there is only one of each in memory
    made.load_state_dict(weights, strict=False)
    return made.eval()


def fits(model: Any, codec: Codec, where: str) -> None:
    """Refuses a codec whose vocabularies or special ids are not those the model was built for."""
    for side, words, tokenizer in [("source", model.source, codec.source), ("target", model.target, codec.target)]:
        fits_side(side, words, tokenizer, where)


def fits_side(side: str, words: Any, tokenizer: Tokenizer, where: str) -> None:
    """The same of one tokenizer and the stem `words` that reads its ids."""
    if words.vocab != tokenizer.size:
        raise InputError(
            f"{where}: codec.json has {tokenizer.size} {side} pieces, the model {words.vocab}; "
            "it is the codec of another run"
        )
    if words.end is None and words.pad != tokenizer.pad:
        raise InputError(f"{where}: the codec pads the {side} with {tokenizer.pad}, the model with {words.pad}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available here; use --device cpu")
    return torch.device(name)
