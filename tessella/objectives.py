"""Objectives: what is learned; each returns a dict with "loss"."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.losses import distance, mixed_cross_entropy, smoothed_cross_entropy
from tessella.spec import Part, Spec, spec
from tessella.state import State

Batch = dict[str, Tensor]
"""What a task's data gives; "source" may be a mapping of tensors in turn."""
Losses = dict[str, Tensor]


class Objective(Spec):
    """Role: callable (model, batch) -> {"loss": mean, "weight": over how many, ...}; the loop knows no more."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses of one batch, differentiable."""
        raise NotImplementedError


@spec("translate")
class Translate(Objective):
    """Cross-entropy of every next word, its end included, padding excluded.

    smoothing: a share of the probability is spread evenly over the whole vocabulary (Szegedy et al. 2016, sec. 7).
    forcing: how often the true word before is read; otherwise the likeliest by the model itself (Bengio et al. 2015,
    scheduled sampling, without a schedule). 1 is teacher forcing, and reads the whole sentence at once.
    """

    smoothing: float = Field(0.1, ge=0, lt=1)
    forcing: float = Field(1.0, ge=0, le=1)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """batch: "source" (what model.encode takes) and "target" long b m: bos, words, eos, padding."""
        read, labels = batch["target"][:, :-1], batch["target"][:, 1:]
        real = labels != model.target.pad
        state = model.begin(model.encode(batch["source"]))
        if self.forcing == 1.0:
            features, _ = model.features(read, state)
        else:
            features = self._read_itself(model, read, state)
        head = model.head
        loss, correct = smoothed_cross_entropy(features[real], head.weight, head.bias, labels[real], self.smoothing)
        weight = real.sum()
        return {"loss": loss, "weight": weight, "accuracy": correct / weight.clamp(min=1)}

    def _read_itself(self, model: nn.Module, read: Tensor, state: State) -> Tensor:
        """Features b m d, one step after the other; each word read is true with probability `forcing`."""
        ids, outs = read[:, :1], []
        truths = torch.rand(read.shape, device=read.device) < self.forcing
        for t in range(read.shape[1]):
            features, state = model.features(ids, state)
            outs.append(features)
            if t + 1 < read.shape[1]:
                with torch.no_grad():
                    own = model.head(features[:, -1]).argmax(dim=-1, keepdim=True)
                true = read[:, t + 1 : t + 2]
                # Past the end of a sentence only padding is read, whatever the model says.
                ids = torch.where(truths[:, t + 1 : t + 2] | (true == model.target.pad), true, own)
        return torch.cat(outs, dim=1)


@spec("predict-words")
class PredictWords(Objective):
    """Cross-entropy of the words of a text that are asked for: the hidden ones, or every next one.

    batch: "source" long b n, and "label" long b n: the word that is asked for at each place, -1 where none is.
    """

    smoothing: float = Field(0.0, ge=0, lt=1)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        asked = batch["label"] >= 0
        ready = model.head.ready(model.features(batch["source"])[asked])
        labels, head = batch["label"][asked], model.head
        loss, correct = smoothed_cross_entropy(ready, head.weight, head.bias, labels, self.smoothing)
        weight = asked.sum()
        return {"loss": loss, "weight": weight, "accuracy": correct / weight.clamp(min=1)}


@spec("classify")
class Classify(Objective):
    """Cross-entropy of classes; batch: "image" b v r c, "label" long b and, of mixed images, "label2" and "share".

    In the place of "image" there may be a "source" of any kind, see `given`.

    smoothing: a share of the probability is spread evenly over all classes (Szegedy et al. 2016, sec. 7).
    weights: how much an example of each class counts; "balanced": every class as much as every other, which is made
    numbers of when the classes are counted. None: every example counts as much as every other.
    """

    smoothing: float = Field(0.1, ge=0, lt=1)
    weights: tuple[float, ...] | Literal["balanced"] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        logits = model(given(batch))
        losses = mixed_cross_entropy(logits, batch, self.smoothing)
        if self.weights is None:
            return {"loss": losses.mean(), "weight": weight_of(batch), "accuracy": accuracy(logits, batch)}
        assert not isinstance(self.weights, str) and "label2" not in batch, "weights are filled in, images not mixed"
        counts = losses.new_tensor(self.weights)[batch["label"]]
        right = (logits.argmax(dim=-1) == batch["label"]).to(counts.dtype)
        weight = counts.sum()
        return {"loss": (counts * losses).sum() / weight, "weight": weight, "accuracy": (counts * right).sum() / weight}


