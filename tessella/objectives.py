"""Objectives: what is learned; each returns a dict with "loss"."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from tessella.losses import smoothed_cross_entropy
from tessella.spec import Spec, spec
from tessella.state import State

Batch = dict[str, Tensor]
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
