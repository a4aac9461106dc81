"""Teacher: a finished classifier whose answers a student learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.classifier import Classifier
from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.objectives import Batch, Objective


class Teacher:
    """Answers to a student's images, as logits b k in the student's order of classes. It never learns."""

    def __init__(self, classifier: Classifier, image: Preprocess, classes: Sequence[str]):
        if set(classes) - set(classifier.classes):
            stranger = sorted(set(classes) - set(classifier.classes))[0]
            raise InputError(f"the teacher does not know the class '{stranger}'; it must know all of the data's")
        if classifier.image.channels != image.channels:
            raise InputError(f"the teacher reads {classifier.image.channels} channels, the student {image.channels}")
        self.model = classifier.model.requires_grad_(False)
        self.theirs, self.ours = classifier.image, image
        self.order = torch.tensor([classifier.classes.index(name) for name in classes])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images b v r c, normalised for the student -> logits b k."""
        self.model.eval()
        parameter = next(self.model.parameters())
        if parameter.device != images.device:
            self.model.to(images.device)
        answers = self.model(self._seen(images).to(parameter.dtype))
        return answers.float()[:, self.order.to(images.device)]

    def _seen(self, images: Tensor) -> Tensor:
        """The same pixels as the teacher is used to them: its size, mean and deviation."""
        if self.theirs.size != self.ours.size:
            images = F.interpolate(images.float(), size=self.theirs.size, mode="bicubic", antialias=True)
        if (self.theirs.mean, self.theirs.std) == (self.ours.mean, self.ours.std):
            return images
        ours, theirs = ((torch.tensor(p.mean), torch.tensor(p.std)) for p in (self.ours, self.theirs))
        scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        return images * scale.to(images)[:, None, None] + shift.to(images)[:, None, None]


class Taught:
    """An objective whose batches come with a live teacher's answers: "teacher", logits b k."""

    def __init__(self, objective: Objective, teacher: Teacher):
        self.objective, self.teacher = objective, teacher

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        return self.objective(model, {**batch, "teacher": self.teacher(batch["image"])})


class Remembered:
    """The same with answers given once, about each image as it is: a table of logits n k.

    A mixed image gets the mixed answer: the logarithm of the mixed probabilities.
    """

    def __init__(self, objective: Objective, answers: Tensor):
        self.objective, self.answers = objective, answers

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        self.answers = self.answers.to(batch["index"].device)  # once; later it is there already
        told = self.answers[batch["index"]].float()
        if "label2" in batch:  # the others of a mixed batch are its own in reverse order
            share, mine = batch["share"][:, None], told.softmax(dim=-1)
            told = (share * mine + (1 - share) * mine.flip(0)).clamp_min(torch.finfo(mine.dtype).tiny).log()
        return self.objective(model, {**batch, "teacher": told})
