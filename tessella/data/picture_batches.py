"""Picture batches: pictures as training sees them, a pure function of seed, epoch and place.

A batch is ``{"image": float b v r c, normalised, "label": long b, "index": long b}``, with ``label2`` (long b) and
``share`` (float b, the weight of ``label``) where pictures are mixed; ``index`` is the picture's place in the data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessella.data.augment import Augment
from tessella.data.batches import Position
from tessella.data.pictures import Pictures, as_array
from tessella.data.pixels import Preprocess, fitted, normalised, random_resized_crop
from tessella.errors import InputError

Batch = dict[str, Tensor]
Key = tuple[int, int, Sequence[int]]
"""Epoch, number of the batch in it, and the pictures of the batch."""
PLAIN = Augment()
IN_MEMORY = 2**31
"""Bytes of decoded pictures up to which all are kept; more are decoded as they are needed."""


class Source(Protocol):
    """Where pictures come from: their labels (long, one a picture), and some of them at the size of the model."""

    @property
    def labels(self) -> Tensor:
        """Long n."""
        ...

    def cropped(self, indices: Sequence[int], augment: Augment, rng: np.random.Generator) -> Tensor:
        """Bytes b v r c, cropped as ``augment`` wants it; nothing else is done."""
        ...


@dataclass(frozen=True)
class Held:
    """Pictures in memory, all of one size: ``pixels`` bytes n v r c, ``labels`` long n."""

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or len(self.pixels) != len(self.labels):
            what = f"{self.pixels.dtype} {tuple(self.pixels.shape)} with {len(self.labels)} labels"
            raise InputError(f"pictures in memory are bytes n v r c with n labels, got {what}")

    def cropped(self, indices: Sequence[int], augment: Augment, rng: np.random.Generator) -> Tensor:
        """See ``Source``."""
        return augment.cropped(self.pixels[torch.as_tensor(indices, dtype=torch.long)], rng)


@dataclass(frozen=True)
class Opened:
    """Pictures in files, each decoded when it is its turn, to the size that ``preprocess`` says."""

    pictures: Pictures
    preprocess: Preprocess
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", torch.as_tensor(self.pictures.labels, dtype=torch.long))

    def cropped(self, indices: Sequence[int], augment: Augment, rng: np.random.Generator) -> Tensor:
        """See ``Source``. Raises InputError that names a picture which cannot be read (any more)."""
        own = self.preprocess
        if augment.crop != "resized":
            whole = [fitted(self.pictures.decode(int(index), own.channels), own) for index in indices]
            return augment.cropped(torch.from_numpy(np.stack(whole)), rng)
        # of a large JPEG, as much is decoded as the smallest crop needs to have a pixel for each of ours
        part = 2 * math.sqrt(augment.scale[0] * min(augment.ratio[0], 1 / augment.ratio[1]))
        wanted = (math.ceil(own.size[0] / part), math.ceil(own.size[1] / part))
        cut = []
        for index, repeats in groupby(indices):
            image = self.pictures.decode(int(index), own.channels, wanted)
            cut += [random_resized_crop(image, own, rng, augment.scale, augment.ratio) for _ in repeats]
        return torch.from_numpy(np.stack(cut))


def source_of(pictures: Pictures, image: Preprocess, whole: bool = True) -> Source:
    """Pictures decoded into memory where whole ones are wanted and they have room, else opened one by one."""
    room = len(pictures) * image.channels * image.size[0] * image.size[1]
    if whole and room <= IN_MEMORY:
        return Held(as_array(pictures, image), torch.as_tensor(pictures.labels, dtype=torch.long))
    return Opened(pictures, image)


class Data(Protocol):
    """What a stream is made of: the pictures of each batch of an epoch, and the batch itself."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, size: int) -> np.ndarray:
        """Long batches ``size``."""
        ...

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch. Raises InputError that names a picture which cannot be read."""
        ...


@dataclass(frozen=True)
class PictureData:
    """Pictures of a source, prepared and augmented. What a batch looks like depends on seed, epoch and number only."""

    source: Source
    preprocess: Preprocess
    augment: Augment = PLAIN
    seed: int = 0

    def __len__(self) -> int:
        return len(self.source.labels)

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch. Raises InputError that names a picture which cannot be read."""
        index = torch.as_tensor(indices, dtype=torch.long)
        batch = {
            "image": normalised(self.drawn(epoch, number, indices), self.preprocess),
            "label": self.source.labels[index],
            "index": index,
        }
        return self.augment.finished(batch, self._random(epoch, number)[2])

    def drawn(self, epoch: int, number: int, indices: Sequence[int]) -> Tensor:
        """The pictures of one batch, cropped and changed, but neither normalised nor finished: bytes b v r c."""
        crops, changes, _ = self._random(epoch, number)
        images = self.source.cropped(indices, self.augment, crops)
        return self.augment.changed(images, changes, [round(255 * mean) for mean in self.preprocess.mean])

    def _random(self, epoch: int, number: int) -> list[np.random.Generator]:
        """For cropping, changing and finishing a batch."""
        return np.random.default_rng([self.seed, epoch, number]).spawn(3)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """The pictures of each batch of an epoch (from 0): long batches ``size``.

        As many pictures as there are, less those of an incomplete last batch, which is left out; where there are fewer
        than ``size``, they are one batch. With repeats, the same picture comes ``repeats`` times in a row.
        """
        count, repeats = len(self), self.augment.repeats
        order = np.random.default_rng([self.seed, number]).permutation(count)
        order = order[: -(-count // repeats)].repeat(repeats)[:count]
        return order[: count - count % size].reshape(-1, size) if count >= size else order.reshape(1, count)


class _Schedule:
    """The keys of all batches from a position on; ``after`` holds the positions of those handed out."""

    def __init__(self, data: Data, size: int, position: Position, epochs: int | None):
        self.data, self.size, self.position, self.epochs = data, size, position, epochs
        self.after: deque[Position] = deque()

    def __iter__(self) -> Iterator[Key]:
        here = self.position
        while self.epochs is None or here.epoch < self.epochs:
            batches = self.data.epoch(here.epoch, self.size)
            if here.batch >= len(batches):
                raise InputError(f"epoch {here.epoch} has {len(batches)} batches, not {here.batch}: is it other data?")
            for number in range(here.batch, len(batches)):
                key = (here.epoch, number, batches[number].tolist())
                here = here.advance(len(batches))
                self.after.append(here)
                yield key


def stream(
    data: Data,
    size: int,
    position: Position = Position(),  # noqa: B008 - frozen
    epochs: int | None = None,
    workers: int = 0,
    start: str | None = None,
) -> Iterator[tuple[Position, Batch]]:
    """Batches of ``size`` from ``position`` on, each with the position after it, without end or for ``epochs`` epochs.

    The content depends on neither ``workers`` (processes that read and augment) nor ``start`` ("fork", "spawn",
    "forkserver"), and nothing is drawn from torch's global random numbers, so that a resumed run goes on exactly.
    Raises InputError for a position beyond the data, no pictures, and a picture that cannot be read.
    """
    if not len(data) or size < 1:
        raise InputError(f"no batches of {size} can be made of {len(data)} pictures")
    schedule = _Schedule(data, size, position, epochs)
    for batch in batches_of(data, schedule, workers, start):
        yield schedule.after.popleft(), batch


def in_order(
    source: Source, preprocess: Preprocess, size: int, workers: int = 0, start: str | None = None
) -> Iterator[Batch]:
    """All pictures once and in order, as they are, for evaluation; the last batch may be smaller than ``size``.

    Raises InputError for a picture that cannot be read.
    """
    data = PictureData(source, preprocess)
    keys = [(0, at, range(at, min(at + size, len(data)))) for at in range(0, len(data), size)]
    return batches_of(data, keys, workers, start)


@dataclass(frozen=True)
class _Made(Dataset[Batch | InputError]):
    """Batches by key in worker processes: there an error is handed over, or it would come out as a traceback."""

    data: Data

    def __getitem__(self, key: Key) -> Batch | InputError:
        try:
            return self.data.batch(*key)
        except InputError as error:
            return InputError(str(error))  # a plain one, whatever its subclass needs to be built again


def batches_of(data: Data, keys: Iterable[Key], workers: int, start: str | None) -> Iterator[Batch]:
    """The batch of each key, made here or by workers, in order."""
    if workers == 0:
        yield from (data.batch(*key) for key in keys)
        return
    loader = DataLoader(
        _Made(data),
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=start,
        generator=torch.Generator(),  # else the loader draws its seed from the global generator
    )
    for made in loader:
        if isinstance(made, InputError):
            raise made
        yield made
