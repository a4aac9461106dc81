"""Matcher: images and texts in, vectors of one space out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tessella.ahead import computed
from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


class Matcher:
    """A model of two towers with all that belongs to its use: how images are prepared, how texts become ids.

    fingerprint: of weights, preparation and texts; vectors of different fingerprints are not of one space.
    """

    def __init__(self, model: nn.Module, image: Preprocess, text: Reading, fingerprint: str = ""):
        self.model, self.image, self.text = model.eval(), image, text
        self.fingerprint = fingerprint or _fingerprint(model, image, text)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.state_dict().values())).device

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax."""
        return float(self.model.scale.detach())

    @property
    def dim(self) -> int:
        """How long a vector is."""
        return self.texts(["a"]).shape[1]

    def images(self, sources: Iterable[Path | str | bytes], batch: int = 32) -> Iterator[np.ndarray | InputError]:
        """A float32 vector of length 1 for each picture (a file or its bytes), in order, or why it has none."""
        return self.pictures(sources, partial(decode, channels=self.image.channels), batch)

    def pictures(
        self, items: Iterable[T], picture: Callable[[T], Image.Image], batch: int = 32
    ) -> Iterator[np.ndarray | InputError]:
        """The same of whatever `picture` decodes; the next batch is decoded while the model computes."""
        rows = computed(items, lambda item: torch.from_numpy(fitted(picture(item), self.image)), self.embed, batch)
        return (row.numpy() if isinstance(row, Tensor) else row for row in rows)

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Images as bytes b v r c, of the size and channels of `image` -> float32 b e of length 1."""
        return self.model.embed_image(self.prepared(pixels))

    def prepared(self, pixels: Tensor) -> Tensor:
        """Bytes b v r c -> what the image tower reads, on its device and in its type."""
        dtype = next((t.dtype for t in self.model.state_dict().values() if t.dim() > 1), torch.float32)
        return normalised(pixels.to(self.device), self.image).to(dtype)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        """Float32 n e, each row of length 1. Texts longer than the model reads are cut."""
        if isinstance(texts, str):
            raise InputError("texts takes a list, not one string; give [text]")
        ids = self.text(texts)
        parts = (range(start, min(start + batch, len(ids))) for start in range(0, len(ids), batch))
        rows = [self.model.embed_text(ids.padded(part).to(self.device)).cpu() for part in parts]
        return torch.cat(rows).numpy() if rows else np.empty((0, self.dim), np.float32)

    def __call__(self, image: Path | str | bytes, texts: Sequence[str]) -> dict[str, float]:
        """The cosine of one picture with each text. Raises InputError for a picture that cannot be read."""
        (vector,) = self.images([image])
        if isinstance(vector, InputError):
            raise vector
        return dict(zip(texts, (self.texts(texts) @ vector).tolist(), strict=True))


def _fingerprint(model: nn.Module, image: Preprocess, text: Reading) -> str:
    told = f"{image.model_dump_json()} {text.tokenizer.fingerprint} {text.length} {text.begin}"
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
