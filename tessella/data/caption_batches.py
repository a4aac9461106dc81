"""Caption batches: pictures as training sees them, each with one of its captions.

A batch is ``{"image": float b v r c, normalised (or bytes), "text": long b n, "index": long b}``, with ``negative``
(long k n: wrong captions, one of each picture that has any) where there are such. Hand ``CaptionData`` to
``picture_batches.stream``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tessella.data.ids import Sayings
from tessella.data.picture_batches import Batch, PictureData
from tessella.data.picture_batches import in_order as pictures_in_order
from tessella.errors import InputError


@dataclass(frozen=True, eq=False)
class CaptionData:
    """Pictures and what is said of them. A batch, and which caption is in it, depends on seed, epoch and number only.

    With ``as_bytes`` images are uint8, for ``pixels.normalised`` to make floats of when a part of them is computed
    with: a quarter of the memory. Raises InputError where pictures are mixed, and where bytes are wanted of what has
    boxes erased.
    """

    pictures: PictureData
    captions: Sayings
    negatives: Sayings | None = None
    as_bytes: bool = False
    _shown: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        augment = self.pictures.augment
        if augment.mixes:
            raise InputError("a mixed picture has no caption of its own; set augment.mixup and augment.cutmix to 0")
        if self.as_bytes and augment.erasing:
            raise InputError("boxes are erased from normalised pictures, not from bytes; set augment.erasing to 0")
        for texts in (self.captions, self.negatives):
            if texts is not None and len(texts) != len(self.pictures):
                raise InputError(f"{len(texts)} pictures have texts, but there are {len(self.pictures)}")
        if len(self.captions) and not self.captions.counts.min():
            raise InputError(f"picture {int(self.captions.counts.argmin())} has no caption")

    def __len__(self) -> int:
        return len(self.pictures)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """The pictures of each batch of an epoch; see ``PictureData.epoch``."""
        return self.pictures.epoch(number, size)

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch. Raises InputError that names a picture which cannot be read."""
        captions, negatives = self._rows(epoch)
        chosen = np.asarray(indices, np.int64)
        pictures = self.pictures
        image = (
            pictures.drawn(epoch, number, indices) if self.as_bytes else pictures.batch(epoch, number, indices)["image"]
        )
        batch = {"image": image, "text": self.captions.ids.padded(captions[chosen]), "index": torch.from_numpy(chosen)}
        if self.negatives is not None and (wrong := negatives[chosen][negatives[chosen] >= 0]).size:
            batch["negative"] = self.negatives.ids.padded(wrong)
        return batch

    def _rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the captions and wrong captions that an epoch shows, of the last epoch asked for kept at hand."""
        if epoch not in self._shown:
            seed = self.pictures.seed
            captions = self.captions.shown(epoch, seed)
            negatives = self.negatives.shown(epoch, seed) if self.negatives is not None else np.zeros(0, np.int64)
            self._shown.clear()
            self._shown[epoch] = captions, negatives
        return self._shown[epoch]


def in_order(data: CaptionData, size: int, workers: int = 0, start: str | None = None) -> Iterator[Batch]:
    """All pictures once and in order, as they are, each with its first caption; ``image`` is normalised.

    Raises InputError for a picture that cannot be read.
    """
    pictures = data.pictures
    for batch in pictures_in_order(pictures.source, pictures.preprocess, size, workers, start):
        text = data.captions.ids.padded(data.captions.starts[batch["index"].numpy()])
        yield {"image": batch["image"], "text": text, "index": batch["index"]}
