"""Classifier: images in, classes with probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """What an image shows: the likeliest classes with their probabilities, or why there is no answer."""

    name: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Classifier:
    """A model with all that belongs to its use: how images are prepared, and what its classes are called."""

    def __init__(self, model: nn.Module, image: Preprocess, classes: Sequence[str]):
        self.model, self.image, self.classes = model.eval(), image, tuple(classes)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.state_dict().values())).device

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Images as bytes b v r c, of the size and channels of `image` -> float32 b k."""
        return self.model(self.prepared(pixels)).float()

    def prepared(self, pixels: Tensor) -> Tensor:
        """Bytes b v r c -> what the model reads, on its device and in its type."""
        dtype = next((t.dtype for t in self.model.state_dict().values() if t.is_floating_point()), torch.float32)
        return normalised(pixels.to(self.device), self.image).to(dtype)

    def classify(
        self,
        sources: Sequence[Path | bytes],
        top: int = 5,
        batch: int = 32,
        done: Callable[[int], None] = lambda count: None,
    ) -> Iterator[Prediction]:
        """The `top` likeliest classes of each image (files or their bytes), in order; an unreadable one says why."""
        waiting = iter(sources)
        while chunk := list(islice(waiting, batch)):
            read = [self._read(source) for source in chunk]
            good = [pixels for pixels in read if isinstance(pixels, Tensor)]
            rows = iter(self.logits(torch.stack(good)).softmax(dim=-1) if good else ())
            for source, pixels in zip(chunk, read, strict=True):
                name = source if isinstance(source, Path) else "image"
                if isinstance(pixels, str):
                    yield Prediction(str(name), error=pixels)
                else:
                    yield Prediction(str(name), self._likeliest(next(rows), top))
            done(len(chunk))

    def __call__(self, source: Path | str | bytes) -> str:
        """The name of the likeliest class. Raises InputError for an image that cannot be read."""
        (answer,) = self.classify([Path(source) if isinstance(source, str) else source], top=1)
        if answer.error:
            raise InputError(answer.error)
        return answer.classes[0][0]

    def _likeliest(self, probabilities: Tensor, top: int) -> tuple[tuple[str, float], ...]:
        values, indices = probabilities.topk(min(top, len(self.classes)))
        return tuple((self.classes[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True))

    def _read(self, source: Path | bytes) -> Tensor | str:
        try:
            return torch.from_numpy(fitted(decode(source, self.image.channels), self.image))
        except InputError as error:
            return str(error)
