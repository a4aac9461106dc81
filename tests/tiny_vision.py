"""Tiny classifiers and pictures, made in memory."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tessella.classifier import Classifier
from tessella.data.augment import Augment
from tessella.data.pixels import Preprocess
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.recipes.named import to_yaml
from tessella.recipes.vision import Classification
from tessella.runs import RunFolder
from tessella.stems.patches import Patches, Pixels, Raster
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.cvt import Cvt
from tessella.trunks.plain import Plain
from tessella.trunks.swin import Swin

NAMES = ("red", "green", "blue", "grey", "dark", "pale")


def vit(size: int = 32, classes: int = len(NAMES), special: int = 1, pool: str = "first", depth: int = 3) -> Encoder:
    """A ViT of patches of 8."""
    stem = Patches(dim=16, patch=8, size=(size, size), special=special)
    trunk = Plain(dim=16, depth=depth, heads=2, hidden=32, dropout=0.0, activation="gelu", norm="pre")
    return Encoder(stem=stem, trunk=trunk, head=Classes(dim=16, classes=classes, pool=pool))


def swin(classes: int = len(NAMES), windows: tuple[int, ...] = (4, 4)) -> Encoder:
    """A Swin of patches of 4."""
    trunk = Swin(dim=8, depths=(2, 2), heads=(1, 2), windows=windows)
    return Encoder(stem=Raster(dim=8), trunk=trunk, head=Classes(dim=16, classes=classes, pool="mean"))


def cvt(classes: int = len(NAMES), strides: tuple[int, int] = (4, 2)) -> Encoder:
    """A CvT of two stages."""
    trunk = Cvt(widths=(8, 16), depths=(1, 2), heads=(1, 2), kernels=(7, 3), strides=strides, paddings=(3, 1),
                drop_path=(0.0, 0.0))  # fmt: skip
    return Encoder(stem=Pixels(dim=3), trunk=trunk, head=Classes(dim=16, classes=classes))


def resnet(classes: int = len(NAMES)) -> Encoder:
    """A ResNet of two blocks."""
    entry = Entry(width=8, size=3, stride=2, pool="none")
    trunk = ResNet(dim=3, entry=entry, depths=(1, 1), widths=(8, 16))
    return Encoder(stem=Pixels(dim=3), trunk=trunk, head=Classes(dim=16, classes=classes, pool="mean"))


def classifier(spec: Encoder, size: int = 32, names: tuple[str, ...] = NAMES, seed: int = 0) -> Classifier:
    """A classifier with weights large enough that its answers differ."""
    torch.manual_seed(seed)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return Classifier(model, Preprocess(size=size, crop=1.0), names)


def run_folder(path: Path, spec: Encoder, size: int = 32, names: tuple[str, ...] = NAMES, seed: int = 0) -> Path:
    """The same as a run on disk."""
    made = classifier(spec, size, names, seed)
    run = RunFolder.create(path)
    run.write_text("recipe.yaml", to_yaml(Classification(model=spec, image=made.image, augment=Augment())))
    run.write_text("labels.json", json.dumps(list(names)))
    run.save_weights(made.model.state_dict())
    return path


def picture(seed: int = 0, rows: int = 40, cols: int = 48) -> Image.Image:
    """Noise with a bright spot."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 120, (rows, cols, 3), dtype=np.uint8)
    values[8:20, 24:36] = rng.integers(120, 255, 3)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of a file."""
    kept = io.BytesIO()
    image.save(kept, kind)
    return kept.getvalue()


def album(root: Path, names: tuple[str, ...] = NAMES, each: int = 3, start: int = 0) -> Path:
    """Class folders of pictures."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(start + 100 * number + i).save(root / name / f"{i}.png")
    return root
