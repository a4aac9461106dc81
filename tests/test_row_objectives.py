"""Objectives of rows: weighted classes, numbers and labels are torch's losses, and parts of a batch add up to it."""

from __future__ import annotations

import pytest
import torch
from tiny_fusion import DIM, built, lacking, rows, spec_of
from torch import nn
from torch.nn import functional as F

from tessella.heads import Classes, Values, by_streams
from tessella.objectives import Classify, Regress, Tag, given

WEIGHTS = (0.5, 2.0, 1.0, 0.1, 3.0)


class Same(nn.Module):
    """A model that answers what it is given."""

    def forward(self, x):
        return x


def drawn(b: int = 7, k: int = 5):
    return torch.randn(b, k, requires_grad=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_classes_are_torch_s(smoothing):
    """With smoothing, each example's smoothed loss counts as much as its label does."""
    logits, label = drawn(), torch.tensor([0, 1, 1, 4, 3, 2, 0])
    found = Classify(smoothing=smoothing, weights=WEIGHTS)(Same(), {"source": logits, "label": label})
    counts = torch.tensor(WEIGHTS)[label]
    if not smoothing:
        expected = F.cross_entropy(logits, label, weight=torch.tensor(WEIGHTS))
    else:
        each = F.cross_entropy(logits, label, label_smoothing=smoothing, reduction="none")
        expected = (counts * each).sum() / counts.sum()
    torch.testing.assert_close(found["loss"], expected)
    assert float(found["weight"]) == pytest.approx(float(counts.sum()))
    right = (logits.argmax(1) == label).float()
    assert float(found["accuracy"]) == pytest.approx(float((counts * right).sum() / counts.sum()))


def test_equal_weights_change_nothing():
    batch = {"source": drawn(), "label": torch.tensor([0, 1, 1, 4, 3, 2, 0])}
    weighted, plain = Classify(weights=(2.0,) * 5)(Same(), batch), Classify()(Same(), batch)
    torch.testing.assert_close(weighted["loss"], plain["loss"])
    torch.testing.assert_close(weighted["accuracy"], plain["accuracy"])


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_numbers_are_torch_s(loss):
    answers, label = drawn(k=3), 3 * torch.randn(7, 3)
    found = Regress(loss=loss)(Same(), {"source": answers, "label": label})
    expected = {"squared": F.mse_loss, "huber": F.huber_loss}[loss](answers, label)
    torch.testing.assert_close(found["loss"], expected)
    assert float(found["error"]) == pytest.approx(float((answers - label).abs().mean()))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_labels_are_torch_s(weights):
    logits, label = drawn(), (torch.rand(7, 5) < 0.4).float()
    found = Tag(weights=weights)(Same(), {"source": logits, "label": label})
    loss = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else torch.tensor(weights))
    torch.testing.assert_close(found["loss"], loss(logits, label))
    assert float(found["accuracy"]) == pytest.approx(float(((logits > 0).float() == label).float().mean()))


LABELS = {
    "classes": (Classify(), torch.tensor([0, 1, 1, 4, 3, 2, 0])),
    "weighted": (Classify(weights=WEIGHTS), torch.tensor([0, 1, 1, 4, 3, 2, 0])),
    "numbers": (Regress(), torch.randn(7, 5)),
    "labels": (Tag(weights=WEIGHTS), (torch.rand(7, 5) < 0.4).float()),
}


@pytest.mark.parametrize("which", LABELS)
def test_parts_of_a_batch_weighed_by_their_weights_are_the_batch(which):
    """Which is how the loop adds micro-batches up."""
    (objective, label), logits = LABELS[which], drawn()
    whole = objective(Same(), {"source": logits, "label": label})
    parts = [objective(Same(), {"source": logits[cut], "label": label[cut]}) for cut in (slice(0, 3), slice(3, 7))]
    total = sum(part["weight"] for part in parts)
    for name in ("loss", *(whole.keys() & {"accuracy", "error"})):
        torch.testing.assert_close(sum(part[name] * part["weight"] for part in parts) / total, whole[name])


def test_a_source_goes_before_an_image():
    assert given({"source": 1, "image": 2}) == 1
    assert given({"image": 2}) == 2


def test_values_are_as_many_numbers_as_there_are_targets():
    model = built(spec_of("early-concat", head=Values(dim=DIM, targets=3)))
    batch = lacking(rows(("text", "image", "table")), text=[1, 0, 1, 1])
    features = model.features(batch)
    expected = by_streams(features) @ model.head.scores.weight.T + model.head.scores.bias
    found = model(batch)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, expected)


def test_a_head_over_streams_reads_the_mean_of_the_streams():
    model = built(spec_of("cross", head=Classes(dim=DIM, classes=4, pool="streams")))
    features = model.features(rows(("text", "image", "table")))
    means = torch.stack([
        torch.stack([features.x[row, a:b][features.keep[row, a:b]].mean(0) for _, a, b in features.spans]).mean(0)
        for row in range(4)
    ])  # fmt: skip
    torch.testing.assert_close(model.head(features), means @ model.head.scores.weight.T + model.head.scores.bias)
