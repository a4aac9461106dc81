"""Evaluate: runs and test sets in, scores with signatures out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessella import files
from tessella.data.parallel import Columns, Pair, read_parallel
from tessella.data.quarantine import Quarantine
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.predict import load
from tessella.scores import Report, compare, report
from tessella.translator import Answer, Translator


@dataclass
class TestSet:
    """Sentences with references, and what of the files was unusable."""

    __test__ = False  # not a pytest class
    pairs: list[Pair]
    quarantine: Quarantine


@dataclass
class Evaluation:
    """One system on one test set."""

    run: str
    answers: list[Answer]
    report: Report


def read_test_set(
    source: Path, target: Path | None = None, columns: Columns | None = None, domain: Path | None = None
) -> TestSet:
    """Two parallel files or one table; unusable lines are set aside and counted."""
    quarantine = Quarantine()
    pairs = read_parallel(source, target, columns, quarantine, domain)
    return TestSet(pairs, quarantine)


def evaluate(
    translator: Translator,
    test: TestSet,
    name: str = "run",
    decoding: Decoding | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Translates and scores. A sentence without an answer is scored as an empty one and counted in `skipped`."""
    answers = translator.translate([p.source for p in test.pairs], decoding, done=done)
    failed = sum(a.error is not None for a in answers)
    made = report(
        [a.text for a in answers],
        [p.target for p in test.pairs],
        [len(p.source.split()) for p in test.pairs],
        [p.domain for p in test.pairs],
        skipped=len(test.quarantine) + failed,
    )
    return Evaluation(name, answers, made)


def evaluate_runs(
    runs: Sequence[str | Path],
    test: TestSet,
    decoding: Callable[[Decoding], Decoding] = lambda usual: usual,
    done: Callable[[int], None] = lambda count: None,
    device: str = "auto",
    dtype: str = "float32",
) -> tuple[list[Evaluation], list[dict[str, Any]]]:
    """Every run on the same test set and, for several, a paired bootstrap of each against the first."""
    names = [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise InputError("the same run is named twice; a comparison needs different ones")
    evaluations = []
    for run in runs:
        translator = load(run, device, dtype)
        evaluations.append(evaluate(translator, test, str(run), decoding(translator.decoding), done))
    if len(runs) == 1:
        return evaluations, []
    systems = {e.run: [a.text for a in e.answers] for e in evaluations}
    return evaluations, compare(systems, [p.target for p in test.pairs])


def save(evaluations: Sequence[Evaluation], differences: list[dict[str, Any]], test: TestSet, out: Path) -> None:
    """Writes every number, and beside it the answers line by line, as JSON."""
    data = {
        "runs": [{"run": e.run, **e.report.to_dict()} for e in evaluations],
        "paired bootstrap": differences,
        "quarantined": [{"where": i.where, "line": i.line, "reason": i.reason} for i in test.quarantine],
        "answers": [
            {
                "line": pair.line,
                "source": pair.source,
                "reference": pair.target,
                **{e.run: e.answers[i].text for e in evaluations},
            }
            for i, pair in enumerate(test.pairs)
        ],
    }
    with files.explained(out):
        files.write_text(out, json.dumps(data, ensure_ascii=False, indent=1))
