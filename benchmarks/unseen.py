"""Unseen: two-digit numbers read by names that training never had; writes docs/results/clip-numbers.json.

    python benchmarks/unseen.py [--seeds 11 12 13] [--runs runs]

The demo's third chapter with other seeds than the one it was made with: each has its own 20 numbers that are never
shown, its own pictures, and its own first weights. Everything is told as mean and deviation over the seeds.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
from pathlib import Path

import numpy as np

from tessella.demo.digits import digit_splits
from tessella.demo.numbers import ALL, LANGUAGES, UNSEEN, composed, files, unseen, write_numbers
from tessella.demo.numbers_chapter import recipe
from tessella.demo.numbers_reading import read
from tessella.matching import train
from tessella.predict import load


def measured(seed: int, out: Path) -> dict[str, float]:
    """Percent of test pictures read right, by what they show and among how many names."""
    parts, held = composed(digit_splits(), seed), unseen(seed)
    shutil.rmtree(out, ignore_errors=True)
    data = write_numbers(out / "data", parts)
    made = recipe()
    train(made.replace(loop=made.loop.replace(seed=seed)), data, out / "clip", say=print)
    reading = read(load(out / "clip"), files(data, "test", parts["test"]), parts["test"].values, held)
    found = {}
    for language in LANGUAGES:
        right, among = reading.right(language), reading.right(language, held)
        found[f"{language}: unseen numbers, among {ALL} names"] = 100 * right[reading.new].mean()
        found[f"{language}: unseen numbers, among {UNSEEN} names"] = 100 * among[reading.new].mean()
        found[f"{language}: learned numbers, among {ALL} names"] = 100 * right[~reading.new].mean()
        for group, good in reading.groups(language).items():
            if len(good):
                found[f"{language}: unseen numbers from {group}, among {ALL} names"] = 100 * good.mean()
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/clip-numbers.json"))
    given = parser.parse_args()
    found = [measured(seed, given.runs / f"numbers-{seed}") for seed in given.seeds]
    rows = []
    for name in found[0]:
        values = [one[name] for one in found if name in one]
        chance = 100 / (UNSEEN if f"among {UNSEEN} " in name else ALL)
        spread = f", deviation {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        rows.append(
            {
                "topic": "clip",
                "name": f"numbers by their names, {name}",
                "value": round(float(np.mean(values)), 1),
                "unit": "%",
                "target": None,
                "met": None,
                "command": "python benchmarks/unseen.py",
                "data": "two-digit numbers made of scikit-learn's digits",
                "split": "test, strokes and (unseen) numbers never shown",
                "signature": f"mean of {len(values)} seeds{spread}; chance {chance:g} %",
                "seeds": given.seeds,
                "hardware": given.hardware,
                "date": dt.date.today().isoformat(),
            }
        )
        print(f"{rows[-1]['name']}: {rows[-1]['value']} % ({rows[-1]['signature']})")
    given.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
