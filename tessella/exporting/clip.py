"""Export, CLIP: two towers in the layout of transformers or of OpenAI, or as two ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tessella import files
from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.exporting.to_onnx import write_towers
from tessella.importing.clip_tokenizer import Texts, is_clip, moved, write_tokenizer
from tessella.importing.preprocessors import FILE, to_transformers
from tessella.models import Encoder, Towers
from tessella.predict import plain_matcher
from tessella.recipes.matching import Matching
from tessella.runs import RunFolder
from tessella.spec import to_dict
from tessella.stems.words import Words
from tessella.text import Codec
from tessella.trunks.plain import Stack
from tessella.weights import untranslate
from tessella.zoo import config as read
from tessella.zoo.clip import VARIANTS
from tessella.zoo.clip_layouts import rules, to_config

EMBEDDING = "text.stem.embedding.weight"


class Trained(NamedTuple):
    """What is written: the towers' spec and weights, how images are prepared and texts read, and their licence."""

    spec: Towers
    weights: Mapping[str, Tensor]
    image: Preprocess
    text: Reading
    licence: str | None


Writer = Callable[[Trained, Path], tuple[str, list[str]]]
"""Fills a folder; returns the text of its README.md, and remarks."""


def write(writer: Writer, run: RunFolder, recipe: Matching, out: Path) -> list[str]:
    """Writes the new folder `out` and returns what is not computed there as here, a line each."""
    if not isinstance(recipe.model, Towers):
        raise InputError(f"{run.path} holds a '{recipe.model.kind}', which has no place in a format for towers")
    matcher = plain_matcher(run, recipe)
    licence = (run.manifest.get("imported") or {}).get("licence")
    trained = Trained(recipe.model, matcher.model.state_dict(), matcher.image, matcher.text, licence)
    with files.new_folder(out) as draft:
        how, remarks = writer(trained, draft)
        text = "\n".join([how, *(f"- {remark}" for remark in remarks)])
        (draft / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return remarks


def hf(trained: Trained, out: Path) -> tuple[str, list[str]]:
    """config.json, model.safetensors, preprocessor_config.json and the tokenizer, for CLIPModel and AutoProcessor."""
    spec, weights, image, text, _ = trained = ended(trained)
    tokenizer = text.tokenizer
    config = to_config(spec)
    if config["vision_config"]["image_size"] != image.size[0]:
        raise InputError(
            f"the model is made for {config['vision_config']['image_size']} pixels, its images: {image.size}"
        )
    beginning = tokenizer.bos if text.begin is None else text.begin
    config["text_config"] |= {"bos_token_id": beginning, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    files.save_tensors(out / "model.safetensors", untranslate(weights, rules(spec, "hf")))
    files.write_json(out / "config.json", {**config, "dtype": "float32"})
    kind = {"image_processor_type": "CLIPImageProcessor"} if image.fit == "crop" else {}
    files.write_json(out / FILE, {**to_transformers(image), **kind, "processor_class": "CLIPProcessor"})
    write_tokenizer(Texts(tokenizer, text.begin), text.length, out)
    if is_clip(tokenizer):
        return HF, []
    end = tokenizer.vocabulary[tokenizer.eos]
    return HF, [f"transformers reads '{end}' in a text as its end; here it is text like any other"]


def openai(trained: Trained, out: Path) -> tuple[str, list[str]]:
    """model.safetensors with OpenAI's and open_clip's names, and codec.json."""
    spec, weights, image, text, _ = trained = ended(trained)
    named = untranslate(weights, rules(spec, "openai"))
    _heads_follow(spec)
    files.save_tensors(out / "model.safetensors", named)
    files.write_json(out / "preprocess.json", to_dict(image))
    Codec(text.tokenizer).save(out / "codec.json")
    name = name_of(spec)
    return OPENAI + (AGAIN.format(name=name) if name else ""), []


def ended(trained: Trained) -> Trained:
    """The same towers with a vocabulary whose last id ends a text, which is where other libraries look for it."""
    spec, text = trained.spec, trained.text
    assert isinstance(spec.text, Encoder) and isinstance(spec.text.stem, Words)
    tokenizer, last = text.tokenizer, text.tokenizer.size - 1
    table = trained.weights[EMBEDDING]
    if tokenizer.eos != last:
        table = table.clone()
        table[[tokenizer.eos, last]] = table[[last, tokenizer.eos]]
        begin = {None: None, tokenizer.eos: last, last: tokenizer.eos}.get(text.begin, text.begin)
        text = Reading(moved(tokenizer, last), text.length, begin)
    stem = spec.text.stem.replace(end=last, pad=text.tokenizer.pad)
    spec = spec.replace(text=spec.text.replace(stem=stem))
    return trained._replace(spec=spec, text=text, weights={**trained.weights, EMBEDDING: table})


def _heads_follow(spec: Towers) -> None:
    """There, a head has 64 channels and a block is four times as wide inside."""
    for name in ("image", "text"):
        trunk = getattr(spec, name).trunk
        if isinstance(trunk, Stack):
            heads = max(trunk.dim // 64, 1)
            if trunk.heads != heads:
                told = f"OpenAI's layout cuts {trunk.dim} channels in heads of 64, which is {heads}"
                raise InputError(f"{told}, but the {name} tower has {trunk.heads}; hf and onnx keep them")
            read.agree(
                "OpenAI",
                width_inside_the_blocks=(trunk.hidden, 4 * trunk.dim),
                epsilon=(trunk.eps, 1e-5),
            )


def name_of(spec: Towers) -> str | None:
    """The catalog's name of towers that compute the same, whatever their vocabulary."""
    words: Any = getattr(spec.text, "stem")  # noqa: B009  # checked in `ended`
    options = {"vocab": words.vocab, "length": words.positions.length, "bias": spec.bias}
    wanted = _computed(to_dict(spec))
    return next((name for name, make in VARIANTS.items() if _computed(to_dict(make(**options))) == wanted), None)


TRAINING = {"dropout", "drop_path", "spread", "initial", "scale", "pad", "end"}
"""Fields that change how a model learns, or that come with the tokenizer."""


def _computed(data: Any) -> Any:
    """A spec's data without those."""
    if isinstance(data, dict):
        return {key: _computed(value) for key, value in data.items() if key not in TRAINING}
    return data


def onnx(trained: Trained, out: Path) -> tuple[str, list[str]]:
    """image.onnx, text.onnx and codec.json."""
    from tessella import __version__

    text = trained.text
    facts = {"licence": trained.licence, "tessella": __version__}
    told = {"length": text.length, "begin": text.begin, "end": text.tokenizer.eos, "pad": text.tokenizer.pad}
    model = trained.spec.build().eval()
    model.load_state_dict(trained.weights)
    remarks = write_towers(model, trained.image, {**told, "scale": float(model.scale.detach()), **facts}, out)
    Codec(text.tokenizer).save(out / "codec.json")
    return ONNX, remarks


FORMATS: dict[str, Callable[[RunFolder, Any, Path], list[str]]] = {
    "hf": partial(write, hf),
    "openai": partial(write, openai),
    "onnx": partial(write, onnx),
}
"""Name of the format -> (run, recipe, out) -> what to tell the user, having written `out`."""

HF = """# Two towers in the layout of transformers

```python
import torch
import transformers
from PIL import Image

processor = transformers.AutoProcessor.from_pretrained(".")
model = transformers.CLIPModel.from_pretrained(".").eval()


def match(paths, texts):
    images = [Image.open(path).convert("RGB") for path in paths]
    inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits_per_image
```
"""

OPENAI = """# The weights of two towers with the names of OpenAI's code and of open_clip

`model.safetensors` is a state dict, `codec.json` the tokenizer, `preprocess.json` how images are prepared. The id that
ends a text is the last of the vocabulary.
"""

AGAIN = """
    tessella import model.safetensors --layout openai --model {name} --codec codec.json --out RUN
"""

ONNX = """# Two towers as ONNX

`image.onnx`: `images`, uint8 b v r c, resized and cut as in the metadata's `preprocess` -> `vectors`, float32 b e.
`text.onnx`: `ids`, int64 b n, n being the metadata's `length`, padded with its `pad` -> `vectors`, float32 b e.
Vectors have length 1: their product is the cosine, which the metadata's `scale` is multiplied by before a softmax.

```python
import json

import numpy as np
import onnxruntime
import tessella.text

image, text = (onnxruntime.InferenceSession(f"{name}.onnx") for name in ("image", "text"))
told = {key: json.loads(value) for key, value in text.get_modelmeta().custom_metadata_map.items()}
tokenizer = tessella.text.Codec.load("codec.json").source


def embed(texts):
    front = [] if told["begin"] is None else [told["begin"]]
    ids = np.full((len(texts), told["length"]), told["pad"])
    for row, found in zip(ids, tokenizer.encode(texts)):
        found = [*front, *found[:-1]][: told["length"] - 1] + [told["end"]]
        row[: len(found)] = found
    return text.run(None, {"ids": ids})[0]
```
"""
