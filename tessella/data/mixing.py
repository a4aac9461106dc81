"""Mixing: two pictures in one, and the share of each in its label.

A mixed batch has two labels a picture and the ``share`` of the first (the second has the rest), so that any loss can be
taken exactly. As in timm's batch mode, one share is drawn for the whole batch, whose other pictures are its own in
reverse order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def mixup(images: Tensor, share: float) -> Tensor:
    """share · images + (1 - share) · the others (Zhang et al. 2018, https://arxiv.org/abs/1710.09412, eq. 1).

    Float b v r c to new b v r c.
    """
    return torch.lerp(images.flip(0), images, share)


def cutmix(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A box of about 1 - share of the area comes from the others (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    The box has the shape of the picture and any place for its middle, so that it may be cut off at the border. Gives
    the new pictures b v r c and the true share: 1 - the area of the box in the picture.
    """
    sides = []
    for length in images.shape[2:]:
        half, middle = int(length * math.sqrt(1 - share)) // 2, int(rng.integers(length))
        sides.append((max(middle - half, 0), min(middle + half, length)))
    (top, bottom), (left, right) = sides
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right].flip(0)
    return mixed, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])


def mix(batch: dict[str, Tensor], rng: np.random.Generator, alphas: tuple[float, float], switch: float) -> None:
    """Mixes a batch in place: ``image`` becomes mixed, ``label2`` (long b) and ``share`` (float b) are added.

    ``alphas`` of mixup and CutMix: a share is drawn from Beta(alpha, alpha), 0 leaves that one out; where both are
    wanted, CutMix is taken with probability ``switch``. With neither, the share is 1.
    """
    share = 1.0
    if any(alphas):
        cut = rng.random() < switch if all(alphas) else bool(alphas[1])
        share = float(rng.beta(alphas[cut], alphas[cut]))
        if cut:
            batch["image"], share = cutmix(batch["image"], share, rng)
        else:
            batch["image"] = mixup(batch["image"], share)
    batch["label2"] = batch["label"].flip(0)
    batch["share"] = torch.full((len(batch["label"]),), share)
