"""Losses: cross-entropy, over a vocabulary fused with the product that gives the logits, of classes, to a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Logits held at once: few enough for a processor's cache, enough to keep an accelerator busy."""


def smoothed_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean over t positions of the label-smoothed cross-entropy of logits z = features weight^T + bias.

        loss_i = log sum_j exp z_ij - (1 - smoothing) z_iy - smoothing / v * sum_j z_ij,    y = labels_i

    It is ``F.cross_entropy(z, labels, label_smoothing=smoothing)``: the smoothed share lies evenly on all v words, the
    right one included (Szegedy et al. 2016, sec. 7). All logits never exist at once: they are made, used and
    overwritten in chunks of positions, and the gradient is computed on the way (as in Hsu et al. 2024, Liger Kernel).

    features: t d; weight: v d; bias: v or None; labels: long t, without padding. Products are computed in the type of
    autocast if it is on, else in that of features and weight; exponentials and sums at least in fp32.

    Out: the mean in nats (0 where t is 0), differentiable once in features, weight and bias; and how many positions
    have their label among the likeliest words.
    """
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (features, weight, bias))
    return _SmoothedCrossEntropy.apply(features, weight, bias, labels, smoothing, learns)


class _SmoothedCrossEntropy(torch.autograd.Function):
    """The gradient of a loss_i in its logits is softmax(z_i) - (1 - smoothing) [j = y] - smoothing / v.

    With e = exp(z - max z) and s its sum, softmax is e / s; the division is done on the t d side of each product, and
    the evenly spread share is the same for all words, so neither passes over the t v logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        work = _Work(features, weight, bias, smoothing, learns)
        with torch.autocast(features.device.type, enabled=False):
            loss, correct = work.run(labels)
        gradients = (work.d_features, work.d_weight, work.d_bias)
        ctx.save_for_backward(*gradients)
        ctx.types = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        given = zip(ctx.saved_tensors, ctx.types, ctx.needs_input_grad, strict=False)
        inner = [(g * outer[0]).to(t) if needed and g is not None else None for g, t, needed in given]
        return *inner, None, None, None


class _Work:
    """One pass over the chunks: sums of the loss, and of its gradients where they are wanted."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float, learns: bool) -> None:
        device = features.device.type
        auto = torch.is_autocast_enabled(device)
        self.type = torch.get_autocast_dtype(device) if auto else torch.promote_types(features.dtype, weight.dtype)
        self.wide = torch.promote_types(self.type, torch.float32)
        self.features, self.weight = features.to(self.type), weight.to(self.type)
        self.bias = None if bias is None else bias.to(self.type)
        self.smoothing, self.even = smoothing, smoothing / len(weight)
        self.all_words = self.weight.sum(0, dtype=self.wide)
        self.d_features = self.d_weight = self.d_bias = None
        if learns:
            self.d_features = torch.empty_like(features, dtype=self.wide)
            summed = self.features.sum(0, dtype=self.wide) * -self.even
            self.d_weight = summed.expand(weight.shape).contiguous()
            self.d_bias = None if bias is None else self.all_words.new_full(bias.shape, -self.even * len(features))

    def run(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss and the number of right positions."""
        t, v = len(labels), len(self.weight)
        loss = self.features.sum(0, dtype=self.wide) @ self.all_words * -self.even
        if self.bias is not None:
            loss -= self.bias.sum(dtype=self.wide) * self.even * t
        correct = torch.zeros((), dtype=torch.long, device=labels.device)
        rows = max(1, CHUNK.get(labels.device.type, CHUNK["cuda"]) // v)
        rows = math.ceil(t / math.ceil(t / rows)) if t else 1  # chunks of equal size
        logits = self.features.new_empty(min(rows, t), v)
        wide = logits if self.wide == self.type else logits.new_empty(logits.shape, dtype=self.wide)
        for at in range(0, t, rows):
            here = slice(at, at + rows)
            n = len(labels[here])
            part, right = self._chunk(here, labels[here, None], logits[:n], wide[:n])
            loss += part
            correct += right
        for gradient in (self.d_features, self.d_weight, self.d_bias):
            if gradient is not None:
                gradient /= max(t, 1)
        return loss / max(t, 1), correct

    def _chunk(self, here: slice, labels: Tensor, logits: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the chunk's positions of the loss (without its even share) and of the right ones."""
        features = self.features[here]
        torch.mm(features, self.weight.t(), out=logits)
        if self.bias is not None:
            logits += self.bias
        z = wide.copy_(logits) if wide is not logits else logits
        top, true = z.amax(1, keepdim=True), z.gather(1, labels)
        # exp(z - top), as a power of two: much the faster of the two on a CPU.
        e = torch.sub(top * -math.log2(math.e), z, alpha=-math.log2(math.e), out=z).exp2_()
        s = e.sum(1, keepdim=True)
        loss = (top + s.log() - (1 - self.smoothing) * true).sum()
        if self.d_features is not None:
            self._gradients(here, features, e.scatter_add_(1, labels, (self.smoothing - 1) * s), s, logits)
        return loss, (true == top).sum()

    def _gradients(self, here: slice, features: Tensor, e: Tensor, s: Tensor, room: Tensor) -> None:
        assert self.d_features is not None and self.d_weight is not None
        e = room.copy_(e) if room is not e else e
        torch.sub((e @ self.weight) / s, self.all_words, alpha=self.even, out=self.d_features[here])
        self.d_weight += (e.t() @ (features / s).to(self.type)).to(self.wide)
        if self.d_bias is not None:
            self.d_bias += (e.t() @ s.reciprocal().to(self.type)).squeeze(1)


def mixed_cross_entropy(logits: Tensor, batch: Mapping[str, Tensor], smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each of b images: logits b k; batch: "label" and, of mixed images, "label2" and "share".

    share CE(label) + (1 - share) CE(label2) is the cross-entropy of the mixed label (Zhang et al. 2018, sec. 2).
    """
    wide = logits.float()
    loss = F.cross_entropy(wide, batch["label"], label_smoothing=smoothing, reduction="none")
    if "label2" in batch:
        other = F.cross_entropy(wide, batch["label2"], label_smoothing=smoothing, reduction="none")
        loss = torch.lerp(other, loss, batch["share"].to(loss.dtype))
    return loss


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each of b rows of logits b k, in nats; no gradient to the teacher."""
    told, answer = teacher.detach().float().log_softmax(dim=-1), student.float().log_softmax(dim=-1)
    return F.kl_div(answer, told, reduction="none", log_target=True).sum(dim=-1)
