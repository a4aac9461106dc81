"""Questions about pictures of shapes (easy-VQA): accuracy of a fusion transformer, and of one that sees no picture.

    python benchmarks/vqa.py --data ../shared/data --runs runs [--seeds 1 2 3] [--only train]

The tables have a row a question; validation has the questions about pictures held out from training. A small ResNet
makes tokens of the picture, to which those of the question are put (early concatenation). Runs that are there already
are not trained again, and the test is read once, at the end. It writes docs/results/fusion-vqa.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fused import Course, Writer, hardware, mean, right  # noqa: E402

from tessella.data.augment import Augment  # noqa: E402
from tessella.data.pixels import Preprocess  # noqa: E402
from tessella.recipes.fusing import Fusion, MixedRows, answer  # noqa: E402
from tessella.text import CodecSpec  # noqa: E402

TARGET = 98.0
QUESTION_ONLY = 67.1
"""What the most frequent answer to each question reaches, in percent."""
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


def recipe(seed: int, sees: bool) -> Fusion:
    """How questions are learned, with the picture or without."""
    base = answer()
    return base.replace(
        data=MixedRows(label="answer", kinds={"question": "text", "image": "image" if sees else "ignore"}),
        codec=CodecSpec(size=1000, lowercase=True),
        length=16,
        image=Preprocess(size=(64, 64), mean=(0.9, 0.9, 0.9), std=(0.2, 0.2, 0.2), crop=1.0),
        augment=Augment(flip=0.5),
        design=base.design if sees else base.design.replace(given={}),
        loop=base.loop.replace(epochs=base.loop.epochs if sees else 3, seed=seed, checkpoint_minutes=None, keep=1),
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", choices=("data", "train"), help="stop after this step")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fusion-vqa.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables, folder = given.runs / "vqa-data", given.runs / "vqa"
    write_tables(given.data, tables)
    if given.only == "data":
        return
    course, runs = Course(tables), {}
    for seed in given.seeds:
        for sees in (True, False):
            path = folder / f"{'seeing' if sees else 'blind'}-{seed}"
            runs[sees, seed] = course.train(recipe(seed, sees), path)
            print(f"{path}: {runs[sees, seed].seconds:.0f} s", flush=True)
    if given.only == "train":
        return
    write = Writer("python benchmarks/vqa.py", "easy-vqa", "test, 4,894 questions", hardware(), given.seeds)
    seeing, blind = ([right(*course.answers(runs[sees, seed].path)) for seed in given.seeds] for sees in (True, False))
    enough = statistics.fmean(seeing) >= TARGET
    write.add("easy-VQA: accuracy", mean(seeing), "%", f">= {TARGET:g}", enough)
    write.add("easy-VQA, the question alone: accuracy", mean(blind), "%")
    write.add("easy-VQA, the usual answer to each question: accuracy", QUESTION_ONLY, "%")
    took = statistics.median(runs[True, seed].seconds for seed in given.seeds)
    write.add("easy-VQA: training", round(took / 60, 1), "minutes of one core", "<= 15", took <= 15 * 60)
    write.save(given.out)


if __name__ == "__main__":
    main()
