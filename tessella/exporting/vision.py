"""Export, vision: a classifier in the layout of transformers, timm, torchvision or Microsoft, or as an ONNX file."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tessella import files
from tessella.classifier import Classifier
from tessella.errors import InputError
from tessella.exporting.to_onnx import write_onnx
from tessella.importing.preprocessors import FILE, to_timm, to_transformers
from tessella.models import Encoder
from tessella.predict import plain_classifier
from tessella.recipes.vision import Classification
from tessella.runs import RunFolder
from tessella.stems.patches import Patches
from tessella.trunks.cvt import Cvt
from tessella.trunks.plain import Plain
from tessella.trunks.swin import Swin
from tessella.weights import untranslate
from tessella.zoo import config as read
from tessella.zoo import swin
from tessella.zoo.catalog import CARDS
from tessella.zoo.layouts import buffers, family, name_of, page_of, rules


class Trained(NamedTuple):
    """What is written: the model's spec, the model with all that belongs to it, and what its run says of it."""

    spec: Encoder
    classifier: Classifier
    licence: str | None


Writer = Callable[[Trained, Path], tuple[str, list[str]]]
"""Fills a folder; returns the text of its README.md, and remarks."""


def write(writer: Writer, run: RunFolder, recipe: Classification, out: Path) -> list[str]:
    """Writes the new folder `out` and returns what is not computed there as here, a line each."""
    with files.new_folder(out) as draft:
        how, remarks = writer(_trained(run, recipe), draft)
        text = "\n".join([how, *(f"- {remark}" for remark in remarks)])
        (draft / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return remarks


def onnx(run: RunFolder, recipe: Classification, out: Path) -> list[str]:
    """Writes the file `out`; see `write_onnx`."""
    from tessella import __version__

    trained = _trained(run, recipe)
    return write_onnx(trained.classifier, out, {"licence": trained.licence, "tessella": __version__})


def hf(trained: Trained, out: Path) -> tuple[str, list[str]]:
    """config.json, preprocessor_config.json and model.safetensors, for AutoModelForImageClassification."""
    spec, image = trained.spec, trained.classifier.image
    layout = rules(spec, "hf")
    config: dict[str, Any] = page_of(spec).to_config(spec)
    remarks = []
    if isinstance(spec.trunk, Swin):
        config["image_size"] = image.size[0] if image.size[0] == image.size[1] else list(image.size)
        patch = config["patch_size"] * 2 ** (len(spec.trunk.depths) - 1)
        if any(side % (patch * spec.trunk.windows[0]) for side in image.size):
            remarks.append("transformers' Swin lets tokens look at the padding of windows; here nobody sees it")
    elif isinstance(spec.stem, Patches):
        _same_size(trained)
    if isinstance(spec.trunk, Cvt) and spec.trunk.activation != "gelu":
        remarks.append(
            f"transformers' CvT computes the exact GELU, not {spec.trunk.activation}: answers differ a little"
        )
    names = trained.classifier.classes
    config.pop("num_labels", None)
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    processor = to_transformers(image)
    files.save_tensors(out / "model.safetensors", untranslate(trained.classifier.model.state_dict(), layout))
    files.write_json(out / "config.json", {**config, "dtype": "float32"})
    files.write_json(out / FILE, processor)
    return HF.format(mode="RGB" if image.channels == 3 else "L"), remarks


def timm(trained: Trained, out: Path) -> tuple[str, list[str]]:
    """config.json and model.safetensors, for timm.create_model("local-dir:...")."""
    spec, image, names = trained.spec, trained.classifier.image, trained.classifier.classes
    _computed_there(trained, "timm")
    architecture, arguments = timm_architecture(trained)
    remarks = []
    if isinstance(spec.trunk, Plain) and spec.trunk.eps != TIMM_EPS:
        remarks.append(f"timm's LayerNorms add {TIMM_EPS}, this model's {spec.trunk.eps}")
    config = {
        "architecture": architecture,
        "num_classes": len(names),
        "num_features": spec.trunk.width,
        "global_pool": "token" if getattr(spec.head, "pool", "first") == "first" else "avg",
        "label_names": list(names),
        "pretrained_cfg": {
            **to_timm(image),
            "fixed_input_size": isinstance(spec.stem, Patches) or isinstance(spec.trunk, Swin),
            "num_classes": len(names),
            "license": trained.licence,
        },
        **({"model_args": arguments} if arguments else {}),
    }
    _save_weights(trained, "timm", out)
    files.write_json(out / "config.json", config)
    return TIMM.format(mode="RGB" if image.channels == 3 else "L"), remarks


def state(layout: str, trained: Trained, out: Path) -> tuple[str, list[str]]:
    """model.safetensors with the names of torchvision or Microsoft, and config.json for whoever builds the model."""
    spec, image, names = trained.spec, trained.classifier.image, trained.classifier.classes
    _computed_there(trained, layout)
    _save_weights(trained, layout, out)
    name = name_of(spec, image.size, image.channels)
    config = {"architecture": name or family(spec), "num_classes": len(names), "label_names": list(names)}
    files.write_json(out / "config.json", {**config, "pretrained_cfg": to_timm(image)})
    files.write_text(out / "labels.txt", "".join(f"{' '.join(name.split())}\n" for name in names))
    how = STATE.format(layout=layout.capitalize(), name=config["architecture"])
    return how + (AGAIN.format(layout=layout, name=name) if name else ""), []


FORMATS: dict[str, Callable[[RunFolder, Any, Path], list[str]]] = {
    "hf": partial(write, hf),
    "timm": partial(write, timm),
    "torchvision": partial(write, partial(state, "torchvision")),
    "microsoft": partial(write, partial(state, "microsoft")),
    "onnx": onnx,
}
"""Name of the format -> (run, recipe, out) -> what to tell the user, having written `out`."""

TIMM_EPS = 1e-6
"""Of the LayerNorms of timm's ViT and DeiT."""
TIMM_FROM = 224
"""Pixels from which the catalog's names are timm's; those for smaller images are our own."""


def timm_architecture(trained: Trained) -> tuple[str, dict[str, Any]]:
    """timm's name of a model, and the arguments that make it what it is, as far as they are not the name's own."""
    spec, image = trained.spec, trained.classifier.image
    name = name_of(spec, image.size, image.channels)
    grey = {"in_chans": image.channels} if image.channels != 3 else {}
    if name and CARDS[name].size >= TIMM_FROM:
        usual = (CARDS[name].size,) * 2
        return name, grey | ({} if usual == image.size else _sizes(spec, image.size))
    stem, trunk = spec.stem, spec.trunk
    if isinstance(stem, Patches) and isinstance(trunk, Plain):
        arguments = {
            "patch_size": stem.patch,
            "embed_dim": trunk.dim,
            "depth": trunk.depth,
            "num_heads": trunk.heads,
            "mlp_ratio": _ratio(trunk.hidden, trunk.dim),
        }
        base = "deit_base_distilled_patch16_224" if spec.head.kind == "distilled" else "vit_base_patch16_224"
        return base, grey | _sizes(spec, image.size) | arguments
    if isinstance(trunk, Swin):
        arguments = {
            "patch_size": getattr(stem, "patch", 4),
            "embed_dim": trunk.dim,
            "depths": list(trunk.depths),
            "num_heads": list(trunk.heads),
            "window_size": max(trunk.windows),
            "mlp_ratio": trunk.ratio,
        }
        return "swin_tiny_patch4_window7_224", grey | _sizes(spec, image.size) | arguments
    raise InputError(f"timm has no architecture with the sizes of this {family(spec)}; --to hf or onnx may do")


def _ratio(hidden: int, dim: int) -> float:
    """The number that timm multiplies the width by and cuts off behind the point."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _sizes(spec: Encoder, size: tuple[int, int]) -> dict[str, Any]:
    """The image size, for models that are made for one."""
    return {"img_size": list(size)} if isinstance(spec.stem, Patches) or isinstance(spec.trunk, Swin) else {}


def _trained(run: RunFolder, recipe: Classification) -> Trained:
    if not isinstance(recipe.model, Encoder):
        raise InputError(f"{run.path} holds a '{recipe.model.kind}', which has no place in a format for classifiers")
    manifest = run.manifest
    return Trained(recipe.model, plain_classifier(run, recipe), (manifest.get("imported") or {}).get("licence"))


def _save_weights(trained: Trained, layout: str, out: Path) -> None:
    spec = trained.spec
    named = untranslate(trained.classifier.model.state_dict(), rules(spec, layout))
    files.save_tensors(out / "model.safetensors", {**named, **buffers(spec, layout)})


def _computed_there(trained: Trained, layout: str) -> None:
    """Refuses a model with a part that the code of that layout computes otherwise."""
    spec, page = trained.spec, page_of(trained.spec)
    rules(spec, layout)
    if page is swin:
        read.agree("Swin", pool=(getattr(spec.head, "pool", None), "mean"))
        _windows_follow(trained)
    elif hasattr(page, "to_config"):
        page.to_config(spec)
    if isinstance(spec.trunk, Plain | Cvt):
        usual = "gelu" if isinstance(spec.trunk, Plain) else "quick-gelu"
        read.agree(layout, activation=(spec.trunk.activation, usual))
    if isinstance(spec.stem, Patches):
        _same_size(trained)
        if spec.stem.special == 2:
            read.agree(layout, head=(spec.head.kind, "distilled"))


def _windows_follow(trained: Trained) -> None:
    """There, a stage with a raster smaller than the window has windows of that size."""
    trunk, size = trained.spec.trunk, trained.classifier.image.size
    assert isinstance(trunk, Swin)
    patch = getattr(trained.spec.stem, "patch", 4)
    rasters = [-(-min(size) // (patch * 2**stage)) for stage in range(len(trunk.depths))]
    usual = tuple(min(max(trunk.windows), raster) for raster in rasters)
    read.agree("Swin", windows=(trunk.windows, usual))


def _same_size(trained: Trained) -> None:
    made, prepared = getattr(trained.spec.stem, "size", None), trained.classifier.image.size
    if made is not None and tuple(made) != tuple(prepared):
        raise InputError(
            f"the model's positions are made for {made} pixels, its images are {prepared}; --to onnx may do"
        )


HF = """# An image classifier in the layout of transformers

```python
import torch
import transformers
from PIL import Image

processor = transformers.AutoImageProcessor.from_pretrained(".")
model = transformers.AutoModelForImageClassification.from_pretrained(".").eval()


def classify(path):
    inputs = processor(Image.open(path).convert("{mode}"), return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits.softmax(-1)[0]
    best = int(probabilities.argmax())
    return model.config.id2label[best], float(probabilities[best])
```
"""

TIMM = """# An image classifier in the layout of timm

```python
import json

import timm
import torch
from PIL import Image

names = json.load(open("config.json"))["label_names"]
model = timm.create_model("local-dir:.", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def classify(path):
    with torch.no_grad():
        probabilities = model(prepare(Image.open(path).convert("{mode}"))[None]).softmax(-1)[0]
    best = int(probabilities.argmax())
    return names[best], float(probabilities[best])
```
"""

STATE = """# The weights of an image classifier with the names of {layout}'s code

`model.safetensors` is the state dict of a `{name}`: `model.load_state_dict(safetensors.torch.load_file(...))`.
`config.json` says how images are prepared and what the classes are called.
"""

AGAIN = """
    tessella import model.safetensors --layout {layout} --model {name} --labels labels.txt --out RUN
"""
