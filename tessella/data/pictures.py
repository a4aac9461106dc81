"""Pictures: labelled pictures of one split, read from where they are, checked, divided and decoded."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from tessella.data.albums import Listing, Picture, PictureColumns
from tessella.data.layouts import SPLIT_OF, find_albums, numbering
from tessella.data.pixels import Preprocess, Unreadable, decode, fitted, header
from tessella.data.quarantine import Quarantine, shown
from tessella.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

R = TypeVar("R")

LARGE_FILE = 2**14  # bytes; below that a picture takes its time in Python, where threads only wait for each other
AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures by number: ``labels`` (int64) are places in ``classes``, ``index`` (int64) in the listing.

    Nothing is decoded before ``decode``. Choosing some of them copies no picture.
    """

    listing: Listing
    index: np.ndarray
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.index)

    def place(self, number: int) -> tuple[str, int]:
        """(file, row in it from 1) of a picture; row 0 is the file itself."""
        return self.listing.place(int(self.index[number]))

    def name(self, number: int) -> str:
        """How people find a picture: its path, or "train.parquet row 17"."""
        file, row = self.place(number)
        source = self.listing.source[int(self.index[number])] if row else None
        return str(source) if isinstance(source, Path) else f"{file} row {row}" if row else file

    @property
    def names(self) -> list[str]:
        """The name of each."""
        return [self.name(number) for number in range(len(self))]

    @property
    def counts(self) -> np.ndarray:
        """How many pictures each class has."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def read(self, number: int) -> Picture:
        """A picture as it is kept: the bytes of a file, the path of one, or grey values (uint8 r c)."""
        return self.listing.source[int(self.index[number])]

    def check(self, number: int) -> None:
        """Raises Unreadable for a picture without a label of the list, or whose file cannot be one by its header."""
        if self.labels[number] < 0:
            label = self.listing.labels[int(self.index[number])]
            reason = f"label '{label}' is not in the list of classes" if label else "no label"
            raise Unreadable(self.name(number), reason)
        picture = self.read(number)
        if not isinstance(picture, np.ndarray):
            header(picture)

    def decode(self, number: int, channels: int = 3, wanted: tuple[int, int] | None = None) -> Image.Image:
        """A picture, upright, RGB (3) or grey (1); see ``pixels.decode``. Raises InputError that names it."""
        try:
            picture = self.read(number)
            if isinstance(picture, np.ndarray):
                return Image.fromarray(picture).convert("RGB" if channels == 3 else "L")
            return decode(picture, channels, wanted=wanted)
        except Unreadable as error:
            raise Unreadable(self.name(number), error.reason, error.detail) from None

    def take(self, numbers: Sequence[int] | np.ndarray) -> Pictures:
        """Some of them, in that order."""
        chosen = np.asarray(numbers, dtype=np.int64)
        return replace(self, index=self.index[chosen], labels=self.labels[chosen])

    def fingerprint(self) -> str:
        """SHA-256 of classes, labels, and of each picture's bytes, or name and size where it is a file of its own."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for number in range(len(self)):
            picture = self.read(number)
            if isinstance(picture, Path):
                size = picture.stat().st_size if picture.is_file() else -1
                picture = f"{os.path.relpath(picture, Path(self.listing.files[0]))} {size}".encode()
            digest.update(hashlib.sha256(picture).digest())
        return digest.hexdigest()


def splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """What a data set is divided into: some of "train", "validation" and "test"; nothing if it is not divided."""
    return tuple(split for split in find_albums(Path(path)) if split)


def read_pictures(
    path: str | os.PathLike[str],
    split: str | None = "train",
    columns: PictureColumns | None = None,
    classes: Sequence[str] | None = None,
    quarantine: Quarantine | None = None,
) -> Pictures:
    """The pictures of one split (also "val", "dev" …) of a data set, their headers checked and their labels numbered.

    ``path`` is a folder of class folders, perhaps below ``train/`` and ``test/``; a table (Parquet with the files
    inside, or .parquet, .csv, .tsv, .jsonl with paths) or a folder of tables; or IDX files. Data that is not divided
    is the split "train"; None stands for all of it. For the order of the classes see ``layouts.numbering``. What is
    empty, no picture, too large, or without a label of the list goes to ``quarantine``; without one it is an error.
    Raises InputError also where nothing usable is left, and where ``classes`` is not given and there are not two.
    """
    path, columns = Path(path), columns or PictureColumns()
    albums = find_albums(path)
    wanted = split_of(path, split, albums)
    number_of = numbering(path, columns, classes)
    listing = albums[wanted].read(columns, reporter(quarantine))
    labels = np.fromiter(map(number_of, listing.labels), np.int64, len(listing.labels))
    everything = Pictures(listing, np.arange(len(labels)), labels, number_of.classes)
    kept = sifted(everything, everything.check, quarantine)
    if not len(kept):
        reasons = quarantine.reasons() if quarantine else {}
        told = "; ".join(f"{reason}: {count}" for reason, count in list(reasons.items())[:3])
        raise InputError(f"{path} has no usable picture{f' in {wanted}' if wanted else ''} ({told or 'it is empty'})")
    if classes is None and len(kept.classes) < 2:
        raise InputError(
            f"{path} has one class, '{kept.classes[0]}'; telling apart takes two or more folders or labels"
        )
    return kept


