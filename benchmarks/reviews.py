"""Reviews: whether a customer recommends what she bought, from her words, the table, and both; and what others reach.

    python benchmarks/reviews.py --data ../shared/data --runs runs [--seeds 1 2 3] [--only train]

The transformers have no other words than the training part's. Without the stars, which nearly are the answer, and with
them. Baselines are those of review_baselines.py, on the same split. Runs that are there already are not trained again;
the best validation after an epoch is kept and the test is read once, at the end. It writes
docs/results/fusion-reviews.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fused import Course, Writer, hardware, mean, right  # noqa: E402
from review_baselines import CATEGORIES, LABEL, NUMBERS, TEXTS  # noqa: E402
from review_baselines import measured as baselines  # noqa: E402

from tessella.recipes.fusing import Fusion, MixedRows, reviews  # noqa: E402

STARS = "Rating"
TABLE = [*NUMBERS, *CATEGORIES]
READ = {
    "text": TEXTS,
    "table": TABLE,
    "text and table": [*TEXTS, *TABLE],
    "table with stars": [*TABLE, STARS],
    "text and table with stars": [*TEXTS, *TABLE, STARS],
}
"""Which columns each model has."""


def recipe(name: str, seed: int) -> Fusion:
    """The recipe `reviews` for these columns."""
    base = reviews()
    kinds = dict.fromkeys(TEXTS, "text") | dict.fromkeys([*NUMBERS, STARS], "number")
    kinds |= dict.fromkeys(CATEGORIES, "category")
    kinds |= {column: "ignore" for column in [*TEXTS, *TABLE, STARS] if column not in READ[name]}
    return base.replace(
        data=MixedRows(label=LABEL, task="classes", kinds=kinds),
        loop=base.loop.replace(seed=seed, precision="32", checkpoint_minutes=None, keep=1),
    )


def auc(logits: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float(roc_auc_score(labels, (logits[:, 1] - logits[:, 0])))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--names", nargs="+", choices=READ, default=list(READ))
    parser.add_argument("--only", choices=("train",), help="stop after this step")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fusion-reviews.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    course, runs = Course(given.data / "womens-clothing-reviews"), {}
    for seed in given.seeds:
        for name in given.names:
            runs[name, seed] = course.train(
                recipe(name, seed), given.runs / "reviews" / f"{name.replace(' ', '-')}-{seed}"
            )
            print(f"{runs[name, seed].path}: {runs[name, seed].seconds:.0f} s", flush=True)
    if given.only == "train":
        return
    write = Writer("python benchmarks/reviews.py", "womens-clothing-reviews", "test, 2,000", hardware(), given.seeds)
    bars = {}
    for starred in (False, True):
        told = " with stars" if starred else ""
        found = baselines(given.data, starred)
        for name, row in found.items():
            for measure, unit in (("auc", "AUC"), ("accuracy", "accuracy")):
                write.add(f"reviews{told}, {name}: {unit}", round(row[measure], 2), "%")
        bars[starred] = {measure: max(row[measure] for row in found.values()) for measure in ("auc", "accuracy")}
    for name in given.names:
        answers = [course.answers(runs[name, seed].path) for seed in given.seeds]
        for measure, score, unit in (("auc", auc, "AUC"), ("accuracy", right, "accuracy")):
            values = [score(logits, labels) for logits, labels in answers]
            bar = bars[STARS in READ[name]][measure]
            goal = (None, None)
            if name.startswith("text and"):
                goal = f">= {bar:.2f}, the best baseline", statistics.fmean(values) >= bar
            told = f"{len(answers[0][1]):,} rows; those with nothing to read are left out"
            write.add(f"reviews, transformer of {name}: {unit}", mean(values), "%", *goal, signature=told)
    write.save(given.out)


if __name__ == "__main__":
    main()
