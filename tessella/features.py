"""Features: what the last layer of a classifier reads of images, as vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tessella.ahead import computed
from tessella.classifier import Classifier
from tessella.data.pixels import Preprocess, fitted
from tessella.errors import InputError
from tessella.predict import kind_of, load, opened
from tessella.runs import MODEL

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


class Embedder(Protocol):
    """What makes vectors of images: a `Matcher`, or `Features`. See there."""

    image: Preprocess
    fingerprint: str

    @property
    def dim(self) -> int: ...

    def pictures(
        self, items: Iterable[T], picture: Callable[[T], Image.Image], batch: int = 32
    ) -> Iterator[np.ndarray | InputError]: ...


class Features:
    """A classifier without its last layer.

    fingerprint: of weights and preparation; vectors of different fingerprints are not of one space.
    """

    def __init__(self, classifier: Classifier, fingerprint: str):
        self.classifier, self.image, self.fingerprint = classifier, classifier.image, fingerprint
        self._scores: Any = getattr(getattr(classifier.model, "head", None), "scores", None)
        if self._scores is None:
            raise InputError("this classifier has no last layer of its own to leave out")

    @property
    def dim(self) -> int:
        """How long a vector is."""
        rows, cols = self.image.size
        return self.embed(torch.zeros(1, self.image.channels, rows, cols, dtype=torch.uint8)).shape[1]

    def pictures(
        self, items: Iterable[T], picture: Callable[[T], Image.Image], batch: int = 32
    ) -> Iterator[np.ndarray | InputError]:
        """A float32 vector, of any length, of whatever `picture` decodes, in order, or why there is none."""
        rows = computed(items, lambda item: torch.from_numpy(fitted(picture(item), self.image)), self.embed, batch)
        return (row.numpy() if isinstance(row, Tensor) else row for row in rows)

    def embed(self, pixels: Tensor) -> Tensor:
        """Images as bytes b v r c -> what the last layer reads of them, float32 b d."""
        read: list[Tensor] = []

        def note(layer: Any, given: tuple[Tensor]) -> None:
            read.append(given[0])

        hook = self._scores.register_forward_pre_hook(note)
        try:
            self.classifier.logits(pixels)
        finally:
            hook.remove()
        return read[0].float()


def embedder(run: str, device: str = "auto", dtype: str = "float32") -> Any:
    """A `Matcher`, or the `Features` of a classifier. Raises InputError for a run of another kind."""
    kind = kind_of(run)
    if kind == "matching":
        return load(run, device, dtype)
    if kind != "classification":
        raise InputError(f"{run} is for {kind}; vectors are made by models of images, or of images and texts")
    classifier = load(run, device, dtype)
    weights = opened(run)[0].manifest["files"][MODEL]["sha256"]
    told = f"{weights} {classifier.image.model_dump_json()}"
    return Features(classifier, hashlib.sha256(told.encode()).hexdigest())
