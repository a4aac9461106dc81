"""Contrast: what belongs together is close, what does not is apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from tessella.objectives import Batch, Losses, Objective
from tessella.replay import refuse_batch_norm, replayed
from tessella.similarity import Pairing, Softmax
from tessella.spec import Part, spec


@spec("contrast")
class Contrast(Objective):
    """Each image's own caption is told from all captions of the batch; the model is `Towers`.

    chunk: how many images or captions are in a tower at once; null for all. Loss and gradient are those of the whole
    batch all the same, for the price of a second forward pass (`replayed`), and memory hardly grows with the batch.

    Across processes a batch is what all have together; each computes its own rows against all columns (`gathered`).
    """

    loss: Part[Pairing] = Softmax()
    chunk: int | None = Field(None, ge=1)

    def __call__(self, model: nn.Module, batch: Batch, prepare: Callable[[Tensor], Tensor] | None = None) -> Losses:
        """batch: "image" (b rows of what the image tower takes), "text" long b n and, optionally, "negative" long k m,
        captions of no image in the batch.

        prepare: what makes of a chunk of batch["image"] what the image tower takes, so that a huge batch can wait as
        bytes. Out: "loss" in nats, "weight" b, "accuracy": the share of images whose own caption is the likeliest.
        """

        def see(images: Tensor) -> Tensor:
            return model.embed_image(images if prepare is None else prepare(images))

        assert len(batch["image"]) == len(batch["text"])
        images = replayed(model.image, see, batch["image"], self.chunk)
        captions = replayed(model.text, model.embed_text, batch["text"], self.chunk)
        if len(batch.get("negative", ())):
            others = replayed(model.text, model.embed_text, batch["negative"], self.chunk)
            captions = torch.cat([captions, others])
        with torch.autocast(images.device.type, enabled=False):
            loss, right = self.loss(images, captions, model.scale, model.bias)
        count = torch.tensor(len(images), device=images.device)
        return {"loss": loss, "weight": count, "accuracy": right / count}

    def fits(self, model: nn.Module, pairs: int) -> None:
        """Raises InputError for what can be known before a training with batches of so many pairs begins."""
        self.loss.fits(model.bias)
        if self.chunk is not None and self.chunk < pairs:
            refuse_batch_norm(model.image)
            refuse_batch_norm(model.text)
