"""Audio-visual digits: a damaged written digit and the same digit spoken in noise, each alone and fused in every way.

    python benchmarks/fusion_digits.py --data ../shared/data --runs runs [--seeds 1 2 3] [--dropped 1 2 3]

Runs that are there already are not trained again. It writes docs/results/fusion-digits.json.

All models have four blocks of the same width, divided as the scheme wants; so they have as many parameters, but for the
stem of the other stream, which one stream alone does not need. The best of the validations after each epoch is kept;
the test is read once, at the end. Trained is three epochs without modality dropout and five with it, which leaves a
stream alone in some of the rows only; at the test each stream is taken away from everybody once, and what is left is
compared with the model of that stream alone, of three epochs. Time is the processor's, from the first step to the last,
validations included, beside other work.

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
import statistics
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fused import Course, Trained, Writer, hardware, mean, right  # noqa: E402

from tessella.data.pixels import Preprocess  # noqa: E402
from tessella.data.sound_augment import SoundAugment  # noqa: E402
from tessella.data.sounds import Hearing  # noqa: E402
from tessella.heads import Classes  # noqa: E402
from tessella.loop import LoopSpec  # noqa: E402
from tessella.models import Encoder  # noqa: E402
from tessella.objectives import Classify  # noqa: E402
from tessella.predict import opened  # noqa: E402
from tessella.recipes.design import Design  # noqa: E402
from tessella.recipes.fusing import Fusion, MixedRows, fuse  # noqa: E402
from tessella.schedules import Cosine  # noqa: E402
from tessella.stems.patches import Pixels  # noqa: E402
from tessella.trunks.convnet import Entry, ResNet  # noqa: E402
from tessella.zoo.counts import multiply_adds_of, parameters  # noqa: E402

ENERGY = 0.75
GRAIN = 56.0
"""Standard deviation of the noise in pictures, in grey levels of 256."""
RATIOS = (0.0, 15.0)
"""Decibels of speech over noise."""
RATE, LONGEST = 8000, 8000
"""Samples a second, and most of a recording."""
SPEAKERS = {"train": ("george", "jackson", "lucas", "nicolas"), "val": ("theo",), "test": ("yweweler",)}
ROWS = {"train": 16_000, "val": 2_000, "test": 4_000}
SEED = 1
STREAMS = ("image", "sound")
WIDTH, BLOCKS = 64, 4
PLAIN = "early-concat"
DIVISIONS: dict[str, tuple[int | None, int]] = {
    "early-sum": (None, 4),
    "early-concat": (None, 4),
    "many-to-one": (1, 2),
    "one-to-many": (1, 2),
    "cross": (2, 0),
    "cross-to-concat": (1, 2),
    "bottleneck": (1, 1),
}
"""Blocks of each stream's own, and of all streams together (in the bottleneck: of each stream, where they meet)."""
EYE = Encoder(
    stem=Pixels(dim=1),
    trunk=ResNet(
        dim=1, entry=Entry(width=16, size=3, stride=2, pool="none"), depths=(1, 1), widths=(32, WIDTH), first=2
    ),
    head=Classes(dim=WIDTH, classes=0, pool="mean"),
)
"""Makes 16 tokens of a picture; it learns sooner than patches do."""
DROP = 0.5
"""Modality dropout."""
EPOCHS = {False: 3, True: 5}
"""Without and with modality dropout, which leaves a stream alone in some of the rows only."""
GAIN, LOST = 3.0, 2.0
"""Points that fusion shall gain, and may lose to one stream alone when it has no more than that one."""
USUAL = 43
"""Moments of the median recording."""


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


def recipe(name: str, seed: int, drop: float) -> Fusion:
    """How a scheme, or one stream alone (by its name), is trained."""
    alone = name in STREAMS
    own, joint = (None, BLOCKS) if alone else DIVISIONS[name]
    base = fuse()
    return base.replace(
        data=MixedRows(label="label", kinds={other: "ignore" for other in STREAMS if alone and other != name}),
        image=Preprocess(size=(28, 28), channels=1, mean=(0.5,), std=(0.12,), crop=1.0),
        sound=Hearing(rate=RATE, seconds=LONGEST / RATE, mels=32),
        sound_augment=SoundAugment(pitch=0.15, mel_masks=1, mel_width=6),
        design=Design(
            scheme="early-concat" if alone else name,
            dim=WIDTH,
            own=own,
            joint=joint,
            heads=4,
            hidden=2 * WIDTH,
            given={"image": EYE} if name != "sound" else {},
            sound_patch=(8, 32),
            drop=drop,
        ),
        objective=Classify(smoothing=0.1),
        schedule=Cosine(peak=2e-3, warmup=100, final=1e-5),
        loop=LoopSpec(
            epochs=EPOCHS[drop > 0], metric="accuracy", precision="32", seed=seed, checkpoint_minutes=None, keep=1
        ),
    )


