"""Tiny rows of mixed columns: a picture, a sentence, numbers and a category, of which each tells a part."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tessella.data.pixels import Preprocess
from tessella.fusing import train
from tessella.loop import LoopSpec
from tessella.optimizers import AdamW
from tessella.recipes.design import Design
from tessella.recipes.fusing import Fusion, MixedRows
from tessella.schedules import Cosine
from tessella.text import CodecSpec

WORDS = {
    "cheap": ("old and worn", "a little broken", "small and plain"),
    "dear": ("brand new", "gold and silver", "very rare"),
}


def picture(dear: bool, seed: int) -> bytes:
    """Dark where it is cheap, bright where it is dear, with noise."""
    grey = np.random.default_rng(seed).normal(190 if dear else 60, 20, (8, 8))
    out = io.BytesIO()
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def photo(dear: bool, seed: int) -> dict:
    """A cell of a column of pictures."""
    return {"bytes": picture(dear, seed), "path": f"{seed}.png"}


def rows(count: int = 120, seed: int = 0) -> dict[str, list]:
    """Columns of so many rows; every seventh has no picture, every fifth no text."""
    rng = np.random.default_rng(seed)
    dear = rng.random(count) < 0.5
    size = rng.normal(10, 3, count) + 4 * dear
    place = np.where(rng.random(count) < 0.8, np.where(dear, "north", "south"), "west")
    text = [str(rng.choice(WORDS["dear" if d else "cheap"])) for d in dear]
    return {
        "photo": [None if i % 7 == 3 else photo(d, seed + i) for i, d in enumerate(dear)],
        "about": [None if i % 5 == 2 else f"{t}, number {i}" for i, t in enumerate(text)],
        "size": [float(s) for s in size],
        "place": [str(p) for p in place],
        "price": [float(p) for p in 100 + 50 * dear + rng.normal(0, 5, count)],
        "tags": [["good", "big"] if d and s > 13 else ["good"] if d else [] for d, s in zip(dear, size, strict=True)],
        "band": ["dear" if d else "cheap" for d in dear],
    }  # fmt: skip


def table(path: Path, count: int = 120, seed: int = 0, **columns: list) -> Path:
    """The same as a Parquet file; columns of None are left out."""
    made = {**rows(count, seed), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values for name, values in made.items() if values is not None}), path)
    return path


def recipe(label: str = "band", steps: int = 40, **changes) -> Fusion:
    """Some quick steps."""
    others = {"band", "price", "tags"} - set(label.split(","))
    made = Fusion(
        data=MixedRows(label=label, held_out=0.25, kinds=dict.fromkeys(sorted(others), "ignore")),
        image=Preprocess(size=8, channels=1, crop=1.0),
        codec=CodecSpec(size=400),
        length=16,
        design=Design(dim=16, depth=2, heads=2, hidden=32, dropout=0.0, patch=4, drop=0.1),
        optimizer=AdamW(beta2=0.99),
        schedule=Cosine(peak=1e-2, warmup=4),
        loop=LoopSpec(steps=steps, metric="accuracy", validate_every=20, checkpoint_every=20, log_every=10),
        batch=24,
    )
    return made.replace(**changes)


@functools.cache
def data(base: Path) -> Path:
    """The table that all tests of a process share; base: its folder."""
    return table(base / "tiny rows" / "rows.parquet")


@functools.cache
def trained(base: Path) -> Path:
    """The run that all tests of a process share."""
    train(recipe(), data(base), base / "tiny fusion", say=lambda line: None)
    return base / "tiny fusion"
