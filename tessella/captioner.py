"""Captioner: images in, what they show in words out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from tessella.ahead import computed
from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.decode import Decoding, Hypothesis, search
from tessella.errors import InputError
from tessella.text import Tokenizer

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Caption:
    """What an image shows. Either ``error`` is None, or ``text`` is empty and ``error`` says why."""

    name: str
    text: str = ""
    ids: tuple[int, ...] = ()
    """Of ``text``, without bos and eos."""
    score: float = 0.0
    """Log-probability (nats) over the length penalty."""
    logprob: float = 0.0
    ended: bool = True
    """False where the longest answer allowed cut it off."""
    others: tuple[tuple[str, float], ...] = ()
    """The next best answers with their scores, where there are more than one."""
    error: str | None = None


class Captioner:
    """A model with all that belongs to its use: how images are prepared, what its ids spell, how answers are searched.

    It describes whatever its model takes as source; `captions` and `caption` are for images.
    """

    def __init__(self, model: nn.Module, image: Preprocess, tokenizer: Tokenizer, decoding: Decoding | None = None):
        self.model: Any = model.eval()
        self.image, self.tokenizer = image, tokenizer
        self.decoding = decoding or Decoding()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.state_dict().values())).device

    def resized(self, size: int) -> Captioner:
        """The same for images of `size` rows and columns; whether the model takes them shows at the first one."""
        return Captioner(self.model, self.image.replace(size=(size, size)), self.tokenizer, self.decoding)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Bytes b v r c -> what the model reads, on its device and in its type."""
        dtype = next((t.dtype for t in self.model.state_dict().values() if t.is_floating_point()), torch.float32)
        return normalised(pixels.to(self.device), self.image).to(dtype)

    @torch.inference_mode()
    def search(self, source: Any, how: Decoding | None = None) -> list[list[Hypothesis]]:
        """The nbest answers to each row of a source (an image b v r c, or whatever the model encodes), best first."""
        how, words = how or self.decoding, self.tokenizer
        memory = self.model.encode(source)
        limits = how.limits(torch.zeros(len(memory.x), dtype=torch.long, device=memory.x.device))
        forbid = sorted({words.pad, words.bos, words.unk} - {words.eos})
        state = self.model.begin(memory)
        return search(self.model.step, state, how, start=words.bos, end=words.eos, limits=limits, forbid=forbid)

    def spelled(self, found: list[Hypothesis], name: str = "image") -> Caption:
        """The hypotheses about one image as a caption."""
        if not found:
            raise InputError("the model answers with numbers that are not finite; were its weights trained?")
        texts, best = self.tokenizer.decode([one.ids for one in found]), found[0]
        others = tuple((text, one.score) for text, one in zip(texts[1:], found[1:], strict=True))
        return Caption(name, texts[0], tuple(best.ids), best.score, best.logprob, best.ended, others)

    def answers(
        self,
        items: Iterable[T],
        picture: Callable[[T], Image.Image],
        how: Decoding | None = None,
        batch: int = 32,
    ) -> Iterator[Caption | InputError]:
        """The caption of each item in order, or why it has none; `picture` decodes an item."""

        def describe(pixels: Tensor) -> list[Caption]:
            return [self.spelled(found) for found in self.search(self.prepared(pixels), how)]

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
