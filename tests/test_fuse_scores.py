"""Scores of mixed rows against scikit-learn, against their definitions, and in however many pieces they come."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from tessella.class_scores import report, softmax
from tessella.errors import InputError
from tessella.fuse_scores import paired, wilson
from tessella.fuse_sums import ClassSums, LabelSums, NumberSums, Sums, errors
from tessella.rank_scores import Ranks, odds_of_classes

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]


def classes(n: int = 300, k: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know something, and labels drawn from what they say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32) * 2
    labels = np.array([rng.choice(k, p=p) for p in softmax(logits.astype(float))])
    return logits, labels


def several(n: int = 300, k: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits n k, and labels n k of 0 and 1 that agree with them more often than not."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32) * 2
    return logits, (rng.random((n, k)) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def summed(sums: Sums, answers: np.ndarray, labels: np.ndarray, pieces: int = 3) -> Sums:
    for part in np.array_split(np.arange(len(labels)), pieces):
        sums.add(answers[part], labels[part])
    return sums


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(2, 80), k=st.integers(2, 7))
def test_classes_as_scikit_learn_has_them(seed, n, k):
    logits, labels = classes(n, k, seed)
    found, predicted = summed(ClassSums(NAMES[:k]), logits, labels).scores().measured[""], logits.argmax(1)
    there = np.unique(labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    recall = metrics.recall_score(labels, predicted, labels=there, average="macro", zero_division=0)
    assert found["balanced"] == pytest.approx(recall)
    f1 = metrics.f1_score(labels, predicted, labels=there, average="macro", zero_division=0)
    assert found["F1"] == pytest.approx(f1)
    assert found["log loss"] == pytest.approx(metrics.log_loss(labels, softmax(logits.astype(float)), labels=range(k)))
    odds = Ranks(k).rounded(odds_of_classes(logits.astype(float)))
    asked = [1] if k == 2 else [i for i in range(k) if i in there]
    defined = [i for i in asked if len(set(labels == i)) == 2]
    if defined:
        auc = np.mean([metrics.roc_auc_score(labels == i, odds[:, i]) for i in defined])
        assert found["AUC"] == pytest.approx(auc)
    else:
        assert found["AUC"] is None
    if set(asked) <= set(there):
        precise = np.mean([metrics.average_precision_score(labels == i, odds[:, i]) for i in asked])
        assert found["AP"] == pytest.approx(precise)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(2, 80), k=st.integers(2, 7), pieces=st.integers(1, 5))
def test_classes_in_pieces_are_the_report_of_all_at_once(seed, n, k, pieces):
    logits, labels = classes(n, k, seed)
    found = summed(ClassSums(NAMES[:k]), logits, labels, pieces).scores().classes
    whole = report(logits, labels, NAMES[:k])
    assert (found.images, found.interval, found.absent) == (whole.images, whole.interval, whole.absent)
    assert found.confusion == whole.confusion
    assert found.classes == whole.classes
    assert (found.top5 is None) == (k <= 5)
    for name in ("top1", "top5", "precision", "recall", "f1"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name))
    for name in ("ece", "nll", "brier"):
        assert getattr(found.calibration, name) == pytest.approx(getattr(whole.calibration, name), abs=1e-6)
    assert [b.images for b in found.calibration.bins] == [b.images for b in whole.calibration.bins]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), n=st.integers(1, 60), k=st.integers(1, 5), steps=st.sampled_from([2, 10, 10**6]))
def test_areas_are_exactly_those_of_the_rounded_odds(seed, n, k, steps):
    """With many ties, few, and none."""
    rng = np.random.default_rng(seed)
    odds, truth = np.round(rng.normal(size=(n, k)) * steps) / steps * 3, rng.random((n, k)) < 0.4
    ranks = Ranks(k)
    ranks.add(odds[: n // 2], truth[: n // 2])
    ranks.add(odds[n // 2 :], truth[n // 2 :])
    rounded = ranks.rounded(odds)
    assert (ranks.rows, ranks.yes.tolist()) == (n, truth.sum(0).tolist())
    for i in range(k):
        if len(set(truth[:, i])) == 2:
            assert ranks.auc()[i] == pytest.approx(metrics.roc_auc_score(truth[:, i], rounded[:, i]))
        else:
            assert np.isnan(ranks.auc()[i])
        if truth[:, i].any():
            precise = metrics.average_precision_score(truth[:, i], rounded[:, i])
            assert ranks.average_precision()[i] == pytest.approx(precise)
        else:
            assert np.isnan(ranks.average_precision()[i])


@pytest.mark.parametrize(("k", "apart"), [(1, 2e-5), (1000, 2e-3)])
def test_rounding_moves_areas_little(k, apart):
    rng = np.random.default_rng(0)
    truth = rng.random((4000, 1)) < 0.3
    odds = rng.normal(size=(4000, 1)) + truth
    ranks = Ranks(k)
    ranks.add(np.tile(odds, k), np.tile(truth, k))
    assert np.allclose(ranks.auc(), metrics.roc_auc_score(truth[:, 0], odds[:, 0]), atol=apart)
    precise = metrics.average_precision_score(truth[:, 0], odds[:, 0])
    assert np.allclose(ranks.average_precision(), precise, atol=apart)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), sharp=st.floats(0.1, 60))
def test_log_odds_are_those_of_probabilities_and_rank_where_these_are_all_one(seed, sharp):
    logits = classes(20, 5, seed)[0].astype(float) * sharp
    odds, shares = odds_of_classes(logits), softmax(logits)
    inside = (shares > 1e-9) & (shares < 1 - 1e-9)
    assert np.allclose(odds[inside], np.log(shares[inside] / (1 - shares[inside])), atol=1e-5)
    assert np.isfinite(odds).all()
    assert np.array_equal(odds_of_classes(np.array([[0.0, 90.0], [0.0, 99.0]]))[:, 1], [90, 99])


def test_what_needs_no_model_by_hand():
    """Six of eight rows are bees: always to answer bee is right for six, and the best probabilities are the shares."""
    labels = np.array([1] * 6 + [0] * 2)
    plain = summed(ClassSums(["ant", "bee"]), np.zeros((8, 2)), labels).scores().plain[""]
    assert plain["accuracy"] == 0.75
    assert plain["balanced"] == 0.5
    always = np.ones(8, int)
    assert plain["F1"] == pytest.approx(metrics.f1_score(labels, always, average="macro", zero_division=0))
    assert plain["log loss"] == pytest.approx(metrics.log_loss(labels, np.tile([0.25, 0.75], (8, 1))))
    assert (plain["AUC"], plain["AP"]) == (0.5, 0.75)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(2, 80), t=st.integers(1, 3), unit=st.sampled_from([1e-6, 1.0, 1e7]))
def test_numbers_as_scikit_learn_has_them(seed, n, t, unit):
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(n, t)) * unit + 5 * unit
    answers = labels + rng.standard_cauchy(size=(n, t)) * unit
    names, means = ["price", "weight", "age"][:t], [4 * unit] * t
    found = summed(NumberSums(names, means, [unit] * t), answers, labels).scores()
    for given_answers, told in ((answers, found.measured), (np.full_like(labels, 4 * unit), found.plain)):
        for i, name in enumerate(names):
            pair = labels[:, i], given_answers[:, i]
            assert told[name]["MAE"] == pytest.approx(metrics.mean_absolute_error(*pair))
            assert told[name]["RMSE"] == pytest.approx(metrics.root_mean_squared_error(*pair))
            assert told[name]["R²"] == pytest.approx(metrics.r2_score(*pair), rel=1e-5)
            assert told[name]["median error"] == pytest.approx(metrics.median_absolute_error(*pair))


def test_a_label_that_never_varies_has_nothing_to_explain():
    assert errors(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["R²"] is None


def test_errors_of_several_numbers_are_told_in_deviations():
    one = summed(NumberSums(["price"], [0], [10]), np.array([[5.0]]), np.array([[2.0]]))
    two = summed(NumberSums(["price", "age"], [0, 0], [10, 1]), np.array([[5.0, 1.0]]), np.array([[2.0, 2.0]]))
    assert one.outcomes.tolist() == [3]
    assert two.outcomes.tolist() == [pytest.approx((0.3 + 1) / 2)]
    assert two.told(0) == ["2", "5", "3", "2", "1", "-1"]
    assert len(two.columns) == 6


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(1, 60), k=st.integers(1, 6))
def test_labels_as_scikit_learn_has_them(seed, n, k):
    logits, labels = several(n, k, seed)
    found = summed(LabelSums(NAMES[:k]), logits, labels, pieces=2).scores()
    told, yes, truth = found.measured[""], logits >= 0, labels > 0.5
    there = np.flatnonzero(truth.any(0))
    assert told["micro F1"] == pytest.approx(metrics.f1_score(truth.ravel(), yes.ravel(), zero_division=0))
    assert told["all right"] == pytest.approx((truth == yes).all(1).mean())
    assert [one.name for one in found.labels] == [NAMES[i] for i in there]
    assert found.absent == [NAMES[i] for i in range(k) if i not in there]
    for one, i in zip(found.labels, there, strict=True):
        pair = truth[:, i], yes[:, i]
        assert (one.rows, one.answered) == (truth[:, i].sum(), yes[:, i].sum())
        assert one.precision == pytest.approx(metrics.precision_score(*pair, zero_division=0))
        assert one.recall == pytest.approx(metrics.recall_score(*pair, zero_division=0))
        assert one.f1 == pytest.approx(metrics.f1_score(*pair, zero_division=0))
        precise = metrics.average_precision_score(truth[:, i], Ranks(k).rounded(logits[:, i].astype(float)))
        assert one.average_precision == pytest.approx(precise)
        assert (one.auc is None) == bool(truth[:, i].all())
    if len(there):
        assert told["macro F1"] == pytest.approx(np.mean([one.f1 for one in found.labels]))
        assert told["mAP"] == pytest.approx(np.mean([one.average_precision for one in found.labels]))
        assert found.plain[""]["mAP"] == pytest.approx(truth[:, there].mean())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(2, 60))
def test_a_pair_of_runs_differs_as_their_scores_do(seed, n):
    rng = np.random.default_rng(seed)
    first, second = rng.random(n) < 0.5, rng.random(n) < 0.6
    found = paired(first, second)
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert paired(second, first).difference == pytest.approx(-found.difference)
    small, large = rng.random(n), rng.random(n) + 0.1
    found = paired(small, large)
    assert found.difference == pytest.approx(large.mean() - small.mean())
    assert found.interval[0] < found.difference < found.interval[1]


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 400), right=st.data())
def test_the_interval_of_a_share_is_wilsons(n, right):
    found = right.draw(st.integers(0, n))
    low, high = wilson(np.arange(n) < found)
    expected = binomtest(found, n).proportion_ci(method="wilson")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4))


def test_an_interval_of_errors_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered, small = [], []
    for _ in range(600):
        first, second = rng.exponential(size=80), rng.exponential(size=80)
        found = paired(first, second)
        covered.append(found.interval[0] <= 0 <= found.interval[1])
        small.append(found.p < 0.05)
    assert 0.92 <= np.mean(covered) <= 0.97
    assert 0.03 <= np.mean(small) <= 0.08
    assert paired(first, first).p == 1
    assert paired(first, first + 0.5).p == 0


def test_a_thousand_classes_of_many_rows_are_not_kept():
    sums, rng = ClassSums([str(i) for i in range(1000)]), np.random.default_rng(0)
    labels = rng.integers(0, 1000, 512)
    logits = rng.normal(size=(512, 1000)).astype(np.float32)
    sums.add(logits, labels)
    tracemalloc.start()
    for _ in range(8):
        sums.add(logits, labels)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 8 * 512 * 16  # bytes; the logits are 8 * 512 * 4,000
    assert sums.scores().classes.images == 9 * 512


@pytest.mark.parametrize(
    ("sums", "answers", "labels"),
    [
        (ClassSums(NAMES), *classes(5)),
        (LabelSums(NAMES), *several(5)),
        (NumberSums(["price"], [0], [1]), np.ones((5, 1)), np.zeros((5, 1))),
    ],
)
def test_nothing_to_score_and_numbers_that_are_none_are_refused_and_scores_are_plain_data(sums, answers, labels):
    with pytest.raises(InputError, match="no row was left"):
        sums.scores()
    with pytest.raises(InputError, match="2 of 5 rows"):
        sums.add(np.where(np.arange(5)[:, None] < 2, np.nan, answers), labels)
    sums.add(answers, labels)
    assert json.loads(json.dumps(sums.scores().to_dict()))
    assert len(sums.told(4)) == len(sums.columns)


def test_a_report_of_rows_speaks_of_rows():
    told = summed(ClassSums(NAMES), *classes()).scores().to_dict()
    assert "images" not in json.dumps(told)
    assert told["rows"] == sum(one["rows"] for one in told["classes"]) == 300
    assert told["measured"]["accuracy"] == told["top1"]
