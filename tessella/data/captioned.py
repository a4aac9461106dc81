"""Captioned: pictures with what is said of them, one split of a data set, checked and divided."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessella.data.captions import CaptionColumns, told_by_tables
from tessella.data.layouts import find_files
from tessella.data.pictures import Pictures, reporter, sifted, split_of, verify
from tessella.data.quarantine import Quarantine
from tessella.data.shards import told_by_shards
from tessella.errors import InputError

Texts = list[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Captioned:
    """Different pictures, the captions of each (one or more) and, where the data has such, wrong captions (or none).

    A picture that the data has several times, by its path or its content, is here once, with all that is said of it.
    The labels of ``pictures`` are all 0.
    """

    pictures: Pictures
    captions: Texts
    negatives: Texts | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Captioned:
        """Some of them, in that order."""
        negatives = None if self.negatives is None else [self.negatives[n] for n in numbers]
        return Captioned(self.pictures.take(numbers), [self.captions[n] for n in numbers], negatives)

    def held_out(self, share: float, seed: int = 0) -> tuple[Captioned, Captioned]:
        """(training, validation): ``share`` of the pictures, at least one, is kept for validation with its captions.

        The same pictures, share and seed give the same division. Raises InputError for a share outside of 0 to 1 and
        for fewer than two pictures.
        """
        if not 0 < share < 1:
            raise InputError(f"the share held out is {share}; it must lie between 0 and 1")
        if len(self) < 2:
            raise InputError("there is one picture; nothing can be held out, give a validation split")
        count = min(max(round(share * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def verified(
        self,
        quarantine: Quarantine | None = None,
        minimum: tuple[int, int] | None = None,
        workers: int | None = None,
    ) -> Captioned:
        """Those whose picture can be decoded and is not smaller than ``minimum`` (rows, columns); see ``verify``."""
        return self.among(verify(self.pictures, quarantine, minimum, workers))

    def among(self, pictures: Pictures) -> Captioned:
        """Those whose pictures are among some of them, as ``pictures.loaded`` leaves them."""
        return self.take(np.flatnonzero(np.isin(self.pictures.index, pictures.index)))

    def fingerprint(self) -> str:
        """SHA-256 of the pictures (see ``Pictures.fingerprint``) and of all that is said of them."""
        digest = hashlib.sha256(self.pictures.fingerprint().encode())
        digest.update(json.dumps([self.captions, self.negatives]).encode())
        return digest.hexdigest()


def captioned_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """What a data set is divided into: some of "train", "validation" and "test"; nothing if it is not divided."""
    return tuple(split for split in find_files(Path(path)) if split)


def read_captioned(
    path: str | os.PathLike[str],
    split: str | None = "train",
    columns: CaptionColumns | None = None,
    quarantine: Quarantine | None = None,
) -> Captioned:
    """The pictures of one split (also "val", "dev" …) of a data set, with their captions, both checked.

    ``path`` is a table (Parquet with the files inside, or .parquet, .csv, .tsv, .jsonl with paths from its folder), a
    tar shard (webdataset: 17.jpg beside 17.txt or 17.json), or a folder of them, perhaps divided by name (train.csv,
    train-000003.tar) or into folders. Data that is not divided is the split "train"; None stands for all of it. A
    caption that is missing, empty or not UTF-8, and a picture that is none by its header or has no caption left, goes
    to ``quarantine``; without one it is an error. Raises InputError also where nothing usable is left.
    """
    kept = _checked(listed(path, split, columns, quarantine), quarantine)
    if not len(kept):
        reasons = quarantine.reasons() if quarantine else {}
        why = "; ".join(f"{reason}: {count}" for reason, count in list(reasons.items())[:3])
        raise InputError(f"{path} has no usable picture with a caption ({why or 'it is empty'})")
    return kept


def listed(
    path: str | os.PathLike[str],
    split: str | None = "train",
    columns: CaptionColumns | None = None,
    quarantine: Quarantine | None = None,
) -> Captioned:
    """The same, with no look at any picture yet: those that have a usable caption, however often each is there."""
    path, columns = Path(path), columns or CaptionColumns()
    files = find_files(path)
    wanted = split_of(path, split, files)
    read = told_by_shards if files[wanted][0].suffix == ".tar" else told_by_tables
    told = read(files[wanted], columns, reporter(quarantine))
    negatives = [tuple(texts) for texts in told.negatives] if columns.negative is not None else None
    numbers = np.arange(len(told.captions))
    everything = Captioned(
        Pictures(told.listing, numbers, np.zeros(len(numbers), np.int64), ["picture"]),
        [tuple(texts) for texts in told.captions],
        negatives,
    )
    return everything.take([number for number, texts in enumerate(everything.captions) if texts])


def _checked(found: Captioned, quarantine: Quarantine | None) -> Captioned:
    """What may be pictures by their headers; those of the same content are one, with all that is said of them."""
    pictures = found.pictures
    keys: dict[int, Hashable] = {}

    def work(number: int) -> None:
        pictures.check(number)
        picture = pictures.read(number)
        keys[number] = picture.stat().st_size if isinstance(picture, Path) else hashlib.sha256(picture).digest()

    kept = found.among(sifted(pictures, work, quarantine))
    often = Counter(keys.values())
    members: dict[Hashable, list[int]] = {}
    for place, number in enumerate(sorted(keys)):
        key, picture = keys[number], pictures.read(number) if isinstance(keys[number], int) else None
        if isinstance(picture, Path) and often[key] > 1:  # files are read through only where two have the same size
            with picture.open("rb") as file:
                key = hashlib.file_digest(file, "sha256").digest()
        members.setdefault(key, []).append(place)
    if len(members) == len(kept):
        return kept

    def together(texts: Texts) -> Texts:
        return [tuple(text for place in group for text in texts[place]) for group in members.values()]

    first = kept.pictures.take([group[0] for group in members.values()])
    return Captioned(first, together(kept.captions), None if kept.negatives is None else together(kept.negatives))
