"""Albums: one split of labelled pictures, listed: what an album tells, and those in class folders and IDX files."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tessella.data.blobs import Blobs
from tessella.errors import InputError
from tessella.spec import Spec, spec

JUNK = {".ds_store", "thumbs.db", "desktop.ini", ".gitkeep", ".gitignore", ".git", "__macosx", "@eadir"}
JUNK |= {".ipynb_checkpoints"}
BESIDE = re.compile(r"(classes|labels)\.(txt|json)|(readme|licen[cs]e|citation)(\..*)?", re.IGNORECASE)
IDX_LARGEST = 2**33

Picture = bytes | Path | np.ndarray
Report = Callable[[str, int, str], None]
"""Says of one thing that it is set aside: file, row (0 for the file itself), reason."""


@spec("picture-columns")
class PictureColumns(Spec):
    """The columns of a table that hold a picture (its bytes, or its path from the table's folder) and its label."""

    image: str = "image"
    label: str = "label"


class Paths(Sequence[Path]):
    """Picture files by number, kept as text."""

    def __init__(self, root: Path, names: list[str]):
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        return self.root / self.names[index]


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """Everything in one split: the pictures, each one's label as it is written ("" for none), and where it stands.

    ``rows`` counts from 1 in the table ``files[file]``; it is 0 where the picture is a file of its own in a folder, or
    in an archive, where ``names`` has what each is called.
    """

    source: Sequence[Path] | Sequence[bytes] | Blobs | np.ndarray
    labels: list[str]
    files: list[str]
    file: np.ndarray
    rows: np.ndarray
    names: Sequence[str] | None = None

    def place(self, index: int) -> tuple[str, int]:
        """(file, row from 1) of a picture; row 0 is the file itself."""
        if self.rows[index]:
            return self.files[self.file[index]], int(self.rows[index])
        return str(self.source[index]) if self.names is None else self.names[index], 0


class Album(Protocol):
    """One split of a data set in some format."""

    def found(self, columns: PictureColumns) -> list[str]:
        """Every label that occurs, once, as written."""
        ...

    def read(self, columns: PictureColumns, report: Report) -> Listing:
        """List the pictures; what is no picture with a place in the listing is reported."""
        ...

    def named(self, columns: PictureColumns) -> list[str] | None:
        """The names of classes 0, 1, 2 … where the data itself tells them."""
        ...


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """``root/cat/1.jpg``: the first folder is the label; folders inside it are read as well."""

    root: Path

    def found(self, columns: PictureColumns) -> list[str]:
        """The folders with anything in them."""
        return [
            f.name for f in class_folders(self.root) if any(entry.name.lower() not in JUNK for entry in f.iterdir())
        ]

    def named(self, columns: PictureColumns) -> list[str] | None:
        """Folders tell their own names."""
        return None

    def read(self, columns: PictureColumns, report: Report) -> Listing:
        """Every file in every class folder, whatever its ending: what is no picture will say so itself."""
        names: list[str] = []
        labels: list[str] = []
        folders = class_folders(self.root)
        for entry in sorted(self.root.iterdir()):
            name = entry.name
            if entry not in folders and not (name.lower() in JUNK or name.startswith("._") or BESIDE.fullmatch(name)):
                looped = "link to a folder that holds it" if entry.is_dir() else "in no class folder"
                report(str(entry), 0, "hidden" if name.startswith(".") else looped)
        for folder in folders:
            files = list(_below(folder, set(), report))
            if not files:
                report(str(folder), 0, "empty class folder")
            names += [os.path.relpath(file, self.root) for file in files]
            labels += [folder.name] * len(files)
        nowhere = np.zeros(len(names), np.int64)
        return Listing(Paths(self.root, names), labels, [str(self.root)], nowhere, nowhere)


@dataclass(frozen=True, slots=True)
class Idx:
    """MNIST's format: one file of uint8 pictures and one of labels, plain or gzip'd (yann.lecun.com/exdb/mnist)."""

    images: Path
    labels: Path

    def found(self, columns: PictureColumns) -> list[str]:
        """The numbers that occur."""
        return [str(label) for label in np.unique(_idx(self.labels, 1))]

    def named(self, columns: PictureColumns) -> list[str] | None:
        """The format has no place for names."""
        return None

    def read(self, columns: PictureColumns, report: Report) -> Listing:
        """All pictures as one array N r c. Raises InputError where the files are broken or do not belong together."""
        images, labels = _idx(self.images, 3), _idx(self.labels, 1)
        if len(images) != len(labels):
            raise InputError(f"{self.images} has {len(images)} pictures, but {self.labels} has {len(labels)} labels")
        rows = np.arange(1, len(images) + 1)
        return Listing(images, list(map(str, labels)), [str(self.images)], np.zeros(len(images), np.int64), rows)


def class_folders(root: Path) -> list[Path]:
    """The folders of a folder in natural order; not hidden ones, what programs leave behind, or links to above."""
    names = [f for f in root.iterdir() if not f.name.startswith(".") and f.name.lower() not in JUNK]
    above = root.resolve()
    folders = [f for f in names if f.is_dir() and not (f.is_symlink() and above.is_relative_to(f.resolve()))]
    return sorted(folders, key=lambda f: natural(f.name))


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: numbers inside names by value, letters of both cases alike ("class2" before "Class10")."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def _below(folder: Path, seen: set[tuple[int, int]], report: Report) -> Iterator[str]:
    """Files of a folder and of those in it, sorted; each folder once, however symbolic links lead there."""
    here = folder.stat()
    if (here.st_dev, here.st_ino) in seen:
        report(str(folder), 0, "folder met before (symbolic link)")
        return
    seen.add((here.st_dev, here.st_ino))
    try:
        entries = sorted(folder.iterdir(), key=lambda e: natural(e.name))
    except OSError:
        report(str(folder), 0, "folder cannot be opened")
        return
    for entry in entries:
        if entry.name.lower() in JUNK or entry.name.startswith("._"):
            continue
        if entry.name.startswith("."):
            report(str(entry), 0, "hidden")
        elif entry.is_dir():
            yield from _below(entry, seen, report)
        else:
            yield str(entry)


def _idx(path: Path, dims: int) -> np.ndarray:
    """uint8 of ``dims`` axes: magic 0x08 and their number, sizes as big-endian int32, values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = struct.unpack(f">{1 + dims}i", file.read(4 + 4 * dims))
            if magic != 0x0800 + dims or min(shape) < 0 or math.prod(shape) > IDX_LARGEST:
                raise InputError(f"{path} is no IDX file of uint8 with {dims} axes")
            values = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path} is not readable as IDX: {error}") from None
    if len(values) != math.prod(shape):
        raise InputError(
            f"{path} says {math.prod(shape)} values and holds {'more' if len(values) > math.prod(shape) else 'fewer'}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
