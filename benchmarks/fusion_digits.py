"""Audio-visual digits: a damaged written digit and the same digit spoken in noise, each alone and fused in every way.

    python benchmarks/fusion_digits.py data --data ../shared/data --runs runs

The tables, after AV-MNIST (Vielzeuf et al. 2018, https://arxiv.org/abs/1808.07275): MNIST pictures without the leading
principal components that hold 75 % of the energy (fitted on training pictures), to which Gaussian noise is added; and
spoken digits in white noise, pink noise or a babble of other recordings of the same part, at a ratio drawn between the
bounds below. Pictures and recordings of one label are paired by chance; each picture comes once, recordings come
several times, in other noise. No picture, speaker or recording is in two parts: four speakers are in training, one in
validation, one in the test.
"""

from __future__ import annotations

import argparse
import gzip
import io
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ENERGY = 0.75
GRAIN = 10.0
"""Standard deviation of the noise in pictures, in grey levels of 256."""
RATIOS = (0.0, 15.0)
"""Decibels of speech over noise."""
RATE, LONGEST = 8000, 8000
"""Samples a second, and most of a recording."""
SPEAKERS = {"train": ("george", "jackson", "lucas", "nicolas"), "val": ("theo",), "test": ("yweweler",)}
ROWS = {"train": 20_000, "val": 2_000, "test": 4_000}
SEED = 1


def idx(path: Path) -> np.ndarray:
    """An IDX file of bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def pictures(folder: Path, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> images n r c as bytes, and labels n; validation is of the training file's end."""
    train, test = (idx(folder / f"{name}-images-idx3-ubyte.gz") for name in ("train", "t10k"))
    labels, asked = (idx(folder / f"{name}-labels-idx1-ubyte.gz") for name in ("train", "t10k"))
    cut = 50_000
    flat = train[:cut].reshape(cut, -1).astype(np.float32)
    mean = flat.mean(axis=0)
    energy, directions = np.linalg.eigh(np.cov(flat - mean, rowvar=False))
    energy, directions = energy[::-1], directions[:, ::-1]
    leading = int(np.searchsorted(energy.cumsum() / energy.sum(), ENERGY)) + 1
    print(f"{leading} of {len(energy)} components hold {ENERGY:.0%} of the energy and are removed")
    kept = directions[:, :leading].astype(np.float32)

    def damaged(images: np.ndarray) -> np.ndarray:
        """What the other components hold, and noise, around middle grey."""
        rest = images.reshape(len(images), -1) - mean
        rest = rest - rest @ kept @ kept.T + GRAIN * rng.standard_normal(rest.shape, np.float32)
        return np.clip(np.round(128 + rest), 0, 255).astype(np.uint8).reshape(images.shape)

    sources = {"train": (train[:cut], labels[:cut]), "val": (train[cut:], labels[cut:]), "test": (test, asked)}
    found = {}
    for split, (images, digits) in sources.items():
        chosen = rng.permutation(len(images))[: ROWS[split]]
        found[split] = damaged(images[chosen]), digits[chosen]
    return found


def recordings(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """split -> (digit, samples of -1 to 1) of its speakers."""
    rows = [row for name in ("train", "test") for row in pq.read_table(folder / f"{name}.parquet").to_pylist()]
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for split, speakers in SPEAKERS.items():
        found[split] = []
        for row in sorted((row for row in rows if row["speaker"] in speakers), key=lambda row: row["audio"]["path"]):
            with wave.open(io.BytesIO(row["audio"]["bytes"])) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
            found[split].append((row["label"], samples[:LONGEST].astype(np.float32) / 2**15))
    return found


def noise(length: int, others: list[tuple[int, np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """White, pink, or four other recordings at once."""
    kind = rng.integers(3)
    if kind == 2:
        heard = np.zeros(length, np.float32)
        for number in rng.integers(len(others), size=4):
            other = others[number][1]
            heard += np.roll(np.resize(other, length), rng.integers(length)) / max(float(np.abs(other).max()), 1e-3)
        return heard
    white = rng.standard_normal(length).astype(np.float32)
    if kind == 0:
        return white
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.arange(len(spectrum)) + 1.0)
    return np.fft.irfft(spectrum, length).astype(np.float32)


def spoken(samples: np.ndarray, others: list[tuple[int, np.ndarray]], rng: np.random.Generator) -> bytes:
    """A WAV file of a recording in noise."""
    around = noise(len(samples), others, rng)
    ratio = 10 ** (rng.uniform(*RATIOS) / 20)
    mixed = ratio * samples / max(float(samples.std()), 1e-6) + around / max(float(around.std()), 1e-6)
    mixed = np.round(mixed / np.abs(mixed).max() * 0.9 * 2**15).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(RATE)
        sound.writeframes(mixed.tobytes())
    return file.getvalue()


def png(image: np.ndarray) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_tables(data: Path, folder: Path) -> None:
    """The three tables, if they are not there."""
    if all((folder / f"{split}.parquet").is_file() for split in ROWS):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    seen, heard = pictures(data / "mnist", rng), recordings(data / "spoken-digits")
    for split, (images, digits) in seen.items():
        table = pa.Table.from_pylist([*paired(split, images, digits.tolist(), heard[split], rng)])
        pq.write_table(table, folder / f"{split}.parquet", row_group_size=1000)
        print(f"{split}: {table.num_rows:,} rows, {len(heard[split]):,} recordings of {', '.join(SPEAKERS[split])}")


def paired(
    split: str, images: np.ndarray, digits: list[int], speech: list[tuple[int, np.ndarray]], rng: np.random.Generator
) -> Iterator[dict]:
    """A row a picture, with a recording of the same digit."""
    by_digit = [[samples for digit, samples in speech if digit == wanted] for wanted in range(10)]
    for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
        said = by_digit[digit][rng.integers(len(by_digit[digit]))]
        yield {
            "image": {"bytes": png(image), "path": f"{split}-{number}.png"},
            "sound": {"bytes": spoken(said, speech, rng), "path": f"{split}-{number}.wav"},
            "label": digit,
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("data",))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    write_tables(given.data, given.runs / "av-digits")


if __name__ == "__main__":
    main()
