"""Loading: images a second from pictures to augmented batches, part by part of DeiT's recipe.

    python benchmarks/loading.py [--seconds 3] [--photos FILE] [--out FILE --hardware "2 cores AMD EPYC (Zen 4)"]

First 32x32 pictures in memory, one process: nothing but normalising, each part alone, DeiT's recipe with pad crops, and
beside it kornia's RandAugment, where it is installed (one draw of operations for the whole batch, which is less than
RandAugment is; and a picture at a time, which is what it is). Then JPEG photos: decoded, cropped and resized to 224,
and the rest of the recipe, for each number of workers. Rates in one process are of processor time, so that neighbours
on the machine count little; rates with workers are of the clock, so leave the machine alone.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tessella.data.albums import PictureColumns
from tessella.data.augment import DEIT, Augment
from tessella.data.picture_batches import Held, Opened, PictureData, stream
from tessella.data.pictures import read_pictures
from tessella.data.pixels import Preprocess

SMALL, PHOTO = Preprocess(size=(32, 32)), Preprocess(size=(224, 224))
PARTS = {
    "normalised only": Augment(),
    "pad crop": Augment(crop="pad"),
    "resized crop": Augment(crop="resized"),
    "flip": Augment(flip=0.5),
    "RandAugment": Augment(randaugment=DEIT.randaugment),
    "erasing": Augment(erasing=0.25),
    "mixup": Augment(mixup=0.8),
    "CutMix": Augment(cutmix=1.0),
    "pad crop and flip": Augment(crop="pad", flip=0.5),
    "DeiT's recipe": DEIT.replace(crop="pad"),
}
"""For pictures in memory."""
PHOTO_PARTS = {"resized crop": Augment(crop="resized"), "DeiT's recipe": DEIT}
SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "imagenet-samples" / "samples.parquet"


class Rate(NamedTuple):
    """Images a second of something."""

    name: str
    images: float
    data: str


def rate(work: Callable[[], int], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Images a second of ``work``, which says how many it made; its first call is not counted."""
    work()
    began, images = clock(), 0
    while clock() - began < seconds:
        images += work()
    return images / (clock() - began)


def taking(data: PictureData, size: int, workers: int = 0) -> Callable[[], int]:
    """The next batch of an endless stream, and how many pictures it has."""
    batches = stream(data, size, workers=workers)
    return lambda: len(next(batches)[1]["label"])


def small(size: int, seconds: float) -> list[Rate]:
    """Rates of pictures in memory: noise, which takes as long as anything else."""
    pixels = torch.randint(0, 256, (4096, 3, 32, 32), dtype=torch.uint8)
    source, data = Held(pixels, torch.randint(0, 10, (4096,))), f"noise 32x32 in memory, batches of {size}"
    found = [
        Rate(f"{name}, 32x32", rate(taking(PictureData(source, SMALL, augment), size), seconds), data)
        for name, augment in PARTS.items()
    ]
    return [*found, *kornia(pixels[:size].float() / 255, seconds, data)]


def kornia(images: torch.Tensor, seconds: float, data: str) -> list[Rate]:
    """Rates of kornia's RandAugment on floats; nothing where it is not installed."""
    try:
        from kornia.augmentation.auto import RandAugment
    except ImportError:
        return []
    augment = RandAugment(n=2, m=27)

    def together() -> int:
        augment(images)
        return len(images)

    def one_by_one() -> int:
        for number in range(8):
            augment(images[number : number + 1])
        return 8

    return [
        Rate("kornia's RandAugment, one draw a batch, 32x32", rate(together, seconds), data),
        Rate("kornia's RandAugment, a picture at a time, 32x32", rate(one_by_one, seconds), data),
    ]


def photos(path: Path, size: int, workers: list[int], seconds: float) -> list[Rate]:
    """Rates of JPEG photos, repeated to an epoch of 20 batches or more."""
    pictures = read_pictures(path, columns=PictureColumns(label="name"))
    pictures = pictures.take(np.tile(np.arange(len(pictures)), -(-20 * size // len(pictures))))
    source, data = Opened(pictures, PHOTO), f"{path.parent.name}, repeated, batches of {size}"
    found = []
    for name, augment in PHOTO_PARTS.items():
        for count in workers:
            clock = time.perf_counter if count else time.process_time
            work = taking(PictureData(source, PHOTO, augment), size, count)
            for _ in range(2 * count):  # what workers made while they were not waited for
                work()
            images = rate(work, seconds * (1 + count), clock)
            found.append(Rate(f"{name}, photos to 224, workers: {count}", images, data))
    return found


def records(rates: list[Rate], hardware: str) -> list[dict[str, object]]:
    """The rates as docs/results has them."""
    same = {
        "topic": "vision",
        "unit": "images/s",
        "target": None,
        "met": None,
        "command": "python benchmarks/loading.py",
        "split": "none",
        "signature": "one thread a process; with workers by the clock, else processor time",
        "seeds": [0],
        "hardware": hardware,
        "date": dt.date.today().isoformat(),
    }
    return [{**same, "name": f"loading, {one.name}", "value": round(one.images), "data": one.data} for one in rates]


def main() -> None:
    """Measures, prints and, if asked, writes down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3.0, help="for each rate")
    options.add_argument("--small-batch", type=int, default=128)
    options.add_argument("--photo-batch", type=int, default=64)
    options.add_argument("--photos", type=Path, default=SAMPLES, help="anything that tessella reads pictures from")
    options.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    options.add_argument("--out", type=Path, help="write the results down here")
    options.add_argument("--hardware", default="", help="what they were measured on")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = small(chosen.small_batch, chosen.seconds)
    if chosen.photos.exists():
        found += photos(chosen.photos, chosen.photo_batch, chosen.workers, chosen.seconds)
    else:
        print(f"no photos at {chosen.photos}: give --photos")
    for one in found:
        print(f"{one.name:52}{one.images:10.0f} images/s", flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(records(found, chosen.hardware), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
