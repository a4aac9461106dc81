"""Questions about pictures of shapes (easy-VQA): accuracy of a fusion transformer, and of one that sees no picture.

    python benchmarks/vqa.py data --data ../shared/data --runs runs

The tables have a row a question; validation has the questions about pictures held out from training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HELD_OUT = 400
"""Pictures of the training part that validation has."""
SEED = 1


def joined(folder: Path, split: str) -> pa.Table:
    """image, question, answer, image_id: a row a question."""
    questions = pq.read_table(folder / f"{split}_questions.parquet")
    images = pq.read_table(folder / f"{split}_images.parquet")
    places = {number: place for place, number in enumerate(images["image_id"].to_pylist())}
    rows = pa.array([places[number] for number in questions["image_id"].to_pylist()])
    return questions.append_column("image", images["image"].take(rows))


def write_tables(data: Path, folder: Path) -> None:
    """The three tables, if they are not there."""
    if (folder / "test.parquet").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = joined(data / "easy-vqa", "train")
    numbers = known["image_id"].to_numpy()
    held = np.random.default_rng(SEED).permutation(np.unique(numbers))[:HELD_OUT]
    of_val = np.isin(numbers, held)
    parts = {
        "train": known.filter(pa.array(~of_val)),
        "val": known.filter(pa.array(of_val)),
        "test": joined(data / "easy-vqa", "test"),
    }
    for split, table in parts.items():
        pq.write_table(table.select(["image", "question", "answer"]), folder / f"{split}.parquet", row_group_size=2000)
        print(f"{split}: {table.num_rows:,} questions about {len(table['image_id'].unique()):,} pictures")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("data",))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    write_tables(given.data, given.runs / "vqa-data")


if __name__ == "__main__":
    main()
