"""Numbers search: the pictures nearest to a name, by an index of them, or by comparing all where LanceDB is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tessella.matcher import Matcher
from tessella.retrieval.exact import nearest
from tessella.retrieval.indexing import Task, index
from tessella.retrieval.search import Search

INDEX = "pictures.lance"


class Found(NamedTuple):
    """Places of pictures among all, the nearest first, and their cosines."""

    places: list[int]
    cosines: list[float]


Find = Callable[[np.ndarray, int], Found]
"""A vector (e, of length 1) and how many pictures -> the nearest."""


def installed() -> bool:
    """Whether there can be an index; LanceDB is an extra."""
    return importlib.util.find_spec("lancedb") is not None


def indexed(db: Path, folder: Path, pictures: Sequence[Path], matcher: Matcher, run: Path) -> Find:
    """Makes an index of the pictures of a folder, as `tessella index` does, and asks it."""
    index(Task(folder, db, str(run.resolve()), matcher), _Quiet())
    search = Search(db)
    place = {path.relative_to(folder).as_posix(): i for i, path in enumerate(pictures)}

    def find(vector: np.ndarray, top: int) -> Found:
        hits = search.nearest(vector, top)
        return Found([place[hit.path] for hit in hits], [hit.score for hit in hits])

    return find


def compared(pictures: np.ndarray) -> Find:
    """Compares a query with all pictures, float32 n e."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(pictures.ravel()), pictures.shape[1])
    batch = pa.RecordBatch.from_arrays([column], ["vector"])

    def find(vector: np.ndarray, top: int) -> Found:
        places, cosines = nearest([batch], vector[None], top)
        return Found(places[0].tolist(), cosines[0].tolist())

    return find


class _Quiet:
    """Who watches an indexing and says nothing of it."""

    def say(self, line: str) -> None:
        pass

    def begin(self, pictures: int) -> None:
        pass

    def advance(self, pictures: int) -> None:
        pass
