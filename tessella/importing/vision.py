"""Importing, vision: a public classifier of images, as a run that is not yet written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor

from tessella import files
from tessella.data.pixels import Preprocess
from tessella.errors import InputError, did_you_mean
from tessella.importing.imported import Imported, fitted_weights
from tessella.importing.preprocessors import FILE, Read, from_timm, from_transformers
from tessella.models import Encoder
from tessella.recipes.vision import Classification
from tessella.weights import Rule
from tessella.zoo import bit, cvt, deit, resnet, swin, vit
from tessella.zoo.catalog import CLASSIFIERS, channels, model_spec
from tessella.zoo.layouts import page_of, rules

PAGES: dict[str, ModuleType] = {"vit": vit, "deit": deit, "swin": swin, "cvt": cvt, "resnet": resnet, "bit": bit}
"""`model_type` in a config.json of transformers -> the page that reads it."""
ENDINGS = ("ForImageClassification", "ForImageClassificationWithTeacher")
IGNORED = {"img_size", "num_classes", "in_chans", "drop_rate", "drop_path_rate", "global_pool"}
"""Arguments in timm's `model_args` that are read elsewhere, or change nothing but training."""
POOLS = {"first": "token", "mean": "avg"}
"""Our pools and timm's `global_pool`."""


def import_transformers(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A checkpoint of `transformers`: config.json, preprocessor_config.json and model.safetensors."""
    kind = str(config["model_type"])
    for name in config.get("architectures") or []:
        if not str(name).endswith(ENDINGS):
            raise InputError(f"{folder} holds a '{name}', which has no classifier; a …{ENDINGS[0]} is needed")
    model = built("config.json", lambda: PAGES[kind].from_config(config))
    read = from_transformers(files.read_json(folder / FILE), kind, channels(model))
    notes = []
    if kind == "cvt" and "hidden_act" not in config:
        notes = ["activation: QuickGELU, with which CvT was trained; transformers computes the exact GELU instead"]
    return _imported(model, read, _named(config, model), _Weights(weights, "hf"), notes)


def import_timm(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A checkpoint of timm: config.json with its `architecture` and `pretrained_cfg`, and model.safetensors."""
    name = str(config["architecture"]).partition(".")[0]
    known = [entry for entry in CLASSIFIERS if "timm" in page_of(_vision(entry)).LAYOUTS]
    if name not in known:
        raise InputError(f"timm's '{name}' cannot be imported{did_you_mean(name, known)}")
    prepared = config.get("pretrained_cfg") or {}
    if not isinstance(prepared, Mapping):
        raise InputError(f"{folder}/config.json: 'pretrained_cfg' must be a mapping, got {prepared!r}")
    read = from_timm(prepared)
    odd = set(config.get("model_args") or {}) - IGNORED
    if odd:
        raise InputError(f"config.json changes the architecture with model_args {sorted(odd)}, which is not supported")
    count = config.get("num_classes", prepared.get("num_classes"))
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(
            f"{folder}/config.json: 'num_classes' must be at least 1, got {count!r}; is there a classifier?"
        )
    image = read.image
    size = image.size[0] if image.size[0] == image.size[1] else image.size
    model = _vision(name, classes=count, image_size=size, channels=image.channels)
    pool = POOLS.get(getattr(model.head, "pool", "first"), "token")
    if config.get("global_pool") not in (None, "", pool):
        raise InputError(f"config.json: global_pool {config['global_pool']!r} is not supported for {name}; {pool!r} is")
    names = config.get("label_names") or prepared.get("label_names")
    told = config.get("label_descriptions") or prepared.get("label_descriptions") or {}
    if names is None:
        names = numbered(count)
    elif not isinstance(names, list) or len(names) != count or not isinstance(told, Mapping):
        raise InputError(f"config.json: 'label_names' must be {count} names, as many as 'num_classes' says")
    classes = [str(told.get(name, name)) for name in names]
    made = _imported(model, read, classes, _Weights(weights, "timm"))
    return replace(made, facts={"licence": prepared.get("license")})


def import_layout(name: str, layout: str, weights: Mapping[str, Tensor]) -> Imported:
    """Weights alone, of a model of the catalog, with the names that a library gives them.

    Images are prepared as its card says. Classes are counted in the weights, and have numbers for names.
    """
    if name not in CLASSIFIERS:
        raise InputError(f"no model that reads images is called '{name}'{did_you_mean(name, CLASSIFIERS)}")
    card, usual = CLASSIFIERS[name], _vision(name)
    count = _count(weights, rules(usual, layout))
    model = _vision(name, classes=count)
    image = Preprocess(
        size=(card.size, card.size),
        channels=channels(model),  # pyright: ignore[reportArgumentType]  # checked by Preprocess
        mean=card.mean[: channels(model)],
        std=card.std[: channels(model)],
        crop=card.crop,
        interpolation=card.interpolation,  # pyright: ignore[reportArgumentType]  # checked by Preprocess
    )
    made = _imported(model, Read(image), numbered(count), _Weights(weights, layout))
    return replace(made, facts={"licence": card.licence or None})


def relabelled(imported: Imported, names: Sequence[str]) -> Imported:
    """The same with other names for its classes."""
    count = getattr(getattr(getattr(imported.recipe, "model", None), "head", None), "classes", None)
    if count is None:
        raise InputError(f"a '{imported.recipe.kind}' run has no classes to name; leave --labels out")
    if len(names) != count:
        raise InputError(f"the file of labels has {len(names)} names, but the model has {count} classes")
    notes = [note for note in imported.notes if note != UNNAMED]
    return replace(imported, files={**imported.files, **_labels(names)}, notes=notes)


def numbered(count: int) -> list[str]:
    """Names for classes of which only the number is known."""
    return [f"class {number}" for number in range(count)]


UNNAMED = "the checkpoint does not name its classes, so they have numbers; --labels FILE names them, one a line"


class _Weights(NamedTuple):
    """A checkpoint's tensors, and whose names they have."""

    tensors: Mapping[str, Tensor]
    layout: str


def _imported(
    model: Encoder, read: Read, classes: Sequence[str], weights: _Weights, notes: Sequence[str] = ()
) -> Imported:
    size = getattr(model.stem, "size", None)
    if size is not None and tuple(size) != tuple(read.image.size):
        raise InputError(f"images are prepared as {read.image.size}, but the model is made for {tuple(size)} pixels")
    recipe = Classification(image=read.image, model=model)
    every = [*notes, *([read.note] if read.note else []), *([UNNAMED] if classes == numbered(len(classes)) else [])]
    fitted = fitted_weights(model, weights.tensors, rules(model, weights.layout))
    return Imported(recipe, fitted, _labels(classes), every)


def _labels(classes: Sequence[str]) -> dict[str, Callable[[Path], Any]]:
    text = json.dumps(list(classes), ensure_ascii=False, indent=0)
    return {"labels.json": lambda path: path.write_text(text, encoding="utf-8")}


def _named(config: Mapping[str, Any], model: Encoder) -> list[str]:
    """Class names in the order of their numbers."""
    count, names = getattr(model.head, "classes", 0), config.get("id2label")
    if names is None:
        return [f"LABEL_{number}" for number in range(count)]
    if config.get("num_labels", count) != count:
        raise InputError(f"config.json: 'id2label' names {count} classes, but 'num_labels' is {config['num_labels']}")
    missing = [number for number in range(count) if str(number) not in names]
    if missing:
        raise InputError(f"config.json: 'id2label' must name 0 to {count - 1}, but has no {missing[0]}")
    return [str(names[str(number)]) for number in range(count)]


def _count(weights: Mapping[str, Tensor], layout: tuple[Rule, ...]) -> int:
    """How many classes: the length of the classifier's bias, by its name in a layout."""
    for rule in layout:
        if rule.ours in (("head.scores.{p}",), ("head.scores.bias",)):
            name = rule.theirs[0].format(p="bias")
            if name in weights and weights[name].dim() == 1 and len(weights[name]):
                return len(weights[name])
            raise InputError(f"the file has no classifier '{name}'; is it of that layout?")
    raise InputError("this layout has no classifier")


def _vision(name: str, **options: Any) -> Encoder:
    made = built(f"'{name}'", lambda: model_spec(name, options))
    assert isinstance(made, Encoder)
    return made


def built(where: str, build: Callable[[], Any]) -> Any:
    """What a page makes of what it was told; what it cannot mean becomes one line."""
    try:
        return build()
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise InputError(f"{where}: {place}{first['msg'].removeprefix('Value error, ')}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} has a value of the wrong kind: {str(error)[:200]}") from None
