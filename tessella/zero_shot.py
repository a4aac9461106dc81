"""Zero shot: a classifier of images made of class names alone, by the texts that they stand in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tessella import files
from tessella.classifier import Classifier
from tessella.data.pictures import read_pictures, splits
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.matcher import Matcher
from tessella.tokens import Tokens

BARE = "{}"
"""The template that is the class name alone."""
NONE = "none of these"
VECTORS = "classes"


@dataclass(frozen=True)
class Prototypes:
    """What a class looks like in a matcher's space.

    classes: k names. vectors: k e, float32, of length 1. threshold: the cosine below which an image shows none of the
    classes; None where every image shows one. fingerprint: of the matcher whose space it is.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    vectors: Tensor
    fingerprint: str
    threshold: float | None = None

    def save(self, path: Path) -> None:
        """One safetensors file, names and all in its header."""
        from safetensors.torch import save_file

        told = {"classes": self.classes, "templates": self.templates, "threshold": self.threshold}
        header = {"prototypes": json.dumps(told, ensure_ascii=False), "fingerprint": self.fingerprint}
        with files.replacing(path, self.vectors.nbytes + 2**16) as temporary:
            save_file({VECTORS: self.vectors.contiguous()}, temporary, header)

    @classmethod
    def load(cls, path: Path) -> Prototypes:
        """What `save` wrote. Raises InputError for anything else."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise InputError(f"no file {path}; `tessella classify --save` writes one")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                told, vectors = json.loads(header["prototypes"]), file.get_tensor(VECTORS)
            classes, templates, threshold = tuple(told["classes"]), tuple(told["templates"]), told["threshold"]
            threshold = None if threshold is None else float(threshold)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{path} holds no classes written by `tessella classify --save`") from None
        if vectors.dim() != 2 or len(vectors) != len(classes) or not all(isinstance(name, str) for name in classes):
            raise InputError(f"{path} is damaged: {len(classes)} names, vectors {tuple(vectors.shape)}")
        return cls(classes, templates, vectors.float(), header.get("fingerprint", ""), threshold)


def prototypes(matcher: Matcher, classes: Sequence[str], templates: Sequence[str] = (BARE,)) -> Prototypes:
    """Each class as the mean of its normalised texts, normalised again (Radford et al. 2021, sec. 3.1.4).

    templates: texts with {} for the class's name, "a photo of a {}." Raises InputError for classes that are empty or
    named twice, for no template, and for one without {}.
    """
    names = [name.strip() for name in classes]
    if len(names) < 2 or not all(names):
        raise InputError(f"telling apart takes two or more class names, got {list(classes)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the class '{twice}' is named twice")
    if not templates:
        raise InputError(f"there is no template for class names to stand in; the name alone is '{BARE}'")
    for template in templates:
        if template.count(BARE) != 1:
            raise InputError(f"the template '{template}' has not one {BARE} for the class's name: 'a photo of a {{}}'")
    texts = [template.replace(BARE, name) for name in names for template in templates]
    vectors = torch.from_numpy(matcher.texts(texts)).view(len(names), len(templates), -1)
    mean = nn.functional.normalize(vectors.mean(dim=1), dim=-1)
    return Prototypes(tuple(names), tuple(templates), mean, matcher.fingerprint)


def calibrated(matcher: Matcher, made: Prototypes, data: Path, keep: float = 0.95) -> tuple[Prototypes, str]:
    """With a threshold found on labelled pictures, and what is to be said of it.

    Pictures whose label is one of the classes are known, all others are not. Of data that is divided, those for
    validation count. Raises InputError where none can be read.
    """
    there = splits(data)
    split = next((name for name in ("validation", "train", "test") if name in there), None)
    pictures = read_pictures(data, split, quarantine=Quarantine())
    known = np.array([pictures.classes[label] in made.classes for label in pictures.labels])
    answers = list(matcher.pictures(range(len(pictures)), lambda n: pictures.decode(n, matcher.image.channels)))
    read = [n for n, answer in enumerate(answers) if not isinstance(answer, InputError)]
    if not read:
        raise InputError(f"{data}: none of {len(pictures)} pictures can be read")
    best = (np.stack([answers[n] for n in read]) @ made.vectors.numpy().T).max(axis=1)
    known = known[read]
    floor = threshold(best, known, keep)
    told = (
        f"below a cosine of {floor:.3f} it is {NONE}: {(best[known] >= floor).mean():.0%} of {known.sum():,} pictures"
    )
    told += " of the classes stay"
    if not known.all():
        told += f", {(best[~known] < floor).mean():.0%} of {(~known).sum():,} others do not"
    return replace(made, threshold=floor), told


def threshold(best: np.ndarray, known: np.ndarray, keep: float = 0.95) -> float:
    """From which cosine on an image shows one of the classes, by validation images.

    best: float n, each image's largest cosine; known: bool n, whether it shows one of the classes. With images of both
    kinds, where the mean of both shares that are told rightly is largest; else what `keep` of the known ones reach.
    """
    if not known.any():
        raise InputError("no validation image shows one of the classes; a threshold needs some that do")
    if known.all():
        return float(np.quantile(best, 1 - keep))
    cuts = np.unique(best)
    kept = np.searchsorted(np.sort(best[known]), cuts)  # known ones that lie below
    refused = np.searchsorted(np.sort(best[~known]), cuts)
    right = (1 - kept / known.sum()) + refused / (~known).sum()
    at = int(right.argmax())
    return float(cuts[at] if at == 0 else (cuts[at - 1] + cuts[at]) / 2)


def zero_shot(matcher: Matcher, made: Prototypes) -> Classifier:
    """A matcher with prototypes, as a classifier like any other.

    With a threshold there is one class more, "none of these", as likely as a class whose cosine is the threshold.
    Raises InputError for prototypes of another model.
    """
    if made.fingerprint != matcher.fingerprint:
        raise InputError("these classes were made with another model; make them anew with --labels")
    none = () if made.threshold is None else (NONE,)
    return Classifier(Scores(matcher.model, made.vectors, made.threshold), matcher.image, (*made.classes, *none))


class Scores(nn.Module):
    """image -> [image tower] -> scale * cosine with each class -> logits b k, or b k+1 with "none of these"."""

    def __init__(self, towers: nn.Module, vectors: Tensor, floor: float | None = None):
        super().__init__()
        self.towers, self.floor = towers, floor
        self.register_buffer("vectors", vectors, persistent=False)
        self.vectors: Tensor
        self.head = Affinity(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.scored(self.towers.embed_image(image))

    def scored(self, embedded: Tensor) -> Tensor:
        """Embeddings b e of length 1 -> logits."""
        cosines = embedded @ self.vectors.to(embedded.device).T
        if self.floor is not None:
            cosines = torch.cat([cosines, cosines.new_full((len(cosines), 1), self.floor)], dim=1)
        scale: Tensor = self.towers.scale  # pyright: ignore[reportAssignmentType]  # a property of `TowersModel`
        return scale * cosines

    @property
    def trunk(self) -> nn.Module:
        """The image tower's, for who looks into it."""
        return self.towers.image.trunk  # pyright: ignore[reportReturnType]  # a part of an encoder

    def features(self, image: Tensor) -> Tokens:
        """What the image tower's head reads of one picture."""
        tokens = self.towers.image.features(image)
        self.head.length = self.towers.image.head(tokens).float().norm()
        return tokens


class Affinity(nn.Module):
    """Tokens of the picture that `features` saw last -> logits, linear in what the image tower's head gives.

    A vector is divided by the whole picture's length, not by its own: what places add (`evidence.activation_maps`) has
    the logits for its mean.
    """

    def __init__(self, scores: Scores):
        super().__init__()
        self.pool = getattr(scores.towers.image.head, "pool", None)
        self.length: Tensor | float = 1.0
        self._scores = [scores]  # not as a part: they hold each other

    def forward(self, tokens: Tokens) -> Tensor:
        (scores,) = self._scores
        return scores.scored(scores.towers.image.head(tokens).float() / self.length)
