"""Layouts: the splits of a data set of pictures, found by the names of its folders and files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tessella.data.albums import Album, ClassFolders, Idx, PictureColumns, class_folders, natural
from tessella.data.sheets import SUFFIXES, Tables
from tessella.errors import InputError, did_you_mean

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "t10k"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
WORDS = "|".join(SPLIT_OF)
TABLE = re.compile(rf"({WORDS})([-_.][0-9].*)?", re.IGNORECASE)  # train, train-00000-of-00002
SHARD = re.compile(rf"(?:.*[-_.])?({WORDS})([-_.][0-9].*)?", re.IGNORECASE)  # train-000012, coco-val-00003
IDX_IMAGES = re.compile(rf"(.*-)?({WORDS})-images([-.])idx3-ubyte(\.gz)?", re.IGNORECASE)
EXPECTED = (
    "expected folders named by class (cat/1.jpg), the same below train/ and test/, "
    "tables (train.parquet, .csv, .jsonl) or IDX files (train-images-idx3-ubyte.gz)"
)


def find_albums(path: Path) -> dict[str, Album]:
    """The splits of a folder or file by name: train, validation, test; or one, named "", where nothing is split.

    Raises InputError where nothing of a known layout is found, or two that exclude each other.
    """
    if path.is_file():
        return {"": _of_file(path)}
    _must_exist(path)
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    folders = class_folders(path)
    by_name = {f.name.lower(): f for f in folders}
    tables = [f for f in files if f.suffix in SUFFIXES]
    found = _by_split([(f, m[1]) for f in tables if (m := TABLE.fullmatch(f.stem))])
    if found:
        return {split: _tables(paths) for split, paths in found.items()}
    found = _by_split([(f, m[2]) for f in files if (m := IDX_IMAGES.fullmatch(f.name))])
    if found:
        return {split: _of_file(_only(paths)) for split, paths in found.items()}
    found = _by_split([(f, word) for word, f in by_name.items() if word in SPLIT_OF and class_folders(f)])
    if found:
        return {split: ClassFolders(_only(paths)) for split, paths in found.items()}
    if len(tables) == 1 and len(folders) < 2:
        return {"": _tables(tables)}
    if not tables and list(by_name) == ["data"] and any(TABLE.fullmatch(f.stem) for f in by_name["data"].glob("*.*")):
        return find_albums(by_name["data"])
    if not folders:
        raise InputError(f"{path} holds no labelled pictures; {EXPECTED}")
    return {"": ClassFolders(path)}


def find_files(path: Path, endings: Sequence[str] = (".tar", *SUFFIXES)) -> dict[str, list[Path]]:
    """The splits of a folder of tables or of tar shards, or of one such file: train, validation, test, or "".

    Where there are both, the shards count, for tables beside them are about them. Raises InputError for neither.
    """
    if path.is_file() and path.suffix in endings:
        return {"": [path]}
    if path.is_dir():
        files = sorted((entry for entry in path.iterdir() if entry.suffix in endings), key=lambda f: natural(f.name))
        shards = [file for file in files if file.suffix == ".tar"]
        pattern = SHARD if shards else TABLE
        found = _by_split([(f, m[1]) for f in shards or files if (m := pattern.fullmatch(f.stem))])
        if found or shards or len(files) == 1:
            return {split: _alike(paths) for split, paths in (found or {"": shards or files}).items()}
        below = {f: SPLIT_OF.get(f.name.lower(), f.name) for f in class_folders(path)}
        inside = {split: paths for f, split in below.items() if split in SPLITS and (paths := _directly(f, endings))}
        if inside:
            return {split: _alike(inside[split]) for split in SPLITS if split in inside}
        if len(below) == 1 and "data" in below.values():
            return find_files(next(iter(below)), endings)
    _must_exist(path)
    raise InputError(f"{path} is no table or tar of pictures, and no folder of them (train.parquet, train-000000.tar)")


def best_split(there: Collection[str]) -> str | None:
    """The split to evaluate on where nobody says which: test, validation or train, whichever is there first."""
    return next((split for split in reversed(SPLITS) if split in there), None)


def listed_names(path: Path) -> list[str] | None:
    """Names of classes 0, 1, 2 … from classes.txt, labels.txt (one a line) or .json (a list, or {"0": "cat"}) there."""
    folder = path if path.is_dir() else path.parent
    for file in (folder / f"{stem}{suffix}" for stem in ("classes", "labels") for suffix in (".txt", ".json")):
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
            names = text.splitlines() if file.suffix == ".txt" else json.loads(text)
            if isinstance(names, dict):
                names = [names[str(number)] for number in range(len(names))]
        except (ValueError, KeyError, RecursionError) as error:
            raise InputError(f"{file} names no classes: {type(error).__name__} {error}") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{file} must be a list of class names")
        return _once([name.strip() for name in names if name.strip()], file)
    return None


class Numbering:
    """The number of a class by its label as written: its name, or its place in the list; -1 where it has none."""

    def __init__(self, classes: list[str], names: list[str] | None):
        self.classes = classes
        self.numbers = {name: number for number, name in enumerate(classes)}
        if names is None and not any(map(_whole, classes)):
            names = classes
        self.by_place = {str(place): self.numbers.get(name, -1) for place, name in enumerate(names or [])}

    def __call__(self, label: str) -> int:
        return self.numbers.get(label, self.by_place.get(label, -1))


def numbering(path: Path, columns: PictureColumns, classes: Sequence[str] | None = None) -> Numbering:
    """How the labels of a data set become numbers.

    The classes are those given, in that order; else, where labels are whole numbers, what a list of names beside the
    data (or the Parquet file itself) calls them; else all labels of the training split in natural order.
    Raises InputError for names that occur twice and for data without any label.
    """
    album = next(iter(find_albums(path).values()))  # train, where there is one, so that all splits number alike
    names = listed_names(path) or album.named(columns)
    if classes is not None:
        return Numbering(_once(list(classes), "the classes given"), names)
    found = album.found(columns)
    if not found:
        raise InputError(f"{path} has no labels; {EXPECTED}")
    if not all(map(_whole, found)):
        return Numbering(sorted(found, key=natural), names)
    return Numbering(_once(names, path) if names else sorted(found, key=int), names)


def _must_exist(path: Path) -> None:
    if not path.exists():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, there)
        raise InputError(f"no folder or file {path}{near if 'mean' in near else '; check the path'}")


def _directly(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The shards in a folder, or else its tables."""
    files = sorted((entry for entry in folder.iterdir() if entry.suffix in endings), key=lambda f: natural(f.name))
    return [file for file in files if file.suffix == ".tar"] or files