@spec("regress")
class Regress(Objective):
    """Distance to numbers, averaged over targets; batch: "source" and "label" float b t.

    loss: "squared" for the mean, or "huber" (quadratic up to 1, linear beyond) where a few numbers are far off.
    """

    loss: Literal["squared", "huber"] = "huber"

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        answers, label = model(given(batch)).float(), batch["label"]
        apart = F.mse_loss(answers, label) if self.loss == "squared" else F.huber_loss(answers, label)
        return {"loss": apart, "weight": weight_of(batch), "error": (answers.detach() - label).abs().mean()}


@spec("tag")
class Tag(Objective):
    """Binary cross-entropy of every label, any number of which may be right; batch: "source" and "label" float b k.

    weights: how much an example with the label counts against one without, a label each; "balanced": as there are
    fewer of them.
    """

    weights: tuple[float, ...] | Literal["balanced"] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        logits, label = model(given(batch)).float(), batch["label"]
        assert not isinstance(self.weights, str), "weights are filled in"
        more = None if self.weights is None else logits.new_tensor(self.weights)
        loss = F.binary_cross_entropy_with_logits(logits, label, pos_weight=more)
        right = ((logits > 0) == (label > 0.5)).float().mean()
        return {"loss": loss, "weight": weight_of(batch), "accuracy": right}


class Teaching(Spec):
    """Role: how the loss by labels and what a teacher says become one loss."""

    def joined(self, by_labels: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
        """Mean over b of both; by_labels b, the student's logits b k for the teacher, and the teacher's own b k."""
        raise NotImplementedError


@spec("soft")
class Soft(Teaching):
    """(1 - weight) CE + weight tau^2 KL(teacher / tau || student / tau) (Touvron et al. 2021, eq. 2)."""

    weight: float = Field(0.1, ge=0, le=1)
    tau: float = Field(3.0, gt=0)

    def joined(self, by_labels: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
        apart = self.tau**2 * distance(teacher / self.tau, logits / self.tau)
        return ((1 - self.weight) * by_labels + self.weight * apart).mean()


@spec("hard")
class Hard(Teaching):
    """CE of the label and CE of the class that the teacher finds likeliest, half each (Touvron et al. 2021, eq. 3)."""

    weight: float = Field(0.5, ge=0, le=1)

    def joined(self, by_labels: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
        by_teacher = nn.functional.cross_entropy(logits.float(), teacher.argmax(dim=-1), reduction="none")
        return ((1 - self.weight) * by_labels + self.weight * by_teacher).mean()


@spec("distill")
class Distill(Objective):
    """`Classify`, beside a teacher that saw the same pixels; batch: also "teacher", its logits b k, without gradient.

    A `distilled` head learns from the teacher with its second token, any other head with the only one it has.
    Labels are smoothed, the teacher's answers are not.
    """

    teaching: Part[Teaching] = Hard()
    smoothing: float = Field(0.1, ge=0, lt=1)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        features = model.features(batch["image"])
        by_label, by_teacher = model.head.each(features)
        loss = self.teaching.joined(mixed_cross_entropy(by_label, batch, self.smoothing), by_teacher, batch["teacher"])
        agrees = (by_teacher.argmax(dim=-1) == batch["teacher"].argmax(dim=-1)).float().mean()
        accurate = accuracy((by_label + by_teacher) / 2, batch)
        return {"loss": loss, "weight": weight_of(batch), "accuracy": accurate, "agreement": agrees}


def given(batch: Batch) -> Any:
    """What the model reads of a batch: "source" (a tensor, or a mapping of streams, see stems/streams), or "image"."""
    return batch["source"] if "source" in batch else batch["image"]


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """Share of images whose likeliest class is the label, of a mixed image that of its larger part."""
    label = batch["label"]
    if "label2" in batch:
        label = torch.where(batch["share"] < 0.5, batch["label2"], label)
    return (logits.argmax(dim=-1) == label).float().mean()


def weight_of(batch: Batch) -> Tensor:
    """How many images a batch has."""
    return torch.tensor(len(batch["label"]), device=batch["label"].device)
