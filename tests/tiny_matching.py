"""Tiny pictures of coloured shapes with captions, and towers that learn them in seconds."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from tessella.data.augment import Augment
from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess
from tessella.heads import Embed
from tessella.loop import LoopSpec
from tessella.matcher import Matcher
from tessella.matching import train
from tessella.models import Encoder, Towers
from tessella.optimizers import AdamW
from tessella.positions import Learned
from tessella.recipes.matching import CaptionedImages, Matching, with_text
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.stems.patches import Patches
from tessella.stems.words import Words
from tessella.text import Codec, CodecSpec, train_codec
from tessella.trunks.plain import Causal, Plain

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 230), "yellow": (230, 220, 40)}
SHAPES = ("disc", "frame", "bar")
SIDES = ("left", "right")
GROUNDS = {"light": 225, "dark": 25}
SCENES = tuple(itertools.product(COLOURS, SHAPES, SIDES, GROUNDS))
SIDE, WIDTH, LENGTH = 16, 16, 12


def picture(scene: tuple[str, str, str, str], seed: int = 0) -> Image.Image:
    """A shape of a colour at a side of a ground; where exactly, and the noise, come from the seed."""
    colour, shape, side, ground = scene
    rng = np.random.default_rng(seed)
    noise = rng.normal(GROUNDS[ground], 8, (SIDE, SIDE, 3))
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    left, top = (0 if side == "left" else 8) + int(rng.integers(0, 2)), 4 + int(rng.integers(0, 3))
    box, draw = (left, top, left + 6, top + 6), ImageDraw.Draw(image)
    if shape == "disc":
        draw.ellipse(box, fill=COLOURS[colour])
    elif shape == "frame":
        draw.rectangle(box, outline=COLOURS[colour], width=2)
    else:
        draw.rectangle((left + 2, 1, left + 4, 14), fill=COLOURS[colour])
    return image


def captions(scene: tuple[str, str, str, str]) -> list[str]:
    """Two ways to say all of it."""
    colour, shape, side, ground = scene
    return [f"a {colour} {shape} at the {side}, {ground}", f"{ground}: {side}, a {shape} in {colour}"]


def table(folder: Path, each: int = 2, name: str = "pairs.jsonl", first: int = 0) -> Path:
    """Every scene so many times, with its captions, as a table beside the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, scene in enumerate(SCENES * each, first):
        file = f"{number}.png"
        picture(scene, number).save(folder / file)
        rows.append({"image": file, "caption": captions(scene)})
    return lines(folder / name, rows)


def lines(path: Path, rows: list[dict]) -> Path:
    """A .jsonl table."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def album(root: Path, each: int = 3, names: tuple[str, ...] = tuple(COLOURS), first: int = 5000) -> Path:
    """Folders of pictures by colour."""
    for name in names:
        (root / name).mkdir(parents=True)
        scenes = [scene for scene in SCENES if scene[0] == name]
        for number in range(each):
            picture(scenes[number % len(scenes)], first + number).save(root / name / f"{number}.png")
    return root


def vit(depth: int = 1, width: int = WIDTH) -> Encoder:
    """An image tower."""
    trunk = Plain(dim=32, depth=depth, heads=2, hidden=64, dropout=0.0, norm="pre", activation="gelu")
    return Encoder(stem=Patches(dim=32, patch=4, size=(SIDE, SIDE)), trunk=trunk, head=Embed(dim=32, width=width))


def towers(dropout: float = 0.0, length: int = LENGTH) -> Towers:
    """A ViT and a causal Transformer, nothing in them looking at a whole batch."""
    words = Words(vocab=300, dim=32, positions=Learned(length=length), scale=1.0, dropout=dropout)
    trunk = Causal(dim=32, depth=1, heads=2, hidden=64, dropout=dropout, norm="pre", activation="gelu")
    text = Encoder(stem=words, trunk=trunk, head=Embed(dim=32, width=WIDTH, pool="last"))
    return Towers(image=vit(), text=text)


def recipe(**changes) -> Matching:
    """A hundred and twenty quick steps."""
    made = Matching(
        image=Preprocess(size=SIDE, crop=1.0),
        augment=Augment(crop="pad", padding=1),
        data=CaptionedImages(held_out=0.25),
        codec=CodecSpec(size=400),
        length=LENGTH,
        model=towers(),
        optimizer=AdamW(beta2=0.99),
        schedule=Cosine(peak=5e-3, warmup=5),
        loop=LoopSpec(steps=120, metric="recall@5", validate_every=60, checkpoint_every=60, log_every=20),
        batch=24,
    )
    return made.replace(**changes)


def brief(steps: int = 3, **changes) -> LoopSpec:
    """A training that is over at once."""
    return LoopSpec(
        steps=steps, metric="recall@5", validate_every=steps, checkpoint_every=steps, log_every=1, **changes
    )


@functools.cache
def pairs(base: Path) -> Path:
    """The captioned pictures that all tests of a process share; base: its folder."""
    return table(base / "tiny pairs")


@functools.cache
def trained(base: Path) -> Path:
    """The run that all tests of a process share."""
    train(recipe(), pairs(base), base / "tiny match", say=lambda line: None)
    return base / "tiny match"


@functools.cache
def codec() -> Codec:
    """Learned from the captions."""
    texts = [text for scene in SCENES for text in captions(scene)]
    return train_codec(CodecSpec(size=400), texts, texts)


def matcher(seed: int = 0, length: int = LENGTH) -> Matcher:
    """Towers that have learned nothing."""
    torch.manual_seed(seed)
    tokenizer = codec().source
    model = with_text(towers(), tokenizer.size, tokenizer.pad).build()
    return Matcher(model, Preprocess(size=SIDE, crop=1.0), Reading(tokenizer, length))


def run_folder(path: Path, seed: int = 0) -> Path:
    """The same as a run on disk."""
    made, run = matcher(seed), RunFolder.create(path)
    tokenizer = made.text.tokenizer
    run.write_text("recipe.yaml", to_yaml(recipe(model=with_text(towers(), tokenizer.size, tokenizer.pad))))
    run.write("codec.json", codec().save)
    run.save_weights(made.model.state_dict())
    return path
