"""Similarity: losses of how alike two sides of pairs are, whose matrix never exists as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tessella import losses
from tessella.errors import InputError
from tessella.gather import gathered
from tessella.losses import smoothed_cross_entropy
from tessella.spec import Spec, spec


class Pairing(Spec):
    """Role: how the similarities z_ij = scale x_i · y_j (+ bias) of images and captions become one loss.

    Takes this process's images x b e and captions y (b+k) e, both of length 1: caption i belongs to image i, the last k
    to none. Columns are the captions of all processes. Gives the mean over this process's pairs, and how many of
    its images find their own caption likeliest.
    """

    def __call__(self, images: Tensor, captions: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Differentiable; raises InputError where there is nothing to compare."""
        raise NotImplementedError

    def fits(self, bias: Tensor | None) -> None:
        """Raises InputError where a model has a bias that would not learn, or lacks one."""
        raise NotImplementedError


@spec("softmax")
class Softmax(Pairing):
    """Symmetric InfoNCE: which caption is of this image, and which image of this caption (Radford et al. 2021, fig. 3).

        loss = -1/2b sum_i (log softmax_j(z_ij)_i + log softmax_j(z_ji)_i)

    Captions that belong to no image are further columns of the first term (Yuksekgonul et al. 2023, NegCLIP).
    hardness: each negative j of image i counts exp(hardness z_ij) times, over the mean of that among i's negatives: as
    if negatives had been drawn like that (Robinson et al. 2021, without debiasing). There is no gradient through
    these weights; 0 is InfoNCE.
    """

    hardness: float = Field(0.0, ge=0)

    def __call__(self, images: Tensor, captions: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        self.fits(bias)
        all_images, image = gathered(images)
        all_captions, caption = gathered(captions)
        refuse_single(all_images)
        own = torch.arange(len(images), device=images.device)
        find = partial(hard_cross_entropy, hardness=self.hardness) if self.hardness else _cross_entropy
        of_images, right = find(images * scale, all_captions, own + caption)
        of_captions, _ = find(captions[: len(images)] * scale, all_images, own + image)
        return (of_images + of_captions) / 2, right

    def fits(self, bias: Tensor | None) -> None:
        if bias is not None:
            raise InputError("a bias does nothing in a softmax; set model.bias to null, or objective.loss to sigmoid")


@spec("sigmoid")
class Sigmoid(Pairing):
    """SigLIP: of each image and each caption, whether they are a pair (Zhai et al. 2023).

        loss = -1/b sum_i sum_j log sigmoid(z_ij if i = j else -z_ij)

    A sum over columns, a mean over rows. Needs the model's bias: nearly all of the b² answers are no.
    """

    def __call__(self, images: Tensor, captions: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        self.fits(bias)
        assert bias is not None
        all_captions, caption = gathered(captions)
        refuse_single(all_captions)
        own = torch.arange(len(images), device=images.device) + caption
        return _in_rows(partial(_log_sigmoids, bias), images * scale, all_captions, own)

    def fits(self, bias: Tensor | None) -> None:
        if bias is None:
            told = "the sigmoid loss needs a bias; set model.bias (-10 in the paper), or objective.loss to softmax"
            raise InputError(told)


def refuse_single(rows: Tensor) -> None:
    """Raises InputError where there is only one thing to choose from."""
    if len(rows) < 2:
        raise InputError("one pair alone has nothing to be told from; a batch needs at least two")


def _cross_entropy(features: Tensor, columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return smoothed_cross_entropy(features, columns, None, labels)


def hard_cross_entropy(features: Tensor, columns: Tensor, labels: Tensor, hardness: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of features b e in columns m e, negatives weighed as `Softmax` says, and the right ones."""
    return _in_rows(partial(_weighed, hardness), features, columns, labels)


def _weighed(hardness: float, z: Tensor, own: Tensor) -> Tensor:
    """Sum over rows of the cross-entropy in which the weights of negatives are added to z as logarithms."""
    with torch.no_grad():
        others = (hardness * z).scatter(1, own, -math.inf)
        weights = others - others.logsumexp(1, keepdim=True) + math.log(z.shape[1] - 1)
        weights.scatter_(1, own, 0.0)
    return F.cross_entropy(z + weights, own.squeeze(1), reduction="sum")


def _log_sigmoids(bias: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """-log sigmoid(z) of the own column, -log sigmoid(-z) of all others, summed."""
    z = z + bias
    return F.softplus(z.scatter(1, own, -z.gather(1, own))).sum()


Rows = Callable[[Tensor, Tensor], Tensor]
"""Similarities b m and each row's own column b 1 -> a sum over rows."""


def _in_rows(loss: Rows, features: Tensor, columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows of a loss of features columns^T, of some rows at a time, which are made again for the gradient."""

    def of_some(features: Tensor, columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        z, own = features @ columns.t(), labels[:, None]
        return loss(z, own), (z.detach().gather(1, own) == z.detach().amax(1, keepdim=True)).sum()

    # a quarter of what a loss that works in place holds: autograd keeps several matrices of each
    held = losses.CHUNK.get(features.device.type, losses.CHUNK["cuda"]) // 4
    rows = max(1, held // len(columns))
    total, right = features.new_zeros(()), labels.new_zeros(())
    for some, own in zip(features.split(rows), labels.split(rows), strict=True):
        part, correct = checkpoint(of_some, some, columns, own, use_reentrant=False, preserve_rng_state=False)
        total, right = total + part, right + correct
    return total / len(features), right
