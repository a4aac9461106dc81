"""Classifier: images in, classes with probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from tessella.ahead import computed
from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


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

    def resized(self, size: int) -> Classifier:
        """The same for images of `size` rows and columns; whether the model takes them shows at the first one."""
        return Classifier(self.model, self.image.replace(size=(size, size)), self.classes)

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Images as bytes b v r c, of the size and channels of `image` -> float32 b k."""
        return self.model(self.prepared(pixels)).float()

    def prepared(self, pixels: Tensor) -> Tensor:
        """Bytes b v r c -> what the model reads, on its device and in its type."""
        dtype = next((t.dtype for t in self.model.state_dict().values() if t.is_floating_point()), torch.float32)
        return normalised(pixels.to(self.device), self.image).to(dtype)

    def answers(
        self, items: Iterable[T], picture: Callable[[T], Image.Image], batch: int = 32
    ) -> Iterator[Tensor | InputError]:
        """Logits k (float32, on the CPU) of each item in order, or why it has none.

        `picture` decodes an item, an InputError of it being that item's answer; the next batch is decoded while the
        model computes. InputErrors of the model itself, which no image could please, are raised.
        """

        return computed(items, lambda item: torch.from_numpy(fitted(picture(item), self.image)), self.logits, batch)

    def classify(self, sources: Iterable[Path | str | bytes], top: int = 5, batch: int = 32) -> Iterator[Prediction]:
        """The `top` likeliest classes of each image (files or their bytes), in order; an unreadable one says why."""
        sources = list(sources)
        answers = self.answers(sources, partial(decode, channels=self.image.channels), batch)
        for source, answer in zip(sources, answers, strict=True):
            name = "image" if isinstance(source, bytes) else str(source)
            if isinstance(answer, InputError):
                yield Prediction(name, error=str(answer))
            else:
                yield Prediction(name, self.likeliest(answer, top))

    def __call__(self, source: Path | str | bytes) -> str:
        """The name of the likeliest class. Raises InputError for an image that cannot be read."""
        (answer,) = self.classify([source], top=1)
        if answer.error:
            raise InputError(answer.error)
        return answer.classes[0][0]

    def likeliest(self, logits: Tensor, top: int) -> tuple[tuple[str, float], ...]:
        """Logits k -> the `top` likeliest classes with their probabilities, the likeliest first."""
        if not logits.isfinite().all():
            raise InputError("the model answers with numbers that are not finite; were its weights trained?")
        values, indices = logits.softmax(dim=-1).topk(min(top, len(self.classes)))
        return tuple((self.classes[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True))