def verify(
    pictures: Pictures,
    quarantine: Quarantine | None = None,
    minimum: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Pictures:
    """Decode every picture once; those that can be used, the others go to ``quarantine`` (without one: InputError).

    Pictures of fewer rows or columns than ``minimum`` are set aside too. ``workers`` are threads, by default as many as
    there are processors where files are large.
    """

    def work(number: int) -> None:
        picture = pictures.decode(number)
        if minimum and (picture.height < minimum[0] or picture.width < minimum[1]):
            reason = f"smaller than {minimum[0]}x{minimum[1]} pixels"
            raise Unreadable(pictures.name(number), reason, f"{picture.height}x{picture.width}")

    return sifted(pictures, work, quarantine, workers)


def as_array(pictures: Pictures, preprocess: Preprocess, workers: int | None = None) -> Tensor:
    """All pictures as uint8 ``n v r c``, resized and cut for evaluation. Raises InputError naming one that fails."""
    return loaded(pictures, preprocess, None, workers)[1]


def loaded(
    pictures: Pictures, preprocess: Preprocess, quarantine: Quarantine | None = None, workers: int | None = None
) -> tuple[Pictures, Tensor]:
    """``verify`` and ``as_array`` at once: the usable pictures and their uint8 ``n v r c``, each decoded once."""
    import torch  # those that only list pictures need not wait for it

    rows, cols = preprocess.size
    values = np.empty((len(pictures), preprocess.channels, rows, cols), np.uint8)

    def work(number: int) -> None:
        values[number] = fitted(pictures.decode(number, preprocess.channels), preprocess)

    kept = sifted(pictures, work, quarantine, workers)
    if len(kept) < len(pictures):
        values = values[np.isin(pictures.index, kept.index)]
    return kept, torch.from_numpy(values)


def held_out(pictures: Pictures, share: float, seed: int = 0) -> tuple[Pictures, Pictures]:
    """(training, validation): ``share`` of each class, at least one picture, is kept for validation.

    The same pictures, share and seed give the same division. A class of one picture stays in training, with a warning.
    Raises InputError for a share outside of 0 to 1 and where nothing can be kept.
    """
    if not 0 < share < 1:
        raise InputError(f"the share held out is {share}; it must lie between 0 and 1")
    chosen = np.zeros(len(pictures), bool)
    alone = [name for name, count in zip(pictures.classes, pictures.counts, strict=True) if count == 1]
    for number in np.flatnonzero(pictures.counts > 1):
        members = np.flatnonzero(pictures.labels == number)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[np.random.default_rng([seed, number]).permutation(members)[:count]] = True
    if not chosen.any():
        raise InputError("every class has one picture; nothing can be held out, give a validation split")
    if alone:
        told = f"{', '.join(alone[:5])}{' …' if len(alone) > 5 else ''}"
        warnings.warn(f"one picture only, kept for training and missing in validation: {told}", stacklevel=2)
    return pictures.take(np.flatnonzero(~chosen)), pictures.take(np.flatnonzero(chosen))


def each(pictures: Pictures, work: Callable[[int], R], workers: int | None = None) -> Iterator[R | Unreadable]:
    """``work(0)``, ``work(1)`` … in order, or what Unreadable it raised.

    Threads do the work of large files, which Pillow decodes without Python's lock.
    """

    def attempt(number: int) -> R | Unreadable:
        try:
            return work(number)
        except Unreadable as error:
            return error

    workers = _threads(pictures) if workers is None else workers
    if workers < 2:
        yield from map(attempt, range(len(pictures)))
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(pictures), AT_ONCE):
            yield from pool.map(attempt, range(start, min(start + AT_ONCE, len(pictures))))


def _threads(pictures: Pictures) -> int:
    sizes = [_bytes(pictures, number) for number in range(0, len(pictures), max(1, len(pictures) // 20))]
    return (os.cpu_count() or 1) if sizes and np.median(sizes) >= LARGE_FILE else 1


def _bytes(pictures: Pictures, number: int) -> int:
    try:
        picture = pictures.read(number)
    except Unreadable:
        return 0
    if isinstance(picture, Path):
        return picture.stat().st_size if picture.is_file() else 0
    return len(picture) if isinstance(picture, bytes) else 0


def sifted(
    pictures: Pictures, work: Callable[[int], object], quarantine: Quarantine | None, workers: int | None = None
) -> Pictures:
    """The pictures whose work is done; the others are reported."""
    report = reporter(quarantine)
    kept = []
    for number, outcome in enumerate(each(pictures, work, workers)):
        if isinstance(outcome, Unreadable):
            report(*pictures.place(number), outcome.reason, outcome.detail or pictures.name(number))
        else:
            kept.append(number)
    return pictures if len(kept) == len(pictures) else pictures.take(kept)


def split_of(path: Path, split: str | None, albums: Mapping[str, object]) -> str:
    """The key of a split in what was found."""
    named = SPLIT_OF.get((split or "train").lower())
    if "" in albums and named == "train":
        return ""
    if split is not None and named is not None and named in albums:
        return named
    there = ", ".join(key for key in albums if key) or "no splits"
    raise InputError(f"{path} has {there}{f', not {split!r}' if split else '; say which one'}")


def reporter(quarantine: Quarantine | None) -> Callable[..., None]:
    """What is called with (file, row, reason, sample) for each thing that cannot be used."""

    def refuse(file: str, row: int, reason: str, sample: str | bytes = "") -> None:
        told = f" ({shown(sample)})" if sample else ""
        raise InputError(f"{file}{f' row {row}' if row else ''} is not usable: {reason}{told}")

    return refuse if quarantine is None else quarantine.add
