"""Caption scores: captions against what people say of the same pictures: BLEU-4, chrF, CIDEr, and how they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from tessella.cider import Cider
from tessella.errors import InputError
from tessella.repeats import degenerate
from tessella.scores import Score


@dataclass(frozen=True)
class CaptionScores:
    """How well a set of pictures is described, and how varied."""

    pictures: int
    references: int
    scores: list[Score]
    """BLEU-4 and chrF against all references of each picture, and CIDEr, with their signatures."""
    distinct: int
    """How many different captions there are."""
    degenerate: float
    """Percent of captions that are empty or say something twice in a row."""
    words: float
    """Mean length of a caption."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def value(self, metric: str) -> float:
        """One of the scores by its name."""
        return next(score.value for score in self.scores if score.metric == metric)


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """One caption a picture against its references, however many each has. Raises InputError where there is none."""
    if not captions or len(captions) != len(references):
        raise InputError(f"{len(captions)} captions for {len(references)} pictures with references; one each is needed")
    streams, scores = _streams(references), []
    for name, metric in (("bleu-4", BLEU(tokenize="13a", lowercase=True, force=True)), ("chrf", CHRF(lowercase=True))):
        value = metric.corpus_score(list(captions), streams).score
        scores.append(Score(name, value, str(metric.get_signature())))
    scores.append(Score("cider", float(Cider(references).scores(captions).mean()), Cider.signature))
    return CaptionScores(
        pictures=len(captions),
        references=sum(map(len, references)),
        scores=scores,
        distinct=len(set(captions)),
        degenerate=100 * sum(map(degenerate, captions)) / len(captions),
        words=float(np.mean([len(caption.split()) for caption in captions])),
    )


def sentence_bleu(caption: str, references: Sequence[str]) -> float:
    """BLEU of one caption: of n-grams as long as it has any (effective order), smoothed exponentially."""
    metric = BLEU(tokenize="13a", lowercase=True, effective_order=True)
    return metric.sentence_score(caption, list(references)).score


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacreBLEU wants them: the first reference of every picture, the second of every picture …, None for none."""
    most = max(map(len, references))
    return [[several[i] if i < len(several) else None for several in references] for i in range(most)]