def trained(course: Course, folder: Path, name: str, seed: int, drop: float) -> Trained:
    """A run of a model."""
    kind = "dropped" if drop else "plain"
    return course.train(recipe(name, seed, drop), folder / f"{name}-{kind}-{seed}")


def measured(course: Course, folder: Path, every: dict[tuple[str, float], list[int]], write: Writer) -> None:
    """What is told of all runs: of each name and modality dropout, those of its seeds."""
    alone: dict[str, list[float]] = {}
    took: dict[str, list[float]] = {}
    counts: dict[str, tuple[int, int]] = {}
    together: dict[tuple[str, float], list[float]] = {}
    without: dict[tuple[str, float, str], list[float]] = {}
    for (name, drop), seed in ((key, seed) for key, seeds in every.items() for seed in seeds):
        run = trained(course, folder, name, seed, drop)
        counts[name] = sizes(run.path)
        if not drop:
            took.setdefault(name, []).append(run.seconds)
        accuracy = right(*course.answers(run.path))
        if name in STREAMS:
            alone.setdefault(name, []).append(accuracy)
            continue
        together.setdefault((name, drop), []).append(accuracy)
        for stream in STREAMS:
            without.setdefault((name, drop, stream), []).append(right(*course.answers(run.path, [stream])))
    for name, values in alone.items():
        write.add(f"digits, {name} alone: accuracy", mean(values), "%")
    best = max(statistics.fmean(values) for values in alone.values())
    for (name, drop), values in together.items():
        gained = statistics.fmean(values) - best
        goal = (f">= {best:.2f} + {GAIN:g}", gained >= GAIN) if not drop else (None, None)
        kind = f", modality dropout {drop:g}" if drop else ""
        write.add(f"digits, {name}{kind}: accuracy", mean(values), "%", *goal)
    for name, (learned, work) in counts.items():
        write.add(f"digits, {name}: parameters", learned, "")
        write.add(f"digits, {name}: multiply-adds a row", round(work / 1e6, 3), "M")
        write.add(f"digits, {name}: training", round(statistics.median(took[name]), 1), "s")
        ratio = statistics.median(took[name]) / statistics.median(took[PLAIN])
        write.add(f"digits, {name}: training time over {PLAIN}", round(ratio, 2), "x")
    for (name, drop, stream), values in without.items():
        other = next(each for each in STREAMS if each != stream)
        lost = statistics.fmean(alone[other]) - statistics.fmean(values)
        goal = (f"<= {LOST:g}", lost <= LOST) if drop else (None, None)
        kind = f"modality dropout {drop:g}" if drop else "no modality dropout"
        write.add(f"digits, {name}, {kind}, without the {stream}: accuracy", mean(values), "%")
        write.add(
            f"digits, {name}, {kind}, without the {stream}: lost to {other} alone", round(lost, 2), "points", *goal
        )


def sizes(run: Path) -> tuple[int, int]:
    """Parameters, and multiply-adds of a row with a sound of the usual length."""
    made = opened(run)[1]
    assert isinstance(made, Fusion) and made.model is not None and made.columns is not None
    rows = {"image": torch.zeros(1, 1, 28, 28), "sound": torch.zeros(1, USUAL, made.sound.mels)}
    given = {stream: rows[stream] for stream in made.columns.streams}
    return parameters(made.model), multiply_adds_of(made.model.build(), given)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dropped", type=int, nargs="*", help="seeds with modality dropout, if not all")
    parser.add_argument("--only", choices=("data", "train"), help="stop after this step")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fusion-digits.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables, folder = given.runs / "av-digits", given.runs / "digits"
    write_tables(given.data, tables)
    if given.only == "data":
        return
    course = Course(tables)
    every = {(name, 0.0): given.seeds for name in (*STREAMS, *DIVISIONS)}
    every |= {(name, DROP): given.dropped or given.seeds for name in DIVISIONS}
    for seed in given.seeds:
        for name, drop in (key for key, seeds in every.items() if seed in seeds):
            run = trained(course, folder, name, seed, drop)
            print(f"{run.path}: {run.seconds:.0f} s", flush=True)
    if given.only == "train":
        return
    rows = f"test, {ROWS['test']:,} rows"
    write = Writer("python benchmarks/fusion_digits.py", "mnist, spoken-digits", rows, hardware(), given.seeds)
    measured(course, folder, every, write)
    write.save(given.out)


if __name__ == "__main__":
    main()
