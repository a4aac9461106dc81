"""Questions about pictures of shapes (easy-VQA), answered in words: share of answers that are exact.

    python benchmarks/vqa_open.py --data ../shared/data --runs runs [--epochs 5] [--only train]

Streams, eye and scheme are those of `benchmarks/vqa.py`; a decoder of two blocks takes the place of the list of
answers. A run that is there already is not trained again. It writes docs/results/fusion-vqa-open.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import vqa  # noqa: E402

from tessella.answer_evaluate import judge  # noqa: E402
from tessella.answering import train  # noqa: E402
from tessella.predict import load  # noqa: E402
from tessella.recipes.answering import Answering, answer_open  # noqa: E402
from tessella.runs import RunFolder  # noqa: E402

SEED = 1
TARGET = 98.0


def recipe(epochs: int) -> Answering:
    """That of the list of answers, but for how it answers."""
    same = ("data", "codec", "length", "image", "augment", "design", "schedule")
    theirs = vqa.recipe(SEED, True)
    loop = theirs.loop.replace(epochs=epochs, metric="exact")
    return answer_open().replace(**{name: getattr(theirs, name) for name in same}, loop=loop)


def record(name: str, value: float, unit: str, target: str | None = None, met: bool | None = None) -> dict:
    """One record; printed too."""
    print(f"{name}: {value:,.2f} {unit}{f' (target {target}: {met})' if target else ''}")
    return {
        "topic": "fusion",
        "name": f"easy-VQA, answered in words: {name}",
        "value": round(value, 2),
        "unit": unit,
        "target": target,
        "met": met,
        "command": "python benchmarks/vqa_open.py",
        "data": "easy-vqa",
        "split": "test, 4,894 questions",
        "signature": "the whole answer, but for upper case",
        "seeds": [SEED],
        "hardware": "2 cores AMD EPYC (Zen 4), CPU",
        "date": dt.date.today().isoformat(),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", choices=("train",), help="stop after this step")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fusion-vqa-open.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables, run = given.runs / "vqa-data", given.runs / "vqa-open-1"
    vqa.write_tables(given.data, tables)
    if not (run / "model.safetensors").is_file():
        train(recipe(given.epochs), tables, run)
    if given.only == "train":
        return
    found = judge(str(run), load(run), tables, "test")
    minutes = max(line["wall"] for line in RunFolder(run).metrics()) / 60
    made = [
        record("exact answers", found.exact, "%", f">= {TARGET:g}", found.exact >= TARGET),
        record("exact answers, always the commonest one", found.commonest, "%"),
        *(record(f"exact answers without the {name}", value, "%") for name, value in found.without.items()),
        record("training", minutes, "minutes of one core"),
    ]
    given.out.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
