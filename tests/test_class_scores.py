"""Class scores against scikit-learn, against their definitions, and against what chance alone does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from tessella.class_scores import (
    among,
    calibration,
    compare,
    fitted_temperature,
    interval,
    mcnemar,
    report,
    softmax,
)
from tessella.errors import InputError

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]


def answers(n: int = 400, k: int = 7, sharp: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know something, and labels drawn from what they say: calibrated at sharp = 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = np.array([rng.choice(k, p=p) for p in softmax(logits)])
    return logits * sharp, labels


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(2, 80), sharp=st.floats(0.1, 5))
def test_as_scikit_learn_has_them(seed, n, sharp):
    logits, labels = answers(n, 7, sharp, seed)
    found, predicted = report(logits, labels, NAMES), logits.argmax(1)
    there = np.unique(labels)
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=there, zero_division=0
    )
    assert found.top1 == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(7)))
    assert [c.images for c in found.classes] == images.tolist()
    assert [c.precision for c in found.classes] == pytest.approx(precision)
    assert [c.recall for c in found.classes] == pytest.approx(recall)
    assert [c.f1 for c in found.classes] == pytest.approx(f1)
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision.mean(), recall.mean(), f1.mean()))
    assert found.recall == pytest.approx(np.mean(recall))
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=range(7)))
    assert found.calibration.nll == pytest.approx(metrics.log_loss(labels, softmax(logits), labels=range(7)))
    onehot = np.eye(7)[labels]
    assert found.calibration.brier == pytest.approx(((softmax(logits) - onehot) ** 2).sum(1).mean())
    assert found.absent == [name for i, name in enumerate(NAMES) if i not in there]


def test_classes_without_images_have_no_scores_and_pull_no_mean_down():
    logits = np.eye(7)[[0, 1, 1, 6]] * 9
    found = report(logits, np.array([0, 1, 1, 0]), NAMES)
    assert found.absent == ["cat", "dog", "elk", "fox", "gnu"]
    assert [c.name for c in found.classes] == ["ant", "bee"]
    assert found.recall == pytest.approx((0.5 + 1) / 2)
    assert found.classes[0].mistaken_for == "gnu"
    assert found.classes[1].mistaken_for is None


def test_of_equal_logits_the_first_class_is_the_answer():
    level = np.zeros((1, 7))
    assert [bool(among(level, np.array([label]), 5)[0]) for label in range(7)] == [True] * 5 + [False] * 2
    assert report(level, np.array([0]), NAMES).top1 == 1
    assert report(level, np.array([1]), NAMES).top1 == 0


def test_top5_of_five_classes_would_say_nothing():
    assert report(np.eye(5), np.arange(5), NAMES[:5]).top5 is None


def test_calibration_error_by_hand():
    """Ten answers at 0.95, eight of them right; ten at 0.55, all of them right: (0.15 + 0.45) / 2."""
    p = np.array([[0.95, 0.05]] * 10 + [[0.55, 0.45]] * 10)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 10)
    found = calibration(p, labels)
    assert found.ece == pytest.approx(0.30)
    assert [(b.images, b.confidence, b.accuracy) for b in found.bins] == [
        (10, pytest.approx(0.55), 1.0),
        (10, pytest.approx(0.95), 0.8),
    ]
    assert all(b.low < b.confidence <= b.high for b in found.bins)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), bins=st.integers(1, 40))
def test_bins_part_all_images_and_their_accuracy_is_the_whole(seed, bins):
    logits, labels = answers(60, seed=seed)
    found = calibration(softmax(logits), labels, bins)
    assert sum(b.images for b in found.bins) == 60
    accuracy = sum(b.images * b.accuracy for b in found.bins) / 60
    assert accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    assert all(b.low - 1e-12 <= b.confidence <= b.high + 1e-12 for b in found.bins)
    assert 0 <= found.ece <= 1
    assert 0 <= found.brier <= 2


def test_certain_and_wrong_is_finite():
    found = calibration(np.array([[1.0, 0.0]]), np.array([1]))
    assert math.isfinite(found.nll)
    assert found.brier == 2
    assert found.ece == 1


@pytest.mark.parametrize("sharp", [0.25, 1.0, 4.0])
def test_a_fitted_temperature_undoes_sharpening_and_changes_no_answer(sharp):
    logits, labels = answers(4000, sharp=sharp)
    temperature = fitted_temperature(logits, labels)
    assert temperature == pytest.approx(sharp, rel=0.1)
    before, after = calibration(softmax(logits), labels), calibration(softmax(logits / temperature), labels)
    assert after.nll <= before.nll + 1e-9
    for other in (0.98, 1.02):
        assert after.nll <= calibration(softmax(logits / (temperature * other)), labels).nll
    assert report(logits, labels, NAMES, temperature=True).temperature == temperature
    assert report(logits, labels, NAMES).temperature is None


def test_a_temperature_has_bounds_where_everything_is_right_or_chance():
    assert fitted_temperature(np.eye(3), np.arange(3)) == pytest.approx(0.01, rel=1e-3)
    assert fitted_temperature(np.eye(3), np.array([1, 2, 0])) == pytest.approx(100, rel=1e-3)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(400):
        low, high = interval(rng.random(300) < 0.8, samples=400, seed=seed)
        covered.append(low <= 0.8 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98
    assert interval(np.ones(50, bool)) == (1.0, 1.0)


def test_the_interval_is_that_of_resampling_images():
    right = np.arange(200) < 150
    rng = np.random.default_rng(3)
    slow = np.quantile(rng.choice(right, (4000, 200)).mean(1), [0.025, 0.975])
    assert interval(right) == pytest.approx(slow, abs=0.012)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (9, 3), (40, 60), (700, 655), (5000, 5200)])
def test_mcnemar_is_the_sign_test(gained, lost):
    from scipy.stats import binomtest

    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-6)


def test_a_comparison_is_paired():
    """Runs of like accuracy that err on different images differ less surely than one that only ever adds to another."""
    first = np.arange(100) < 60
    better = np.arange(100) < 70
    other = np.arange(100) >= 30
    surely, perhaps = compare(first, better), compare(first, other)
    assert surely.top1 == perhaps.top1 == pytest.approx(0.1)
    assert (surely.gained, surely.lost) == (10, 0)
    assert (perhaps.gained, perhaps.lost) == (40, 30)
    assert surely.p < 0.01 < 0.2 < perhaps.p
    assert surely.interval[0] > 0 > perhaps.interval[0]
    back = compare(better, first)
    assert (back.top1, back.p) == (-surely.top1, surely.p)
    assert compare(first, first).p == 1


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (np.zeros((0, 7)), [], "nothing to score"),
        (np.zeros((2, 6)), [0, 1], "got 2 x 6"),
        (np.zeros((2, 7)), [0, 7], "0 to 7"),
        (np.zeros((2, 7)), [-1, 3], "-1 to 3"),
        (np.full((2, 7), np.nan), [0, 1], "2 of 2 images"),
    ],
)
def test_what_does_not_belong_together_is_refused(logits, labels, said):
    with pytest.raises(InputError, match=said):
        report(logits, np.array(labels, dtype=int), NAMES)


def test_runs_of_different_images_are_not_compared():
    with pytest.raises(InputError, match="3 and 4 images"):
        compare(np.ones(3, bool), np.ones(4, bool))


def test_a_report_is_plain_data():
    import json

    assert json.loads(json.dumps(report(*answers(), NAMES, temperature=True).to_dict()))["images"] == 400
