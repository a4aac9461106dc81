"""Baselines of the reviews: TF-IDF with logistic regression, and gradient boosting, on the transformer's split.

    python benchmarks/review_baselines.py --data ../shared/data [--rating]

Whether a reviewer recommends what was bought, from title and text, from the other columns, and from both. Each kind has
its settings chosen by the validation part's AUC among the grid below, and is fitted on the training part alone. The
rating of one to five stars nearly is the answer and is left out, unless --rating is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack
from sklearn.compose import make_column_transformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

SPLITS = ("train", "val", "test")
LABEL = "Recommended IND"
TEXTS = ["Title", "Review Text"]
NUMBERS = ["Age", "Positive Feedback Count"]
CATEGORIES = ["Clothing ID", "Division Name", "Department Name", "Class Name"]
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""C of logistic regression."""
RATES = (0.03, 0.06, 0.1)
"""Learning rates of boosting, which stops by itself."""
Parts = dict[str, Any]
"""split -> a matrix."""


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """split -> rows."""
    return {split: pd.read_parquet(folder / "womens-clothing-reviews" / f"{split}.parquet") for split in SPLITS}


def words(data: dict[str, pd.DataFrame]) -> Parts:
    """TF-IDF of words and of pairs of them."""
    texts = {split: (rows["Title"].fillna("") + " . " + rows["Review Text"].fillna("")) for split, rows in data.items()}
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w[\w']*\b|[!?]")
    vectors.fit(texts["train"])
    return {split: vectors.transform(texts[split]) for split in SPLITS}


def columns(data: dict[str, pd.DataFrame], numbers: list[str]) -> Parts:
    """Standardised numbers and a column a category, for what is linear."""
    made = make_column_transformer(
        (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore", min_frequency=5), CATEGORIES)
    )
    made.fit(data["train"])
    return {split: csr_matrix(made.transform(data[split])) for split in SPLITS}


def ordered(data: dict[str, pd.DataFrame], numbers: list[str]) -> Parts:
    """Numbers and numbered categories, for trees: the 254 most frequent items of clothing, others are missing."""
    known = {name: data["train"][name].value_counts().index[:254] for name in CATEGORIES}
    return {
        split: np.column_stack(
            [rows[numbers].to_numpy(float)]
            + [pd.Categorical(rows[name], categories=known[name]).codes.astype(float) for name in CATEGORIES]
        )
        for split, rows in data.items()
    }


def dense(texts: Parts, width: int) -> Parts:
    """The first directions of TF-IDF."""
    turned = TruncatedSVD(width, random_state=0).fit(texts["train"])
    return {split: turned.transform(texts[split]) for split in SPLITS}


def models(data: dict[str, pd.DataFrame], numbers: list[str]) -> Iterator[tuple[str, Parts, list[Any]]]:
    """name, what it reads, and the settings to choose among."""
    text, table, trees = words(data), columns(data, numbers), ordered(data, numbers)
    both = {split: hstack([text[split], table[split]]).tocsr() for split in SPLITS}
    linear = [LogisticRegression(C=strength, max_iter=2000) for strength in STRENGTHS]
    yield "text: TF-IDF, logistic regression", text, linear
    yield "table: logistic regression", table, linear
    yield "text and table: TF-IDF, logistic regression", both, linear
    first = len(numbers)
    kinds = [first + i for i in range(len(CATEGORIES))]
    trees = {split: np.where(part < 0, np.nan, part) for split, part in trees.items()}
    boosted = [
        HistGradientBoostingClassifier(learning_rate=rate, max_iter=1000, early_stopping=True, random_state=0)
        for rate in RATES
    ]
    yield "table: gradient boosting", trees, [one.set_params(categorical_features=kinds) for one in boosted]
    narrow = dense(text, 200)
    yield (
        "text and table: gradient boosting on 200 directions of TF-IDF",
        {split: np.column_stack([trees[split], narrow[split]]) for split in SPLITS},
        boosted,
    )


def scored(model: Any, inputs: Any, labels: np.ndarray) -> tuple[float, float]:
    """AUC and accuracy, in percent."""
    chance = model.predict_proba(inputs)[:, 1]
    return 100 * float(roc_auc_score(labels, chance)), 100 * float(accuracy_score(labels, chance > 0.5))


def measured(folder: Path, rating: bool) -> dict[str, dict[str, Any]]:
    """name -> AUC and accuracy of validation and test, and the setting chosen."""
    data, found = tables(folder), {}
    labels = {split: rows[LABEL].to_numpy() for split, rows in data.items()}
    for name, inputs, choices in models(data, NUMBERS + ["Rating"] * rating):
        fitted = [choice.fit(inputs["train"], labels["train"]) for choice in choices]
        best = max(fitted, key=lambda model: scored(model, inputs["val"], labels["val"])[0])
        row = {split: scored(best, inputs[split], labels[split]) for split in ("val", "test")}
        chosen = best.get_params().get("C", best.get_params().get("learning_rate"))
        found[name] = {"auc": row["test"][0], "accuracy": row["test"][1], "val": row["val"], "chosen": chosen}
        print(
            f"{name}: test AUC {row['test'][0]:.2f}, accuracy {row['test'][1]:.2f} "
            f"(validation {row['val'][0]:.2f}, {row['val'][1]:.2f}; setting {chosen})",
            flush=True,
        )
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rating", action="store_true", help="the stars are a column as well")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = parser.parse_args()
    found = measured(given.data, given.rating)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
