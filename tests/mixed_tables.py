"""Tables of mixed columns for tests: files in memory, and tables of any kind written from Python's values."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from PIL import Image

FILE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def png(colour: tuple[int, int, int] = (200, 30, 30), size: int = 8) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def wav(hertz: float = 440.0, seconds: float = 0.1, rate: int = 8000) -> bytes:
    """A tone."""
    file = io.BytesIO()
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(file, wave.astype(np.float32), rate, format="WAV")
    return file.getvalue()


def gif(frames: int = 3, size: int = 8) -> bytes:
    """A short animation."""
    file = io.BytesIO()
    shades = [Image.new("RGB", (size, size), (60 * number, 0, 0)) for number in range(frames)]
    shades[0].save(file, "GIF", save_all=True, append_images=shades[1:])
    return file.getvalue()


def written(path: Path, columns: dict[str, list[Any] | pyarrow.Array]) -> Path:
    """A .parquet, .csv, .tsv or .jsonl file of these columns."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return path


def files(cells: list[bytes | None]) -> pyarrow.Array:
    """Files inside a table, as the `datasets` library has them."""
    return pyarrow.array([None if cell is None else {"bytes": cell, "path": None} for cell in cells], FILE)


def listings(count: int = 40) -> dict[str, list[Any]]:
    """Flats: numbers, categories, texts and a price band; every fifth has no size."""
    rng = np.random.default_rng(0)
    towns = ["Ulm", "Bonn", "Jena"]
    return {
        "town": [towns[number % 3] for number in range(count)],
        "size": [None if number % 5 == 4 else round(20 + 100 * rng.random(), 1) for number in range(count)],
        "rooms": [1 + number % 4 for number in range(count)],
        "text": [f"A quiet flat number {number} with a view of tree {number * 7 % 40}" for number in range(count)],
        "balcony": [number % 2 == 0 for number in range(count)],
        "band": ["low" if number % 4 < 2 else "high" for number in range(count)],
    }
