"""Captioner: images in, what they show in words out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from tessella.ahead import computed
from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.text import Tokenizer
from tessella.writer import Writer

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Caption:
    """What an image shows, as `Written` has it; or ``text`` is empty and ``error`` says why there is none."""

    name: str
    text: str = ""
    ids: tuple[int, ...] = ()
    score: float = 0.0
    logprob: float = 0.0
    ended: bool = True
    others: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Captioner(Writer):
    """A model with all that belongs to its use: how images are prepared, what ids spell, how captions are searched."""

    def __init__(self, model: nn.Module, image: Preprocess, words: Tokenizer, decoding: Decoding | None = None):
        super().__init__(model, words, decoding or Decoding())
        self.image = image

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.state_dict().values())).device

    def resized(self, size: int) -> Captioner:
        """The same for images of `size` rows and columns; whether the model takes them shows at the first one."""
        return Captioner(self.model, self.image.replace(size=(size, size)), self.words, self.decoding)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Bytes b v r c -> what the model reads, on its device and in its type."""
        dtype = next((t.dtype for t in self.model.state_dict().values() if t.is_floating_point()), torch.float32)
        return normalised(pixels.to(self.device), self.image).to(dtype)

    def answers(
        self,
        items: Iterable[T],
        picture: Callable[[T], Image.Image],
        how: Decoding | None = None,
        batch: int = 32,
    ) -> Iterator[Caption | InputError]:
        """The caption of each item in order, or why it has none; `picture` decodes an item."""

        def describe(pixels: Tensor) -> list[Caption]:
            return [Caption("image", **vars(one)) for one in self.write(self.prepared(pixels), how)]

        return computed(items, lambda item: torch.from_numpy(fitted(picture(item), self.image)), describe, batch)

    def caption(
        self, sources: Iterable[Path | str | bytes], how: Decoding | None = None, batch: int = 32
    ) -> Iterator[Caption]:
        """The caption of each image (files or their bytes), in order; an unreadable one says why."""
        sources = list(sources)
        answers = self.answers(sources, partial(decode, channels=self.image.channels), how, batch)
        for source, answer in zip(sources, answers, strict=True):
            name = "image" if isinstance(source, bytes) else str(source)
            if isinstance(answer, InputError):
                yield Caption(name, error=str(answer))
            else:
                yield Caption(**{**vars(answer), "name": name})

    def __call__(self, source: Path | str | bytes) -> str:
        """The caption of one image. Raises InputError for an image that cannot be read."""
        (answer,) = self.caption([source])
        if answer.error:
            raise InputError(answer.error)
        return answer.text