def _once(names: list[str], where: object) -> list[str]:
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise InputError(f"{where}: the class '{twice}' is named twice")
    return names


def _whole(label: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", label) is not None


def _of_file(path: Path) -> Album:
    if path.suffix in SUFFIXES:
        return Tables([path])
    match = IDX_IMAGES.fullmatch(path.name)
    if not match:
        raise InputError(f"{path} holds no labelled pictures; {EXPECTED}")
    stem = path.name.removesuffix(".gz").replace("-images", "-labels").replace("idx3", "idx1")
    for name in (stem + ".gz", stem):
        if path.with_name(name).is_file():
            return Idx(path, path.with_name(name))
    raise InputError(f"{path} has no labels beside it: no file {stem} or {stem}.gz")


def _tables(paths: list[Path]) -> Album:
    return Tables(_alike(paths))


def _alike(paths: list[Path]) -> list[Path]:
    if len({path.suffix for path in paths}) > 1:
        raise InputError(f"{', '.join(map(str, paths))} are tables of the same split; give one of them by its path")
    return paths


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise InputError(f"{' and '.join(map(str, paths))} are the same split; keep one, or give it by its path")
    return paths[0]


def _by_split(named: Iterable[tuple[Path, str]]) -> dict[str, list[Path]]:
    """Paths by split, in the order train, validation, test."""
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path, word in named:
        found[SPLIT_OF[word.lower()]].append(path)
    return {split: paths for split, paths in found.items() if paths}
