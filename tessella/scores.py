"""Scores: BLEU and chrF with their signatures, by domain and by length, and whether two systems really differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from tessella.errors import InputError

METRICS = {
    "bleu": lambda: BLEU(tokenize="13a"),
    "bleu-lc": lambda: BLEU(tokenize="13a", lowercase=True),
    "bleu-char": lambda: BLEU(tokenize="char"),
    "chrf": lambda: CHRF(),
}
"""Name -> sacreBLEU metric: cased and lower-cased 13a for languages written with spaces, char for others, chrF2."""


@dataclass(frozen=True)
class Score:
    """One number with the signature that makes it comparable (Post 2018)."""

    metric: str
    value: float
    signature: str


@dataclass(frozen=True)
class Report:
    """How well a test set was translated, over all and in parts. Every part says how many sentences it has."""

    sentences: int
    scores: list[Score]
    exact: float
    """Share of answers equal to the reference, to the letter."""
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """"domain" or "source length" -> part -> {"sentences": n, metric: value}"""
    skipped: int = 0
    """Inputs that were quarantined or got no answer; they count as empty answers in nothing above."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def score(answers: Sequence[str], references: Sequence[str], metrics: Sequence[str] = tuple(METRICS)) -> list[Score]:
    """Corpus scores on detokenised text, one reference a sentence."""
    _same_length(answers, references)
    made = []
    for name in metrics:
        metric = METRICS[name]()
        value = metric.corpus_score(list(answers), [list(references)]).score
        made.append(Score(name, value, str(metric.get_signature())))
    return made


def report(
    answers: Sequence[str],
    references: Sequence[str],
    source_lengths: Sequence[int],
    domains: Sequence[str | None] = (),
    skipped: int = 0,
) -> Report:
    """The whole picture: corpus scores, by quartile of source length (words) and by domain, if there are domains."""
    groups = {"source length": _by_quartile(answers, references, source_lengths)}
    if any(domains):
        names = [str(d) for d in domains]
        groups["domain"] = {
            name: _part(answers, references, [i for i, d in enumerate(names) if d == name])
            for name in sorted(set(names))
        }
    exact = sum(a == r for a, r in zip(answers, references, strict=True)) / max(len(answers), 1)
    return Report(len(answers), score(answers, references), exact, groups, skipped)


def compare(
    systems: dict[str, Sequence[str]], references: Sequence[str], metric: str = "bleu-lc", samples: int = 1000
) -> list[dict[str, Any]]:
    """Paired bootstrap resampling (Koehn 2004) of every system against the first: score, interval, p-value."""
    for answers in systems.values():
        _same_length(answers, references)
    if len(systems) < 2:
        raise InputError("a comparison needs two systems")
    test = PairedTest(
        [(name, list(answers)) for name, answers in systems.items()],
        {metric: METRICS[metric]()},
        [list(references)],
        test_type="bs",
        n_samples=samples,
    )
    _, results = test()
    rows = []
    key = next(k for k in results if k != "System")
    for name, result in zip(results["System"], results[key], strict=True):
        row = {"system": name.removeprefix("Baseline: "), "score": result.score, "mean": result.mean, "ci": result.ci}
        rows.append({**row, "p": result.p_value, "metric": metric})
    return rows


def moses_bleu(answers: Sequence[str], references: Sequence[str], language: str) -> float:
    """BLEU on Moses-tokenised lower-cased text, as papers on Multi30k publish it (needs sacremoses)."""
    try:
        from sacremoses import MosesPunctNormalizer, MosesTokenizer
    except ImportError:
        raise InputError("Moses-tokenised BLEU needs sacremoses: pip install sacremoses") from None
    normalise, tokenise = MosesPunctNormalizer(language), MosesTokenizer(language)

    def prepared(texts: Sequence[str]) -> list[str]:
        return [str(tokenise.tokenize(normalise.normalize(t).lower(), return_str=True)) for t in texts]

    return sacrebleu.corpus_bleu(prepared(answers), [prepared(references)], tokenize="none", force=True).score


def _by_quartile(
    answers: Sequence[str], references: Sequence[str], lengths: Sequence[int]
) -> dict[str, dict[str, float]]:
    if len(answers) < 4:
        return {}
    edges = np.quantile(np.asarray(lengths), [0.25, 0.5, 0.75])
    quartile = np.searchsorted(edges, np.asarray(lengths), side="left")
    parts = {}
    for q in range(4):
        rows = np.flatnonzero(quartile == q).tolist()
        if rows:
            inside = [lengths[i] for i in rows]
            parts[f"{min(inside)}-{max(inside)} words"] = _part(answers, references, rows)
    return parts


def _part(answers: Sequence[str], references: Sequence[str], rows: Sequence[int]) -> dict[str, float]:
    chosen = [answers[i] for i in rows], [references[i] for i in rows]
    exact = sum(a == r for a, r in zip(*chosen, strict=True)) / max(len(rows), 1)
    return {"sentences": len(rows), "exact": exact, **{s.metric: s.value for s in score(*chosen)}}


def _same_length(answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references):
        raise InputError(f"{len(answers)} answers for {len(references)} references; they must pair up line by line")
    if not answers:
        raise InputError("there is nothing to score: no sentence was left")
